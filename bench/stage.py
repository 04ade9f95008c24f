"""A run on its stage: which peers play, for how long, in interleaved rounds.

Each round measures every subject once, in an order that turns, so that no subject always has the
same neighbour. A round in which others took much of the machine is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.load import Load
from bench.peers import Peer
from bench.rig import Redis, Rig, RoundError, Station, measure, messages_for
from bench.sample import Sample


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is measured.

    Attributes:
        rounds: of each scenario.
        seconds: of each measurement.
        warm_s: before the first.
        retries: of a round in which others took more than a tenth of the machine.
    """

    rounds: int
    seconds: float
    warm_s: float
    retries: int


_MAX_FOREIGN = 0.1


@dataclass(frozen=True, slots=True)
class Course:
    """One subject of a scenario: what is sent where.

    Attributes:
        subject: its name in the results.
        station: the running peer.
        load: what is sent.
        messages: how many in a round.
        delivered: how many of them reach the sink.
    """

    subject: str
    station: Station
    load: Load
    messages: int
    delivered: int


class Stage:
    """A run: rig, pace, and the peers that run already."""

    def __init__(
        self,
        rig: Rig,
        peers: Mapping[str, Peer],
        pace: Pace,
        say: Callable[[str], None],
    ) -> None:
        """Take what is needed; `say` shows progress."""
        self.rig = rig
        self._peers = peers
        self.pace = pace
        self.say = say
        self.failures: list[str] = []
        self._stations: dict[str, Station] = {}

    def station(self, name: str) -> Station | None:
        """Return a peer, started if it does not run yet; None if it is missing or not wanted."""
        if name not in self._peers or name in self.rig.missing:
            return None
        if name not in self._stations:
            station = self.start(self._peers[name])
            if station is None:
                return None
            self._stations[name] = station
        return self._stations[name]

    def start(self, peer: Peer, redis: Redis | None = None) -> Station | None:
        """Start a peer of a scenario's own; None (and noted) if it cannot be had."""
        self.say(f"starting {peer.name}")
        station = self.rig.start(peer, redis)
        if station is None:
            self.say(f"{peer.name} is missing: {self.rig.missing[peer.name]}")
        return station

    def stations(self, names: Iterable[str]) -> Iterator[Station]:
        """Return those of some peers that can be had."""
        for name in names:
            station = self.station(name)
            if station is not None:
                yield station

    def course(self, subject: str, station: Station, load: Load) -> Course | None:
        """Warm a station up for a load; None (and a noted failure) if it does not take it."""
        try:
            count = messages_for(station, load, self.pace.seconds, self.pace.warm_s)
        except RoundError as error:
            self.failures.append(f"{subject}: {error}")
            self.say(f"failed: {subject}: {error}")
            return None
        return Course(subject, station, load, count, count)

    def run(
        self, scenario: str, courses: Sequence[Course | None], *, most_rounds: int = 100
    ) -> list[Sample]:
        """Measure courses in interleaved rounds."""
        rounds = min(self.pace.rounds, most_rounds)
        wanted = [course for course in courses if course is not None]
        samples = []
        for number in range(rounds):
            turn = number % max(1, len(wanted))
            for course in wanted[turn:] + wanted[:turn]:
                sample = self._sample(scenario, course, number)
                if sample is not None:
                    samples.append(sample)
            self.say(f"{scenario}: round {number + 1} of {rounds}")
        return samples

    def _sample(self, scenario: str, course: Course, number: int) -> Sample | None:
        best: dict[str, float] | None = None
        for _ in range(self.pace.retries + 1):
            try:
                values = measure(
                    course.station, course.load, course.messages, delivered=course.delivered
                )
            except RoundError as error:
                self.failures.append(f"{scenario}, {course.subject}: {error}")
                self.say(f"failed: {scenario}, {course.subject}: {error}")
                return None
            if best is None or values["foreign"] < best["foreign"]:
                best = values
            if best["foreign"] <= _MAX_FOREIGN:
                break
        assert best is not None  # the loop ran at least once
        return Sample(scenario, course.subject, number, best)
