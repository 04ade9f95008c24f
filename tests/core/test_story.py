"""P7: what is known of a message, whatever was pasted, in the order of time."""

import base64
import json
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import answer
from gateway.core.answer import REFUSED_CONTENT
from gateway.core.policy import IN_FLIGHT, Action, Sight, Sighting, Verdict, examine
from gateway.core.reply import Reply, reply
from gateway.core.report import Entry, Keep, entries
from gateway.core.story import Origin, as_json, explanation, identities_of, story
from gateway.core.tag import generated_id
from gateway.core.unique_id import Identity, Sealer, UniqueId
from tests.support.report import NOW_S, outcome_of, report_of, seen

_SEALER = Sealer(b"key")
_IDENTITY = Identity(b"id", b"1234@example.org")
_DIGEST = bytes(range(16))
_NAME = base64.b32encode(_DIGEST).rstrip(b"=").lower()
_DERIVED = Identity(b"derived", _DIGEST)

PASTED = [
    (b"<1234@Example.ORG>", [_IDENTITY], "with brackets"),
    (b"1234@example.org", [_IDENTITY], "without"),
    (b"  <1234@example.org>\r\n", [_IDENTITY], "copied with its line end"),
    (b"", [], "nothing"),
    (b"<>", [], "an empty id"),
    (b" \t", [], "blanks"),
    (
        b"<20261123170000.%b@mx.example.org>" % _NAME,
        [Identity(b"id", b"20261123170000.%b@mx.example.org" % _NAME), _DERIVED],
        "the id that a message without one was given",
    ),
    (_NAME, [Identity(b"id", _NAME), _DERIVED], "its digest alone"),
    (b"<\xff\x01@x>", [Identity(b"id", b"\xff\x01@x")], "octets"),
]


@pytest.mark.parametrize(("pasted", "expected", "reason"), PASTED, ids=[r[2] for r in PASTED])
def test_what_is_meant(pasted: bytes, expected: list[Identity], reason: str) -> None:
    assert list(identities_of(pasted)) == expected, reason


@given(st.binary(min_size=16, max_size=16))
def test_given_id_leads_back_to_the_content(digest: bytes) -> None:
    given_id = generated_id(examine(b"Subject: x\r\n"), digest, "mx.example.org")
    assert Identity(b"derived", digest) in identities_of(given_id)


@given(st.binary(max_size=200))
def test_anything_may_be_pasted(pasted: bytes) -> None:
    for identity in identities_of(pasted):
        assert identity.value


def _entries(at_s: float, *recipients: tuple[bytes, Verdict, Sighting | None]) -> list[Entry]:
    outcomes = [
        outcome_of(
            verdict,
            Action.TAGGED if first else Action.RELAYED,
            forward_path=path,
            first=first,
            key=_SEALER.unique_ids(_IDENTITY, [path])[0],
        )
        for path, verdict, first in recipients
    ]
    return list(entries(report_of(*outcomes, at_s=at_s), Keep.ALL))


_ANNA, _BEN = b"anna@example.org", b"ben@example.org"


def test_copies_stand_in_the_order_of_time_with_their_recipients() -> None:
    first = _entries(NOW_S - 100, (_ANNA, Verdict.NEW, None), (_BEN, Verdict.NEW, None))
    second = _entries(NOW_S, (_BEN, Verdict.DUPLICATE, seen(100, note=b"4XyZ1")))
    told = story("1234@example.org", [*second, *first], ())
    assert [[e.recipient for e in copy.entries] for copy in told.copies] == [
        ["anna@example.org", "ben@example.org"],
        ["ben@example.org"],
    ]
    assert told.copies[0].head.at_s < told.copies[1].head.at_s
    assert told.origins == (), "the journal holds the first copy itself"
    assert not told.is_empty


def test_first_copy_is_told_of_where_the_journal_does_not_hold_it() -> None:
    later = _entries(
        NOW_S, (_ANNA, Verdict.DUPLICATE, seen(100)), (_BEN, Verdict.DUPLICATE, seen(100))
    )
    told = story("1234@example.org", later, ())
    assert told.origins == (
        Origin(int(NOW_S) - 100, "4First1", ("anna@example.org", "ben@example.org")),
    )


def test_first_copy_without_queue_id_is_told_of_if_it_is_older_than_the_journal() -> None:
    later = _entries(NOW_S, (_ANNA, Verdict.DUPLICATE, seen(100, note=b"")))
    assert len(story("x", later, ()).origins) == 1
    both = [*_entries(NOW_S - 100, (_ANNA, Verdict.NEW, None)), *later]
    assert story("x", both, ()).origins == ()


def test_what_the_list_holds_has_the_names_of_the_journal() -> None:
    later = _entries(NOW_S, (_ANNA, Verdict.DUPLICATE, seen(100)))
    keys = _SEALER.unique_ids(_IDENTITY, [_ANNA, _BEN])
    variant = replace(keys[0], variant=b"variant!")
    sighting = Sighting(Sight.SEEN, 7, b"f", 2, b"4A")
    told = story("x", later, [(keys[0], sighting), (keys[1], IN_FLIGHT), (variant, sighting)])
    assert [(h.recipient, h.is_variant, h.sighting) for h in told.holdings] == [
        ("", False, IN_FLIGHT),
        ("anna@example.org", False, sighting),
        ("anna@example.org", True, sighting),
    ]


