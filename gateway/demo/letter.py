"""The messages of ``mailonce demo``, and what must become of each.

Values only: nothing is sent here. A run has a token of its own in every id and text, so that a
second run in the same folder does not meet the messages of the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.core.policy import Action, Decision, Verdict, summary

SENDER = "sender@example.org"
ALICE = "alice@example.org"
BOB = "bob@example.org"
CAROL = "carol@example.org"
"""A [[policy]] of the demo has duplicates for her tagged and not dropped."""

_RELAYED = Decision(Verdict.NEW, Action.RELAYED)
_DROPPED = Decision(Verdict.DUPLICATE, Action.DROPPED)


@dataclass(frozen=True, slots=True)
class Expected:
    """What must become of a message.

    Attributes:
        code: of the reply to its content.
        decisions: by recipient.
        field: beginning of what is prepended to delivered copies, ``""`` for nothing.
    """

    code: int
    decisions: tuple[tuple[str, Decision], ...]
    field: str = ""

    @property
    def delivered(self) -> tuple[str, ...]:
        """Who gets a copy."""
        held = (Action.DROPPED, Action.DEFERRED)
        return tuple(sorted(who for who, decision in self.decisions if decision.action not in held))


@dataclass(frozen=True, slots=True)
class Letter:
    """One message to send.

    Attributes:
        title: what it is to show.
        content: in wire form.
        expected: recipients and what must become of their copies.
        meanwhile: sent whole when only the beginning of this one has come.
    """

    title: str
    content: bytes
    expected: Expected
    meanwhile: Letter | None = None

    @property
    def recipients(self) -> tuple[str, ...]:
        """Who it is for."""
        return tuple(who for who, _ in self.expected.decisions)


def letters(token: str, domain: str) -> Sequence[Letter]:
    """Return the messages of one run, in the order in which they are sent.

    Args:
        token: no other run has.
        domain: right of the @ in their ids.
    """
    invoice = _content(token, "Invoice 4711", f"invoice.{token}@{domain}")
    other = _content(token, "You have won", f"invoice.{token}@{domain}")
    report = _content(token, "Backup report", "")
    slow = _content(token, "Photographs", f"photographs.{token}@{domain}")
    collided = Expected(
        250, ((ALICE, Decision(Verdict.COLLISION, Action.TAGGED)),), "X-Mailonce: collision"
    )
    tagged = Expected(
        250, ((CAROL, Decision(Verdict.DUPLICATE, Action.TAGGED)),), "X-Mailonce: duplicate"
    )
    deferred = Expected(451, ((ALICE, Decision(Verdict.IN_FLIGHT, Action.DEFERRED)),))
    new, again = Expected(250, ((ALICE, _RELAYED),)), Expected(250, ((ALICE, _DROPPED),))
    named = Expected(250, ((ALICE, _RELAYED),), "Message-ID: ")
    copy_of_slow = Letter("copy of the next, which is still on its way", slow, deferred)
    return (
        Letter("new message", invoice, new),
        Letter("exact copy of it", invoice, again),
        Letter("same, for a second recipient", invoice, Expected(250, ((CAROL, _RELAYED),))),
        Letter("same again; a policy has it tagged", invoice, tagged),
        Letter("its Message-ID, other content", other, collided),
        Letter(
            "same, for one who had it and one not",
            invoice,
            Expected(250, ((ALICE, _DROPPED), (BOB, _RELAYED))),
        ),
        Letter("no Message-ID", report, named),
        Letter("no Message-ID, exact copy", report, again),
        Letter("slow message, arriving at last", slow, new, meanwhile=copy_of_slow),
        Letter("its copy, tried again", slow, again),
    )


def counted(sent: Sequence[Letter]) -> Counter[tuple[str, str]]:
    """Return how many messages must be counted by verdict and action."""
    return Counter(
        (str(over_all.verdict), str(over_all.action))
        for letter in each(sent)
        for over_all in [summary([decision for _, decision in letter.expected.decisions])]
    )


def each(sent: Sequence[Letter]) -> Iterator[Letter]:
    """Yield letters in the order of their replies."""
    for letter in sent:
        if letter.meanwhile is not None:
            yield letter.meanwhile
        yield letter


def _content(token: str, subject: str, message_id: str) -> bytes:
    lines = [
        f"From: Sender <{SENDER}>",
        f"To: Alice <{ALICE}>",
        f"Subject: {subject}",
        "Date: Mon, 23 Nov 2026 17:00:00 +0000",
        *([f"Message-ID: <{message_id}>"] if message_id else []),
        "",
        f"{subject}: one of the messages of run {token} of the demo.",
        "...a line that begins with dots goes through unchanged.",
        "",
    ]
    return "\r\n".join(lines).encode("ascii")
