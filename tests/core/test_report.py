"""Reports and journal entries: every decision can be explained (P7)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.handover import Client
from gateway.core.message_id import Form
from gateway.core.policy import IN_FLIGHT, Action, Decision, Sight, Sighting, Verdict
from gateway.core.reply import Reply
from gateway.core.report import Entry, Keep, Outcome, Report, as_text, entries, queue_id_of
from gateway.core.unique_id import UniqueId

_OK = Reply(250, b"250 2.0.0 Ok: queued as 4ABC\r\n")
_TOLD = Reply(250, b"250-2.0.0 a\r\n250 2.0.0 b\r\n")
_KEY = UniqueId(b"m" * 12, b"r" * 8, b"v" * 8)
_FIRST = Sighting(Sight.SEEN, 1_795_453_200, b"f" * 12, 2, note=b"4AAA")
_NEW = Outcome(b"new@y", Decision(Verdict.NEW, Action.RELAYED), _KEY, None, _OK)
_REFUSED = Outcome(
    b"refused@y", Decision(Verdict.NEW, Action.REJECTED), _KEY, None, Reply(550, b"550 no\r\n")
)
_DROPPED = Outcome(b"dup@y", Decision(Verdict.DUPLICATE, Action.DROPPED), _KEY, _FIRST)
_COLLIDED = Outcome(b"col@y", Decision(Verdict.COLLISION, Action.TAGGED), _KEY, _FIRST, _OK)
_WAITING = Outcome(b"wait@y", Decision(Verdict.IN_FLIGHT, Action.DEFERRED), _KEY, IN_FLIGHT)
_BYPASSED = Outcome(b"\xe9@y", Decision(Verdict.BYPASSED, Action.RELAYED), None, None, _OK)


def report(*outcomes: Outcome, helo: str = "c.example", form: Form | None = Form.VALID) -> Report:
    return Report(
        at_s=1_795_453_300.12345,
        client=Client("192.0.2.7", helo=helo),
        reverse_path=b"s@t",
        outcomes=outcomes,
        summary=outcomes[0].decision,
        identity=b"a-1@b.d",
        form=form,
        is_id_added=False,
        size_octets=4096,
        reply=_TOLD,
        duration_s=0.5,
        overhead_s=0.001,
    )


def test_entry_of_a_duplicate() -> None:
    (entry,) = entries(report(_DROPPED), Keep.DUPLICATES)
    assert entry == Entry(
        at_s=1_795_453_300.123,
        message_id="a-1@b.d",
        form="valid",
        recipient="dup@y",
        reverse_path="s@t",
        client="192.0.2.7",
        helo="c.example",
        verdict="duplicate",
        action="dropped",
        size_octets=4096,
        reply="250 2.0.0 Ok: duplicate of an already accepted message, not delivered again",
        queue_id="",
        key="6d" * 12 + "72" * 8 + "76" * 8,
        first_seen_s=1_795_453_200,
        first_queue_id="4AAA",
        copies=3,
    )


def test_entry_of_a_collision_knows_the_first_copy_but_does_not_count_it() -> None:
    (entry,) = entries(report(_COLLIDED), Keep.DUPLICATES)
    assert (entry.first_seen_s, entry.first_queue_id, entry.copies) == (1_795_453_200, "4AAA", 1)
    assert (entry.queue_id, entry.reply) == ("4ABC", "250 2.0.0 Ok: queued as 4ABC")


def test_entry_without_an_earlier_copy() -> None:
    for outcome in (_NEW, _WAITING, _BYPASSED):
        (entry,) = entries(report(outcome), Keep.ALL)
        assert (entry.first_seen_s, entry.first_queue_id, entry.copies) == (0, "", 1)
    (entry,) = entries(report(_BYPASSED, form=None), Keep.ALL)
    assert (entry.key, entry.recipient, entry.form) == ("", "\xe9@y", "")


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (Keep.OFF, []),
        (Keep.DUPLICATES, ["dup@y", "wait@y", "col@y", "\xe9@y"]),
        (Keep.ALL, ["new@y", "dup@y", "refused@y", "wait@y", "col@y", "\xe9@y"]),
    ],
)
def test_what_is_kept(keep: Keep, kept: list[str]) -> None:
    """Off: ids and addresses in clear are nowhere; duplicates: all but `new`."""
    whole = report(_NEW, _DROPPED, _REFUSED, _WAITING, _COLLIDED, _BYPASSED)
    assert [entry.recipient for entry in entries(whole, keep)] == kept


@given(st.binary(max_size=600), st.text(max_size=600))
def test_entries_survive_json(path: bytes, helo: str) -> None:
    """P8: whatever a client says, an entry is one short line of ASCII, and comes back the same."""
    outcome = Outcome(path, Decision(Verdict.DUPLICATE, Action.DROPPED), _KEY, _FIRST)
    (entry,) = entries(report(outcome, helo=helo), Keep.ALL)
    line = entry.to_json()
    assert b"\n" not in line
    assert line.isascii()
    assert len(line) < 20_000
    assert Entry.from_json(line) == entry
    assert len(entry.recipient) <= 512


@pytest.mark.parametrize(
    "octets",
    [b"", b"{", b"[]", b"1", b"null", b"{}", b'"x"', b"\xff\xfe", b'{"at_s": 1}', b"[[" * 9],
)
def test_foreign_entries_are_none(octets: bytes) -> None:
    assert Entry.from_json(octets) is None


def test_entries_of_later_versions_can_be_read() -> None:
    (entry,) = entries(report(_DROPPED), Keep.ALL)
    later = json.loads(entry.to_json()) | {"something": "new"}
    assert Entry.from_json(json.dumps(later).encode()) == entry


@pytest.mark.parametrize(
    ("answer", "queue_id", "reason"),
    [
        (_OK, b"4ABC", "Postfix"),
        (Reply(250, b"250 OK id=1tEXyz-000AbC-DE\r\n"), b"1tEXyz-000AbC-DE", "Exim"),
        (Reply(250, b"250-a\r\n250 2.0.0 Ok: queued as 4DEF\r\n"), b"4DEF", "the second line"),
        (Reply(250, b"250 2.0.0 Ok\r\n"), b"", "none"),
        (Reply(250, b"250 queued as\r\n"), b"", "none after all"),
        (Reply(451, b"451 queued as 4ABC\r\n"), b"", "not accepted"),
        (Reply(250, b"250 queued as " + b"x" * 99 + b"\r\n"), b"x" * 64, "too long"),
        (None, b"", "not asked"),
    ],
)
def test_queue_id(answer: Reply | None, queue_id: bytes, reason: str) -> None:
    assert queue_id_of(answer) == queue_id, reason


def test_text_is_cut_off() -> None:
    assert as_text(b"\xe9" * 600) == "\xe9" * 512
