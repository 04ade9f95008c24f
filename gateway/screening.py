"""Is this a duplicate? Examine, claim, decide, settle for one message; shared by all faces.

    claim    after the header section: who of the recipients has had this id before
    resolve  after the content: wait for copies in flight, tell collisions from duplicates
    decide   verdict and action per recipient (pure, `core.policy`)
    settle   after the downstream's reply: confirm what was accepted, release the rest

Each step takes the value the last one returned and returns a new one. A tracking list that does not
answer is no failure of the message: its recipients are then `unchecked`.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from gateway.candidate import Candidate, Screened, collided, is_collision, is_held, record_after
from gateway.core.envelope import Envelope
from gateway.core.policy import (
    IN_FLIGHT,
    NEW,
    Action,
    Decision,
    Examination,
    Sight,
    Sighting,
    Verdict,
    decide,
    identity_of,
    settle,
)
from gateway.core.reply import Reply
from gateway.core.report import Entry
from gateway.core.rule import Mode, Policy, Rule, policies
from gateway.core.unique_id import Sealer, UniqueId
from gateway.errors import TrackingListError
from gateway.ports import Record, TrackingList

_TOKEN_OCTETS = 8
_FIRST_POLL_S = 0.01
_SLOWEST_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class ScreeningSettings:
    """What the postmaster chose.

    Attributes:
        default: policy where no rule matches.
        rules: the first that matches wins.
        lists_distinct: whether a mailing-list copy is another message than the direct one.
        lease_s: of a claim.
        in_flight_wait_s: how long a copy waits for another one's outcome.
        defers_unchecked: tempfail instead of delivering when the list is unavailable.
        provisional_s: how long a sighting of unknown outcome may cost nobody a copy.
    """

    default: Policy = field(default_factory=Policy)
    rules: tuple[Rule, ...] = ()
    lists_distinct: bool = True
    lease_s: float = 1200.0
    in_flight_wait_s: float = 10.0
    defers_unchecked: bool = False
    provisional_s: float = 600.0


class Screening:
    """Screens messages against one tracking list."""

    def __init__(
        self,
        tracking_list: TrackingList,
        sealer: Sealer,
        settings: ScreeningSettings,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Screen by these settings.

        Args:
            tracking_list: with time-outs of its own.
            sealer: makes its digests.
            settings: the postmaster's.
            now: Unix time.
        """
        self._list = tracking_list
        self._sealer = sealer
        self._settings = settings
        self._now = now

    async def claim(
        self, examination: Examination, envelope: Envelope, fingerprint: bytes | None = None
    ) -> Screened:
        """Ask who has had this message, and claim it for those who have not.

        Args:
            examination: of the header section.
            envelope: accepted recipients.
            fingerprint: of the content, needed only if the identity derives from it.
        """
        settings = self._settings
        identity = identity_of(examination, fingerprint, lists_distinct=settings.lists_distinct)
        chosen = policies(settings.default, settings.rules, envelope)
        token, claimed_at_s = secrets.token_bytes(_TOKEN_OCTETS), self._now()
        keys: list[UniqueId | None] = [None] * len(chosen)
        if identity is not None:
            unique_ids = self._sealer.unique_ids(identity, envelope.forward_paths)
            keys = [
                None if policy.mode is Mode.BYPASS else unique_id
                for policy, unique_id in zip(chosen, unique_ids, strict=True)
            ]
        wanted = [key for key in keys if key is not None]
        sightings = await self._ask(
            wanted if len(wanted) == 1 else list(dict.fromkeys(wanted)), token
        )
        # Made at once: a new value per step costs more than the steps, message after message.
        candidates = [
            Candidate(path, policy, key, NEW if key is None else sightings.get(key))
            for path, policy, key in zip(envelope.forward_paths, chosen, keys, strict=True)
        ]
        return Screened(examination, identity, token, claimed_at_s, tuple(candidates))

    def unchecked(self, examination: Examination, envelope: Envelope) -> Screened:
        """Screen a message whose header section is beyond examination: nobody's copy is checked."""
        chosen = policies(self._settings.default, self._settings.rules, envelope)
        return Screened(
            examination,
            None,
            b"",
            self._now(),
            tuple(
                Candidate(path, policy, None, None)
                for path, policy in zip(envelope.forward_paths, chosen, strict=True)
            ),
        )

    async def resolve(self, screened: Screened, fingerprint: bytes) -> Screened:
        """Tell what can be told once the content is known.

        Waits a bounded time for copies in flight; then gives each other content under a known id a
        claim of its own, so that *its* copies are told from each other, too.
        """
        give_up_at = time.monotonic() + self._settings.in_flight_wait_s
        first = await self._landed(screened, give_up_at)
        compared = replace(
            first, candidates=tuple(self._compared(c, fingerprint) for c in first.candidates)
        )
        return await self._collisions_claimed(compared, fingerprint, give_up_at)

    def decide(self, screened: Screened) -> tuple[Decision, ...]:
        """Decide over each recipient's copy; one that must be deferred defers them all."""
        young_since_s = self._now() - self._settings.provisional_s
        form = screened.examination.message_id.form
        decisions = tuple(
            [
                decide(
                    candidate.policy,
                    form,
                    candidate.sighting,
                    is_same_content=candidate.is_same_content,
                    is_young=candidate.sighting is not None
                    and candidate.sighting.provisional_at_s > young_since_s,
                )
                for candidate in screened.candidates
            ]
        )
        if True in map(self._defers, screened.candidates, decisions):
            return tuple(Decision(decision.verdict, Action.DEFERRED) for decision in decisions)
        return decisions

    async def renew(self, screened: Screened) -> None:
        """Hold the claims for another lease, while content still flows."""
        keys = [c.key for c in screened.candidates if is_held(c) and c.key is not None]
        if keys:
            with suppress(TrackingListError):  # at worst the lease ends: a duplicate, no loss
                await self._list.claim(keys, screened.token, self._settings.lease_s)

    async def settle(  # noqa: PLR0913 - all that is known of one end
        self,
        screened: Screened,
        decisions: Sequence[Decision],
        replies: Sequence[Reply | None],
        fingerprint: bytes,
        entries: Sequence[Entry] = (),
        *,
        is_outcome_known: bool = True,
        is_retry_due: bool = False,
    ) -> None:
        """Tell the list the outcome; one that does not answer may be told later, or never.

        Args:
            screened: the message.
            decisions: per candidate, as `decide` had them.
            replies: per candidate, the downstream's last word, None if it was not asked.
            fingerprint: of the whole content.
            entries: for the journal.
            is_outcome_known: False if a reply that accepts is a hope: the sightings are provisional
                then.
            is_retry_due: whether the client was told that it failed, whoever has got a copy: then
                all of the message will come again.
        """
        remember = partial(
            record_after, screened, is_outcome_known=is_outcome_known, is_retry_due=is_retry_due
        )
        records, keys = self._settled(screened, decisions, replies, fingerprint, remember)
        # A failure is counted by the list itself; the client's reply stands.
        try:
            if records:
                with suppress(TrackingListError):
                    await self._list.confirm(records, entries)
        finally:
            # Whether or not it could hear of those: a retry for these must not wait for it. Nor may
            # a failure here hide that we were cut off there.
            if keys or (entries and not records):
                with suppress(TrackingListError):
                    await self._list.release(keys, screened.token, () if records else entries)

    def _settled(
        self,
        screened: Screened,
        decisions: Sequence[Decision],
        replies: Sequence[Reply | None],
        fingerprint: bytes,
        remember: Callable[[Candidate, UniqueId, bytes, Reply | None], Record],
    ) -> tuple[list[Record], list[UniqueId]]:
        """Return what is confirmed, and what is released."""
        records, keys = [], []
        for candidate, decision, reply in zip(screened.candidates, decisions, replies, strict=True):
            if candidate.key is None:
                continue
            is_accepted = reply is not None and reply.is_accepted
            settlement = settle(decision, is_accepted=is_accepted)
            if settlement.is_confirmed:
                sealed = self._sealer.fingerprint(candidate.key, fingerprint)
                records.append(remember(candidate, candidate.key, sealed, reply))
            elif settlement.is_released:
                keys.append(candidate.key)
        return records, keys

    async def release(self, screened: Screened | None, entries: Sequence[Entry] = ()) -> None:
        """Give up all claims of a message that did not come to its end.

        Args:
            screened: the message; None if it was not claimed yet.
            entries: for the journal.
        """
        keys: list[UniqueId] = []
        if screened is not None:
            # Where the list did not answer, a claim may stand without our knowing.
            keys = [
                c.key
                for c in screened.candidates
                if c.key is not None and (c.sighting is None or is_held(c))
            ]
        if keys or entries:
            token = b"" if screened is None else screened.token
            with suppress(TrackingListError):  # as in `settle`
                await self._list.release(keys, token, entries)

    async def _landed(self, screened: Screened, give_up_at: float) -> Screened:
        """Wait until no copy is in flight any more, or for as long as is allowed."""
        waiting = [
            c.key for c in screened.candidates if c.key is not None and c.sighting == IN_FLIGHT
        ]
        if not waiting:
            return screened
        found = await self._ask_until_landed(waiting, screened.token, give_up_at)
        return replace(
            screened,
            candidates=tuple(
                replace(c, sighting=found[c.key]) if c.key is not None and c.key in found else c
                for c in screened.candidates
            ),
        )

    async def _ask_until_landed(
        self, keys: Sequence[UniqueId], token: bytes, give_up_at: float
    ) -> dict[UniqueId, Sighting | None]:
        """Claim keys again and again until none is in flight; the last answer for each."""
        answers: dict[UniqueId, Sighting | None] = {}
        waiting = list(keys)
        pause_s = _FIRST_POLL_S
        while waiting:
            found = await self._ask(waiting, token)
            answers.update((key, found.get(key)) for key in waiting)
            waiting = [key for key in waiting if answers[key] == IN_FLIGHT]
            remaining_s = give_up_at - time.monotonic()
            if remaining_s <= 0:
                break
            if waiting:
                # Two transactions that wait for each other's recipients must not poll in step.
                await asyncio.sleep(min(pause_s * random.uniform(0.5, 1.0), remaining_s))  # noqa: S311
                pause_s = min(pause_s * 2, _SLOWEST_POLL_S)
        return answers

    async def _ask(self, keys: Sequence[UniqueId], token: bytes) -> dict[UniqueId, Sighting]:
        """Claim keys; an empty answer if the list is unavailable."""
        if not keys:
            return {}
        try:
            sightings = await self._list.claim(keys, token, self._settings.lease_s)
        except TrackingListError:
            return {}
        return dict(zip(keys, sightings, strict=True))

    def _compared(self, candidate: Candidate, fingerprint: bytes) -> Candidate:
        """Compare the content with that of a copy seen before."""
        if candidate.key is None or candidate.sighting is None:
            return candidate
        sealed = self._sealer.fingerprint(candidate.key, fingerprint)
        is_same = (
            candidate.sighting.sight is Sight.SEEN and candidate.sighting.fingerprint == sealed
        )
        return replace(candidate, is_same_content=is_same)

    async def _collisions_claimed(
        self, screened: Screened, fingerprint: bytes, give_up_at: float
    ) -> Screened:
        """Claim each collision under its own key; it may be a copy of an earlier collision."""
        moved = {
            c.key: self._sealer.collision_id(c.key, fingerprint)
            for c in screened.candidates
            if c.key is not None and is_collision(c)
        }
        if not moved:
            return screened
        found = await self._ask_until_landed(list(moved.values()), screened.token, give_up_at)
        return replace(
            screened,
            candidates=tuple(
                collided(c, moved[c.key], found[moved[c.key]])
                if c.key is not None and c.key in moved
                else c
                for c in screened.candidates
            ),
        )

    def _defers(self, candidate: Candidate, decision: Decision) -> bool:
        """Say whether one candidate's state asks for a retry of the whole transaction."""
        is_list_down = decision.verdict is Verdict.UNCHECKED and candidate.key is not None
        return decision.action is Action.DEFERRED or (
            is_list_down and self._settings.defers_unchecked
        )
