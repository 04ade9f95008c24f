"""``mailonce scan``: what the gateway would have done with mail that lies in files.

Offline, with the gateway's own core: nothing is sent or changed, no tracking list is asked. Memory
does not grow with the mail. Fails with `OSError` if a path that is named cannot be read.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from gateway.scan.ledger import Ledger
from gateway.scan.message import messages
from gateway.scan.report import Report, report_of
from gateway.scan.source import Chunk, Source, chunks, mailbox_of, sources

_STEP_OCTETS = 1 << 20

OnProgress = Callable[[int], None]
"""Told how many octets more have been read."""


class Scan:
    """One run over some paths."""

    def __init__(self, complain: Callable[[str], None]) -> None:
        """Read nothing yet.

        Args:
            complain: told in a line what cannot be read.
        """
        self._complain = complain
        self._files = self._skipped = self._unreadable = 0

    def run(self, paths: Sequence[Path], on_progress: OnProgress) -> Report:
        """Read all there is under some paths.

        Args:
            paths: of files and folders; copies are looked for within each (see `mailbox_of`).
            on_progress: see there.
        """
        began = time.perf_counter()
        ledger = Ledger()
        try:
            for path in paths:
                self._read(path, ledger, on_progress)
            return report_of(
                ledger,
                files=self._files,
                skipped=self._skipped,
                unreadable=self._unreadable,
                elapsed_s=time.perf_counter() - began,
            )
        finally:
            ledger.close()

    def _read(self, path: Path, ledger: Ledger, on_progress: OnProgress) -> None:
        try:
            name = os.fspath(mailbox_of(path))
            for source in sources(path, self._skip):
                self._file(source, name, ledger, on_progress)
        except OSError as error:
            self._skip(path, error.strerror or str(error))

    def _file(self, source: Source, path: str, ledger: Ledger, on_progress: OnProgress) -> None:
        try:
            for message in messages(_watched(chunks(source), on_progress)):
                ledger.record(message, path)
        except OSError as error:
            self._skip(source.path, error.strerror or str(error))
        else:
            self._files += 1

    def _skip(self, path: Path, reason: str) -> None:
        if reason:
            self._unreadable += 1
            self._complain(f"{path}: cannot be read: {reason}")
        else:
            self._skipped += 1


def scan(paths: Sequence[Path], complain: Callable[[str], None]) -> Report:
    """Read all there is under some paths, with a progress bar if standard error is a terminal.

    Args:
        paths: of files and folders.
        complain: told in a line what cannot be read.
    """
    with _progress(paths) as on_progress:
        return Scan(complain).run(paths, on_progress)


def _watched(parts: Iterable[Chunk], on_progress: OnProgress) -> Iterator[Chunk]:
    for chunk in parts:
        on_progress(len(chunk.octets))
        yield chunk


@contextmanager
def _progress(paths: Sequence[Path]) -> Iterator[OnProgress]:
    """Show a bar on a terminal; the sizes of all files are added up before."""
    if not sys.stderr.isatty():
        yield _unseen
        return
    total = sum(source.octets for path in paths for source in _found(path))
    bar = Progress(
        TextColumn("scanning"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    pending = 0

    def advance(octets: int) -> None:
        nonlocal pending
        pending += octets
        if pending >= _STEP_OCTETS:
            bar.advance(task, pending)
            pending = 0

    with bar:
        task = bar.add_task("", total=total)
        yield advance


def _unseen(_octets: int) -> None:
    """Show nothing."""


def _found(path: Path) -> Iterator[Source]:
    try:
        yield from sources(path, lambda *_: None)
    except OSError:
        return  # told when it is read
