"""One connection of a mail server that has us as a milter, and the message under way on it.

Mail servers open a connection per SMTP client, for all messages of that client. The negotiation
asks for the least: every packet but the end of a message goes unanswered, so that a message costs
the mail server one round trip. A mail server that is too old for that gets its answers.

Nothing here knows what a duplicate is, nor how many connections there are. Whatever makes no sense
ends the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import ClassVar, Protocol, cast

from gateway.core import answer
from gateway.core.handover import Client
from gateway.desk import Desk
from gateway.faces import milter_wire as wire
from gateway.faces.milter_ack import acknowledge
from gateway.faces.milter_judgement import judge
from gateway.faces.milter_message import Collector, Letter, MilterSettings, argument_of
from gateway.faces.milter_wire import Event, Request, Stage, Step
from gateway.ports import Meter
from gateway.watchdog import Watchdog

_REQUESTS = (
    Request.ADD_HEADERS
    | Request.CHANGE_HEADERS
    | Request.DELETE_RECIPIENTS
    | Request.SET_MACRO_LISTS
)
_STEPS = (
    Step.NO_UNKNOWN
    | Step.NO_DATA
    | Step.NO_END_OF_HEADER
    | Step.NO_REPLY_CONNECT
    | Step.NO_REPLY_HELO
    | Step.NO_REPLY_MAIL
    | Step.NO_REPLY_RCPT
    | Step.NO_REPLY_HEADER
    | Step.NO_REPLY_END_OF_HEADER
    | Step.NO_REPLY_BODY
    | Step.LEADING_SPACE
)
# Macros come with every event, if the server has its way. We want one, once.
_MACROS = MappingProxyType({Stage.END_OF_MESSAGE: b"i"})
# Between two messages, and between RCPT and the content, the mail server waits for its client, and
# nothing comes here. libmilter gives up after 7210 s; the mail server after as long as its own
# time-outs add up to.
_SESSION_TIMEOUT_S = 7210.0
# Sendmail waits 10 s for a sign of life unless told otherwise; a second copy waits so long, too.
_PROGRESS_EVERY_S = 2.0
_HIGH_WATER_PACKETS = 64
_MACRO, _FIELD, _END_OF_MESSAGE = map(int, (Event.MACRO, Event.HEADER, Event.END_OF_MESSAGE))


class House(Protocol):
    """Who keeps count of the connections.

    Attributes:
        settings: in force now.
    """

    settings: MilterSettings

    def admit(self, session: MilterSession, transport: asyncio.BaseTransport) -> bool:
        """Let a connection in, or not."""

    def dismiss(self, session: MilterSession) -> None:
        """Forget a connection that has ended, and has nothing under way any more."""


class MilterSession(asyncio.Protocol):
    """A connection, from the negotiation to its end."""

    __slots__ = (
        "_answered",
        "_client",
        "_current_desk",
        "_house",
        "_is_agreed",
        "_is_ending",
        "_is_given_up",
        "_is_paused",
        "_is_piecemeal",
        "_is_spaced",
        "_judging",
        "_loop",
        "_macros",
        "_message",
        "_meter",
        "_reader",
        "_result",
        "_transport",
        "_waiting",
        "_watchdog",
    )

    def __init__(self, house: House, current_desk: Callable[[], Desk], meter: Meter) -> None:
        """Wait for the connection.

        Args:
            house: told when it begins and ends, and asked for the settings.
            current_desk: asked once per message.
            meter: told of connections and of faults in the protocol.
        """
        self._house = house
        self._current_desk = current_desk
        self._meter = meter
        self._transport: asyncio.Transport | None = None
        # Asked once: CPython 3.11 makes a system call of it (getpid).
        self._loop = asyncio.get_running_loop()
        self._watchdog = Watchdog(self._loop, self._take_silence)
        self._reader = wire.PacketReader()
        self._is_agreed = False
        self._is_spaced = False
        self._answered: frozenset[int] = frozenset()
        self._client = Client()
        self._macros: dict[bytes, bytes] = {}
        self._message: Collector | None = None
        self._judging: asyncio.Task[None] | None = None
        self._waiting: list[tuple[int, bytes]] = []
        self._is_paused = False
        self._is_piecemeal = False
        self._is_given_up = False
        self._is_ending = False
        self._result = "lost"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection over."""
        self._transport = cast("asyncio.Transport", transport)
        self._meter.session_began()
        if self._house.admit(self, transport):
            self._watchdog.arm(self._house.settings.idle_timeout_s)
        else:
            self._result = "refused"
            self.cut()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go; a message that is being judged is withdrawn when that has come to an end."""
        self._watchdog.close()
        self._is_given_up = True
        if self._result == "lost" and exc is None and self._message is None:
            self._result = "ok"  # the mail server closes without QUIT once it has given up on us
        self._message = None
        self._meter.session_ended(is_tls=False, result=self._result)
        if self._judging is None:
            self._house.dismiss(self)

    def data_received(self, data: bytes) -> None:
        """Take octets from the mail server."""
        try:
            packets = self._reader.feed(data)
            if self._judging is None:
                self._go_on(packets)
            else:
                self._keep_for_later(packets)
        except wire.WireError as error:
            self._fail(error)

    def finish(self) -> None:
        """End the connection as soon as no message is under way."""
        self._is_ending = True
        if self._judging is None and self._message is None:
            self._result = "ok"
            self._open_transport().close()

    def cut(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _keep_for_later(self, packets: Sequence[tuple[int, bytes]]) -> None:
        """Hold back what comes while a message is being judged.

        The mail server waits for our answer then; one that ends the message has given up on that.
        """
        self._waiting += packets
        self._is_given_up |= wire.is_taken_back(self._waiting)
        if len(self._waiting) > _HIGH_WATER_PACKETS and not self._is_paused:
            self._is_paused = True
            self._open_transport().pause_reading()

    def _go_on(self, packets: Sequence[tuple[int, bytes]]) -> None:
        """Work through packets, up to the end of a message."""
        fields: list[bytes] = []
        for number, (command, payload) in enumerate(packets, 1):
            # Postfix sends macros, if only none, before every field: these two are the most.
            if command == _MACRO:
                self._macros[payload[:1]] = payload
                continue
            if command == _FIELD:
                fields.append(payload)
                continue
            if fields:
                self._take_fields(fields)
                fields = []
            if command == _END_OF_MESSAGE:
                self._end_message(payload)
                if self._judging is None:
                    continue  # it was for nobody
                self._keep_for_later(packets[number:])
                break
            self._take(command, payload)
            if command in self._answered:
                self._open_transport().write(wire.CONTINUE)
        if fields:
            self._take_fields(fields)
        if self._judging is None:
            # Sendmail writes packet by packet, so that macros come without their event.
            self._is_piecemeal |= bool(packets) and packets[-1][0] == _MACRO
            self._expect_more()

    def _take(self, command: int, payload: bytes) -> None:
        """Take one packet."""
        take = self._takes.get(command)
        if take is None:
            raise wire.WireError(f"command {command:#x} is unknown")
        take(self, payload)

    def _take_fields(self, payloads: Sequence[bytes]) -> None:
        """Take header fields that came in a row."""
        self._open_message().take_fields(payloads)
        if _FIELD in self._answered:
            self._open_transport().write(wire.CONTINUE * len(payloads))

    def _negotiate(self, payload: bytes) -> None:
        offered = wire.parse_negotiation(payload)
        agreed = wire.agree(offered, _REQUESTS, _STEPS)
        self._is_agreed, self._is_spaced = True, agreed.has_leading_space
        self._answered = agreed.answered
        self._open_transport().write(wire.negotiated(agreed, _MACROS))

    def _take_connect(self, payload: bytes) -> None:
        """Learn who the client of the mail server is."""
        self._require_agreement()
        connection = wire.parse_connection(payload)
        is_named = connection.name not in ("", "unknown") and not connection.name.startswith("[")
        self._client = Client(
            connection.address,
            connection.port,
            connection.name if is_named else Client().name,
        )

    def _take_helo(self, payload: bytes) -> None:
        self._require_agreement()
        self._client = replace(self._client, helo=argument_of(payload).decode("latin-1"))

    def _take_mail(self, payload: bytes) -> None:
        self._require_agreement()
        self._message = Collector(
            self._client,
            argument_of(payload),
            has_leading_space=self._is_spaced,
            header_size_octets=self._current_desk().settings.header_size_octets,
            recipients=self._house.settings.recipients,
        )

    def _take_recipient(self, payload: bytes) -> None:
        self._open_message().take_recipient(argument_of(payload))

    def _take_body(self, payload: bytes) -> None:
        self._open_message().take_body(payload)

    def _take_nothing(self, _payload: bytes) -> None:
        """Learn nothing from a packet that we have not asked for."""

    def _forget_message(self, _payload: bytes = b"") -> None:
        self._message = None
        self._macros.clear()

    def _begin_anew(self, _payload: bytes) -> None:
        self._forget_message()
        self._client = Client()

    def _quit(self, _payload: bytes) -> None:
        self._result = "ok"
        self._message = None
        self._open_transport().close()

    def _end_message(self, payload: bytes) -> None:
        """Have a whole message judged."""
        message = self._open_message()
        if payload:
            message.take_body(payload)
        if not message.has_recipients:
            self._forget_message()
            self._open_transport().write(wire.CONTINUE)
            return
        letter = message.finished(self._queue_id())
        self._forget_message()
        self._watchdog.arm(_PROGRESS_EVERY_S)
        # Nobody who hangs up can cancel it: what was claimed has to be settled.
        self._judging = self._loop.create_task(self._judge(letter))

    def _queue_id(self) -> bytes:
        """Return the mail server's name for the message: Postfix tells it late, Sendmail early."""
        for event in (b"E", b"M"):
            if event in self._macros:
                _, macros = wire.parse_macros(self._macros[event])
                if b"i" in macros:
                    return macros[b"i"]
        return b""

    async def _judge(self, letter: Letter) -> None:
        """Judge a message, answer, and go on with what has come in the meantime."""
        desk = self._current_desk()
        is_answered = False
        try:
            judgement = await judge(desk, letter, has_leading_space=self._is_spaced)
            self._watchdog.disarm()
            # A connection that was cut just now has not been told to us as lost yet.
            if self._is_given_up or self._open_transport().is_closing():
                desk.journal.complain("milter_answer_unwanted", "the mail server gave up waiting")
                await judgement.withdraw()
            else:
                is_answered = True
                self._open_transport().write(judgement.answer)
                await judgement.settle(is_outcome_known=self._house.settings.is_acceptance_assumed)
        except Exception as error:  # noqa: BLE001 - our bug; the client shall try again
            desk.journal.complain("bug", repr(error))
            if not is_answered and not self._is_given_up:
                self._open_transport().write(wire.reply_code(answer.BUG))
        finally:
            self._judging = None
        self._resume()

    def _resume(self) -> None:
        if self._transport is None or self._transport.is_closing():
            self._house.dismiss(self)
            return
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
        self._is_given_up = False
        waiting, self._waiting = self._waiting, []
        try:
            self._go_on(waiting)
        except wire.WireError as error:
            self._fail(error)
        if self._is_ending:
            self.finish()

    def _expect_more(self) -> None:
        is_amid = self._message is not None and self._message.is_content_begun
        is_amid = is_amid or self._reader.held_octets > 0 or not self._is_agreed
        self._watchdog.arm(self._house.settings.idle_timeout_s if is_amid else _SESSION_TIMEOUT_S)
        if self._is_piecemeal:
            acknowledge(self._open_transport())

    def _take_silence(self) -> None:
        """Ask for patience if the mail server waits for us, and give it up if we wait for it."""
        if self._judging is None:
            self._result = "timeout"
            self.cut()
        elif not self._is_given_up:
            self._open_transport().write(wire.PROGRESS)
            self._watchdog.arm(_PROGRESS_EVERY_S)

    def _fail(self, error: wire.WireError) -> None:
        """Give up on a mail server that makes no sense; its default action holds then."""
        self._result = "error"
        self._meter.protocol_error("command")
        self._current_desk().journal.complain("milter_protocol_broken", str(error))
        self.cut()

    def _require_agreement(self) -> None:
        if not self._is_agreed:
            raise wire.WireError("no negotiation")

    def _open_message(self) -> Collector:
        if self._message is None:
            raise wire.WireError("no MAIL before this")
        return self._message

    def _open_transport(self) -> asyncio.Transport:
        return cast("asyncio.Transport", self._transport)  # set before anything can come

    # A chain of comparisons would make six of them for each packet.
    _takes: ClassVar[Mapping[int, Callable[[MilterSession, bytes], None]]] = MappingProxyType(
        {
            int(Event.ABORT): _forget_message,
            int(Event.BODY): _take_body,
            int(Event.CONNECT): _take_connect,
            int(Event.DATA): _take_nothing,
            int(Event.END_OF_HEADER): _take_nothing,
            int(Event.HELO): _take_helo,
            int(Event.MAIL): _take_mail,
            int(Event.NEGOTIATE): _negotiate,
            int(Event.QUIT): _quit,
            int(Event.QUIT_NEW_CONNECTION): _begin_anew,
            int(Event.RCPT): _take_recipient,
            int(Event.UNKNOWN): _take_nothing,
        }
    )
