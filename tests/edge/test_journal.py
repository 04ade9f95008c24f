"""P7: one line for each message says what happened, to whom and why, and where it went."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.handover import Client
from gateway.core.message_id import Form
from gateway.core.policy import Action, Verdict
from gateway.core.reply import Reply
from gateway.core.report import Report
from gateway.edge.journal import REMEDIES, LogJournal
from gateway.edge.log import Format, Log
from gateway.edge.log_sink import LogSink
from gateway.edge.metrics import Metrics
from tests.support.report import ACCEPTED, outcome_of, report_of, seen

PIPE_BUF = 4096


class _Sink(LogSink):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.lines.append(line)


class _Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _line(report: Report) -> dict[str, Any]:
    sink = _Sink()
    LogJournal(Log(sink, Format.JSON, "info"), lambda _: None).record(report)
    (line,) = sink.lines
    said: dict[str, Any] = json.loads(line)
    return said


def test_plain_message() -> None:
    assert _line(report_of()) == {
        "time": "2026-11-24T12:33:57.250Z",
        "level": "info",
        "event": "message",
        "message_id": "1234@example.org",
        "form": "valid",
        "client": "192.0.2.1",
        "helo": "mail.example.org",
        "from": "alice@example.org",
        "size": 4096,
        "verdict": "new",
        "action": "relayed",
        "queue_id": "4XyZ1",
        "reply": "250 2.0.0 Ok: queued as 4XyZ1",
        "duration_s": 0.012346,
        "overhead_s": 0.000345,
        "recipients": [
            {
                "to": "bob@example.net",
                "verdict": "new",
                "action": "relayed",
                "queue_id": "4XyZ1",
            }
        ],
    }


def test_duplicate_names_the_first_copy() -> None:
    report = report_of(outcome_of(Verdict.DUPLICATE, Action.TAGGED, first=seen(60, copies=2)))
    (recipient,) = _line(report)["recipients"]
    assert recipient["first_seen"] == "2026-11-24T12:32:57.000Z"
    assert recipient["first_queue_id"] == "4First1"
    assert recipient["copies"] == 3


def test_recipients_whose_copies_went_apart_have_replies_of_their_own() -> None:
    other = Reply(250, b"250 2.0.0 Ok: queued as 4Other\r\n")
    tempfail = Reply(452, b"452-4.2.2 full\r\n452 4.2.2 try later\r\n")
    said = _line(
        report_of(
            outcome_of(forward_path=b"a@example.net"),
            outcome_of(Verdict.DUPLICATE, Action.TAGGED, first=seen(1), reply=other),
            outcome_of(Verdict.NEW, Action.DEFERRED, reply=tempfail),
            outcome_of(Verdict.DUPLICATE, Action.DROPPED, first=seen(1), reply=None),
        )
    )
    assert said["queue_id"] == "4XyZ1 4Other"
    assert [r["queue_id"] for r in said["recipients"]] == ["4XyZ1", "4Other", "", ""]
    replies = [r.get("reply") for r in said["recipients"]]
    assert replies[0] is replies[3] is None
    assert replies[2] == "452-4.2.2 full / 452 4.2.2 try later"


def test_message_without_header_section_or_sender() -> None:
    said = _line(report_of(form=None, identity=b"", reverse_path=b"", client=Client()))
    assert (said["form"], said["message_id"], said["from"], said["client"]) == ("", "", "", "")


def test_added_id_is_told() -> None:
    assert _line(report_of(form=Form.MISSING, is_id_added=True))["id_added"] is True


def test_many_recipients_are_counted() -> None:
    """P8: a line is bounded, whatever the limits of a transaction."""
    outcomes = [outcome_of(forward_path=b"%d@example.net" % n) for n in range(1000)]
    said = _line(report_of(*outcomes))
    assert len(said["recipients"]) == 20
    assert said["more_recipients"] == 980


def _worst(filler: bytes, recipients: int) -> Report:
    long = filler * 5000
    outcomes = [outcome_of(forward_path=long, reply=ACCEPTED) for _ in range(recipients)]
    return report_of(
        *outcomes,
        identity=long,
        reverse_path=long,
        client=Client("2001:db8::1", helo=long.decode("latin-1")),
        reply=Reply(550, b"550 " + long + b"\r\n"),
    )


@pytest.mark.parametrize(
    ("filler", "recipients", "limit"), [(b"x", 1, PIPE_BUF), (b"\x00", 20, 1 << 16)]
)
def test_line_is_bounded(filler: bytes, recipients: int, limit: int) -> None:
    sink = _Sink()
    LogJournal(Log(sink, Format.JSON, "info"), lambda _: None).record(_worst(filler, recipients))
    assert len(sink.lines[0]) < limit


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=80),
    st.binary(max_size=80),
    st.text(max_size=40),
    st.binary(max_size=80).map(lambda text: text.replace(b"\r", b"").replace(b"\n", b"")),
    st.sampled_from([v for v in Verdict if v is not Verdict.PARTIAL]),
    st.sampled_from(list(Action)),
    st.booleans(),
)
def test_whatever_was_said_is_one_line_and_read_back(
    identity: bytes,
    path: bytes,
    helo: str,
    text: bytes,
    verdict: Verdict,
    action: Action,
    is_seen: bool,
) -> None:
    first = seen(5, note=text[:22]) if is_seen else None
    reply = Reply(250, b"250 " + text + b"\r\n")
    report = report_of(
        outcome_of(verdict, action, forward_path=path, first=first, reply=reply),
        identity=identity,
        reverse_path=path,
        client=Client("192.0.2.1", helo=helo),
        reply=reply,
    )
    sinks = {form: _Sink() for form in Format}
    for form, sink in sinks.items():
        LogJournal(Log(sink, form, "info"), lambda _: None).record(report)
        (line,) = sink.lines
        assert "\n" not in line
        assert line.replace("\x1b", "").isprintable()
    said = json.loads(sinks[Format.JSON].lines[0])
    assert said["message_id"] == identity.decode("latin-1")
    assert said["recipients"][0]["to"] == said["from"] == path.decode("latin-1")
    assert said["helo"] == helo


def test_report_is_counted_whatever_the_level() -> None:
    metrics, sink = Metrics(), _Sink()
    LogJournal(Log(sink, Format.JSON, "error"), metrics.count).record(report_of())
    assert sink.lines == []
    assert sum(metrics.values) > 0


def _complaints(sink: _Sink) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in sink.lines]


def test_complaint_has_a_remedy() -> None:
    sink = _Sink()
    journal = LogJournal(Log(sink, Format.JSON, "info"), lambda _: None)
    journal.complain("downstream_unreachable", "127.0.0.1:25: refused")
    (said,) = _complaints(sink)
    assert said["level"] == "warning"
    assert said["reason"] == "127.0.0.1:25: refused"
    assert said["remedy"] == REMEDIES["downstream_unreachable"]


def test_fault_of_every_message_is_told_once_in_a_while() -> None:
    sink, clock = _Sink(), _Clock()
    journal = LogJournal(Log(sink, Format.JSON, "info"), lambda _: None, clock)
    for _ in range(1000):
        journal.complain("downstream_lost", "reset")
        journal.complain("something_else", "once")
    clock.now_s += 10.5
    journal.complain("downstream_lost", "again")
    said = [(each["event"], each["reason"], each.get("withheld")) for each in _complaints(sink)]
    assert said == [
        ("downstream_lost", "reset", None),
        ("something_else", "once", None),
        ("downstream_lost", "again", 999),
    ]


def test_events_are_not_remembered_without_end() -> None:
    sink = _Sink()
    journal = LogJournal(Log(sink, Format.JSON, "info"), lambda _: None, _Clock())
    for number in range(1000):
        journal.complain(f"event_{number}", "x")
    assert len(journal._quiet) <= 100


@pytest.mark.parametrize("event", REMEDIES)
def test_remedies_read_well(event: str) -> None:
    assert REMEDIES[event].endswith(".")
    assert event.replace("_", "").isalpha()
