"""Accepting connections on a listening socket that several workers share.

The event loop's own server accepts all waiting connections whenever it is woken: of twenty that
came at once, one of two workers got fourteen to twenty, while the other's core was idle. A door
accepts one connection in each turn of the loop, and lets a worker with fewer sessions go first.

Never fails: a connection that is gone before it is accepted is nobody's, and without descriptors to
spare the door stays shut for a moment.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

_REST_S = 1.0
# Long enough for the other worker to wake up on a busy machine, too short to be noticed.
_COURTESY_S = 0.002


class Door:
    """Lets connections in, one at a time."""

    def __init__(
        self,
        listener: socket.socket,
        make_session: Callable[[], asyncio.Protocol],
        has_more_than_others: Callable[[], bool],
    ) -> None:
        """Stay shut until opened.

        Args:
            listener: listening, not blocking; closed with the door.
            make_session: makes the protocol of a connection.
            has_more_than_others: whether another worker has fewer sessions and should go first.
        """
        self._listener = listener
        self._make_session = make_session
        self._has_more_than_others = has_more_than_others
        self._loop = asyncio.get_running_loop()
        self._is_courteous = False
        self._resting: asyncio.TimerHandle | None = None
        self._entering: set[asyncio.Task[object]] = set()

    def open(self) -> None:
        """Let connections in from now on."""
        self._resting = None
        self._loop.add_reader(self._listener, self._let_in)

    def close(self) -> None:
        """Let nobody in any more."""
        if self._resting is not None:
            self._resting.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def _let_in(self) -> None:
        """Let one connection in, unless another worker should have it."""
        if not self._is_courteous and self._has_more_than_others():
            # Once: if the connection still waits afterwards, the other one is busy.
            self._is_courteous = True
            self._rest(_COURTESY_S)
            return
        self._is_courteous = False
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return  # another worker was faster, or the client is gone
        except OSError:
            self._rest(_REST_S)
            return
        entering: asyncio.Task[object] = self._loop.create_task(
            self._loop.connect_accepted_socket(self._make_session, connection)
        )
        self._entering.add(entering)
        entering.add_done_callback(self._entering.discard)

    def _rest(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._resting = self._loop.call_later(seconds, self.open)
