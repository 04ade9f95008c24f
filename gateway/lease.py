"""The lease of a message's claims, renewed while its content flows.

A transaction must not outlive its lease: somebody else may be given the claims then, and deliver a
copy at the same moment. Fails with `ClientSilentError` if content stopped flowing for as long as
that; a tracking list that does not renew is no failure (see `screening`).
"""

from __future__ import annotations

import time

from gateway.candidate import Screened
from gateway.core.policy import NEW
from gateway.errors import ClientSilentError
from gateway.screening import Screening

_RENEWALS = 4


class Lease:
    """Renews the claims of one message when a quarter of their lease is over.

    What is left when the dot goes out must be longer than the wait for the final reply.
    """

    __slots__ = ("_quarter_s", "_renew_at", "_screening")

    def __init__(self, screening: Screening, lease_s: float, begun_s: float) -> None:
        """Begin with the message.

        Args:
            screening: that claims and renews.
            lease_s: of a claim.
            begun_s: monotonic time.
        """
        self._screening = screening
        self._quarter_s = lease_s / _RENEWALS
        self._renew_at = begun_s + self._quarter_s

    async def keep(self, screened: Screened | None, *, is_content_flowing: bool) -> None:
        """Renew the claims if it is time to; called after each block of content.

        Args:
            screened: the message; None if nothing is claimed yet.
            is_content_flowing: whether the block came from the client just now.

        Raises:
            ClientSilentError: content should flow and did not until the lease was over.
        """
        now = time.monotonic()
        if now <= self._renew_at or screened is None:
            return
        is_over = now > self._renew_at + (_RENEWALS - 1) * self._quarter_s
        has_claims = any(c.sighting == NEW and c.key is not None for c in screened.candidates)
        if is_over and is_content_flowing and has_claims:
            raise ClientSilentError("silent for longer than the lease")
        self._renew_at = now + self._quarter_s
        await self._screening.renew(screened)
