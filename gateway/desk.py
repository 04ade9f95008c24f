"""What the transactions of a worker share: the parts they work with, and the postmaster's choices.

Made by `worker`, used by every face. Nothing happens here.
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
    """What every transaction works with; replaced as a whole when the configuration is reloaded."""

    open_downstream: OpenDownstream
    screening: Screening
    journal: Journal
    settings: RelaySettings
