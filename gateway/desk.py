"""The `Desk`: what every transaction of a worker works with, replaced as a whole on reload.

Made by `worker`, used by `relay` and the milter. Values only: nothing happens here, and nothing
fails.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.edition import EditionSettings
from gateway.core.report import Keep
from gateway.ports import Journal, OpenDownstream
from gateway.screening import Screening


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """What the postmaster chose.

    Attributes:
        edition: what may be prepended.
        header_size_octets: longest header section that is examined.
        hops: most Received fields.
        lease_s: of a claim; it is renewed while content flows.
        keep: which decisions the journal keeps.
    """

    edition: EditionSettings
    header_size_octets: int
    hops: int
    lease_s: float
    keep: Keep


@dataclass(frozen=True, slots=True)
class Desk:
    """What every transaction works with.

    A transaction keeps the desk it began with; so a reload never changes one that is under way.

    Attributes:
        open_downstream: opens a session in a client's name.
        screening: asks the tracking list, and decides.
        journal: where decisions and complaints go.
        settings: what the postmaster chose.
    """

    open_downstream: OpenDownstream
    screening: Screening
    journal: Journal
    settings: RelaySettings
