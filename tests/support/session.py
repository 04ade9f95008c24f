"""An SMTP session within reach of a test: what no client of a real gateway could bring about."""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.capability import NOTHING
from gateway.core.edition import EditionSettings
from gateway.core.handover import HandOver
from gateway.core.report import Keep, Report
from gateway.core.unique_id import Sealer
from gateway.desk import Desk, RelaySettings
from gateway.edge.downstream import DownstreamConnector
from gateway.edge.downstream_session import ServerAddress, SessionSettings
from gateway.faces.smtp_reception import Reception, SmtpSettings
from gateway.ports import Admission, TrackingList
from gateway.screening import Screening, ScreeningSettings

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


def desk_of(tracking_list: TrackingList, port: int, recorder: Recorder) -> Desk:
    """Return what a session works with, its downstream at a port of this machine."""
    settings = SessionSettings(HandOver.NONE, "gateway.test", None, False, 30.0, 30.0, 30.0)
    server = ServerAddress(is_lmtp=False, host="127.0.0.1", port=port)
    connector = DownstreamConnector([server], settings, lambda *_: None, lambda _: None)
    edition = EditionSettings(hostname="gateway.test", id_domain="gateway.test")
    return Desk(
        connector.open,
        Screening(tracking_list, Sealer(b""), ScreeningSettings()),
        recorder,
        RelaySettings(edition, 65_536, hops=100, lease_s=60.0, keep=Keep.ALL),
    )


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
