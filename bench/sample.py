"""What a measurement is, and the arithmetic on it: pure.

Rounds are interleaved, so a ratio is taken within a round and then the median of the ratios: what
else the machine did in that minute then hits both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement.

    Attributes:
        scenario: name of it.
        subject: what was measured: a peer, or a variant of it.
        round_number: from 0; samples of one round were taken in a row.
        values: by name, the unit in the name.
    """

    scenario: str
    subject: str
    round_number: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, lowest and highest of some rounds."""

    middle: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Target:
    """What mailonce has to reach.

    Attributes:
        scenario: where.
        key: which value.
        subject: whose.
        other: divided by whose; empty for the value itself.
        bound: the figure.
        is_minimum: whether it is to be reached, or not to be passed.
        base: subject that both are measured above (added latency); empty for none.
    """

    scenario: str
    key: str
    subject: str
    other: str
    bound: float
    is_minimum: bool = True
    base: str = ""


def spread(values: Sequence[float]) -> Spread | None:
    """Return the spread of values; None of none."""
    return Spread(median(values), min(values), max(values)) if values else None


def values_of(samples: Sequence[Sample], scenario: str, subject: str, key: str) -> dict[int, float]:
    """Return one value by round."""
    return {
        sample.round_number: sample.values[key]
        for sample in samples
        if sample.scenario == scenario and sample.subject == subject and key in sample.values
    }


def result_of(samples: Sequence[Sample], target: Target) -> Spread | None:
    """Return what a target is compared with: a ratio or a value; None if it was not measured."""

    def of(subject: str) -> dict[int, float]:
        return values_of(samples, target.scenario, subject, target.key)

    ours = of(target.subject)
    if not target.other:
        return spread(list(ours.values()))
    theirs = of(target.other)
    base = of(target.base) if target.base else dict.fromkeys(ours, 0.0)
    ratios = [
        (ours[number] - base[number]) / (theirs[number] - base[number])
        for number in ours.keys() & theirs.keys() & base.keys()
        if theirs[number] > base[number]
    ]
    return spread(ratios)


def cost_ratio_of(samples: Sequence[Sample], target: Target) -> Spread | None:
    """Return a throughput ratio as CPU time has it; None where CPU time says nothing."""
    if target.key != "rate" or not target.other:
        return None
    ours = values_of(samples, target.scenario, target.subject, "chain_us")
    theirs = values_of(samples, target.scenario, target.other, "chain_us")
    return spread([theirs[number] / ours[number] for number in ours.keys() & theirs.keys()])


def is_met(target: Target, result: Spread) -> bool:
    """Tell whether the median reaches the target."""
    if target.is_minimum:
        return result.middle >= target.bound
    return result.middle <= target.bound
