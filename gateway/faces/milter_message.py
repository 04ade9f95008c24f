"""One message as a milter sees it, collected packet by packet, within bounds of memory.

What a server has taken apart is put together again here, so that header section, paths and
fingerprint are those that the SMTP face sees: a copy seen there must be known here. Octets of the
body are not kept.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.core.envelope import Envelope, normalized, parse_path
from gateway.core.fingerprint import Fingerprinter
from gateway.core.handover import Client
from gateway.core.header import Field
from gateway.core.policy import EXAMINED, OUR_FIELD, Examination, examined
from gateway.core.value import value
from gateway.faces.milter_wire import WireError, parse_fields, parse_strings

# RFC 5321 section 4.5.3.1 allows 256 octets for a path; Postfix reads lines of 2048.
_MAX_ARGUMENT_OCTETS = 4096
# Postfix looks for each field to be removed from the top, so that its time grows with the square
# of their number: a thousand take it a third of a second. A message with more is put off.
MOST_FORGED = 1000
_UNEXAMINED = Field(b"")
_QUEUE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class MilterSettings:
    """What the postmaster chose for milters alone; all else is on the desk.

    Attributes:
        recipients: most of one message; a message to more passes unchecked.
        sessions: most connections.
        idle_timeout_s: longest silence in the middle of a packet or of content.
        is_acceptance_assumed: whether what passes here counts as accepted at once.
    """

    recipients: int = 1000
    sessions: int = 1000
    idle_timeout_s: float = 300.0
    is_acceptance_assumed: bool = False


@value
class Letter:
    """A whole message and its envelope.

    Attributes:
        client: of the mail server.
        envelope: each recipient once.
        arguments: per recipient, how it was written in RCPT, each way once, and without its route.
        examination: of its header section.
        fingerprint: of the content.
        is_checkable: False if header section or recipients went over their limits.
        size_octets: of the content.
        started_s: monotonic time of its first field.
        ended_s: monotonic time of its end.
        queue_id: the mail server's, or ``b""``.
    """

    client: Client
    envelope: Envelope
    arguments: tuple[tuple[bytes, ...], ...]
    examination: Examination
    fingerprint: bytes
    is_checkable: bool
    size_octets: int
    started_s: float
    ended_s: float
    queue_id: bytes


class Collector:
    """Takes the packets of one message in, from MAIL to its end; within bounds of memory.

    Attributes:
        is_content_begun: whether a field or a part of the body has come.
    """

    __slots__ = (
        "_arguments",
        "_client",
        "_examination",
        "_fingerprinter",
        "_found",
        "_has_leading_space",
        "_header_room",
        "_is_recipients_whole",
        "_recipients",
        "_reverse_path",
        "_size_octets",
        "_started_s",
        "is_content_begun",
    )

    def __init__(
        self,
        client: Client,
        sender: bytes,
        *,
        has_leading_space: bool,
        header_size_octets: int,
        recipients: int,
    ) -> None:
        """Begin with MAIL.

        Args:
            client: of the mail server.
            sender: first argument of MAIL.
            has_leading_space: as agreed with the mail server.
            header_size_octets: how much of the header section is kept.
            recipients: how many are kept.
        """
        self.is_content_begun = False
        self._client = client
        self._has_leading_space = has_leading_space
        self._reverse_path = _path(b"FROM:", sender)
        self._arguments: dict[bytes, tuple[bytes, tuple[bytes, ...]]] = {}
        self._recipients = recipients
        self._is_recipients_whole = True
        self._found: dict[bytes, list[Field]] = {name: [] for name in EXAMINED}
        self._header_room = header_size_octets
        self._examination: Examination | None = None
        self._fingerprinter: Fingerprinter | None = None
        self._size_octets = 0
        self._started_s = 0.0

    @property
    def has_recipients(self) -> bool:
        """Say whether the message is for anybody."""
        return bool(self._arguments)

    def take_recipient(self, argument: bytes) -> None:
        """Take the first argument of RCPT."""
        path = _path(b"TO:", argument)
        key = normalized(path)
        first, written = self._arguments.get(key, (path, ()))
        if argument in written:
            return
        if self._recipients == 0:
            self._is_recipients_whole = False
            return
        self._recipients -= 1
        written = (*written, argument)
        if argument.startswith(b"<@") and b"<%b>" % path not in written:
            written = (*written, b"<%b>" % path)  # Postfix forgets a source route, as we do
        self._arguments[key] = (first, written)

    def take_fields(self, payloads: Sequence[bytes]) -> None:
        """Take header fields, as they came; only those that are examined are kept.

        Raises:
            WireError: one of them was none.
        """
        if not self.is_content_begun:
            self._begin()
        names, bodies, octets = parse_fields(payloads, has_leading_space=self._has_leading_space)
        self._size_octets += octets
        if self._header_room < 0:
            self._count_forged(names)
            return
        self._header_room -= octets
        for name, body in zip(names, bodies, strict=True):
            of_name = self._found.get(name)
            if of_name is not None:
                of_name.append(Field(body + b"\r\n"))

    def _count_forged(self, names: Sequence[bytes]) -> None:
        """Count forged fields that stand beyond what is examined, until there are too many."""
        forged = self._found[OUR_FIELD]
        room = max(0, MOST_FORGED + 1 - len(forged))
        forged += [_UNEXAMINED] * min(names.count(OUR_FIELD), room)

    def take_body(self, chunk: bytes) -> None:
        """Take the next octets of the body."""
        if not self.is_content_begun:
            self._begin()
        self._size_octets += len(chunk)
        self._examined()[1].update(chunk)

    def finished(self, queue_id: bytes) -> Letter:
        """Return the whole message."""
        if not self.is_content_begun:
            self._begin()
        examination, fingerprinter = self._examined()
        recipients = self._arguments.values()
        return Letter(
            client=self._client,
            envelope=Envelope(
                self._reverse_path, tuple([path for path, _ in recipients]), self._client.address
            ),
            arguments=tuple([written for _, written in recipients]),
            examination=examination,
            fingerprint=fingerprinter.digest(),
            is_checkable=self._header_room >= 0 and self._is_recipients_whole,
            size_octets=self._size_octets + len(b"\r\n"),
            started_s=self._started_s,
            ended_s=time.monotonic(),
            queue_id=queue_id if _QUEUE_ID.fullmatch(queue_id) else b"",
        )

    def _begin(self) -> None:
        self.is_content_begun = True
        self._started_s = time.monotonic()

    def _examined(self) -> tuple[Examination, Fingerprinter]:
        """Close the header section, if that has not been done."""
        if self._examination is None or self._fingerprinter is None:
            self._examination = examined(self._found, is_whole=self._header_room >= 0)
            self._fingerprinter = Fingerprinter(self._examination.identifying)
        return self._examination, self._fingerprinter


def argument_of(payload: bytes) -> bytes:
    """Return the first string of a command: the name of HELO, the address of MAIL and RCPT.

    Raises:
        WireError: there is none, or it is of unreasonable length.
    """
    argument = parse_strings(payload)[0]
    if len(argument) > _MAX_ARGUMENT_OCTETS:
        raise WireError("an address of unreasonable length")
    return argument


def _path(label: bytes, argument: bytes) -> bytes:
    """Read an address as the SMTP face would, so that both know it under the same key."""
    read = parse_path(label + argument)
    return argument.strip(b"<>") if read is None else read.path
