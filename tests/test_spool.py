"""A suspect message waits in memory first, then in a file; a full disk is no bug of ours."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.errors import SpoolError
from gateway.spool import Spool

_KIB = 1024
_ROOM_KIB = 300


@contextmanager
def _full_disk() -> Iterator[None]:
    """Let no file of this process grow beyond 300 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_ROOM_KIB * _KIB, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def _whole(spool: Spool) -> bytes:
    spool.rewind()
    blocks = []
    while block := await spool.read():
        blocks.append(block)
    return b"".join(blocks)


@pytest.mark.parametrize("size_kib", [0, 1, 256, 257, 1000], ids="{} KiB".format)
async def test_p2_what_went_in_comes_out_as_often_as_it_is_asked_for(size_kib: int) -> None:
    content = bytes(range(256)) * 4 * size_kib
    with Spool() as spool:
        for start in range(0, len(content), 5000):
            spool.write(content[start : start + 5000])
        assert await _whole(spool) == content
        assert await _whole(spool) == content


FULL = [
    (_ROOM_KIB + 1, "the last octets are written only when it is read"),
    (_ROOM_KIB + 50, "a write fails, and closing would try it again"),
]


@pytest.mark.parametrize(("size_kib", "reason"), FULL, ids=[row[1] for row in FULL])
def test_p8_a_full_disk_is_a_spool_error(size_kib: int, reason: str) -> None:
    def fill() -> None:
        with Spool() as spool:
            for _ in range(size_kib):
                spool.write(bytes(_KIB))
            spool.rewind()

    with _full_disk(), pytest.raises(SpoolError, match="File too large"):
        fill()
    assert reason
