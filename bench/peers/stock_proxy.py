"""A deduplicating SMTP proxy of stock parts: aiosmtpd in front, aiosmtplib behind, redis-py beside.

What one writes with the documentation of the three at hand: one downstream connection per session,
the client's envelope passed on, a claim in Redis before a message goes on, a confirmation after it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from email.parser import BytesHeaderParser
from hashlib import blake2b
from weakref import WeakKeyDictionary

import aiosmtplib
from aiosmtpd.smtp import SMTP, Envelope, Session
from redis.asyncio import Redis

LEASE_S = 1200
WINDOW_S = 5 * 86400
MAX_SIZE_OCTETS = 100 * 2**20


class Handler:
    """Passes messages on that have not been seen."""

    def __init__(self, downstream_port: int, redis: Redis) -> None:
        """Take where mail goes and where it is remembered."""
        self._downstream_port = downstream_port
        self._redis = redis
        self._clients: WeakKeyDictionary[Session, aiosmtplib.SMTP] = WeakKeyDictionary()

    def close(self, session: Session | None) -> None:
        """Close what belongs to a session."""
        client = self._clients.pop(session, None) if session else None
        if client is not None:
            client.close()

    async def _downstream(self, session: Session) -> aiosmtplib.SMTP:
        client = self._clients.get(session)
        if client is None or not client.is_connected:
            client = aiosmtplib.SMTP(
                hostname="127.0.0.1", port=self._downstream_port, start_tls=False
            )
            await client.connect()
            self._clients[session] = client
        return client

    async def handle_DATA(  # noqa: N802 - aiosmtpd finds its hooks by their names
        self,
        server: SMTP,  # noqa: ARG002 - aiosmtpd passes it, by position; we need only the session
        session: Session,
        envelope: Envelope,
    ) -> str:
        """Claim, send, confirm."""
        assert isinstance(envelope.content, bytes)
        assert envelope.mail_from is not None
        header = BytesHeaderParser().parsebytes(envelope.content)
        identity = str(header["message-id"] or "").strip()
        keys = [
            b"s:" + blake2b(f"{identity} {path}".encode(), digest_size=20).digest()
            for path in envelope.rcpt_tos
        ]
        async with self._redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.set(key, b"C", nx=True, get=True, ex=LEASE_S)
            found = await pipe.execute()
        if all(value == b"D" for value in found):
            return "250 2.0.0 Ok: duplicate"
        try:
            client = await self._downstream(session)
            _, reply = await client.sendmail(
                envelope.mail_from,
                envelope.rcpt_tos,
                envelope.content,
                mail_options=envelope.mail_options,
            )
        except aiosmtplib.SMTPResponseException as error:
            await self._redis.delete(*keys)
            return f"{error.code} {error.message}"
        async with self._redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.set(key, b"D", ex=WINDOW_S)
            await pipe.execute()
        return f"250 {reply}"


class Server(SMTP):
    """aiosmtpd's server; closes the downstream connection with the session."""

    def connection_lost(self, error: Exception | None) -> None:
        """Close what belongs to the session."""
        self.event_handler.close(self.session)
        super().connection_lost(error)


async def _serve(port: int, downstream_port: int, redis_port: int) -> None:
    handler = Handler(downstream_port, Redis(port=redis_port, db=3))
    listener = socket.create_server(("127.0.0.1", port), reuse_port=True, backlog=1000)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Server(handler, hostname="bench.example.net", data_size_limit=MAX_SIZE_OCTETS),
        sock=listener,
    )
    await server.serve_forever()


def main() -> None:
    """Serve with as many processes as asked for, on one port."""
    processes, *ports = (int(argument) for argument in sys.argv[1:])
    for _ in range(processes - 1):
        if os.fork() == 0:
            break
    asyncio.run(_serve(*ports))


if __name__ == "__main__":
    main()
