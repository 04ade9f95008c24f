"""Who a client is: the socket's addresses, a trusted proxy's header, a trusted filter's XFORWARD.

The PROXY header (versions 1 and 2) is read by aiosmtpd's parser. Whom to believe is decided by the
session. Fails with `ClientError` if the header does not come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from aiosmtpd.proxy_protocol import V2_CMD, get_proxy

from gateway.core.handover import Client
from gateway.core.rule import address_of
from gateway.core.xforward import address_in, port_in, told
from gateway.errors import ClientSilentError
from gateway.faces.smtp_input import Input

_PROXY_TIMEOUT_S = 10.0
# Version 1: 107 octets with its line end; version 2: 16 and what it announces, at most 64 KiB.
_PROXY_LINE_OCTETS = 107


def connected(peer: object, local: object) -> Client:
    """Return the client at the other end of a connection.

    Args:
        peer: its socket address, as asyncio gives it; no pair for a unix socket.
        local: ours.
    """
    address, port = _address_and_port(peer)
    local_address, local_port = _address_and_port(local)
    return Client(address=address, port=port, local_address=local_address, local_port=local_port)


async def behind_proxy(client: Client, source: Input) -> Client | None:
    """Read a PROXY header and return whom it stands for.

    Returns:
        The client; without an address if the proxy speaks for itself (LOCAL, UNKNOWN); None if
        there is no valid header.

    Raises:
        ClientError: the proxy is gone or silent.
    """
    data = await get_proxy(_ProxyReader(source))
    if not data.valid:
        return None
    ends = (data.src_addr, data.dst_addr)
    if data.command == V2_CMD.LOCAL or not all(
        isinstance(end, IPv4Address | IPv6Address) for end in ends
    ):
        return replace(client, address="", port=0)
    address, local_address = (_canonical(str(end)) for end in ends)
    return replace(
        client,
        address=address,
        port=data.src_port or 0,
        local_address=local_address,
        local_port=data.dst_port or 0,
    )


def forwarded(client: Client, values: Mapping[str, str]) -> Client:
    """Return the client that a filter's client spoke of, with what it said before.

    Once an address is spoken of, address and port are that client's or unknown, never the filter's:
    the downstream may trust those.
    """
    known = {**dict(client.forwarded), **values}
    is_told = "ADDR" in known
    return replace(
        client,
        forwarded=tuple(known.items()),
        address=address_in(known) if is_told else client.address,
        port=port_in(known) if is_told else client.port,
        helo=told(known, "HELO") or client.helo,
    )


class _ProxyReader:
    """`Input` as aiosmtpd's parser reads it."""

    def __init__(self, source: Input) -> None:
        self._input = source

    async def read(self, num_bytes: int | None = None) -> bytes:
        """Return what is there, at most as much as is asked for."""
        block = await self._input.block(_PROXY_TIMEOUT_S)
        if num_bytes is not None:
            self._input.put_back(block[num_bytes:])
            block = block[:num_bytes]
        return block

    async def readexactly(self, n: int) -> bytes:
        return await self._input.exactly(n, _PROXY_TIMEOUT_S)

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        line = await self._input.line(_PROXY_LINE_OCTETS, _PROXY_TIMEOUT_S)
        if not line.endswith(separator):
            raise ClientSilentError("no end of the PROXY header")
        return line


def _address_and_port(name: object) -> tuple[str, int]:
    """Read a socket address; a unix socket has none."""
    if isinstance(name, tuple) and len(name) >= 2:
        return _canonical(str(name[0])), int(name[1])
    return "", 0


def _canonical(text: str) -> str:
    address = address_of(text)
    return "" if address is None else str(address)
