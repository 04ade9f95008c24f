"""Host names of clients, as Postfix would find them: forward-confirmed, within a time-out.

A name is what the reverse look-up says if the forward look-up leads back to the address; else
``[UNAVAILABLE]``, or ``[TEMPUNAVAIL]`` if the DNS did not answer (XCLIENT_README). Answers are
kept for a while. Look-ups run in threads of their own, so that a dead resolver blocks nothing else.
Never fails.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

UNAVAILABLE = "[UNAVAILABLE]"
TEMPUNAVAIL = "[TEMPUNAVAIL]"
_TIMEOUT_S = 5.0
_KEPT_S = 300.0
_KEPT_SHORTLY_S = 20.0
_MOST_KEPT = 10_000
_THREADS = 16
# What Postfix takes for a host name; it refuses a whole XCLIENT over one that is none, and whoever
# owns an address can have its reverse look-up say anything, even the address itself.
_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,255}}\Z)(?=.*[A-Za-z_-]){_LABEL}(?:\.{_LABEL})*\.?")
_AGAIN = (socket.EAI_AGAIN, socket.EAI_SYSTEM)


class Resolver:
    """Finds names, and keeps them."""

    def __init__(self, timeout_s: float = _TIMEOUT_S) -> None:
        """Ask nobody yet.

        Args:
            timeout_s: for both look-ups together.
        """
        self._timeout_s = timeout_s
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="resolver")
        self._kept: dict[str, tuple[float, str]] = {}

    async def name_of(self, address: str) -> str:
        """Return the forward-confirmed name of an address, or why there is none."""
        if not address:
            return UNAVAILABLE
        good_until, name = self._kept.get(address, (0.0, ""))
        if time.monotonic() < good_until:
            return name
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                name = await loop.run_in_executor(self._pool, look_up, address)
        except TimeoutError:
            name = TEMPUNAVAIL
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        kept_s = _KEPT_SHORTLY_S if name == TEMPUNAVAIL else _KEPT_S
        self._kept[address] = (time.monotonic() + kept_s, name)
        return name

    def close(self) -> None:
        """Wait for no look-up any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _reverse(address: str) -> str:
    return socket.getnameinfo((address, 0), socket.NI_NAMEREQD)[0]


def _forward(name: str) -> set[str]:
    return {str(found[4][0]) for found in socket.getaddrinfo(name, None)}


def look_up(
    address: str,
    reverse: Callable[[str], str] = _reverse,
    forward: Callable[[str], set[str]] = _forward,
) -> str:
    """Look a name up, there and back; blocks.

    Args:
        address: IP address.
        reverse: returns its name; raises `socket.gaierror`.
        forward: returns the addresses of a name; raises `socket.gaierror`.
    """
    try:
        name = reverse(address)
        is_name = _HOST_NAME.fullmatch(name) is not None
        return name if is_name and address in forward(name) else UNAVAILABLE
    except socket.gaierror as error:
        return TEMPUNAVAIL if error.errno in _AGAIN else UNAVAILABLE
    except (OSError, UnicodeError):
        return UNAVAILABLE
