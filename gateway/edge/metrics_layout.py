"""Every metric there is, and the slot of each of its values in a block of shared memory.

All label values are known in advance, so that nothing a client can choose ever becomes a label, and
a value is found by an index instead of a look-up. A block is one process's flat array of float64;
supervisor and workers of one installation run the same code and so agree on it.

No memory is touched here, and nothing fails: the tables are made when the module is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from gateway.core.message_id import Form
from gateway.core.policy import Action, Verdict

_OCTETS_PER_SLOT = 8
NOWHERE = 0
"""Slot that no metric reads, for label values that are not in the tables (a bug of ours)."""


class Kind(StrEnum):
    """Type of a metric, as Prometheus names it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Merge(StrEnum):
    """How the values of several processes become one.

    `LATEST` is for what each process can only say from its own last look: an idle worker that saw
    the downstream fail an hour ago must not outvote one that mail flows through.
    """

    SUM = "sum"
    LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: with the suffix ``_total`` of a counter.
        kind: of its values.
        text: what it says, one sentence.
        labels: label names with all their values; one series for each combination.
        bounds: upper bounds of the buckets of a histogram, ``+Inf`` left out.
        merge: over processes.
    """

    name: str
    kind: Kind
    text: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    bounds: tuple[float, ...] = ()
    merge: Merge = Merge.SUM

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels, in order."""
        return tuple(name for name, _ in self.labels)

    @property
    def slots_per_series(self) -> int:
        """Slots that one combination of label values takes.

        A histogram has its sum, then one slot a bucket, each counted for itself. A value merged by
        `LATEST` is followed by the time it was told: seconds of the machine's monotonic clock.
        """
        if self.kind is Kind.HISTOGRAM:
            return len(self.bounds) + 2
        return 2 if self.merge is Merge.LATEST else 1

    def series(self) -> Iterator[tuple[str, ...]]:
        """Return all combinations of label values."""
        return product(*(values for _, values in self.labels))


_ALL_VERDICTS = tuple(Verdict)
_VERDICTS = tuple(verdict for verdict in Verdict if verdict is not Verdict.PARTIAL)
_ACTIONS = tuple(Action)
_OPERATIONS = ("claim", "confirm", "release")
_COMMANDS = (
    "connect",
    "ehlo",
    "starttls",
    "identity",
    "mail",
    "rcpt",
    "data",
    "content",
    "rset",
)
_KINDS = (
    "bare_cr",
    "bare_lf",
    "nul",
    "pipelining",
    "command",
    "header",
    "size",
    "recipients",
    "hops",
    "proxy",
    "tls",
)

_MINUTE_S, _HOUR_S, _DAY_S = 60.0, 3_600.0, 86_400.0
# A retry comes after minutes to hours (RFC 5321 section 4.5.4.1), a duplicate by two routes within
# seconds; beyond the default window of five days there are only windows of the postmaster's own.
_AGE_BOUNDS_S = (
    1.0,
    10.0,
    _MINUTE_S,
    5 * _MINUTE_S,
    15 * _MINUTE_S,
    _HOUR_S,
    4 * _HOUR_S,
    12 * _HOUR_S,
    _DAY_S,
    2 * _DAY_S,
    5 * _DAY_S,
    10 * _DAY_S,
    30 * _DAY_S,
)
_LIST_BOUNDS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
)  # fmt: skip
_DOWNSTREAM_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
_OVERHEAD_BOUNDS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0,
)  # fmt: skip

