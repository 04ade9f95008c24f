"""A mail server that does not wait for the milter's answer, against a milter as a process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.edge.tracking_sqlite import SqliteTrackingList
from tests.support.milter_peer import MilterPeer, packet
from tests.support.milter_server import running_milter
from tests.support.process import free_port, wait_until

_MESSAGE = (
    b"From: Alice <alice@example.org>\r\nDate: Tue, 24 Nov 2026 09:00:00 +0100\r\n"
    b"Subject: lunch\r\nMessage-ID: <1@example.org>\r\n\r\nAt noon?\r\n"
)
_MACROS = packet("D", b"Ei\x004ABC\0")


@dataclass(frozen=True, slots=True)
class _Milter:
    """One that takes all that it passes for accepted.

    Attributes:
        port: where it listens.
        store: its list.
        log: what it prints.
    """

    port: int
    store: Path
    log: Path

    async def peer(self) -> MilterPeer:
        peer = await (await MilterPeer.connect(("127.0.0.1", self.port))).negotiate()
        peer.introduce()
        return peer

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.log.read_text(), f"the milter says {text!r}")


@pytest.fixture
def milter(tmp_path: Path) -> Iterator[_Milter]:
    found = _Milter(free_port(), tmp_path / "seen.db", tmp_path / "log")
    with running_milter(
        found.port,
        found.log,
        store=str(found.store),
        mode="drop",
        is_acceptance_assumed=True,
        rules={"*@tag.test": "tag"},
    ):
        yield found


@pytest.mark.parametrize("macros", [b"", _MACROS], ids=["", "behind macros"])
@pytest.mark.parametrize("ending", ["A", "Q", "K"], ids=["aborts", "quits", "has a new client"])
async def test_end_of_message_and_end_of_patience_at_once(
    milter: _Milter, ending: str, macros: bytes
) -> None:
    """P1: both came while we were away, so that nobody has heard us: it passed nowhere."""
    async with await milter.peer() as peer:
        peer.send(peer.message(_MESSAGE) + macros + packet(ending))
        milter.wait_for("complaint: milter_answer_unwanted")
        if ending != "Q":
            assert (await peer.deliver(_MESSAGE)).verdict == "c", "and it is the first copy"
    async with await milter.peer() as peer:
        assert (await peer.deliver(_MESSAGE)).verdict == ("c" if ending == "Q" else "d")


async def test_message_behind_one_to_nobody_is_not_left_lying(milter: _Milter) -> None:
    async with await milter.peer() as peer:
        peer.send(peer.message(_MESSAGE, []) + packet("A") + peer.message(_MESSAGE))
        assert [(await peer.answer()).verdict for _ in range(2)] == ["c", "c"]


@pytest.mark.parametrize(
    "between", [b"", packet("A"), packet("K")], ids=["", "abort", "new client"]
)
async def test_queue_id_of_one_message_is_not_that_of_the_next(
    milter: _Milter, between: bytes
) -> None:
    """P7: a server that names none for a message leaves it without one."""
    async with await milter.peer() as peer:
        named = peer.message(_MESSAGE, [b"<bob@tag.test>"])
        nameless = named.replace(_MACROS, b"")
        assert named != nameless
        for octets in (named, between + nameless):
            peer.send(octets)
            assert (await peer.answer()).verdict == "c"
        # The list is told after the mail server, but before the next message is looked at.
        peer.send(peer.message(_MESSAGE.replace(b"<1@", b"<2@")))
        assert (await peer.answer()).verdict == "c"
    tracking_list = SqliteTrackingList(milter.store, 20.0)
    [entry] = await tracking_list.trail(b"1@example.org", 10)
    await tracking_list.close()
    assert (entry.first_queue_id, entry.queue_id) == ("4ABC", "")
