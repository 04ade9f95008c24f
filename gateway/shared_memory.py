"""Memory that supervisor and workers share: one block of counters each, one part of the census.

    block of worker 0 … block of worker n-1, block of the supervisor, part 0 … part n-1

An unnamed file that is gone with the last process. Nothing here fails but for want of memory.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence

from gateway.edge.census import PART_OCTETS
from gateway.edge.metrics_layout import BLOCK_OCTETS


class SharedMemory:
    """A process' view of it.

    Attributes:
        descriptor: to be inherited by workers.
        workers: how many.
    """

    def __init__(self, workers: int, descriptor: int | None = None) -> None:
        """Make it, or look at what is there.

        Args:
            workers: how many.
            descriptor: inherited; None to make it.
        """
        self.workers = workers
        self.descriptor = _unnamed_file(_octets(workers)) if descriptor is None else descriptor
        self._view = memoryview(mmap.mmap(self.descriptor, _octets(workers)))

    def block(self, index: int) -> memoryview:
        """Return the counters of a worker, or of the supervisor, who comes last."""
        return self._view[index * BLOCK_OCTETS : (index + 1) * BLOCK_OCTETS]

    def blocks(self) -> Sequence[memoryview[float]]:
        """Return the counters of all, as numbers."""
        return [self.block(index).cast("d") for index in range(self.workers + 1)]

    def part(self, index: int) -> memoryview:
        """Return a worker's part of the census."""
        start = (self.workers + 1) * BLOCK_OCTETS + index * PART_OCTETS
        return self._view[start : start + PART_OCTETS]

    def parts(self) -> Sequence[memoryview]:
        """Return all parts of the census."""
        return [self.part(index) for index in range(self.workers)]


def _octets(workers: int) -> int:
    return (workers + 1) * BLOCK_OCTETS + workers * PART_OCTETS


def _unnamed_file(octets: int) -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("mailonce")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, octets)
    return descriptor
