"""P1 after a crash: what was in flight gets through when its worker's heartbeat has ended.

Design: claims die with the worker that made them, 30 s after its last heartbeat; not with the
lease, which is twenty minutes here as it is by default. All scenes wait at the same time.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.chaos.scene import LISTS, RECIPIENT, SENDER, Scene, scene, worker_of
from tests.support.client import Client, stuffed
from tests.support.letter import fresh_id, letter
from tests.support.process import wait_until

LIMIT_S = 60.0
"""Within which a retry gets through."""

VICTIMS = ("worker", "all", "pause")
_HEARTBEAT_S = 30.0
_RETRY_S = 1.0
# The list hangs longer than any scene needs, so that a confirmation can be caught on its way.
_SETTINGS = {"dedup.in_flight_wait": "100ms", "store.timeout": "1m"}


@dataclass(frozen=True, slots=True)
class Recovery:
    """What became of one message.

    Attributes:
        first_retry: reply code to a retry made at once.
        took_s: from the crash until a retry was accepted.
        copies: accepted by the sink in the end.
        is_remembered: whether one more copy was known for a duplicate.
    """

    first_retry: int
    took_s: float
    copies: int
    is_remembered: bool


@pytest.fixture(scope="module")
def _scenes() -> Iterator[dict[tuple[str, str], Future[dict[str, Recovery]]]]:
    with ThreadPoolExecutor() as threads:
        yield {
            (kind, victim): threads.submit(_paused if victim == "pause" else _killed, kind, victim)
            for kind in LISTS
            for victim in VICTIMS
        }


@pytest.fixture(params=LISTS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    # One process: the scenes wait together.
    pytest.mark.xdist_group("recovery"),
]


@pytest.mark.parametrize("victim", ["worker", "all"])
def test_p1_what_was_in_flight_gets_through_within_a_minute_of_the_crash(
    _scenes: dict[tuple[str, str], Future[dict[str, Recovery]]],  # noqa: PT019 – its value is used
    kind: str,
    victim: str,
) -> None:
    found = _scenes[kind, victim].result(200)
    assert {name: each.first_retry for name, each in found.items()} == dict.fromkeys(found, 451)
    assert max(each.took_s for each in found.values()) < LIMIT_S
    assert all(each.is_remembered for each in found.values())
    # The sink had not seen the dot of the first; the others it had accepted before the crash.
    copies = {name: each.copies for name, each in found.items()}
    assert copies == {"claimed": 1, "dot sent": 2, "accepted": 2}


def test_p1_a_worker_that_wakes_up_late_costs_a_duplicate_and_no_loss(
    _scenes: dict[tuple[str, str], Future[dict[str, Recovery]]],  # noqa: PT019 – its value is used
    kind: str,
) -> None:
    found = _scenes[kind, "pause"].result(200)
    assert {name: each.first_retry for name, each in found.items()} == dict.fromkeys(found, 451)
    assert max(each.took_s for each in found.values()) < LIMIT_S
    assert {name: each.copies for name, each in found.items()} == {"claimed": 2, "dot sent": 2}
    assert all(each.is_remembered for each in found.values())


def _killed(kind: str, victim: str) -> dict[str, Recovery]:
    """Kill the worker, or everything, with messages at three places."""
    messages = {name: letter(fresh_id()) for name in ("claimed", "dot sent", "accepted")}
    with scene(kind, _SETTINGS) as stage:
        claimed = stage.gated("DATA", b"354 Go on\r\n")
        lost = [stage.sending(messages["claimed"])]
        stage.sink.wait_for_command("DATA")
        dot_sent = stage.gated("content")
        lost.append(stage.sending(messages["dot sent"]))
        stage.sink.wait_for_command(".")
        accepted = stage.gated("content")
        told = stage.sending(messages["accepted"])
        stage.sink.wait_for_command(".", 2)
        with stage.hold():
            accepted.set()
            assert told.result(60).is_accepted
            # The confirmation is under way and does not arrive.
            crashed_at = time.monotonic()
            if victim == "worker":
                (worker,) = stage.gateway.worker_pids
                os.kill(worker, signal.SIGKILL)
            else:
                stage.gateway.kill()
            assert all(client.result(60).was_lost for client in lost)
        claimed.set()
        dot_sent.set()
        if victim == "all":
            stage.gateway.start()
        else:
            wait_until(lambda: _restarts(stage) == 1, "another worker", 60.0)
        return _retried(stage, messages, crashed_at)


def _paused(kind: str, _: str) -> dict[str, Recovery]:
    """Stop a worker between two instructions, and wake it up when others have done its work."""
    messages = {name: letter(fresh_id()) for name in ("claimed", "dot sent")}
    with (
        scene(kind, {**_SETTINGS, "workers": 2}) as stage,
        Client(stage.gateway.port) as first,
        _client_of(stage, worker_of(stage.gateway, _greeted(first))) as second,
    ):
        worker = worker_of(stage.gateway, first)
        gates = []
        for client, name, verb, reply in (
            (first, "claimed", "DATA", b"354 Go on\r\n"),
            (second, "dot sent", "content", b"250 2.0.0 Ok\r\n"),
        ):
            gates.append(stage.gated(verb, reply))
            for command in (f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{RECIPIENT}>", "DATA"):
                client.command(command)
            client.send(stuffed(messages[name]))
            stage.sink.wait_for_command("DATA" if verb == "DATA" else ".")
        os.kill(worker, signal.SIGSTOP)
        paused_at = time.monotonic()
        try:
            first.close()
            second.close()
            for gate in gates:
                gate.set()
            found = _retried(stage, messages, paused_at, is_final=False)
        finally:
            os.kill(worker, signal.SIGCONT)
        wait_until(
            lambda: all(len(stage.copies_of(m)) == 2 for m in messages.values()),
            "the worker that wakes up does what it was about to do",
            60.0,
        )
        return {
            name: Recovery(
                each.first_retry,
                each.took_s,
                len(stage.copies_of(messages[name])),
                _is_remembered(stage, messages[name]),
            )
            for name, each in found.items()
        }


def _greeted(client: Client) -> Client:
    client.greet()
    return client


def _client_of(stage: Scene, worker: int) -> Client:
    """Return a greeted connection to a certain worker."""
    for _ in range(200):
        client = _greeted(Client(stage.gateway.port))
        if worker_of(stage.gateway, client) == worker:
            return client
        client.close()
    raise AssertionError("this worker takes no connection")


def _retried(
    stage: Scene, messages: dict[str, bytes], since_s: float, *, is_final: bool = True
) -> dict[str, Recovery]:
    """Retry each message until it is accepted."""
    firsts: dict[str, int] = {}
    took_s: dict[str, float] = {}
    while len(took_s) < len(messages) and time.monotonic() < since_s + LIMIT_S + _HEARTBEAT_S:
        for name in messages.keys() - took_s.keys():
            final = stage.send(messages[name]).final
            code = 0 if final is None else final.code
            firsts.setdefault(name, code)
            if code == 250:
                took_s[name] = time.monotonic() - since_s
        time.sleep(_RETRY_S)  # a client's pause between two tries
    assert took_s.keys() == messages.keys(), (
        f"still not accepted: {messages.keys() - took_s.keys()}"
    )
    return {
        name: Recovery(
            firsts[name],
            took_s[name],
            len(stage.copies_of(message)),
            is_final and _is_remembered(stage, message),
        )
        for name, message in messages.items()
    }


def _is_remembered(stage: Scene, message: bytes) -> bool:
    final = stage.send(message).final
    return final is not None and b"duplicate of an already accepted message" in final.wire


def _restarts(stage: Scene) -> float:
    return stage.gateway.metric("mailonce_worker_restarts_total")
