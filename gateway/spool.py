"""Where a suspect message waits until its content is known: memory first, then an unnamed file.

This is no queue: the client has not been answered yet, and if we die the file is gone and the client
tries again. What is kept is wire form, dots stuffed.
"""

from __future__ import annotations

from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from types import TracebackType

_MEMORY_OCTETS = 256 * 1024
_BLOCK_OCTETS = 64 * 1024


class Spool:
    """Content held back; a context manager that lets go of it."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._file = SpooledTemporaryFile(max_size=_MEMORY_OCTETS)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Spool:
        """Use as is."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Forget the content."""
        self._file.close()

    def write(self, octets: bytes) -> None:
        """Append octets."""
        self._file.write(octets)

    def blocks(self) -> Iterator[bytes]:
        """Yield all of it from the start, in blocks; as often as wanted."""
        self._file.seek(0)
        while block := self._file.read(_BLOCK_OCTETS):
            yield block
