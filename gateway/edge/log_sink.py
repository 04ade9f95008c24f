"""Where log lines go: a file descriptor, written to by a thread of its own.

Who logs never waits. Lines gather for a moment and go out in few writes; if nobody takes them (a
full pipe, a stuck terminal) a bounded number is kept and the rest is thrown away and counted.
Whatever kills the process costs at most the lines of that moment; `close` and a normal exit cost
none.

Several processes write to one pipe. Only up to PIPE_BUF octets are written as one piece there
(POSIX, write), so that what goes into a pipe or socket goes in such pieces of whole lines.
"""

from __future__ import annotations

import atexit
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator

_GATHER_S = 0.05
_CLOSE_S = 2.0
_MAX_LINES = 10_000
_FILE_PIECE_OCTETS = 1 << 16


class LogSink:
    """Takes lines from any thread; one per process and descriptor."""

    def __init__(
        self,
        descriptor: int,
        when_lost: Callable[[int], None],
        max_lines: int = _MAX_LINES,
    ) -> None:
        """Write to a descriptor, which stays open afterwards.

        Args:
            descriptor: of a file, pipe, socket or terminal.
            when_lost: told how many lines were thrown away.
            max_lines: kept while nobody takes them.
        """
        self._descriptor = descriptor
        self._when_lost = when_lost
        self._max_lines = max_lines
        self._lines: deque[bytes] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._is_awake = False
        self._piece_octets = _piece_octets(descriptor)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def write(self, line: str) -> None:
        """Take one line without its end; what it holds has been escaped."""
        if len(self._lines) >= self._max_lines:
            self._when_lost(1)
            return
        self._lines.append(line.encode("ascii", "backslashreplace") + b"\n")
        if not self._is_awake:
            self._is_awake = True
            self._wake.set()

    def close(self) -> None:
        """Write what is left, if it is taken within two seconds; later lines are not written."""
        atexit.unregister(self.close)
        self._closing.set()
        self._wake.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        """Write until closed; the thread's only function."""
        is_over = False
        while not is_over:
            self._wake.wait()
            self._closing.wait(_GATHER_S)
            # In this order: a line that comes in between sets the event once more, and so does the
            # end; what was said before the end is there to be taken when the end is seen.
            self._wake.clear()
            self._is_awake = False
            is_over = self._closing.is_set()
            for piece, count in self._pieces():
                try:
                    self._put(piece)
                except OSError:  # closed at the other end, disk full: lines are no reason to stop
                    self._when_lost(count)

    def _pieces(self) -> Iterator[tuple[bytes, int]]:
        """Take the lines, and join them to pieces no longer than is written at once."""
        piece: list[bytes] = []
        octets = 0
        while self._lines:
            line = self._lines.popleft()
            if piece and octets + len(line) > self._piece_octets:
                yield b"".join(piece), len(piece)
                piece, octets = [], 0
            piece.append(line)
            octets += len(line)
        if piece:
            yield b"".join(piece), len(piece)

    def _put(self, piece: bytes) -> None:
        """Write all of a piece, however long the other end takes.

        Raises:
            OSError: nobody can take it any more.
        """
        view = memoryview(piece)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # somebody shares the descriptor and made it non-blocking
                select.select((), (self._descriptor,), (), 1.0)


def _piece_octets(descriptor: int) -> int:
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError:
        return select.PIPE_BUF
    return _FILE_PIECE_OCTETS if is_file else select.PIPE_BUF
