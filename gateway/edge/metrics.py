"""The counters of one process, in memory that the supervisor can read while it runs.

Counting is one index and one addition: no lock, no library, no system call. A block has one
writer; aligned float64 are written whole, so that a reader sees the old value or the new one. A
process that takes over the block of a dead one goes on counting where that one stopped: counters
never go back.

No method waits or raises. A label value that is not in the tables of `metrics_layout` is counted
nowhere: a slip of ours must not cost anybody a message.

Measured on the reference machine: see ``docs/adr/0020-counters-in-shared-memory.md``.
"""

from __future__ import annotations

import mmap
import time
from bisect import bisect_left

from gateway.core.policy import Verdict
from gateway.core.report import Report
from gateway.edge import metrics_layout as layout
from gateway.edge.metrics_layout import BLOCK_OCTETS, NOWHERE, Kind, Merge, slot

_AGE, _AGE_BOUNDS_S = (
    slot("mailonce_duplicate_age_seconds"),
    layout.bounds("mailonce_duplicate_age_seconds"),
)
_OVERHEAD, _OVERHEAD_BOUNDS_S = (
    slot("mailonce_overhead_seconds"),
    layout.bounds("mailonce_overhead_seconds"),
)
_LIST_BOUNDS_S = layout.bounds("mailonce_store_seconds")
_DOWNSTREAM_BOUNDS_S = layout.bounds("mailonce_downstream_seconds")

_MESSAGES = layout.slots("mailonce_messages_total")
_RECIPIENTS = layout.slots("mailonce_recipients_total")
_FORMS = {form: at for (form,), at in layout.slots("mailonce_message_ids_total").items()}
_IDS_ADDED = slot("mailonce_message_ids_added_total")
_CONTENT_OCTETS = slot("mailonce_content_bytes_total")
_SESSIONS = slot("mailonce_sessions")
_SESSIONS_ENDED = layout.slots("mailonce_sessions_total")
_PROTOCOL_ERRORS = {k: at for (k,), at in layout.slots("mailonce_protocol_errors_total").items()}
_LIST_UP = slot("mailonce_store_up")
_DOWNSTREAM_UP = slot("mailonce_downstream_up")
# Counter and histogram of each outcome; an operation that was not tried has taken no time.
_LIST = {
    (operation, result): (
        at,
        NOWHERE if result == "open" else slot("mailonce_store_seconds", operation),
    )
    for (operation, result), at in layout.slots("mailonce_store_operations_total").items()
}
_DOWNSTREAM = {
    (command, status): (at, slot("mailonce_downstream_seconds", command))
    for (command, status), at in layout.slots("mailonce_downstream_replies_total").items()
}
_UNKNOWN = (NOWHERE, NOWHERE)
_GAUGES = tuple(
    slot(metric.name, *labels)
    for metric in layout.METRICS
    if metric.kind is Kind.GAUGE
    for labels in metric.series()
)
_TOLD_AT = tuple(
    slot(metric.name, *labels) + 1
    for metric in layout.METRICS
    if metric.merge is Merge.LATEST
    for labels in metric.series()
)


