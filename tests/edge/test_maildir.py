"""A Maildir as downstream: octets on the disk before the 250, and a disk that fails."""

from __future__ import annotations

import gc
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.core.handover import Client
from gateway.edge.maildir import MaildirConnector, MaildirSession
from gateway.errors import LostError, UnreachableError

_COMMANDS = [b"MAIL FROM:<a@sender.test>\r\n", b"RCPT TO:<b@example.org>\r\n"]
_RECIPIENTS = 2


@contextmanager
def _full_disk() -> Iterator[None]:
    """Let no file of this process grow beyond 10 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * 1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _open_files() -> list[str]:
    """Return the descriptors of this process; the one that the look takes is among them."""
    return sorted(file.name for file in Path("/proc/self/fd").iterdir())


def _below(folder: Path) -> list[Path]:
    return list(folder.rglob("*"))


async def _begun(folder: Path) -> MaildirSession:
    """Return a session with a transaction to two recipients."""
    session = await MaildirConnector(folder, lambda _: None).open(Client())
    commands = [*_COMMANDS, b"RCPT TO:<c@example.org>\r\n"]
    assert [reply.code for reply in await session.exchange(commands)] == [250, 250, 250]
    return session


async def test_p2_each_recipient_gets_the_octets_without_stuffed_dots(tmp_path: Path) -> None:
    session = await _begun(tmp_path)
    await session.exchange([b"DATA\r\n"])
    for block in (b"Subject: x\r\n\r\n", b"..\r\n.", b".y\r\n"):
        await session.write(block)
    (said,) = await session.finish(_RECIPIENTS)
    assert said.code == 250
    files = sorted((tmp_path / "new").iterdir(), key=lambda file: file.name)
    assert [file.read_bytes() for file in files] == [
        b"Return-Path: <a@sender.test>\r\nDelivered-To: %b@example.org\r\n"
        b"Subject: x\r\n\r\n.\r\n.y\r\n" % name
        for name in (b"b", b"c")
    ]
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnreachableError):
        await MaildirConnector(tmp_path / "file", lambda _: None).open(Client())


async def test_p1_folders_that_are_gone(tmp_path: Path) -> None:
    session = await _begun(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(LostError):
        await session.exchange([b"DATA\r\n"])


@pytest.mark.parametrize("size_kib", [1, 9, 11, 100], ids="{} KiB".format)
async def test_p1_a_disk_that_is_full(tmp_path: Path, size_kib: int) -> None:
    """What cannot be written is lost, and nobody is told 250."""
    session = await _begun(tmp_path)
    await session.exchange([b"DATA\r\n"])
    with _full_disk():
        try:
            await session.write(bytes(size_kib * 1024))
            (said,) = await session.finish(_RECIPIENTS)
        except LostError:
            await session.close(politely=False)
            assert size_kib > 9
        else:
            assert said.code == 250
            assert size_kib <= 9


async def test_p8_a_disk_that_is_full_holds_nothing_of_what_failed(tmp_path: Path) -> None:
    """Else what each retry leaves behind would keep it full; nobody closes a lost session."""
    gc.collect()  # what other tests have left goes now, and not in between
    before = _open_files()
    session = await _begun(tmp_path)
    await session.exchange([b"DATA\r\n"])
    with _full_disk():
        await session.write(bytes(10 * 1024))  # fits, but not with the lines in front of it
        with pytest.raises(LostError):
            await session.finish(_RECIPIENTS)
    assert [file for file in _below(tmp_path) if file.is_file()] == []
    session = await _begun(tmp_path)
    await session.exchange([b"DATA\r\n"])
    with _full_disk(), pytest.raises(LostError):
        await session.write(bytes(100 * 1024))
    assert _open_files() == before
