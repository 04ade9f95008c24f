"""Verdict x action x tracking list, through real sockets: what is delivered to whom, and how."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from functools import partial

import pytest

from tests.integration.conftest import StartPair
from tests.support.client import Answer, Delivery, deliver
from tests.support.gateway import Gateway
from tests.support.letter import fresh_id, letter
from tests.support.recording import Answer as Said
from tests.support.recording import Then

X, Y, Z = "x@example.org", "y@example.org", "z@example.org"
DUPLICATE = b"250 2.0.0 Ok: duplicate of an already accepted message, not delivered again\r\n"


def send(gateway: Gateway, message: bytes, *recipients: str) -> Answer:
    """Send a message to X, or to others, and return the final reply."""
    delivery = deliver(gateway.port, "a@sender.test", recipients or (X,), message)
    assert delivery.final is not None, delivery
    return delivery.final


class Count:
    """How much a counter has grown since it was first looked at."""

    def __init__(self, gateway: Gateway, name: str, **labels: str) -> None:
        self._read: Callable[[], float] = partial(gateway.metric, name, **labels)
        self._before = self._read()

    def __int__(self) -> int:
        return int(self._read() - self._before)


def mark_of(message: bytes) -> str:
    """Return the body of the X-Mailonce field on top of a message, or ""."""
    match = re.match(rb"X-Mailonce: ([^\r]*)\r\n", message)
    return match[1].decode() if match else ""


def test_new_and_exact_duplicate(start_pair: StartPair) -> None:
    gateway, sink = start_pair({})
    new = Count(gateway, "mailonce_messages_total", verdict="new", action="relayed")
    dropped = Count(gateway, "mailonce_messages_total", verdict="duplicate", action="dropped")
    ages = Count(gateway, "mailonce_duplicate_age_seconds_count")
    message = letter(fresh_id())
    assert send(gateway, message).code == 250
    assert send(gateway, message).wire == DUPLICATE
    assert sink.deliveries() == [(X, message)]
    assert (int(new), int(dropped), int(ages)) == (1, 1, 1)


def test_tagged_duplicate_counts_its_copies(start_pair: StartPair) -> None:
    gateway, sink = start_pair({"dedup.action": "tag"})
    message = letter(fresh_id())
    for _ in range(3):
        assert send(gateway, message).code == 250
    first, second, third = [content for _, content in sink.deliveries()]
    assert first == message
    assert second.endswith(message)
    assert re.fullmatch(
        r"duplicate; first-seen=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ; copies=2; by=gateway\.test",
        mark_of(second),
    )
    assert "; copies=3; " in mark_of(third)


def test_observed_duplicate_is_delivered_as_it_is(start_pair: StartPair) -> None:
    gateway, sink = start_pair({"dedup.action": "observe"})
    observed = Count(gateway, "mailonce_messages_total", verdict="duplicate", action="observed")
    message = letter(fresh_id())
    send(gateway, message)
    send(gateway, message)
    assert sink.deliveries() == [(X, message), (X, message)]
    assert int(observed) == 1


def test_same_id_to_another_recipient_is_new(start_pair: StartPair) -> None:
    """P1: the same id for another recipient is not a duplicate."""
    gateway, sink = start_pair({})
    message = letter(fresh_id())
    send(gateway, message, X)
    send(gateway, message, Y)
    assert sink.deliveries() == [(X, message), (Y, message)]


def test_partial_duplicate_reaches_who_has_not_got_it(start_pair: StartPair) -> None:
    """P1: A to x and y, then B to y and z: only z gets B."""
    gateway, sink = start_pair({})
    partial = Count(gateway, "mailonce_messages_total", verdict="partial")
    dropped = Count(gateway, "mailonce_recipients_total", verdict="duplicate", action="dropped")
    message = letter(fresh_id())
    send(gateway, message, X, Y)
    assert send(gateway, message, Y, Z).code == 250
    assert sorted(sink.deliveries()) == [(X, message), (Y, message), (Z, message)]
    assert (int(partial), int(dropped)) == (1, 1)


def test_other_content_under_a_known_id_is_delivered(start_pair: StartPair) -> None:
    """P6: knowing an id is not enough to have the real message dropped; its own retry is one."""
    gateway, sink = start_pair({})
    message_id = fresh_id()
    first, second = letter(message_id), letter(message_id, b"something else\r\n")
    send(gateway, first)
    send(gateway, second)
    assert send(gateway, second).wire == DUPLICATE
    assert send(gateway, first).wire == DUPLICATE
    (_, plain), (_, collided) = sink.deliveries()
    assert plain == first
    assert collided.endswith(second)
    assert mark_of(collided).startswith("collision; first-seen=")
    assert "; copies=1; " in mark_of(collided)


def test_collisions_may_go_unmarked(start_pair: StartPair) -> None:
    gateway, sink = start_pair({"dedup.collisions": "relay"})
    message_id = fresh_id()
    messages = [letter(message_id), letter(message_id, b"something else\r\n")]
    for message in messages:
        send(gateway, message)
    assert [content for _, content in sink.deliveries()] == messages


def test_white_space_changed_on_the_way_is_still_the_same(start_pair: StartPair) -> None:
    gateway, _ = start_pair({})
    message_id = fresh_id()
    send(gateway, letter(message_id, b"Hello  world\r\n", subject="a folded subject"))
    refolded = letter(message_id, b"Hello world \r\n\r\n", subject="a folded\r\n\tsubject")
    assert send(gateway, refolded).wire == DUPLICATE


def test_missing_id_is_added_and_its_retry_is_a_duplicate(start_pair: StartPair) -> None:
    gateway, sink = start_pair({})
    added = Count(gateway, "mailonce_message_ids_added_total")
    missing = Count(gateway, "mailonce_message_ids_total", form="missing")
    message = letter(None, subject=fresh_id())
    send(gateway, message)
    assert send(gateway, message).wire == DUPLICATE
    ((_, delivered),) = sink.deliveries()
    field, rest = delivered.split(b"\r\n", 1)
    assert rest == message
    assert re.fullmatch(rb"Message-ID: <20261124120000\.[a-z2-7]{26}@gateway\.test>", field)
    assert (int(added), int(missing)) == (1, 2)


def test_without_id_and_date_nothing_is_a_duplicate(start_pair: StartPair) -> None:
    gateway, sink = start_pair({})
    message = letter(None, date=None)
    send(gateway, message)
    send(gateway, message)
    first, second = [content for _, content in sink.deliveries()]
    assert first.endswith(message)
    assert second.endswith(message)
    assert first != second, "each has a random id"


def test_id_alone_counts_if_asked_for(start_pair: StartPair) -> None:
    gateway, sink = start_pair({"dedup.match": "message-id"})
    message_id = fresh_id()
    send(gateway, letter(message_id))
    assert send(gateway, letter(message_id, b"other\r\n")).wire == DUPLICATE
    assert len(sink.deliveries()) == 1


def test_poor_id_alone_is_tagged_at_most(start_pair: StartPair) -> None:
    """P6: with match = "message-id", a weak id never costs anybody a copy."""
    gateway, sink = start_pair({"dedup.match": "message-id"})
    weak = f"{fresh_id().partition('@')[0]}@"
    send(gateway, letter(weak))
    send(gateway, letter(weak, b"other\r\n"))
    _, (_, second) = sink.deliveries()
    assert mark_of(second).startswith("duplicate; ")


def test_first_rule_that_matches_wins(start_pair: StartPair) -> None:
    gateway, sink = start_pair(
        {
            "policy": [
                {"recipients": ["*@LISTS.example.org"], "action": "tag"},
                {"senders": ["a@*"], "recipients": ["y@*"], "action": "bypass"},
                {"recipients": ["*@lists.example.org"], "action": "drop"},
            ]
        }
    )
    message = letter(fresh_id())
    everybody = (X, Y, "l@lists.example.org")
    send(gateway, message, *everybody)
    send(gateway, message, *everybody)
    delivered = sink.deliveries()
    assert [who for who, _ in delivered].count(X) == 1, "the default: dropped"
    assert [content for who, content in delivered if who == Y] == [message, message], "bypassed"
    marks = [mark_of(content) for who, content in delivered if who.startswith("l@")]
    assert marks[0] == ""
    assert marks[1].startswith("duplicate; "), "tagged"


@pytest.mark.parametrize("reply", [b"451 4.7.1 Greylisted\r\n", b"550 5.7.1 Not wanted\r\n"])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "content"])
def test_refused_copy_is_no_earlier_copy(start_pair: StartPair, verb: str, reply: bytes) -> None:
    """P1: what the downstream refused is told octet for octet, and may be retried."""
    gateway, sink = start_pair({})
    message = letter(fresh_id())
    sink.answer(verb, reply)
    delivery = deliver(gateway.port, "a@sender.test", [X], message)
    assert _refusal(delivery).wire == reply
    assert send(gateway, message).code == 250
    assert sink.deliveries() == [(X, message)]
    assert send(gateway, message).wire == DUPLICATE


def test_connection_lost_after_the_dot_is_retried(start_pair: StartPair) -> None:
    """P1: an outcome nobody knows costs a duplicate at most."""
    gateway, sink = start_pair({})
    lost = Count(
        gateway, "mailonce_downstream_replies_total", **{"command": "content", "class": "lost"}
    )
    message = letter(fresh_id())
    sink.answer("content", Said(then=Then.RESET))
    assert send(gateway, message).wire.startswith(b"451 4.4.2 ")
    assert send(gateway, message).code == 250
    assert (X, message) in sink.deliveries()
    assert int(lost) == 1


def test_of_simultaneous_copies_one_is_relayed(start_pair: StartPair) -> None:
    """P1: copies in flight wait for the first one's outcome."""
    gateway, sink = start_pair({})
    message = letter(fresh_id())
    gate = threading.Event()
    sink.answer("content", Said(b"250 2.0.0 Ok: queued as FIRST\r\n", gate=gate))
    replies: list[Answer] = []
    senders = [
        threading.Thread(target=lambda: replies.append(send(gateway, message))) for _ in range(5)
    ]
    for sender in senders:
        sender.start()
    sink.wait_for_command("DATA")
    gate.set()
    for sender in senders:
        sender.join(20)
    assert sorted(reply.wire for reply in replies) == sorted(
        [b"250 2.0.0 Ok: queued as FIRST\r\n", *[DUPLICATE] * 4]
    )
    assert sink.deliveries() == [(X, message)]