class Metrics:
    """What one process counts; the `Meter` port, and two `Observe` callables.

    One per worker, and one for the supervisor's own. Wiring: ``journal = LogJournal(log,
    metrics.count)``, ``observe_store`` for the tracking list, ``observe_downstream`` for the
    downstream connector, the object itself where a `Meter` is asked for. `metrics_exposition`
    reads the blocks of all processes.
    """

    __slots__ = ("_values", "values")

    def __init__(self, memory: memoryview | mmap.mmap | None = None) -> None:
        """Count in this memory from what it holds.

        Args:
            memory: at least `BLOCK_OCTETS`, writable, aligned to eight, zero at first; None for
                memory of this process alone.
        """
        view = memoryview(mmap.mmap(-1, BLOCK_OCTETS) if memory is None else memory)
        self._values = view.cast("B")[:BLOCK_OCTETS].cast("d")
        self.values = self._values.toreadonly()

    def count(self, report: Report) -> None:
        """Count one finished transaction."""
        values = self._values
        summary = report.summary
        values[_MESSAGES.get((summary.verdict, summary.action), NOWHERE)] += 1
        is_duplicate = summary.verdict is Verdict.PARTIAL
        for outcome in report.outcomes:
            decision = outcome.decision
            values[_RECIPIENTS.get((decision.verdict, decision.action), NOWHERE)] += 1
            if decision.verdict is Verdict.DUPLICATE:
                is_duplicate = True
        if report.form is not None:
            values[_FORMS[report.form]] += 1
        if report.is_id_added:
            values[_IDS_ADDED] += 1
        if not report.is_header_whole:
            self.protocol_error("header")
        values[_CONTENT_OCTETS] += report.size_octets
        overhead_s = report.overhead_s
        values[_OVERHEAD] += overhead_s
        values[_OVERHEAD + 1 + bisect_left(_OVERHEAD_BOUNDS_S, overhead_s)] += 1
        if is_duplicate:
            self._count_age(report)

    def observe_store(self, operation: str, result: str, elapsed_s: float) -> None:
        """Count one operation on the tracking list (`Observe`); it is up if the last was ``ok``."""
        values = self._values
        counter, histogram = _LIST.get((operation, result), _UNKNOWN)
        values[counter] += 1
        if histogram:
            values[histogram] += elapsed_s
            values[histogram + 1 + bisect_left(_LIST_BOUNDS_S, elapsed_s)] += 1
        values[_LIST_UP] = 1.0 if result == "ok" else 0.0
        values[_LIST_UP + 1] = time.monotonic()

    def observe_downstream(self, command: str, status: str, elapsed_s: float) -> None:
        """Count one reply of the downstream (`Observe`); a new connection means that it is up."""
        values = self._values
        counter, histogram = _DOWNSTREAM.get((command, status), _UNKNOWN)
        values[counter] += 1
        if histogram:
            values[histogram] += elapsed_s
            values[histogram + 1 + bisect_left(_DOWNSTREAM_BOUNDS_S, elapsed_s)] += 1
        if command == "connect" and status == "2":
            self._tell(_DOWNSTREAM_UP, True)

    def session_began(self) -> None:
        """See `Meter.session_began`."""
        self._values[_SESSIONS] += 1

    def session_ended(self, *, is_tls: bool, result: str) -> None:
        """See `Meter.session_ended`."""
        # In this order: who sees that nobody is within any more finds all of them counted.
        self._values[_SESSIONS_ENDED.get(("yes" if is_tls else "no", result), NOWHERE)] += 1
        self._values[_SESSIONS] -= 1

    def protocol_error(self, kind: str) -> None:
        """See `Meter.protocol_error`."""
        self._values[_PROTOCOL_ERRORS.get(kind, NOWHERE)] += 1

    def log_lines_lost(self, count: int) -> None:
        """Count log lines that nobody took."""
        self._values[slot("mailonce_log_lines_lost_total")] += count

    def store_is_up(self, is_up: bool) -> None:
        """Take note whether the tracking list answers: after a look at it that was no operation."""
        self._tell(_LIST_UP, is_up)

    def downstream_is_up(self, is_up: bool) -> None:
        """Take note whether the downstream takes sessions; nobody else notes that none does."""
        self._tell(_DOWNSTREAM_UP, is_up)

    def relay_probe_failed(self, has_failed: bool) -> None:
        """Take note of what the last relay probe came to."""
        self._tell(slot("mailonce_relay_probe_failed"), has_failed)

    def store_evicts(self, may_evict: bool, evicted_keys: int) -> None:
        """Take note of what the tracking list's server says of evictions."""
        self._tell(slot("mailonce_store_may_evict"), may_evict)
        self._tell(slot("mailonce_store_evicted_keys_total"), evicted_keys)

    def workers_alive(self, count: int) -> None:
        """Take note of how many workers there are (supervisor only)."""
        self._values[slot("mailonce_workers")] = count

    def worker_restarted(self) -> None:
        """Count a worker that died and was replaced (supervisor only)."""
        self._values[slot("mailonce_worker_restarts_total")] += 1

    def forget_present(self) -> None:
        """Set back what held only while the process lived: its sessions, what it saw last.

        For the supervisor, before a new worker takes over the block of one that died. The counters
        stay.
        """
        for position in (*_GAUGES, *_TOLD_AT):
            self._values[position] = 0.0

    def _count_age(self, report: Report) -> None:
        """Observe how long ago the first copy came, of several recipients the oldest."""
        first_seen = [
            outcome.first.first_seen_s
            for outcome in report.outcomes
            if outcome.decision.verdict is Verdict.DUPLICATE and outcome.first is not None
        ]
        if first_seen:
            age_s = max(report.at_s - min(first_seen), 0.0)
            self._values[_AGE] += age_s
            self._values[_AGE + 1 + bisect_left(_AGE_BOUNDS_S, age_s)] += 1

    def _tell(self, position: int, value: float) -> None:
        """Set a value merged by `Merge.LATEST`."""
        self._values[position] = value
        self._values[position + 1] = time.monotonic()
