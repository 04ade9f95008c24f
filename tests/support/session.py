"""An SMTP session within reach of a test: what no client of a real gateway could bring about."""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.capability import NOTHING
from gateway.core.report import Report
from gateway.desk import Desk
from gateway.faces.smtp_reception import Reception, SmtpSettings
from gateway.ports import Admission

IDLE_TIMEOUT_S = 60.0


class Recorder:
    """Journal, meter and census of one session; a complaint or a fault is none that is expected.

    Attributes:
        reports: of messages.
        result: how the session ended, ``""`` before.
    """

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.result = ""

    def record(self, report: Report) -> None:
        """Keep it."""
        self.reports.append(report)

    def complain(self, event: str, reason: str) -> None:
        """Fail."""
        raise AssertionError(f"{event}: {reason}")

    def session_began(self) -> None:
        """Expect it."""

    def session_ended(self, *, is_tls: bool, result: str) -> None:
        """Take note."""
        del is_tls
        self.result = result

    def protocol_error(self, kind: str) -> None:
        """Fail."""
        raise AssertionError(kind)

    def enter(self, address: str) -> Admission:
        """Let everybody in."""
        del address
        return Admission.ADMITTED

    def leave(self, address: str) -> None:
        """Expect it."""


def reception_of(recorder: Recorder, current_desk: Callable[[], Desk]) -> Reception:
    """Return what lets sessions in, with modest limits."""
    return Reception(
        SmtpSettings("gateway.test", (), (), (), None, False, 1_000_000, 100, IDLE_TIMEOUT_S, 10),
        current_desk=current_desk,
        capabilities=lambda: NOTHING,
        journal=recorder,
        meter=recorder,
        census=recorder,
    )
