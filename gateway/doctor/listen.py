"""Doctor: the addresses we listen on. Free, or ours already?

An address is tried by binding it and letting go at once. One that is taken is asked who answers
there. Blocks for a few seconds at most; never fails.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from gateway.config import Config
from gateway.config.place import Endpoint
from gateway.core import answer
from gateway.core.handover import PROXY_LOCAL_HEADER
from gateway.core.rule import address_of, is_within
from gateway.doctor.finding import Finding, fail, ok, warn

_ANSWER_S = 3.0
# Before it says how it is, the gateway looks at list and downstream: see `Lookout`.
_LOOK_S = 15.0
# What we say instead of a greeting.
_REFUSALS = (
    answer.NOT_ALLOWED,
    answer.NOT_PROVEN,
    answer.TOO_MANY_SESSIONS,
    answer.STOPPING,
)
# One packet of the milter protocol: SMFIC_OPTNEG with version 6 and what a mail server can do.
_MILTER_HELLO = struct.pack("!IcIII", 13, b"O", 6, 0x1FF, 0x1FFFFF)
# No proxy that the shell names is asked for what is on this machine.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def check_listeners(config: Config) -> Iterator[Finding]:
    """Look at each address of `[listen]`."""
    for endpoint in config.listen.smtp:
        yield _checked(config, "listen.smtp", endpoint)
    for endpoint in config.listen.milter:
        yield _checked(config, "listen.milter", endpoint)
    if config.listen.http is not None:
        yield _checked(config, "listen.http", config.listen.http)
        yield from _readiness(config.listen.http)


def _checked(config: Config, check: str, endpoint: Endpoint) -> Finding:
    """Look at one address; ``check`` is its key."""
    subject = str(endpoint)
    try:
        _bind(endpoint)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return _unusable(check, subject, error)
        told = _answer_at(config, check, endpoint)
        if any(text in told for text in _ours(config, check)):
            return ok(check, subject, "mailonce answers here already")
        if check == "listen.milter" and not told and config.listen.clients:
            return ok(check, subject, "taken; whether by us cannot be asked (listen.clients)")
        who = f"and answers {told[:60]!r}" if told else "and says nothing"
        remedy = "stop the program that has it (`ss -ltnp` names it), or choose another address"
        return fail(check, subject, f"taken by something else, {who}", remedy)
    return ok(check, subject, "free")


def _ours(config: Config, check: str) -> Sequence[str]:
    """Return what we say at an address: any of these."""
    match check:
        case "listen.http":
            return ("alive",)
        case "listen.milter":
            return ("O",)
        case _:
            refusals = [refusal.text for refusal in _REFUSALS]
            return (f"{config.own_hostname} ESMTP mailonce", *refusals)


def _unusable(check: str, subject: str, error: OSError) -> Finding:
    remedies = {
        errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE, or a socket unit of systemd; "
        "for a unix socket its folder must be ours",
        errno.EADDRNOTAVAIL: "no interface of this machine has this address: correct it",
        errno.ENOENT: "make the folder of the unix socket",
    }
    remedy = remedies.get(error.errno or 0, "choose an address of this machine")
    return fail(check, subject, f"cannot be listened on: {error.strerror or error}", remedy)


def _bind(endpoint: Endpoint) -> None:
    """Have an address for a moment.

    Raises:
        OSError: it cannot be had; `errno.EADDRINUSE` if somebody has it.
    """
    if endpoint.path:
        _try_folder(Path(endpoint.path))
        return
    found = socket.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    for family, kind, protocol, _, address in dict.fromkeys(found):
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)


def _try_folder(path: Path) -> None:
    """See whether a unix socket could be made here.

    Raises:
        OSError: it could not; `errno.EADDRINUSE` if somebody serves it.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "its folder does not exist")
    if path.exists():
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_ANSWER_S)
            with suppress(ConnectionRefusedError):
                client.connect(str(path))
                raise OSError(errno.EADDRINUSE, "in use")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "its folder is not writable")


def _answer_at(config: Config, check: str, endpoint: Endpoint) -> str:
    """Return what whoever listens at an address says, ``""`` if nothing."""
    try:
        with _connected(endpoint) as client:
            client.settimeout(_ANSWER_S)
            match check:
                case "listen.http":
                    client.sendall(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
                    return _all_of(client)
                case "listen.milter":
                    client.sendall(_MILTER_HELLO)
                    return client.recv(5)[4:].decode("latin-1")
                case _:
                    if _is_proxy(client, config):
                        client.sendall(PROXY_LOCAL_HEADER)
                    return client.recv(512).decode("latin-1").strip()
    except OSError:
        return ""


def _is_proxy(client: socket.socket, config: Config) -> bool:
    """Say whether a connection of ours must begin with a PROXY header."""
    name = client.getsockname()
    address = address_of(name[0]) if isinstance(name, tuple) else None
    return is_within(address, config.listen.proxy_protocol)


def _all_of(client: socket.socket) -> str:
    told = b""
    while len(told) < 4096 and (octets := client.recv(4096)):
        told += octets
    return told.decode("latin-1").strip()


def _connected(endpoint: Endpoint) -> socket.socket:
    if endpoint.path:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(_ANSWER_S)
        client.connect(endpoint.path)
        return client
    return socket.create_connection((_near(endpoint.host), endpoint.port), timeout=_ANSWER_S)


def _near(host: str) -> str:
    """Return where a listener on all addresses can be reached from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def _readiness(endpoint: Endpoint) -> Iterator[Finding]:
    """Say how the gateway is, if it runs and can be asked."""
    if endpoint.path:
        return
    match _told(f"http://{Endpoint(_near(endpoint.host), endpoint.port)}/readyz"):
        case {"status": "ready"}:
            yield ok("running", "", "the gateway says that it is ready")
        case {"status": "degraded" | "unready" as status, "reasons": [*reasons]}:
            found = warn if status == "degraded" else fail
            text = f"the gateway says that it is {status}: {' '.join(map(str, reasons))}"
            yield found("running", "", text, "see the other lines, and its log")
        case _:
            pass  # it does not run, or it is somebody else: said already


def _told(url: str) -> object:
    """Return the JSON at a URL, whatever the status; None if there is none."""
    try:
        try:
            page = _DIRECT.open(url, timeout=_LOOK_S)
        except urllib.error.HTTPError as error:
            page = error
        with page:
            return json.loads(page.read())
    except (OSError, ValueError, http.client.HTTPException):
        return None