def test_nothing_known_is_an_empty_story() -> None:
    assert story("x", (), ()).is_empty
    assert not story("x", (), [(UniqueId(b"m", b"r"), IN_FLIGHT)]).is_empty


@pytest.mark.parametrize(
    ("verdict", "action"), list(product([v for v in Verdict if v != "partial"], Action))
)
def test_each_decision_is_explained(verdict: Verdict, action: Action) -> None:
    (entry,) = entries(report_of(outcome_of(verdict, action)), Keep.ALL)
    text = explanation(entry)
    assert text.endswith(".")
    assert "{" not in text
    assert text not in {
        explanation(replace(entry, verdict=v.value)) for v in Verdict if v is not verdict
    }


@pytest.mark.parametrize("kind", REFUSED_CONTENT)
def test_content_that_we_refused_is_not_said_to_be_unchecked(kind: str) -> None:
    """The list was never asked: that is not what became of the message."""
    (entry,) = entries(report_of(outcome_of(Verdict.UNCHECKED, Action.REJECTED)), Keep.ALL)
    assert "could not be checked" in explanation(entry), "the downstream's refusal is another thing"
    refused = explanation(replace(entry, reply=REFUSED_CONTENT[kind].text))
    assert refused == f"We refused its content: {REFUSED_CONTENT[kind].text}."


_THEIRS_5 = reply(550, "5.7.1", "No")
_THEIRS_4 = reply(452, "4.2.2", "Mailbox full")
WHO = [
    (Verdict.UNCHECKED, Action.REJECTED, _THEIRS_5, "the downstream refused it", "unchecked, 5xx"),
    (Verdict.UNCHECKED, Action.DEFERRED, _THEIRS_4, "the downstream put it off", "unchecked, 4xx"),
    (Verdict.NEW, Action.REJECTED, _THEIRS_5, "the downstream refused it", "new, 5xx"),
    (Verdict.DUPLICATE, Action.DEFERRED, _THEIRS_4, "the downstream put it off", "a copy, 4xx"),
    (
        Verdict.UNCHECKED,
        Action.DEFERRED,
        answer.UNCHECKED,
        "we put it off",
        "the list is down: tempfail",
    ),
    (
        Verdict.IN_FLIGHT,
        Action.DEFERRED,
        answer.IN_FLIGHT,
        "we put it off",
        "another one is under way",
    ),
    (Verdict.NEW, Action.DEFERRED, answer.LOST, "we put it off", "no reply came"),
    (Verdict.DUPLICATE, Action.DEFERRED, answer.NO_ROOM, "we put it off", "our disk is full"),
]


@pytest.mark.parametrize(("verdict", "action", "said", "who", "reason"), WHO)
def test_it_is_said_who_refused_or_put_it_off(
    verdict: Verdict, action: Action, said: Reply, who: str, reason: str
) -> None:
    """That it could not be checked is not why the downstream did not want it."""
    (entry,) = entries(report_of(outcome_of(verdict, action, reply=said)), Keep.ALL)
    assert who in explanation(entry), reason


def test_decision_of_another_version_is_explained_by_its_words() -> None:
    (entry,) = entries(report_of(outcome_of()), Keep.ALL)
    odd = replace(entry, verdict="haunted", action="exorcised")
    assert explanation(odd) == "The verdict was haunted; it was exorcised."


def test_story_as_json_names_all_that_is_known() -> None:
    """The names are an interface: scripts read them."""
    first = seen(100, note=b"4First")
    copies = _entries(NOW_S, (_BEN, Verdict.DUPLICATE, first))
    (key,) = _SEALER.unique_ids(_IDENTITY, [_BEN])
    told = as_json(story("1234@example.org", copies, [(key, first)]))
    assert json.loads(json.dumps(told)) == {
        "message_id": "1234@example.org",
        "first_copies": [
            {"at_s": first.first_seen_s, "queue_id": "4First", "recipients": ["ben@example.org"]}
        ],
        "copies": [[json.loads(copies[0].to_json())]],
        "tracked": [
            {
                "key": (key.message + key.recipient).hex(),
                "recipient": "ben@example.org",
                "is_variant": False,
                "state": "seen",
                "first_seen_s": first.first_seen_s,
                "copies": first.copies,
                "queue_id": "4First",
                "provisional_at_s": 0,
                "is_retry_due": False,
            }
        ],
    }


def test_first_copy_of_a_recipient_is_told_once() -> None:
    first = seen(100, note=b"4First")
    copies = [
        *_entries(NOW_S - 1, (_BEN, Verdict.DUPLICATE, first)),
        *_entries(NOW_S, (_BEN, Verdict.DUPLICATE, first)),
    ]
    (origin,) = story("1234@example.org", copies, ()).origins
    assert origin.recipients == ("ben@example.org",)
