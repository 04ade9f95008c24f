"""The open-relay guard: does the downstream refuse mail from strangers to strangers?

A server that trusts our address passes on whatever comes from us. Where others than this machine
can reach our listener, mail flows only after the downstream has refused a foreign recipient to a
foreign client, handed on as real clients are (RFC 5321 section 7.9; SMTPD_ACCESS_README).

Fails with `UnreachableError` if the downstream cannot be asked; `UnprovenError` if it does not come
to the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from gateway.core.handover import Client
from gateway.core.reply import Reply, enhanced_of
from gateway.errors import LostError, UnprovenError, UnreachableError
from gateway.ports import Downstream, OpenDownstream

# RFC 5737 section 3: an address for documentation belongs to nobody, and to nobody's network. With
# a name, because servers that put off whoever has none would never come to the question.
_STRANGER = Client(
    address="192.0.2.1", port=25, name="relay-test.invalid", helo="relay-test.invalid"
)
_CLOSING = 421


class Standing(Enum):
    """What is known of the downstream."""

    UNPROVEN = "not asked yet"
    SAFE = "refuses foreign recipients to strangers"
    OPEN = "accepts foreign recipients from strangers"


@dataclass(frozen=True, slots=True)
class Proof:
    """What is known of all servers.

    Attributes:
        standing: of the downstream as a whole.
        proven: which servers are known to be safe, by their place in the configuration; any other
            is asked before its first message.
    """

    standing: Standing
    proven: tuple[int, ...] = ()


async def probe(open_downstream: OpenDownstream, recipient: str) -> Standing:
    """Ask whether a stranger may send to a foreign recipient; no content is ever sent.

    Args:
        open_downstream: as for a client's mail.
        recipient: foreign; the downstream must refuse it.

    Returns:
        `SAFE` or `OPEN`.

    Raises:
        UnprovenError: its answer was about something else.
        UnreachableError: it could not be asked.
        IdentityError: the stranger's identity could not be handed on.
    """
    downstream = await open_downstream(_STRANGER)
    try:
        said = await _answer(downstream, b"MAIL FROM:<>\r\n")
        if not said.is_accepted:
            raise UnprovenError(f"the open-relay probe was turned away: {said.text}")
        said = await _answer(downstream, b"RCPT TO:<%b>\r\n" % recipient.encode("ascii"))
    finally:
        await downstream.close(politely=True)
    if said.is_accepted:
        return Standing.OPEN
    if not _is_about_relaying(said):
        raise UnprovenError(
            f"the open-relay probe proves nothing: {said.text}; set downstream.relay_probe to an"
            " address in a foreign domain that exists"
        )
    return Standing.SAFE


def _is_about_relaying(refusal: Reply) -> bool:
    """Say whether a recipient was refused because the client may not send there.

    ``450 4.1.2 Domain not found`` is no such answer, nor is ``5.1.1``: an open relay says so of an
    address that it would pass on if it could. Postfix puts off with ``454 4.7.1 Relay access
    denied`` by default; others refuse without enhanced codes (RFC 3463 section 3.2, 3.8).
    """
    subject = enhanced_of(refusal)[2:3]
    if refusal.code == _CLOSING:
        return False
    return subject == "7" or (refusal.status_class == 5 and subject != "1")


async def probe_each(openers: Sequence[OpenDownstream], recipient: str) -> Proof:
    """Ask every server, for mail may go to any of them.

    Args:
        openers: one per server.
        recipient: as in `probe`.

    Returns:
        `OPEN` if any is; `SAFE` if all that can be asked are.

    Raises:
        UnprovenError: none answered the question, and one could be asked.
        UnreachableError: none could be asked.
        IdentityError: the stranger's identity could not be handed on.
    """
    failure = UnreachableError("no server to ask")
    standings: dict[int, Standing] = {}
    for index, open_downstream in enumerate(openers):
        try:
            standings[index] = await probe(open_downstream, recipient)
        except UnreachableError as error:
            failure = failure if isinstance(failure, UnprovenError) else error
    if not standings:
        raise failure
    whole = Standing.OPEN if Standing.OPEN in standings.values() else Standing.SAFE
    return Proof(whole, tuple(i for i, found in standings.items() if found is Standing.SAFE))


async def _answer(downstream: Downstream, command: bytes) -> Reply:
    try:
        (said,) = await downstream.exchange([command])
    except LostError as error:
        raise UnprovenError(f"the open-relay probe was cut off: {error}") from error
    return said
