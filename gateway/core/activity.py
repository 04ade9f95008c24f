"""What went on in the last hour: differences between samples of the counters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

Labels = tuple[str, ...]
_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class Spread:
    """How often each bucket of a histogram was hit.

    Attributes:
        bounds: upper bounds, in seconds, the open end left out.
        hits: one per bound, and one for what lies beyond.
    """

    bounds: tuple[float, ...]
    hits: tuple[float, ...]

    def since(self, earlier: Spread) -> Spread:
        """Return what was added since then."""
        hits = tuple(
            max(now - then, 0.0) for now, then in zip(self.hits, earlier.hits, strict=True)
        )
        return Spread(self.bounds, hits)

    def quantile(self, share: float) -> float | None:
        """Return the value that a share of all observations do not exceed; None if there are none.

        Args:
            share: 0 to 1. Within a bucket the observations are taken to be spread evenly; beyond
                the last bound the answer is that bound.
        """
        wanted = share * sum(self.hits)
        if not wanted:
            return None
        lower = passed = 0.0
        for bound, hits in zip(self.bounds, self.hits, strict=False):
            if hits and passed + hits >= wanted:
                return lower + (bound - lower) * (wanted - passed) / hits
            lower, passed = bound, passed + hits
        return lower


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters at one moment.

    Attributes:
        at_s: Unix time.
        messages: by verdict and action.
        recipients: by verdict and action.
        forms: messages by form of the Message-ID.
        overhead: time messages spent in the gateway.
        list_wait: time claims took.
        protocol_errors: of clients.
        content_octets: received.
        sessions: clients connected now.
        workers: alive now.
    """

    at_s: float
    messages: Mapping[Labels, float]
    recipients: Mapping[Labels, float]
    forms: Mapping[str, float]
    overhead: Spread
    list_wait: Spread
    protocol_errors: float = 0.0
    content_octets: float = 0.0
    sessions: float = 0.0
    workers: float = 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """Messages between two samples.

    Attributes:
        at_s: Unix time of its end.
        duration_s: of it.
        verdicts: messages by verdict.
    """

    at_s: float
    duration_s: float
    verdicts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Activity:
    """What went on between the first sample and the last.

    Attributes:
        duration_s: between them; an hour, or less if the gateway has not run so long.
        intervals: oldest first.
        messages: by verdict and action.
        recipients: by verdict and action.
        forms: messages by form of the Message-ID.
        overhead: time messages spent in the gateway.
        list_wait: time claims took.
        protocol_errors: of clients.
        content_octets: received.
        sessions: clients connected now.
        workers: alive now.
    """

    duration_s: float = 0.0
    intervals: tuple[Interval, ...] = ()
    messages: Mapping[Labels, int] = field(default_factory=dict)
    recipients: Mapping[Labels, int] = field(default_factory=dict)
    forms: Mapping[str, int] = field(default_factory=dict)
    overhead: Spread = Spread((), (0.0,))
    list_wait: Spread = Spread((), (0.0,))
    protocol_errors: int = 0
    content_octets: int = 0
    sessions: int = 0
    workers: int = 0

    @property
    def verdicts(self) -> Mapping[str, int]:
        """Messages by verdict."""
        return _by_first(self.messages)

    @property
    def actions(self) -> Mapping[str, int]:
        """Messages by action."""
        return _by_first({labels[::-1]: number for labels, number in self.messages.items()})


def activity(samples: Sequence[Sample]) -> Activity:
    """Return what went on between samples, oldest first; nothing if there are none."""
    if not samples:
        return Activity()
    first, last = samples[0], samples[-1]
    return Activity(
        duration_s=last.at_s - first.at_s,
        intervals=tuple(map(_interval, samples, samples[1:])),
        messages=_added(last.messages, first.messages),
        recipients=_added(last.recipients, first.recipients),
        forms=_added(last.forms, first.forms),
        overhead=last.overhead.since(first.overhead),
        list_wait=last.list_wait.since(first.list_wait),
        protocol_errors=int(last.protocol_errors - first.protocol_errors),
        content_octets=int(last.content_octets - first.content_octets),
        sessions=int(last.sessions),
        workers=int(last.workers),
    )


def _interval(earlier: Sample, later: Sample) -> Interval:
    return Interval(
        later.at_s, later.at_s - earlier.at_s, _by_first(_added(later.messages, earlier.messages))
    )


def _added(later: Mapping[_Key, float], earlier: Mapping[_Key, float]) -> dict[_Key, int]:
    return {key: int(value - earlier.get(key, 0.0)) for key, value in later.items()}


def _by_first(numbers: Mapping[Labels, int]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for labels, number in numbers.items():
        sums[labels[0]] = sums.get(labels[0], 0) + number
    return sums
