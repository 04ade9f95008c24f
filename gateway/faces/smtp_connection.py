"""An SMTP client's connection, on the skeleton of aiosmtpd 1.4.6 (RFC 5321 section 3.1).

aiosmtpd gives the protocol class, the names of verbs and hooks, and the PROXY parser. Its command
loop, DATA, replies and time-outs are overridden, because they upper-case parameters, pass bare line
feeds on, keep endless lines, answer errors with exception text and take eight times the CPU time;
``docs/adr/0002-what-is-left-of-aiosmtpd.md`` lists each. The verbs are in `smtp`.

Never fails towards the event loop: a client's fault ends its own session with a reply, a fault of
ours is answered with ``451 4.3.0``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, cast

from aiosmtpd.smtp import SMTP

from gateway.core import answer
from gateway.core.handover import Client
from gateway.core.reply import Reply, reply
from gateway.core.rule import Address, address_of, is_within
from gateway.errors import ClientGoneError, ClientSilentError, GatewayError
from gateway.faces.smtp_input import Input
from gateway.faces.smtp_origin import behind_proxy, connected
from gateway.faces.smtp_output import Output
from gateway.faces.smtp_reception import Reception
from gateway.relay import Relay

COMMAND_OCTETS = 2048
"""RFC 5321 section 4.5.3.1.4 says 512; RFC 3461 section 5.4 adds 500, SMTPUTF8 paths more."""

_LINGER_S = 10.0
_SKIPPED_OCTETS = 64 * 1024
_BEFORE_TLS = frozenset((b"EHLO", b"HELO", b"NOOP", b"QUIT", b"RSET", b"STARTTLS"))

_log = logging.getLogger(__name__)

Verb = Callable[[Any, bytes, bytes], Awaitable[None] | None]
"""Takes the session, the line, and what follows the verb; returns what is left to wait for."""


class SmtpConnection(SMTP):
    """One client's connection, from its first octet to its last; subclasses supply the verbs."""

    verbs: ClassVar[Mapping[bytes, Verb]] = {}

    def __init__(self, reception: Reception, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for the connection.

        Args:
            reception: shared by all sessions.
            loop: that runs the session.
        """
        # aiosmtpd's own constructor costs 105 µs a connection, asks the DNS for our name and clears
        # a table that all sessions share; nothing of what it sets is used below.
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self._handler_coroutine: asyncio.Task[None] | None = None
        self._reception = reception
        self._output = Output(loop)
        self._input = Input(loop, self._output.flush)
        self._relay = Relay(reception.current_desk)
        self._client = Client()
        self._peer: Address | None = None
        self._errors = 0
        self._is_greeted = False
        self._is_tls = False
        self._is_at_rest = False
        self._is_over = False
        self._is_local_check = False
        self._result = "error"
        self._farewell: Reply | None = None

    # What asyncio tells us.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the session (asyncio)."""
        self.transport = cast("asyncio.Transport", transport)
        self._input.attach(self.transport)
        self._output.attach(self.transport)
        self._handler_coroutine = self.loop.create_task(self._handle_client())

    def data_received(self, data: bytes) -> None:
        """Take octets (asyncio)."""
        self._input.feed(data)

    def eof_received(self) -> bool:
        """Note that the client is done sending; what it sent is still served (asyncio)."""
        self._input.end()
        return not self._is_tls

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the client is gone; a transaction under way is seen through (asyncio)."""
        del error
        self.transport = None
        self._input.end()
        self._output.attach(None)

    def pause_writing(self) -> None:
        """Note that the client does not read (asyncio)."""
        self._output.pause()

    def resume_writing(self) -> None:
        """Note that it does (asyncio)."""
        self._output.resume()

    # What the reception asks for.

    def drain(self, farewell: Reply) -> None:
        """End as soon as no transaction is open (`Guest`)."""
        self._farewell = farewell
        if self._is_at_rest:
            self._input.end()

    def cut(self, farewell: Reply) -> None:
        """End now (`Guest`)."""
        self._farewell = farewell
        if self._handler_coroutine is not None:
            self._handler_coroutine.cancel()

    # The session.

    async def _handle_client(self) -> None:
        """See the session through, whatever happens in it."""
        self._reception.meter.session_began()
        try:
            await self._converse()
        except ClientGoneError:
            self._result = "lost"
            if self._farewell is not None:
                self._result = "ok"
                self._output.say(self._farewell)
        except ClientSilentError:
            self._result = "timeout"
            self._output.say(answer.SILENT)
        except asyncio.CancelledError:
            self._output.say(self._farewell or answer.STOPPING)
        except Exception as error:  # noqa: BLE001 - a bug of ours must end here, not in the loop
            log_bug(error)
            self._output.say(answer.BUG)
        finally:
            await self._finish()

    async def _converse(self) -> None:
        """Greet, then take command after command until the session is over."""
        if not await self._is_let_in():
            return
        while not self._is_over:
            if self._farewell is not None and not self._relay.is_open:
                self._end(self._farewell, "ok")
                return
            timeout_s = self._reception.settings.idle_timeout_s
            if self._output.is_full:
                # 64 KiB of HELP would make five megabytes of replies before anybody else's turn.
                self._output.flush()
                await asyncio.sleep(0)
            if self._output.is_paused:
                await self._output.drained(timeout_s)
                continue  # meanwhile we may have been told to stop
            self._is_at_rest = not self._relay.is_open
            line = await self._input.line(COMMAND_OCTETS, timeout_s)
            self._is_at_rest = False
            try:
                work = self._obey(line)
                if work is not None:
                    await work
            except GatewayError:
                raise
            except Exception as error:  # noqa: BLE001 - a bug of ours; it costs this client a retry
                log_bug(error)
                self._output.say(answer.BUG)
                await self._relay.close(politely=False)
            if self._errors >= self._reception.settings.errors:
                self._end(answer.TOO_MANY_ERRORS, "error")

    async def _is_let_in(self) -> bool:
        """Find out who the client is and greet it, or turn it away."""
        transport = self.transport
        if transport is None:
            raise ClientGoneError("disconnected")
        self._client = connected(
            transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        )
        self._peer = address_of(self._client.address)
        if is_within(self._peer, self._reception.settings.proxy_protocol):
            client = await behind_proxy(self._client, self._input)
            if client is None:
                self._fault("proxy")
                self._end(answer.BAD_PROXY, "error")
                return False
            self._client = client
            self._is_local_check = not client.address
            self._peer = address_of(client.address)
        if (refusal := self._reception.admit(self, self._peer)) is not None:
            self._end(refusal, "refused")
        elif (self._input.peek_line() or b"").startswith(b"PROXY "):
            self._fault("proxy")
            self._end(answer.NO_PROXY, "refused")
        elif self._input.has_more:
            self._fault("pipelining")
            self._end(answer.OUT_OF_STEP, "error")
        else:
            self._output.say(reply(220, "", f"{self._reception.settings.hostname} ESMTP mailonce"))
        return not self._is_over

    def _obey(self, line: bytes) -> Awaitable[None] | None:
        """Carry out one command line; return what has to be awaited, or None if it is done."""
        if not is_clean(line):
            return self._refuse_line(line)
        name, _, argument = line[:-2].partition(b" ")
        verb = name.upper()
        method = self.verbs.get(verb)
        if name == b"PROXY" and not self._is_greeted:
            # A proxy that is not listed: its clients would all be taken for it. Fail closed.
            self._fault("proxy")
            self._end(answer.NO_PROXY, "refused")
        elif method is None:
            self._fault("proxy" if name == b"PROXY" else "command")
            self._complain(answer.SYNTAX)
        elif (
            not self._is_tls
            and self._reception.settings.is_tls_required
            and verb not in _BEFORE_TLS
        ):
            self._complain(answer.NEED_TLS)
        else:
            return method(self, line, argument)
        return None

    async def _refuse_line(self, line: bytes) -> None:
        """Answer a line that is too long, or holds what no command may (RFC 5321 section 2.3.8)."""
        if not line.endswith(b"\n"):
            self._fault("command")
            timeout_s = self._reception.settings.idle_timeout_s
            if not await self._input.skip_line(_SKIPPED_OCTETS, timeout_s):
                self._end(answer.TOO_MANY_ERRORS, "error")
                return
            self._complain(answer.LINE_TOO_LONG)
            return
        if len(line) > COMMAND_OCTETS:
            self._fault("command")
            self._complain(answer.LINE_TOO_LONG)
            return
        kind = "nul" if b"\0" in line else "bare_cr" if b"\r" in line[:-2] else "bare_lf"
        self._fault(kind)
        self._complain(answer.BAD_OCTETS)

    # How things are said, and how they end.

    def _complain(self, said: Reply) -> None:
        """Refuse a command that the client got wrong; too many of those end the session."""
        self._errors += 1
        self._output.say(said)

    def _fault(self, kind: str) -> None:
        """Count what a client must not do."""
        self._reception.meter.protocol_error(kind)

    def _is_out_of_step(self) -> bool:
        """End the session if more has come where the client must wait (RFC 2920 section 3.1).

        A client that talks ahead of a 354 or of TLS may be smuggling; the downstream cannot see it.
        """
        if not self._input.has_more:
            return False
        self._fault("pipelining")
        self._end(answer.OUT_OF_STEP, "error")
        return True

    def _end(self, farewell: Reply | None, result: str) -> None:
        """Say a last word, if any, and be over."""
        if farewell is not None:
            self._output.say(farewell)
        self._is_over = True
        self._result = result

    async def _finish(self) -> None:
        """Close both sides, and be counted out."""
        self._output.write()
        if (transport := self.transport) is not None:
            transport.close()
            if transport.get_write_buffer_size():
                # Closing waits for the client to read. The connection of one that never does would
                # stay for ever, counted nowhere.
                self.loop.call_later(_LINGER_S, transport.abort)
        self._input.close()
        self._reception.leave(self, self._peer)
        self._reception.meter.session_ended(is_tls=self._is_tls, result=self._result)
        await self._relay.close(politely=True)


def is_clean(line: bytes) -> bool:
    """Say whether a line may be a command."""
    end = len(line) - 2
    return (
        end + 2 <= COMMAND_OCTETS
        and line[end:] == b"\r\n"
        and line.find(b"\r") == end
        and b"\0" not in line
    )


def log_bug(error: Exception) -> None:
    """Log a fault of ours, with its traceback; the client learns nothing of it."""
    _log.error("bug in a session", exc_info=error)
