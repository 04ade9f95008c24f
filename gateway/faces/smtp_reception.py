"""What the SMTP sessions of one worker share: who is let in, the settings in force, the drain.

Never fails; a client that is not let in gets a reply that says why.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.core import answer
from gateway.core.capability import Capabilities
from gateway.core.reply import Reply
from gateway.core.rule import Address, Network, is_within
from gateway.desk import Desk
from gateway.ports import Admission, Census, Journal, Meter


@dataclass(frozen=True, slots=True)
class SmtpSettings:
    """What the postmaster chose; replaced as a whole on reload.

    Attributes:
        hostname: our name.
        clients: networks that may connect; empty for anyone.
        proxy_protocol: networks whose PROXY header is required and believed.
        xforward: networks whose XFORWARD is accepted.
        tls: context for STARTTLS; None if it is not offered.
        is_tls_required: whether MAIL needs it.
        message_size_octets: most content.
        recipients: most in one transaction.
        idle_timeout_s: between two commands or blocks of content.
        errors: how many a session may make.
    """

    hostname: str
    clients: tuple[Network, ...]
    proxy_protocol: tuple[Network, ...]
    xforward: tuple[Network, ...]
    tls: ssl.SSLContext | None
    is_tls_required: bool
    message_size_octets: int
    recipients: int
    idle_timeout_s: float
    errors: int


class Guest(Protocol):
    """A session, as the reception sees it."""

    def drain(self, farewell: Reply) -> None:
        """End as soon as no transaction is open."""

    def cut(self, farewell: Reply) -> None:
        """End now."""


class Reception:
    """Lets sessions in, and out at the end.

    Attributes:
        settings: in force for what begins from now on.
        is_stopping: whether no new transaction may begin.
        refusal: what every new session is told instead of a greeting; None to let them in.
    """

    def __init__(
        self,
        settings: SmtpSettings,
        *,
        current_desk: Callable[[], Desk],
        capabilities: Callable[[], Capabilities],
        journal: Journal,
        meter: Meter,
        census: Census,
    ) -> None:
        """Open for these settings.

        Args:
            settings: may be replaced any time.
            current_desk: for each new transaction.
            capabilities: the downstream's last known ones.
            journal: where complaints go.
            meter: where sessions are counted.
            census: where they are counted over all workers.
        """
        self.settings = settings
        self.is_stopping = False
        self.refusal: Reply | None = None
        self.current_desk = current_desk
        self.capabilities = capabilities
        self.journal = journal
        self.meter = meter
        self._census = census
        self._guests: set[Guest] = set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    def admit(self, guest: Guest, address: Address | None) -> Reply | None:
        """Let a session in, or return what it is told instead."""
        settings = self.settings
        if settings.clients and address is not None and not is_within(address, settings.clients):
            return answer.NOT_ALLOWED
        if self.is_stopping:
            return answer.STOPPING
        if self.refusal is not None:
            return self.refusal
        if self._census.enter(_shown(address)) is not Admission.ADMITTED:
            return answer.TOO_MANY_SESSIONS
        self._guests.add(guest)
        self._is_empty.clear()
        return None

    def leave(self, guest: Guest, address: Address | None) -> None:
        """Let a session out; one that was never let in is none of ours."""
        if guest in self._guests:
            self._guests.remove(guest)
            self._census.leave(_shown(address))
            if not self._guests:
                self._is_empty.set()

    def stop(self) -> None:
        """Let nobody in any more, and ask those within to leave when their transaction is over."""
        self.is_stopping = True
        for guest in tuple(self._guests):
            guest.drain(answer.STOPPING)

    def cut(self) -> None:
        """Show everybody out."""
        for guest in tuple(self._guests):
            guest.cut(answer.STOPPING)

    async def emptied(self, timeout_s: float) -> bool:
        """Wait until everybody has left; False if somebody is still there after that time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._is_empty.wait()
        except TimeoutError:
            return False
        return True


def _shown(address: Address | None) -> str:
    return "" if address is None else str(address)
