"""The open-relay guard: does the downstream refuse mail from strangers to strangers?

A server that trusts our address passes on whatever comes from us. Where others than this machine
can reach our listener, mail flows only after the downstream has refused a foreign recipient to a
foreign client, handed on as real clients are (RFC 5321 section 7.9; SMTPD_ACCESS_README).

Fails with `DownstreamError` if the downstream cannot be asked.
"""

from __future__ import annotations

from enum import Enum

from gateway.core.handover import Client
from gateway.ports import OpenDownstream

# RFC 5737 section 3: an address for documentation belongs to nobody, and to nobody's network.
_STRANGER = Client(address="192.0.2.1", port=25, helo="relay-test.invalid")


class Standing(Enum):
    """What is known of the downstream."""

    UNPROVEN = "not asked yet"
    SAFE = "refuses foreign recipients to strangers"
    OPEN = "accepts foreign recipients from strangers"


async def probe(open_downstream: OpenDownstream, recipient: str) -> Standing:
    """Ask whether a stranger may send to a foreign recipient; no content is ever sent.

    Args:
        open_downstream: as for a client's mail.
        recipient: foreign; the downstream must refuse it.

    Returns:
        `SAFE` or `OPEN`.

    Raises:
        DownstreamError: it could not be asked.
    """
    downstream = await open_downstream(_STRANGER)
    is_refused = False
    try:
        (mail,) = await downstream.exchange([b"MAIL FROM:<>\r\n"])
        is_refused = not mail.is_accepted
        if not is_refused:
            (rcpt,) = await downstream.exchange([b"RCPT TO:<%b>\r\n" % recipient.encode("ascii")])
            is_refused = not rcpt.is_accepted
    finally:
        await downstream.close(politely=True)
    return Standing.SAFE if is_refused else Standing.OPEN
