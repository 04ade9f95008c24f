"""What supervisor and worker tell each other, over a socket pair that nobody else can reach.

A message is a pickled value of this module behind its length; both ends are the same program, one
the child of the other. A worker whose supervisor is gone reads the end, and stops.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from dataclasses import dataclass
from typing import Literal

from gateway.config import Config
from gateway.guard import Proof

_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Begin:
    """To a worker: how to start.

    Attributes:
        config: in force.
        proof: what the open-relay guard knows of the downstream.
        index: of this worker.
        smtp: descriptors of listening sockets for SMTP.
        milter: likewise, for the milter.
        memory: descriptor of the shared memory.
        census_key: see `Census`.
    """

    config: Config
    proof: Proof
    index: int
    smtp: tuple[int, ...]
    milter: tuple[int, ...]
    memory: int
    census_key: bytes


@dataclass(frozen=True, slots=True)
class Reload:
    """To a worker: go on with this configuration."""

    config: Config


@dataclass(frozen=True, slots=True)
class Probed:
    """To a worker: what the open-relay guard has found, now that it has asked again."""

    proof: Proof


@dataclass(frozen=True, slots=True)
class Echo:
    """To a worker, which sends it back: all that it was told before is done by then."""


@dataclass(frozen=True, slots=True)
class Stop:
    """To a worker: finish what is under way and end."""


@dataclass(frozen=True, slots=True)
class Ready:
    """To the supervisor: sessions are let in from now on."""


Method = Literal["trail", "latest", "known", "forget"]


@dataclass(frozen=True, slots=True)
class Asked:
    """To a worker: what its own tracking list knows of the past.

    Attributes:
        number: of the question.
        method: of `History`.
        arguments: for it.
    """

    number: int
    method: Method
    arguments: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """To the supervisor: the answer to a question.

    Attributes:
        number: of the question.
        answer: what the method returned.
    """

    number: int
    answer: object


Message = Begin | Reload | Probed | Echo | Stop | Ready | Asked | Told


async def receive(reader: asyncio.StreamReader) -> Message | None:
    """Return the next message, or None once the other end is gone."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        message: Message = pickle.loads(await reader.readexactly(length))  # noqa: S301 - our own
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return message


def receive_first(channel: socket.socket) -> Message:
    """Return the first message, before there is an event loop.

    Raises:
        EOFError: the other end is gone.
    """
    (length,) = _LENGTH.unpack(_exactly(channel, _LENGTH.size))
    message: Message = pickle.loads(_exactly(channel, length))  # noqa: S301 - our own
    return message


def sent(message: Message) -> bytes:
    """Return the octets of a message."""
    octets = pickle.dumps(message)
    return _LENGTH.pack(len(octets)) + octets


def _exactly(channel: socket.socket, octets: int) -> bytes:
    """Read so many octets and not one more, for what follows is read by the event loop."""
    received = bytearray()
    while len(received) < octets:
        block = channel.recv(octets - len(received))
        if not block:
            raise EOFError("the supervisor is gone")
        received += block
    return bytes(received)
