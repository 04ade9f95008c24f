"""What was recorded on all sides of the gateway, on one clock: values and where they are kept."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from enum import Enum

from tests.chaos.post import Post

now = time.monotonic


@dataclass(slots=True, eq=False)
class Attempt:
    """One try of a client to send one message.

    Attributes:
        number: of the message.
        began_s: when.
        ended_s: when the client knew the outcome, or gave up.
        code: final reply, 0 if there was none.
        text: of the reply.
    """

    number: int
    began_s: float
    ended_s: float = 0.0
    code: int = 0
    text: str = ""

    @property
    def is_told_lost(self) -> bool:
        """Say whether the gateway said that it does not know the outcome."""
        return self.code == 451 and self.text.startswith("4.4.2")


@dataclass(slots=True, eq=False)
class Delivery:
    """One copy that the downstream has accepted for one recipient.

    Attributes:
        number: of the message.
        recipient: of the copy.
        queue_id: what the downstream calls it.
        accepted_s: when it was accepted.
        mark: verdict in our field, or "".
        attempt: of the client, None if it is not known.
        replied_s: when the reply had gone out; 0 if it never did.
    """

    number: int
    recipient: str
    queue_id: str
    accepted_s: float
    mark: str
    attempt: Attempt | None
    replied_s: float = 0.0


class Effect(Enum):
    """What a fault may do to a message under way."""

    DIED = "a gateway process was killed"
    PAUSED = "a gateway process was stopped"
    LIST_AWAY = "the list did not answer"
    LIST_LOST = "the list lost what it knew"


@dataclass(frozen=True, slots=True)
class Interval:
    """When a fault had an effect.

    Attributes:
        effect: which.
        from_s: beginning; of `LIST_LOST`: since when what was told to the list may be lost.
        to_s: end; of `LIST_LOST`: until when.
    """

    effect: Effect
    from_s: float
    to_s: float

    def meets(self, from_s: float, to_s: float) -> bool:
        """Say whether it overlaps with a span of time."""
        return self.from_s <= to_s and from_s <= self.to_s


@dataclass(slots=True)
class Ledger:
    """All recordings of a run.

    Attributes:
        posts: by number.
        digests: by number, of those that were ever sent.
        deliveries: by message and recipient, in order.
        promised: message and recipient -> when a client was first told 2xx.
        bounced: message and recipient of permanent refusals.
        attempts: how many there were.
        codes: final replies to clients.
        intervals: what faults did.
        faults: injected, by kind.
        troubles: what the downstream did to its clients, by kind.
        remembered: queue id -> when a record with it went to the list.
        altered: what was found wrong with octets.
        ids: number -> Message-ID that was added.
    """

    posts: list[Post] = field(default_factory=list)
    digests: dict[int, bytes] = field(default_factory=dict)
    deliveries: dict[tuple[int, str], list[Delivery]] = field(
        default_factory=lambda: defaultdict(list)
    )
    promised: dict[tuple[int, str], float] = field(default_factory=dict)
    bounced: set[tuple[int, str]] = field(default_factory=set)
    attempts: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    intervals: list[Interval] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    troubles: Counter[str] = field(default_factory=Counter)
    remembered: dict[str, float] = field(default_factory=dict)
    altered: list[str] = field(default_factory=list)
    ids: dict[int, bytes] = field(default_factory=dict)

    def note(self, effect: Effect, from_s: float, to_s: float) -> None:
        """Note what a fault did."""
        self.intervals.append(Interval(effect, from_s, to_s))
