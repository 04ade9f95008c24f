"""The last hour in memory: the supervisor samples the counters now and then.

Nothing is kept on disk; after a restart the hour begins anew. For longer memories there is
Prometheus. Nothing here fails.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from gateway.core.activity import Activity, Sample, Spread, activity
from gateway.edge.metrics_exposition import Totals
from gateway.edge.metrics_layout import bounds

SAMPLE_EVERY_S = 60.0
_SPAN_S = 3_600.0
_SAMPLES = int(_SPAN_S / SAMPLE_EVERY_S) + 1


class ActivityRing:
    """Samples of one hour, the oldest thrown away."""

    def __init__(
        self, read_totals: Callable[[], Totals], now: Callable[[], float] = time.time
    ) -> None:
        """Take the first sample.

        Args:
            read_totals: over all processes.
            now: Unix time.
        """
        self._read_totals = read_totals
        self._now = now
        self._samples: deque[Sample] = deque([self._sample()], maxlen=_SAMPLES)

    def take_sample(self) -> None:
        """Take one more sample: to be called every `SAMPLE_EVERY_S`."""
        self._samples.append(self._sample())

    def activity(self) -> Activity:
        """Return what went on since the oldest sample, up to now."""
        return activity([*self._samples, self._sample()])

    def _sample(self) -> Sample:
        totals = self._read_totals()
        return Sample(
            at_s=self._now(),
            messages=totals.all("mailonce_messages_total"),
            recipients=totals.all("mailonce_recipients_total"),
            forms={form: n for (form,), n in totals.all("mailonce_message_ids_total").items()},
            overhead=_spread(totals, "mailonce_overhead_seconds"),
            list_wait=_spread(totals, "mailonce_store_seconds", "claim"),
            protocol_errors=sum(totals.all("mailonce_protocol_errors_total").values()),
            content_octets=totals.value("mailonce_content_bytes_total"),
            sessions=totals.value("mailonce_sessions"),
            workers=totals.value("mailonce_workers"),
        )


def _spread(totals: Totals, name: str, *labels: str) -> Spread:
    return Spread(bounds(name), totals.buckets(name, *labels))
