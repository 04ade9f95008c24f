"""Acknowledgements of TCP that do not wait, for peers that write in small pieces.

The kernel of such a peer holds a small segment back until the one before is acknowledged (RFC 1122
section 4.2.3.4). One that is answered at once is acknowledged with the answer; where nothing is
answered, the acknowledgement waits for up to 40 ms on Linux. Elsewhere this does nothing.
"""

from __future__ import annotations

import asyncio
import socket

_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def acknowledge(transport: asyncio.BaseTransport) -> None:
    """Have the kernel say at once that octets have come; it is said for these alone."""
    if _QUICK_ACK is None or transport.is_closing():
        return
    connection = transport.get_extra_info("socket")
    if connection.family in _FAMILIES:
        connection.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)
