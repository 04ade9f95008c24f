"""Listening sockets: opened once by the supervisor, or handed over by systemd (sd_listen_fds(3)).

Workers share them, so that a restart of one refuses nobody. Fails with `ConfigError` if an address
cannot be had.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway.config.place import Endpoint
from gateway.errors import ConfigError

_BACKLOG = 1024
_FIRST_DESCRIPTOR = 3
# A supervisor that was killed leaves workers that close their sockets within milliseconds.
_PATIENCE_S = 5.0
_PAUSE_S = 0.1


def open_all(key: str, endpoints: Sequence[Endpoint]) -> list[socket.socket]:
    """Listen on each endpoint; a name may stand for several addresses.

    Args:
        key: of the configuration, for the error.
        endpoints: host and port, or path.

    Raises:
        ConfigError: one cannot be had.
    """
    opened: list[socket.socket] = []
    for endpoint in endpoints:
        try:
            if endpoint.path:
                opened.append(_open_unix(Path(endpoint.path)))
            else:
                # "[::]" means IPv4 as well, unless that is listened on by itself.
                ports = [other.port for other in endpoints if not other.path]
                opened += _open_tcp(endpoint, is_dual=ports.count(endpoint.port) == 1)
        except OSError as error:
            for listener in opened:
                listener.close()
            reason = error.strerror or str(error)
            raise ConfigError((f"{key}: cannot listen on {endpoint}: {reason}",)) from error
    return opened


def handed_over(environ: Mapping[str, str]) -> dict[str, list[socket.socket]]:
    """Return the sockets systemd has opened for us, by their ``FileDescriptorName``."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    number = int(environ.get("LISTEN_FDS", "0"))
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    named: dict[str, list[socket.socket]] = {}
    for index in range(number):
        listener = socket.socket(fileno=_FIRST_DESCRIPTOR + index)
        listener.setblocking(False)
        name = names[index] if index < len(names) else "smtp"
        named.setdefault(name if name in ("milter", "http") else "smtp", []).append(listener)
    return named


def shown(listener: socket.socket) -> str:
    """Write the address of a listening socket, as a log shows it."""
    name = listener.getsockname()
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    return f"unix:{name}"


def endpoint_of(listener: socket.socket) -> Endpoint:
    """Return where a listening socket is."""
    name = listener.getsockname()
    return Endpoint(name[0], name[1]) if isinstance(name, tuple) else Endpoint(path=str(name))


def _open_tcp(endpoint: Endpoint, *, is_dual: bool) -> list[socket.socket]:
    found = socket.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    opened = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not is_dual))
        _bound(listener, address)
        opened.append(listener)
    return opened


def _open_unix(path: Path) -> socket.socket:
    """Listen on a path; a socket that nobody serves any more is replaced.

    Raises:
        OSError: it cannot be had; `errno.EADDRINUSE` if somebody serves it.
    """
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        give_up_at = time.monotonic() + _PATIENCE_S
        while _is_served(path):
            if time.monotonic() > give_up_at:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            time.sleep(_PAUSE_S)
        path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o660)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _is_served(path: Path) -> bool:
    """Say whether somebody listens on a socket that is there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_PATIENCE_S)
        try:
            client.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True


def _bound(listener: socket.socket, address: object) -> None:
    give_up_at = time.monotonic() + _PATIENCE_S
    while True:
        try:
            listener.bind(address)  # type: ignore[arg-type]  # as getaddrinfo gave it
            listener.listen(_BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > give_up_at:
                listener.close()
                raise
            time.sleep(_PAUSE_S)
        else:
            listener.setblocking(False)
            return
