"""The open-relay guard's question, and what it makes of answers that are none (P5)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gateway.core.handover import Client
from gateway.core.reply import Reply, reply
from gateway.errors import LostError, UnprovenError, UnreachableError
from gateway.guard import Proof, Standing, probe, probe_each
from gateway.ports import Downstream, OpenDownstream

_OK = reply(250, "2.1.0", "Ok")


class _Server:
    """Answers MAIL and RCPT as told."""

    waited_s = 0.0

    def __init__(self, *answers: Reply | None) -> None:
        self._answers = list(answers)
        self.is_closed = False

    async def exchange(self, commands: Sequence[bytes]) -> Sequence[Reply]:
        del commands
        answer = self._answers.pop(0)
        if answer is None:
            raise LostError("gone")
        return [answer]

    async def write(self, content: bytes) -> None:
        raise AssertionError(f"a probe sends no content: {content!r}")

    async def finish(self, recipients: int) -> Sequence[Reply]:
        raise AssertionError(f"a probe sends no content to {recipients}")

    async def close(self, *, politely: bool) -> None:
        del politely
        self.is_closed = True


def _opens(server: Downstream) -> OpenDownstream:
    async def open_downstream(client: Client) -> Downstream:
        assert client.address == "192.0.2.1"
        return server

    return open_downstream


async def _down(client: Client) -> Downstream:
    raise UnreachableError(f"nobody for {client.address}")


@pytest.mark.parametrize(
    ("rcpt", "expected", "reason"),
    [
        (_OK, Standing.OPEN, "taken"),
        (reply(251, "2.1.5", "Will forward"), Standing.OPEN, "taken, to be forwarded"),
        (reply(554, "5.7.1", "Relay access denied"), Standing.SAFE, "refused"),
        (reply(454, "4.7.1", "Relay access denied"), Standing.SAFE, "put off: Postfix's default"),
        (reply(550, "", "relay not permitted"), Standing.SAFE, "Exim"),
        (reply(550, "5.7.54", "Unable to relay recipient"), Standing.SAFE, "Exchange"),
    ],
)
async def test_answers(rcpt: Reply, expected: Standing, reason: str) -> None:
    server = _Server(_OK, rcpt)
    assert await probe(_opens(server), "a@b.invalid") is expected, reason
    assert server.is_closed


@pytest.mark.parametrize(
    "answers",
    [
        [reply(421, "4.3.2", "Too busy")],
        [reply(451, "4.3.0", "Later")],
        [reply(550, "5.7.1", "Not you")],
        [None],
        [_OK, reply(421, "4.7.0", "Bye")],
        [_OK, None],
        [_OK, reply(450, "4.1.2", "Domain not found")],
        [_OK, reply(451, "4.3.0", "Try again later")],
        [_OK, reply(450, "", "Greylisted")],
        [_OK, reply(550, "5.1.1", "User unknown")],
        [_OK, reply(550, "5.1.2", "Domain not found")],
    ],
    ids=[
        *("busy", "later", "not-you", "lost", "rcpt-busy", "rcpt-lost"),
        *("no-domain-now", "rcpt-later", "greylisted", "no-user", "no-domain"),
    ],
)
async def test_who_does_not_come_to_the_question_proves_nothing(
    answers: Sequence[Reply | None],
) -> None:
    """P5: a server that is merely busy must not pass for one that refuses strangers."""
    server = _Server(*answers)
    with pytest.raises(UnprovenError):
        await probe(_opens(server), "a@b.invalid")
    assert server.is_closed


def _safe() -> OpenDownstream:
    return _opens(_Server(_OK, reply(554, "5.7.1", "No")))


def _open() -> OpenDownstream:
    return _opens(_Server(_OK, _OK))


async def test_each_server_is_asked() -> None:
    """P5: mail may go to any of them."""
    who = "a@b.invalid"
    assert await probe_each([_safe(), _safe()], who) == Proof(Standing.SAFE, (0, 1))
    assert await probe_each([_safe(), _open()], who) == Proof(Standing.OPEN, (0,))
    assert await probe_each([_down, _open()], who) == Proof(Standing.OPEN)
    assert await probe_each([_down, _safe()], who) == Proof(Standing.SAFE, (1,))
    with pytest.raises(UnreachableError) as failure:
        await probe_each([_down, _down], "a@b.invalid")
    assert not isinstance(failure.value, UnprovenError)


@pytest.mark.parametrize("is_first", [True, False])
async def test_who_is_away_does_not_hide_who_does_not_answer(is_first: bool) -> None:
    """What is away comes back; what does not answer the question needs another question."""
    vague = _opens(_Server(_OK, reply(450, "4.1.2", "Domain not found")))
    with pytest.raises(UnprovenError, match="Domain not found"):
        await probe_each([vague, _down] if is_first else [_down, vague], "a@b.invalid")