def test_copy_in_flight_for_too_long_is_deferred(start_pair: StartPair) -> None:
    gateway, sink = start_pair({"dedup.in_flight_wait": "100ms"})
    deferred = Count(gateway, "mailonce_messages_total", verdict="in_flight", action="deferred")
    message = letter(fresh_id())
    gate = threading.Event()
    sink.answer("content", Said(b"250 2.0.0 Ok\r\n", gate=gate))
    first = threading.Thread(target=send, args=(gateway, message))
    first.start()
    sink.wait_for_command("DATA")
    assert send(gateway, message).wire.startswith(b"451 4.3.0 ")
    gate.set()
    first.join(20)
    assert send(gateway, message).wire == DUPLICATE
    assert int(deferred) == 1


def test_same_recipient_named_twice_is_one(start_pair: StartPair) -> None:
    """P1: a recipient named twice in one transaction is no earlier delivery of itself."""
    gateway, sink = start_pair({})
    message = letter(fresh_id())
    assert send(gateway, message, X, X.replace("example", "EXAMPLE")).code == 250
    assert len(sink.accepted) == 1


def test_mixed_actions_go_in_separate_transactions(start_pair: StartPair) -> None:
    gateway, sink = start_pair({"dedup.action": "tag"})
    message = letter(fresh_id())
    send(gateway, message, X)
    assert send(gateway, message, X, Y).code == 250
    _, plain, tagged = sink.accepted
    assert plain.recipients == (Y,)
    assert plain.message == message
    assert tagged.recipients == (X,)
    assert mark_of(tagged.message).startswith("duplicate; ")


def test_retry_reaches_those_whose_edition_was_refused(start_pair: StartPair) -> None:
    """P1: plain to one and tagged to the other; the retry leaves out who has got its own."""
    gateway, sink = start_pair({"dedup.action": "tag"})
    message = letter(fresh_id())
    send(gateway, message, X)
    for _ in range(3):
        # For Y the plain edition, once; for X the tagged one, refused each time.
        if len(sink.accepted) == 1:
            sink.answer("content", b"250 2.0.0 Ok\r\n")
        sink.answer("content", b"451 4.7.1 Greylisted\r\n")
        assert send(gateway, message, X, Y).wire == b"451 4.7.1 Greylisted\r\n"
    assert send(gateway, message, X, Y).code == 250
    assert [recipient for recipient, _ in sink.deliveries()] == [X, Y, X]
    assert mark_of(sink.deliveries()[-1][1]).startswith("duplicate; ")


def _refusal(delivery: Delivery) -> Answer:
    last = delivery.last
    assert last is not None
    return last
