"""Where a suspect message waits until its content is known: memory first, then an unnamed file.

This is no queue: the client has not been answered yet; if we die the file is gone and the client
tries again. What is kept is wire form, dots stuffed. A full disk fails with `SpoolError`.
"""

from __future__ import annotations

from contextlib import suppress
from tempfile import SpooledTemporaryFile
from types import TracebackType

from gateway.errors import SpoolError

_MEMORY_OCTETS = 256 * 1024
_BLOCK_OCTETS = 64 * 1024


class Spool:
    """Content held back; a context manager that lets go of it, and `Blocks` of what it holds."""

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
        # Closing writes what a full disk has not taken yet, and fails as the write did.
        with suppress(OSError):
            self._file.close()

    def write(self, octets: bytes) -> None:
        """Append octets.

        Raises:
            SpoolError: there is no room.
        """
        try:
            self._file.write(octets)
        except OSError as error:
            raise SpoolError(f"temporary file: {error}") from error

    def rewind(self) -> None:
        """Begin reading from the start.

        Raises:
            SpoolError: there is no room for the last octets, which are written only now.
        """
        try:
            self._file.seek(0)
        except OSError as error:
            raise SpoolError(f"temporary file: {error}") from error

    async def read(self) -> bytes:
        """Return the next octets, ``b""`` at the end (`Blocks`).

        Raises:
            SpoolError: they cannot be read back.
        """
        try:
            return self._file.read(_BLOCK_OCTETS)
        except OSError as error:
            raise SpoolError(f"temporary file: {error}") from error
