"""Looking a message up in tracking list and journal, and having it forgotten.

For `trace`, `forget` and the console: from the identities that may be meant to the story of the
message. Fails with `TrackingListError` if the list does not answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.core.policy import Sighting
from gateway.core.report import Entry, as_text
from gateway.core.story import Holding, Story, story
from gateway.core.unique_id import Identity, Sealer, UniqueId
from gateway.ports import History

_TRAIL = 1000


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was removed from the tracking list.

    Attributes:
        message_id: canonical.
        holdings: that were there.
        number: how many records and claims were removed.
    """

    message_id: str
    holdings: tuple[Holding, ...]
    number: int


class Recall:
    """Looks up and forgets in one tracking list."""

    def __init__(self, history: History, sealer: Sealer) -> None:
        """Ask nothing yet.

        Args:
            history: of the list.
            sealer: with the list's secret; with another one nothing is found.
        """
        self._history = history
        self._sealer = sealer

    async def story_of(self, identities: Sequence[Identity]) -> Story:
        """Return everything known of a message.

        Args:
            identities: which may be meant, as `identities_of` returns them; at least one.
        """
        name, entries = await self._entries(identities)
        known = [item for found in await self._known(identities) for item in found]
        return story(name, entries, known)

    async def forget(self, identities: Sequence[Identity], recipient: bytes | None) -> Forgotten:
        """Remove records and claims of a message, so that its next copy passes as new.

        Args:
            identities: which may be meant, as `identities_of` returns them; at least one.
            recipient: forward-path, None for all.
        """
        name, entries = await self._entries(identities)
        doomed: list[tuple[UniqueId, Sighting]] = []
        number = 0
        for identity, known in zip(identities, await self._known(identities), strict=True):
            message = self._sealer.message(identity)
            whose = None if recipient is None else self._sealer.recipient(message, recipient)
            doomed += [item for item in known if whose in (None, item[0].recipient)]
            number += await self._history.forget(message, whose)
        return Forgotten(name, story(name, entries, doomed).holdings, number)

    async def _entries(self, identities: Sequence[Identity]) -> tuple[str, Sequence[Entry]]:
        """Return the name a message goes by in the journal, and its entries.

        Whatever its identity is, that is the Message-ID it has, or was given by us.
        """
        canonical = identities[0].value
        return as_text(canonical), await self._history.trail(canonical, _TRAIL)

    async def _known(
        self, identities: Sequence[Identity]
    ) -> Sequence[Sequence[tuple[UniqueId, Sighting]]]:
        """Return what is tracked under each identity."""
        return [await self._history.known(self._sealer.message(i)) for i in identities]