METRICS = (
    Metric(
        "mailonce_messages_total",
        Kind.COUNTER,
        "Messages by what they were and what became of them; recipients differ: partial.",
        (("verdict", _ALL_VERDICTS), ("action", _ACTIONS)),
    ),
    Metric(
        "mailonce_recipients_total",
        Kind.COUNTER,
        "Recipients' copies by what they were and what became of them.",
        (("verdict", _VERDICTS), ("action", _ACTIONS)),
    ),
    Metric(
        "mailonce_message_ids_total",
        Kind.COUNTER,
        "Messages by the form of their Message-ID.",
        (("form", tuple(Form)),),
    ),
    Metric(
        "mailonce_message_ids_added_total",
        Kind.COUNTER,
        "Messages that were given a Message-ID because they had none.",
    ),
    Metric(
        "mailonce_duplicate_age_seconds",
        Kind.HISTOGRAM,
        "Time from the first copy to a duplicate of it, one observation per message.",
        bounds=_AGE_BOUNDS_S,
    ),
    Metric(
        "mailonce_store_operations_total",
        Kind.COUNTER,
        "Operations on the tracking list by what they came to; open: not tried, it was down.",
        (("operation", _OPERATIONS), ("result", ("ok", "error", "timeout", "open"))),
    ),
    Metric(
        "mailonce_store_seconds",
        Kind.HISTOGRAM,
        "Time an operation on the tracking list took, those not tried left out.",
        (("operation", _OPERATIONS),),
        _LIST_BOUNDS_S,
    ),
    Metric(
        "mailonce_store_up",
        Kind.GAUGE,
        "Whether the tracking list answers.",
        merge=Merge.LATEST,
    ),
    Metric(
        "mailonce_downstream_replies_total",
        Kind.COUNTER,
        "Replies of the downstream by command and first digit; lost: none came.",
        (("command", _COMMANDS), ("class", ("2", "3", "4", "5", "lost"))),
    ),
    Metric(
        "mailonce_downstream_seconds",
        Kind.HISTOGRAM,
        "Time the downstream took to reply.",
        (("command", _COMMANDS),),
        _DOWNSTREAM_BOUNDS_S,
    ),
    Metric(
        "mailonce_downstream_up",
        Kind.GAUGE,
        "Whether a server of the downstream takes sessions.",
        merge=Merge.LATEST,
    ),
    Metric(
        "mailonce_overhead_seconds",
        Kind.HISTOGRAM,
        "Time a message spent in the gateway, waits for client and downstream left out.",
        bounds=_OVERHEAD_BOUNDS_S,
    ),
    Metric("mailonce_sessions", Kind.GAUGE, "Clients connected now."),
    Metric(
        "mailonce_sessions_total",
        Kind.COUNTER,
        "Sessions that ended, by how.",
        (("tls", ("yes", "no")), ("result", ("ok", "lost", "timeout", "refused", "error"))),
    ),
    Metric(
        "mailonce_content_bytes_total",
        Kind.COUNTER,
        "Octets of content received.",
    ),
    Metric(
        "mailonce_protocol_errors_total",
        Kind.COUNTER,
        "What clients did that they must not do.",
        (("kind", _KINDS),),
    ),
    Metric(
        "mailonce_relay_probe_failed",
        Kind.GAUGE,
        "Whether the downstream took a foreign recipient from a stranger when last probed.",
        merge=Merge.LATEST,
    ),
    Metric(
        "mailonce_store_may_evict",
        Kind.GAUGE,
        "Whether the tracking list's server is set to throw keys away when memory is short.",
        merge=Merge.LATEST,
    ),
    Metric(
        "mailonce_store_evicted_keys_total",
        Kind.COUNTER,
        "Keys the tracking list's server has thrown away, as it says itself.",
        merge=Merge.LATEST,
    ),
    Metric("mailonce_workers", Kind.GAUGE, "Worker processes alive."),
    Metric(
        "mailonce_worker_restarts_total",
        Kind.COUNTER,
        "Worker processes that died and were replaced.",
    ),
    Metric(
        "mailonce_log_lines_lost_total",
        Kind.COUNTER,
        "Log lines thrown away because nobody took them.",
    ),
)
"""In the order in which they are shown. ``mailonce_build_info`` is made where they are."""


def _laid_out() -> tuple[dict[tuple[str, ...], int], int]:
    slots: dict[tuple[str, ...], int] = {}
    position = NOWHERE + 1
    for metric in METRICS:
        for labels in metric.series():
            slots[metric.name, *labels] = position
            position += metric.slots_per_series
    return slots, position


_SLOTS, SLOTS_PER_BLOCK = _laid_out()
BLOCK_OCTETS = SLOTS_PER_BLOCK * _OCTETS_PER_SLOT
"""Shared memory that one process needs for its metrics."""


def slot(name: str, *labels: str) -> int:
    """Return the first slot of one series; `KeyError` if there is none."""
    return _SLOTS[name, *labels]


def slots(name: str) -> dict[tuple[str, ...], int]:
    """Return the first slots of all series of a metric, by their label values."""
    return {key[1:]: position for key, position in _SLOTS.items() if key[0] == name}


def bounds(name: str) -> tuple[float, ...]:
    """Return the bounds of a histogram."""
    return next(metric.bounds for metric in METRICS if metric.name == name)
