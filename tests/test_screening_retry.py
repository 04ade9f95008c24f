"""Retries that we asked for: some have got a message, the client shall come again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.conclusion import conclude
from gateway.core.envelope import Envelope
from gateway.core.policy import Action, examine
from gateway.core.reply import Reply, reply
from gateway.core.report import Entry
from gateway.core.rule import Match, Mode, Policy
from gateway.core.unique_id import Sealer, UniqueId
from gateway.edge.tracking_memory import MemoryTrackingList
from gateway.errors import TrackingListError
from gateway.ports import Record, TrackingList
from gateway.screening import Screening, ScreeningSettings

_EXAMINATION = examine(b"Message-ID: <20261124.0900.4711@example.org>\r\n")
_PATHS = (b"one@example.net", b"two@example.net", b"three@example.net")
_OK = reply(250, "2.0.0", "Saved")
_FULL = reply(452, "4.2.2", "Mailbox full")
_UNKNOWN = reply(550, "5.1.1", "No such user")


@dataclass
class _World:
    """A downstream that answers for each recipient, and the list before it."""

    mode: Mode
    match: Match = Match.CONTENT
    tracking_list: TrackingList = field(default_factory=MemoryTrackingList)
    got: Counter[tuple[bytes, bytes]] = field(default_factory=Counter)
    screening: Screening = field(init=False)

    def __post_init__(self) -> None:
        self.screening = Screening(
            self.tracking_list,
            Sealer(b""),
            ScreeningSettings(
                default=Policy(mode=self.mode, match=self.match), in_flight_wait_s=0.0
            ),
        )

    async def send(self, content: bytes, answers: dict[bytes, Reply]) -> tuple[Reply, list[Action]]:
        """Send a copy; return what the client is told, and what was meant for each recipient."""
        envelope = Envelope(b"alice@example.org", tuple(answers), "")
        fingerprint = content.ljust(16, b".")
        screened = await self.screening.claim(_EXAMINATION, envelope, fingerprint)
        screened = await self.screening.resolve(screened, fingerprint)
        decisions = self.screening.decide(screened)
        replies = {
            index: answers[candidate.forward_path]
            for index, candidate in enumerate(screened.candidates)
            if decisions[index].action is not Action.DROPPED
        }
        for index, said in replies.items():
            self.got[content, screened.candidates[index].forward_path] += said.is_accepted
        end = conclude(decisions, replies)
        await self.screening.settle(
            screened,
            decisions,
            end.replies,
            fingerprint,
            is_retry_due=not end.reply.is_accepted,
        )
        return end.reply, [decision.action for decision in decisions]


@pytest.mark.parametrize("mode", [Mode.TAG, Mode.DROP])
@pytest.mark.parametrize("match", Match)
def test_retries_reach_exactly_who_has_not_got_it(mode: Mode, match: Match) -> None:
    """P1: and only those, however often it takes, though duplicates are tagged and not dropped."""

    async def run() -> None:
        world = _World(mode, match)
        one, two, three = _PATHS
        for _ in range(3):
            told, _ = await world.send(b"A", {one: _OK, two: _FULL, three: _FULL})
            assert told.status_class == 4
        told, _ = await world.send(b"A", {one: _OK, two: _OK, three: _FULL})
        assert told.status_class == 4
        told, actions = await world.send(b"A", {one: _OK, two: _OK, three: _OK})
        assert told.is_accepted
        assert actions == [Action.DROPPED, Action.DROPPED, Action.RELAYED]
        assert [world.got[b"A", path] for path in _PATHS] == [1, 1, 1]

    asyncio.run(run())


def test_once_the_client_is_told_so_copies_are_treated_as_configured() -> None:
    async def run() -> None:
        world = _World(Mode.TAG)
        one, two, _ = _PATHS
        await world.send(b"A", {one: _OK, two: _FULL})
        told, actions = await world.send(b"A", {one: _OK, two: _OK})
        assert told.is_accepted
        assert actions == [Action.DROPPED, Action.RELAYED]
        _, actions = await world.send(b"A", {one: _OK, two: _OK})
        assert actions == [Action.TAGGED, Action.TAGGED]

    asyncio.run(run())


class _Deaf(MemoryTrackingList):
    """A list that is not there for a moment: just when something is to be confirmed."""

    async def confirm(self, records: Sequence[Record], entries: Sequence[Entry] = ()) -> None:
        del records, entries
        raise TrackingListError("no answer in time")


def test_a_confirmation_that_fails_keeps_nobody_elses_retry_waiting() -> None:
    """Else the recipient whose copy was refused would wait for the lease: twenty minutes."""

    async def run() -> None:
        world = _World(Mode.TAG, tracking_list=_Deaf())
        one, two, _ = _PATHS
        await world.send(b"A", {one: _OK, two: _FULL})
        _, actions = await world.send(b"A", {two: _OK})
        assert actions == [Action.RELAYED]

    asyncio.run(run())


class _Gone(MemoryTrackingList):
    """A list that goes away while something is confirmed, and stays away."""

    def __init__(self) -> None:
        super().__init__()
        self.is_confirming = asyncio.Event()

    async def confirm(self, records: Sequence[Record], entries: Sequence[Entry] = ()) -> None:
        del records, entries
        self.is_confirming.set()
        await asyncio.Event().wait()

    async def release(
        self, unique_ids: Sequence[UniqueId], token: bytes, entries: Sequence[Entry] = ()
    ) -> None:
        del unique_ids, token, entries
        raise TrackingListError("no answer in time")


def test_who_is_cut_off_while_the_list_is_away_is_cut_off() -> None:
    """Else a session that is shown out at the end of the drain would go on."""

    async def run() -> None:
        gone = _Gone()
        one, two, _ = _PATHS
        world = _World(Mode.TAG, tracking_list=gone)
        sending = asyncio.create_task(world.send(b"A", {one: _OK, two: _FULL}))
        async with asyncio.timeout(30):
            await gone.is_confirming.wait()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending

    asyncio.run(run())


def test_another_content_is_no_retry() -> None:
    """P6: a copy that nobody asked for is delivered, whatever id it bears."""

    async def run() -> None:
        world = _World(Mode.TAG)
        one, two, _ = _PATHS
        await world.send(b"A", {one: _OK, two: _FULL})
        _, actions = await world.send(b"B", {one: _OK, two: _OK})
        assert Action.DROPPED not in actions
        _, actions = await world.send(b"A", {one: _OK, two: _OK})
        assert actions[0] is Action.DROPPED, "A's retry is still due"

    asyncio.run(run())


def test_where_the_id_alone_counts_the_later_content_may_be_due() -> None:
    """Its tagged copy was accepted; each of its retries would be one more."""

    async def run() -> None:
        world = _World(Mode.TAG, Match.MESSAGE_ID)
        one, two, _ = _PATHS
        await world.send(b"A", {one: _OK})
        for _ in range(3):
            await world.send(b"B", {one: _OK, two: _FULL})
        assert world.got[b"B", one] == 1
        await world.send(b"C", {one: _OK})
        await world.send(b"B", {one: _OK, two: _OK})
        assert (world.got[b"B", one], world.got[b"B", two]) == (1, 1)

    asyncio.run(run())


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([Mode.TAG, Mode.DROP, Mode.OBSERVE]),
    st.lists(
        st.tuples(
            st.sampled_from([b"A", b"B"]),
            st.dictionaries(
                st.sampled_from(_PATHS), st.sampled_from([_OK, _FULL, _UNKNOWN]), min_size=1
            ),
        ),
        max_size=10,
    ),
)
def test_only_what_was_accepted_costs_a_copy(
    mode: Mode, history: list[tuple[bytes, dict[bytes, Reply]]]
) -> None:
    """P1: whatever the history, who is left out has got that very content before."""

    async def run() -> None:
        world = _World(mode)
        for content, answers in history:
            had = Counter(world.got)
            told, actions = await world.send(content, answers)
            for path, action in zip(answers, actions, strict=True):
                if action is Action.DROPPED:
                    assert had[content, path] >= 1
                    assert mode is not Mode.OBSERVE
            if told.is_accepted:
                assert all(world.got[content, path] >= 1 for path in answers)

    asyncio.run(run())
