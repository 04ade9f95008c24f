"""What only a milter has seen: copies through both faces, against the plainest model."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.envelope import Envelope
from gateway.core.policy import Action, Verdict, examine
from gateway.core.reply import reply
from gateway.core.rule import Match, Mode, Policy
from gateway.core.unique_id import Sealer
from gateway.edge.tracking_memory import MemoryTrackingList
from gateway.screening import Screening, ScreeningSettings

_PROVISIONAL_S = 600
_EXAMINATION = examine(b"Message-ID: <20261124.0900.4711@example.org>\r\n")
_ENVELOPE = Envelope(b"alice@example.org", (b"bob@example.net",), "")
_OK = reply(250, "2.0.0", "Ok: queued as 4ABC")
_REFUSED = reply(451, "4.3.0", "Try again")


@dataclass
class _World:
    """One recipient's mail, through hop and milter, on one list."""

    match: Match = Match.CONTENT
    mode: Mode = Mode.DROP
    now_s: float = 1_700_000_000.0
    screening: Screening = field(init=False)

    def __post_init__(self) -> None:
        self.screening = Screening(
            MemoryTrackingList(now=lambda: self.now_s),
            Sealer(b""),
            ScreeningSettings(
                default=Policy(mode=self.mode, match=self.match),
                in_flight_wait_s=0.0,
                provisional_s=_PROVISIONAL_S,
            ),
            now=lambda: self.now_s,
        )

    async def copy(
        self, content: bytes, *, is_milter: bool, is_accepted: bool = True
    ) -> tuple[Verdict, Action]:
        """Send a copy, and return what was decided."""
        fingerprint = content.ljust(16, b".")
        screened = await self.screening.claim(_EXAMINATION, _ENVELOPE, fingerprint)
        screened = await self.screening.resolve(screened, fingerprint)
        (decision,) = decisions = self.screening.decide(screened)
        is_dropped = decision.action is Action.DROPPED
        said = None if is_dropped else _OK if is_accepted or is_milter else _REFUSED
        await self.screening.settle(
            screened, decisions, [said], fingerprint, is_outcome_known=not is_milter
        )
        return decision.verdict, decision.action


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"A", b"B"]),
            st.booleans(),
            st.booleans(),
            st.sampled_from(
                [0, 0.75, _PROVISIONAL_S // 2, _PROVISIONAL_S - 0.5, _PROVISIONAL_S + 2]
            ),
        ),
        max_size=12,
    )
)
def test_only_what_is_certain_or_old_costs_a_copy(
    history: list[tuple[bytes, bool, bool, float]],
) -> None:
    """P1: a copy is dropped only if one of the same content was accepted, or passed long ago."""

    async def run() -> None:
        world, confirmed, passed = _World(), set[bytes](), dict[bytes, float]()
        for content, is_milter, is_accepted, pause_s in history:
            world.now_s += pause_s
            _, action = await world.copy(content, is_milter=is_milter, is_accepted=is_accepted)
            if action is Action.DROPPED:
                is_old = content in passed and world.now_s - passed[content] >= _PROVISIONAL_S
                assert content in confirmed or is_old
            elif is_milter:
                passed[content] = world.now_s
                assert content not in confirmed, "what is confirmed is dropped by either face"
            elif is_accepted:
                confirmed.add(content)

    asyncio.run(run())


async def test_doubt_lasts_to_its_end_although_whole_seconds_are_kept() -> None:
    """P1."""
    world = _World()
    world.now_s += 0.75
    await world.copy(b"A", is_milter=True)
    world.now_s += _PROVISIONAL_S - 0.5
    assert await world.copy(b"A", is_milter=True) == (Verdict.DUPLICATE, Action.TAGGED)
    world.now_s += _PROVISIONAL_S + 1
    assert await world.copy(b"A", is_milter=True) == (Verdict.DUPLICATE, Action.DROPPED)


async def test_milter_takes_nothing_from_what_is_confirmed() -> None:
    world = _World(mode=Mode.TAG)
    await world.copy(b"A", is_milter=False)
    await world.copy(b"A", is_milter=True)
    screened = await world.screening.claim(_EXAMINATION, _ENVELOPE)
    [candidate] = screened.candidates
    assert candidate.sighting is not None
    assert (candidate.sighting.provisional_at_s, candidate.sighting.copies) == (0, 2)


async def test_refusal_by_the_hop_leaves_the_doubt() -> None:
    world = _World()
    await world.copy(b"A", is_milter=True)
    await world.copy(b"A", is_milter=False, is_accepted=False)
    assert await world.copy(b"A", is_milter=True) == (Verdict.DUPLICATE, Action.TAGGED)


async def test_another_content_confirms_nothing_of_the_first() -> None:
    """With ``match = "message-id"`` both are one record, that of the first content."""
    world = _World(match=Match.MESSAGE_ID)
    await world.copy(b"A", is_milter=True)
    assert await world.copy(b"B", is_milter=False) == (Verdict.DUPLICATE, Action.TAGGED)
    assert await world.copy(b"A", is_milter=False) == (Verdict.DUPLICATE, Action.TAGGED)
    assert await world.copy(b"B", is_milter=True) == (Verdict.DUPLICATE, Action.DROPPED)


async def test_dropped_copy_does_not_renew_the_doubt() -> None:
    world = _World()
    await world.copy(b"A", is_milter=True)
    world.now_s += _PROVISIONAL_S + 1
    for _ in range(3):
        assert await world.copy(b"A", is_milter=True) == (Verdict.DUPLICATE, Action.DROPPED)
