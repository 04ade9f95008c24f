"""Our exceptions, in one place.

    GatewayError
      ConfigError            the configuration has problems, all of them listed
      TrackingListError      the tracking list cannot answer now; mail must flow without it
        TrackingListTimeoutError  it did not answer in time
      DownstreamError        the downstream cannot be used
        UnreachableError     no server of the list could be reached: nothing was sent
          UnprovenError        one was, and did not say whether it relays for strangers
        IdentityError        the client's identity could not be handed on: fail closed
          RelayOpenError     the downstream relays for strangers: no mail, nor do we start
        LostError            the connection broke or went silent in a transaction
      SpoolError             a suspect message cannot be held back here: the disk is full
      ClientError            the client ended or broke its side of the session
        ClientGoneError      it disconnected
        ClientSilentError    it let a time-out pass
        ContentRefusedError  it sent content that we must not pass on

An expected outcome (a downstream's 550, a sighting) is a value, not an exception. Foreign
exceptions become one of these at the edge; any other exception is a bug and is answered with
``451 4.3.0`` by the face.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class GatewayError(Exception):
    """Base of all exceptions raised on purpose by this package."""


class ConfigError(GatewayError):
    """The configuration cannot be used.

    Attributes:
        problems: one ``key.path: message`` per problem, in the order of the file.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        """Keep every problem, so that all can be reported at once."""
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class TrackingListError(GatewayError):
    """The tracking list did not answer, or not in time; the outcome of the call is unknown."""


class TrackingListTimeoutError(TrackingListError):
    """The tracking list did not answer in time."""


class DownstreamError(GatewayError):
    """The downstream cannot be used for this transaction."""


class UnreachableError(DownstreamError):
    """No downstream server accepted a session.

    Attributes:
        event: what the log calls it.
    """

    event: ClassVar[str] = "downstream_unreachable"


class UnprovenError(UnreachableError):
    """A downstream server answered, and not to the question whether it relays for strangers."""

    event = "relay_probe_unanswered"


class IdentityError(DownstreamError):
    """The downstream did not take over the client's identity; nothing may be relayed."""


class RelayOpenError(IdentityError):
    """The downstream accepts foreign recipients from strangers that come through us."""


class LostError(DownstreamError):
    """The downstream connection ended or went silent.

    Whether a message was accepted is unknown if the final dot had been sent.
    """


class SpoolError(GatewayError):
    """The temporary file of a suspect message cannot be written or read."""


class ClientError(GatewayError):
    """The client broke off or broke a rule; its transaction ends without a delivery."""


class ClientGoneError(ClientError):
    """The client disconnected."""


class ClientSilentError(ClientError):
    """The client sent nothing, or did not read, for longer than a time-out allows."""


class ContentRefusedError(ClientError):
    """The content must not be passed on.

    Attributes:
        kind: label of ``mailonce_protocol_errors_total``.
    """

    def __init__(self, kind: str) -> None:
        """Remember why; the face knows the reply to each kind."""
        super().__init__(kind)
        self.kind = kind
