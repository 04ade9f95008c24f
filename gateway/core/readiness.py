"""Whether the gateway can do its work: what ``/readyz`` answers and the console shows on top."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """What a load balancer, and a postmaster, want to know first."""

    READY = "ready"
    DEGRADED = "degraded"
    UNREADY = "unready"


@dataclass(frozen=True, slots=True)
class Condition:
    """What was seen of the world when it was last looked at.

    Attributes:
        is_downstream_up: whether a server of the downstream takes sessions.
        has_probe_failed: whether the downstream took a foreign recipient from a stranger.
        is_list_up: whether the tracking list answers.
        defers_unchecked: whether mail is tempfailed while it does not (``store.on_failure``).
        may_evict: whether the list's server may throw keys away.
        is_stopping: whether no new sessions are taken any more.
        is_starting: whether none are taken yet: the open-relay probe may still forbid it.
        is_unproven: whether the open-relay probe is still to be answered, and mail waits for that.
    """

    is_downstream_up: bool
    has_probe_failed: bool
    is_list_up: bool
    defers_unchecked: bool
    may_evict: bool = False
    is_stopping: bool = False
    is_starting: bool = False
    is_unproven: bool = False


@dataclass(frozen=True, slots=True)
class Readiness:
    """The answer.

    Attributes:
        status: `UNREADY` if no mail flows; `DEGRADED` if it does, but not as it should.
        reasons: one sentence each, the worst first; empty if `READY`.
    """

    status: Status
    reasons: tuple[str, ...]


def readiness(condition: Condition) -> Readiness:
    """Judge what was seen."""
    grave, slight = [], []
    if condition.is_stopping:
        grave.append("The gateway is stopping.")
    if condition.is_starting:
        grave.append("The gateway is starting.")
    if not condition.is_downstream_up:
        grave.append("The downstream cannot be reached: mail is put off.")
    if condition.has_probe_failed:
        grave.append(
            "The downstream takes mail for foreign domains from strangers: sessions are refused."
        )
    if condition.is_unproven and condition.is_downstream_up:
        grave.append("The downstream has not answered the open-relay probe: mail is put off.")
    if not condition.is_list_up and condition.defers_unchecked:
        grave.append("The tracking list does not answer: mail is put off.")
    if not condition.is_list_up and not condition.defers_unchecked:
        slight.append("The tracking list does not answer: mail flows unchecked.")
    if condition.may_evict:
        slight.append("The tracking list's server may evict keys: duplicates can pass as new.")
    status = Status.UNREADY if grave else Status.DEGRADED if slight else Status.READY
    return Readiness(status, (*grave, *slight))
