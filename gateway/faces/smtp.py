"""The SMTP face: what each command means (RFC 5321 section 4.1).

MAIL, RCPT and content go to `relay`, and its replies to the client; the rest is answered here. How
a connection lives and ends is in `smtp_connection`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from gateway.core import answer
from gateway.core.capability import ehlo_reply
from gateway.core.envelope import parse_path
from gateway.core.reply import Reply, reply
from gateway.core.rule import is_within
from gateway.core.xforward import NAMES, parse_xforward
from gateway.errors import ContentRefusedError, SpoolError
from gateway.faces.smtp_connection import SmtpConnection, Verb, is_clean, log_bug
from gateway.faces.smtp_content import SmtpContent
from gateway.faces.smtp_origin import forwarded
from gateway.hop import Command

_BURST_COMMANDS = 100
_CLOSING = 421


class SmtpSession(SmtpConnection):
    """One client's session."""

    _is_told = False  # whether the message under way has its reply

    def smtp_HELO(self, line: bytes, argument: bytes) -> Awaitable[None]:
        """Take the client's name (RFC 5321 section 4.1.1.1)."""
        return self._hello(argument, is_extended=False)

    def smtp_EHLO(self, line: bytes, argument: bytes) -> Awaitable[None]:
        """Take the client's name and say what the downstream and we can do."""
        return self._hello(argument, is_extended=True)

    async def _hello(self, argument: bytes, *, is_extended: bool) -> None:
        name = argument.strip().decode("latin-1")
        if not name:
            self._complain(answer.BAD_ARGUMENT)
            return
        if self._is_out_of_step():
            return
        self._client = replace(self._client, helo=name, is_extended=is_extended)
        await self._relay.introduce(self._client)
        self._is_greeted = True
        settings = self._reception.settings
        if not is_extended:
            self._output.say(reply(250, "", settings.hostname))
            return
        own = ["STARTTLS"] if settings.tls is not None and not self._is_tls else []
        if is_within(self._peer, settings.xforward):
            own.append(f"XFORWARD {' '.join(NAMES)}")
        self._output.say(
            ehlo_reply(
                settings.hostname,
                self._reception.capabilities(),
                max_size_octets=settings.message_size_octets,
                own=own,
            )
        )

    def smtp_MAIL(self, line: bytes, argument: bytes) -> Awaitable[None] | None:
        """Begin a transaction (RFC 5321 section 4.1.1.2)."""
        if not self._is_greeted:
            self._complain(answer.NEED_HELO)
        elif self._relay.is_open:
            self._complain(answer.NESTED_MAIL)
        elif self._reception.is_stopping or self._farewell is not None:
            self._end(self._farewell or answer.STOPPING, "ok")
        elif self._is_local_check:
            self._end(answer.BAD_PROXY, "refused")
        elif self._reception.refusal is not None:
            self._end(self._reception.refusal, "refused")
        elif (command := self._command(line, argument, is_mail=True)) is not None:
            return self._pass_on(command)
        return None

    def smtp_RCPT(self, line: bytes, argument: bytes) -> Awaitable[None] | None:
        """Name a recipient (RFC 5321 section 4.1.1.3)."""
        if not self._relay.is_open:
            self._need_mail()
        elif (command := self._command(line, argument, is_mail=False)) is not None:
            return self._pass_on(command)
        return None

    def _need_mail(self) -> None:
        """Refuse a command that needs an open transaction.

        If the transaction was lost with the downstream session, the client is not at fault: a 5xx
        would make it bounce what it should send again, its accepted recipients included.
        """
        if self._relay.is_transaction_lost:
            self._output.say(answer.LOST)
        else:
            self._complain(answer.NEED_MAIL)

    async def _pass_on(self, first: Command) -> None:
        """Pass a MAIL or RCPT on, with the RCPTs that wait behind it (RFC 2920 section 3.1)."""
        commands = [first]
        if self._input.has_more:
            commands += self._pipelined(first)
        for said in await self._relay.exchange(commands):
            self._output.say(said)
            if said.code == _CLOSING:
                self._end(None, "refused")
                break

    def _pipelined(self, first: Command) -> Sequence[Command]:
        """Take the RCPTs that have come behind a command, as far as they are well-formed."""
        room = self._reception.settings.recipients - self._relay.recipients
        room -= 0 if first.is_mail else 1
        commands: list[Command] = []
        while len(commands) < min(room, _BURST_COMMANDS):
            line = self._input.peek_line()
            if line is None or line[:8].upper() != b"RCPT TO:" or not is_clean(line):
                break
            argument = parse_path(line[5:-2])
            if argument is None or not argument.path:
                break
            self._input.take_line()
            commands.append(Command(is_mail=False, line=line, argument=argument))
        return commands

    def _command(self, line: bytes, argument: bytes, *, is_mail: bool) -> Command | None:
        """Read a MAIL or RCPT; None if it was refused."""
        settings = self._reception.settings
        verb = b"FROM" if is_mail else b"TO"
        path = parse_path(argument) if argument[: len(verb)].upper() == verb else None
        if path is None or not (path.path or is_mail):
            self._complain(answer.BAD_PATH)
        elif is_mail and (path.size_octets or 0) > settings.message_size_octets:
            self._fault("size")
            self._output.say(answer.TOO_LARGE)
        elif not is_mail and self._relay.recipients >= settings.recipients:
            self._fault("recipients")
            self._output.say(answer.TOO_MANY_RECIPIENTS)
        else:
            return Command(is_mail, line, path)
        return None

    def smtp_DATA(self, line: bytes, argument: bytes) -> Awaitable[None] | None:
        """Take the content (RFC 5321 section 4.1.1.4)."""
        if argument:
            self._complain(answer.NO_ARGUMENT)
        elif not self._relay.is_open:
            self._need_mail()
        elif not self._relay.recipients:
            return self._ask_without_recipients()
        elif not self._is_out_of_step():
            return self._take_content()
        return None

    async def _ask_without_recipients(self) -> None:
        """Let the downstream refuse DATA for a transaction without recipients."""
        said = await self._relay.data_without_recipients()
        self._output.say(said)
        if said.code == _CLOSING:
            self._end(None, "refused")

    async def _take_content(self) -> None:
        """Ask for content and see it through; a bug within must not leave content unread."""
        settings = self._reception.settings
        self._output.say(answer.SEND_CONTENT)
        self._is_told = False
        content = SmtpContent(self._input, settings.message_size_octets, settings.idle_timeout_s)
        try:
            await self._relay.message(content, self._tell)
        except ContentRefusedError as error:
            self._fault(error.kind)
            await content.discard()
            self._output.say(answer.REFUSED_CONTENT[error.kind])
        except SpoolError as error:
            self._reception.journal.complain("spool_failed", str(error))
            await content.discard()
            self._output.say(answer.NO_ROOM)
        except Exception as error:
            if not self._is_told:
                raise
            # A second reply would be taken for the one to the next command.
            log_bug(error)
        finally:
            # Whatever went wrong: octets of content must never be taken for commands.
            self._is_over = self._is_over or not content.is_ended

    def _tell(self, said: Reply) -> None:
        """Tell the client what became of its message, at once."""
        self._is_told = True
        self._output.say(said)
        self._output.flush()
        if said.code == _CLOSING:
            self._end(None, "refused")

    async def smtp_RSET(self, line: bytes, argument: bytes) -> None:
        """End the transaction (RFC 5321 section 4.1.1.5)."""
        if argument:
            self._complain(answer.NO_ARGUMENT)
        else:
            said = await self._relay.reset()
            self._output.say(said)
            if said.code == _CLOSING:
                self._end(None, "refused")

    def smtp_NOOP(self, line: bytes, argument: bytes) -> None:
        """Do nothing (RFC 5321 section 4.1.1.9)."""
        self._output.say(answer.OK)

    def smtp_VRFY(self, line: bytes, argument: bytes) -> None:
        """Leave it open whether an address exists (RFC 5321 section 3.5.3)."""
        if argument:
            self._output.say(answer.CANNOT_VERIFY)
        else:
            self._complain(answer.BAD_ARGUMENT)

    def smtp_HELP(self, line: bytes, argument: bytes) -> None:
        """Say what this is (RFC 5321 section 4.1.1.8)."""
        self._output.say(answer.HELP)

    def _not_offered(self, line: bytes, argument: bytes) -> None:
        """Refuse what is known and not offered (RFC 5321 section 4.2.4)."""
        self._complain(answer.NOT_IMPLEMENTED)

    def smtp_QUIT(self, line: bytes, argument: bytes) -> None:
        """End the session (RFC 5321 section 4.1.1.10)."""
        if argument:
            self._complain(answer.NO_ARGUMENT)
        else:
            self._end(answer.GOODBYE, "ok")

    def smtp_STARTTLS(self, line: bytes, argument: bytes) -> Awaitable[None] | None:
        """Go on encrypted, and forget what was said before (RFC 3207 section 4.2)."""
        context = self._reception.settings.tls
        if argument:
            self._complain(answer.NO_ARGUMENT)
        elif context is None:
            self._complain(answer.NOT_IMPLEMENTED)
        elif self._is_tls:
            self._complain(answer.NO_TLS)
        elif not self._is_out_of_step() and self.transport is not None:
            return self._begin_tls(self.transport, context)
        return None

    async def _begin_tls(self, plain: asyncio.Transport, context: ssl.SSLContext) -> None:
        """Shake hands; the session begins anew if that succeeds, and is over if not."""
        self._output.say(answer.START_TLS)
        self._output.write()
        try:
            encrypted = await self.loop.start_tls(
                plain,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self._reception.settings.idle_timeout_s,
            )
        except OSError:  # ssl.SSLError and time-outs included; no reply can be read any more
            encrypted = None
        if encrypted is None:
            self._fault("tls")
            self._end(None, "error")
            return
        self.transport = encrypted
        self._is_tls = True
        self._is_greeted = False
        self._input.attach(encrypted)
        self._output.attach(encrypted)
        self._client = replace(self._client, helo="")
        await self._relay.introduce(self._client)

    async def smtp_XFORWARD(self, line: bytes, argument: bytes) -> None:
        """Take over what a filter's client says of its own (XFORWARD_README)."""
        if not is_within(self._peer, self._reception.settings.xforward):
            self._fault("command")
            self._complain(answer.SYNTAX)
            return
        if self._relay.is_open:
            self._complain(answer.NESTED_MAIL)
            return
        values = parse_xforward(argument)
        if values is None:
            self._complain(answer.BAD_ARGUMENT)
            return
        self._client = forwarded(self._client, values)
        await self._relay.introduce(self._client)
        self._output.say(answer.OK)

    verbs: ClassVar[Mapping[bytes, Verb]] = {
        b"HELO": smtp_HELO,
        b"EHLO": smtp_EHLO,
        b"MAIL": smtp_MAIL,
        b"RCPT": smtp_RCPT,
        b"DATA": smtp_DATA,
        b"RSET": smtp_RSET,
        b"NOOP": smtp_NOOP,
        b"VRFY": smtp_VRFY,
        b"EXPN": _not_offered,
        b"HELP": smtp_HELP,
        b"QUIT": smtp_QUIT,
        b"STARTTLS": smtp_STARTTLS,
        b"XFORWARD": smtp_XFORWARD,
        b"AUTH": _not_offered,
        b"ETRN": _not_offered,
        b"TURN": _not_offered,
        b"BDAT": _not_offered,
    }
