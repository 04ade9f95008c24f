"""P1, step by step: each row of the table in `docs/flow.md`, for each kind of list.

The gateway is stopped, or a connection cut, exactly there; then the message is sent again, as a
client does (RFC 5321 section 4.5.4.1), and what the next server has accepted is counted.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.scene import LISTS, RECIPIENT, SENDER, Scene, scene
from tests.support.client import Client, ClosedError, stuffed
from tests.support.letter import fresh_id, letter
from tests.support.process import wait_until
from tests.support.recording import Answer, Then

DUPLICATE = b"250 2.0.0 Ok: duplicate of an already accepted message, not delivered again\r\n"
UNCHECKED = b"X-Mailonce: unchecked; by=gateway.test\r\n"
SETTINGS = {
    # Nothing shall be unchecked because somebody else keeps the machine busy for a moment.
    "store.timeout": "20s",
    "dedup.in_flight_wait": "100ms",
    "downstream.final_reply_timeout": "5s",
}
# Where the list shall be away, and a claim end with its lease.
HASTY = {**SETTINGS, "store.timeout": "500ms", "store.lease": "6s"}


@pytest.fixture(scope="module", params=LISTS)
def _stage(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with scene(request.param, SETTINGS) as stage:
        yield stage


@pytest.fixture(scope="module", params=LISTS)
def _hasty_stage(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with scene(request.param, HASTY) as stage:
        yield stage


@pytest.fixture
def stage(_stage: Scene) -> Scene:
    """Return a gateway whose list answers, with nothing recorded."""
    return _ready(_stage)


@pytest.fixture
def hasty_stage(_hasty_stage: Scene) -> Scene:
    """Return one that does not wait for its list for long."""
    return _ready(_hasty_stage)


def _ready(stage: Scene) -> Scene:
    _wait_for_the_list(stage)
    stage.sink.forget()
    return stage


def _wait_for_the_list(stage: Scene) -> None:
    """Wait until messages are checked again: the circuit breaker leaves a list alone for 5 s."""

    def is_checked() -> bool:
        message = letter(fresh_id())
        return stage.send(message).is_accepted and stage.copies_of(message) == [message]

    wait_until(is_checked, "the list answers", 45.0)


def _begin(stage: Scene, client: Client, content: bytes) -> None:
    """Send a message up to some point within its content."""
    client.greet()
    for command in (f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{RECIPIENT}>", "DATA"):
        assert client.command(command).code in (250, 354), stage.gateway.log()
    client.send(content)


def _is_remembered(stage: Scene, message: bytes) -> bool:
    """Send one more copy, and say whether it is known for a duplicate."""
    before = len(stage.copies_of(message))
    final = stage.send(message).final
    assert final is not None
    return final.wire == DUPLICATE and len(stage.copies_of(message)) == before


def test_p1_killed_before_the_claim_the_retry_is_new(stage: Scene) -> None:
    message = letter(fresh_id())
    with Client(stage.gateway.port) as client:
        _begin(stage, client, message[:20])
        stage.sink.wait_for_command("RCPT")
        stage.gateway.kill()
        with pytest.raises(ClosedError):
            client.answer()
    stage.gateway.start()
    assert stage.send(message).is_accepted
    assert stage.copies_of(message) == [message]
    assert _is_remembered(stage, message)


def test_p1_with_the_list_unavailable_mail_flows_and_says_so(hasty_stage: Scene) -> None:
    stage = hasty_stage
    message = letter(fresh_id())
    with stage.hold():
        assert stage.send(message).is_accepted
    assert stage.copies_of(message) == [UNCHECKED + message]


@pytest.mark.parametrize("end", ["reset", "close", "half-close"])
def test_p1_client_gone_within_content_the_retry_is_new(stage: Scene, end: str) -> None:
    message = letter(fresh_id(), b"line\r\n" * 50)
    with Client(stage.gateway.port) as client:
        _begin(stage, client, message[:-100])
        stage.sink.wait_for_command("DATA")  # the claim is made
        {"reset": client.reset, "close": client.close, "half-close": client.half_close}[end]()
        stage.sink.wait_for_transactions(1)
    (broken,) = stage.sink.transactions
    assert not broken.is_ended
    final = stage.send(message).final
    assert final is not None
    assert final.code == 250
    assert stage.copies_of(message) == [message]
    assert _is_remembered(stage, message)


def test_p1_content_refused_by_us_is_new_when_put_right(stage: Scene) -> None:
    message = letter(fresh_id(), b"line\r\n" * 50)
    with Client(stage.gateway.port) as client:
        _begin(stage, client, stuffed(message.replace(b"line\r\n", b"li\rne\r\n")))
        assert client.answer().code == 550
    assert stage.send(message).is_accepted
    assert stage.copies_of(message) == [message]


@pytest.mark.parametrize("verb", ["DATA", "content"])
@pytest.mark.parametrize("reply", [b"451 4.7.1 Later\r\n", b"554 5.7.1 Never\r\n"])
def test_p1_refused_downstream_the_retry_is_new(stage: Scene, verb: str, reply: bytes) -> None:
    message = letter(fresh_id())
    stage.sink.answer(verb, reply)
    last = stage.send(message).last
    assert last is not None
    assert last.wire == reply
    assert stage.copies_of(message) == []
    assert stage.send(message).is_accepted
    assert stage.copies_of(message) == [message]
    assert _is_remembered(stage, message)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(then=Then.RESET),
        Answer(then=Then.CLOSE),
        Answer(then=Then.SILENCE),
        Answer(b"250 2.0.0 Ok: que", then=Then.CLOSE),
    ],
    ids=["reset", "closed", "silent", "half-a-reply"],
)
def test_p1_outcome_unknown_costs_at_most_one_duplicate(stage: Scene, answer: Answer) -> None:
    message = letter(fresh_id())
    stage.sink.answer("content", answer)
    final = stage.send(message).final
    assert final is not None
    assert final.wire.startswith(b"451 4.4.2 ")
    assert [t.is_ended for t in stage.sink.transactions] == [True]
    assert stage.send(message).is_accepted
    # The first copy may have been taken, though nobody was told.
    assert len([t for t in stage.sink.transactions if t.is_ended]) == 2
    assert _is_remembered(stage, message)


def test_p1_confirm_failed_costs_at_most_one_duplicate(hasty_stage: Scene) -> None:
    stage = hasty_stage
    message = letter(fresh_id())
    gate = stage.gated("content")
    first = stage.sending(message)
    stage.sink.wait_for_command(".")
    failed = _failed_confirms(stage)
    with stage.hold():
        gate.set()
        assert first.result(60).is_accepted, "the client is told before the list"
        wait_until(lambda: _failed_confirms(stage) > failed, "the confirmation fails", 30.0)
    wait_until(lambda: stage.send(message).is_accepted, "the claim ends with its lease", 30.0)
    assert 1 <= len(stage.copies_of(message)) <= 2
    _wait_for_the_list(stage)
    # Until the claim has ended, copies are put off; then one is new, and those behind it known.
    wait_until(lambda: _is_remembered(stage, message), "a copy is remembered", 45.0)
    # One that met the breaker was passed on unchecked, and could not be confirmed either.
    copies = stage.copies_of(message)
    assert copies.count(message) <= 2
    assert len(copies) <= (3 if UNCHECKED + message in copies else 2)


def _failed_confirms(stage: Scene) -> float:
    name = "mailonce_store_operations_total"
    return sum(
        stage.gateway.metric(name, operation="confirm", result=result)
        for result in ("error", "timeout", "open")
    )


@pytest.mark.parametrize("end", ["reset", "close"])
def test_p1_client_gone_before_the_reply_the_retry_is_a_duplicate(stage: Scene, end: str) -> None:
    """RFC 1047: the sender's retry of what had been accepted."""
    message = letter(fresh_id())
    gate = stage.gated("content")
    confirmed = _confirmed(stage)
    with Client(stage.gateway.port) as client:
        _begin(stage, client, stuffed(message))
        stage.sink.wait_for_command(".")
        {"reset": client.reset, "close": client.close}[end]()
    gate.set()
    wait_until(lambda: _confirmed(stage) > confirmed, "the gateway sees it through", 30.0)
    final = stage.send(message).final
    assert final is not None
    assert final.wire == DUPLICATE
    assert stage.copies_of(message) == [message]


def _confirmed(stage: Scene) -> float:
    name = "mailonce_store_operations_total"
    return stage.gateway.metric(name, operation="confirm", result="ok")
