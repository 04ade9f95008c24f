"""Doctor: the mail server behind us. Is it there, does it believe us, is it safe behind us?

Each server is asked by itself, over the sessions that mail goes through. No content is ever sent.
Blocks for some seconds per server at most; never fails.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import TypeVar

from gateway import wiring
from gateway.config import Config
from gateway.config.place import Scheme, Server, is_loopback
from gateway.config.type import Tls
from gateway.core.handover import Client, HandOver
from gateway.doctor.finding import Finding, fail, ok, warn
from gateway.edge.metrics import Metrics
from gateway.errors import DownstreamError, IdentityError, UnreachableError
from gateway.guard import Standing, probe

_T = TypeVar("_T")
_PATIENCE_S = 10.0
_LITTLE_DISK_OCTETS = 1 << 30
# RFC 5737 section 3: this address belongs to nobody.
_FOREIGN = Client(address="192.0.2.1", port=25, helo="doctor.invalid")
_WANTED = ("PIPELINING", "8BITMIME", "SIZE")
_WANTED_OF_LMTP = ("PIPELINING", "8BITMIME")  # Dovecot has no SIZE
_IDENTITY_REMEDIES = {
    HandOver.XCLIENT: "name our address in its smtpd_authorized_xclient_hosts",
    HandOver.XFORWARD: "name our address in its smtpd_authorized_xforward_hosts",
    HandOver.PROXY: "set smtpd_upstream_proxy_protocol = haproxy for this service there",
    HandOver.NONE: "see its log",
}


async def check_downstream(config: Config) -> AsyncIterator[Finding]:
    """Look at each server of `downstream.servers`."""
    for server in config.downstream.servers:
        if server.scheme is Scheme.MAILDIR:
            yield _maildir(Path(server.path))
        else:
            async for finding in _server(_changed(config, servers=(server,)), server):
                yield finding


def _changed(config: Config, **changes: object) -> Config:
    downstream = config.downstream.model_copy(update=changes)
    return config.model_copy(update={"downstream": downstream})


async def _server(config: Config, server: Server) -> AsyncIterator[Finding]:
    """Look at one server, the only one of the configuration."""
    subject = str(server)
    plain = wiring.connector_of(_changed(config, tls=Tls.NEVER), Metrics())
    try:
        await _soon(plain.ask_capabilities())
    except DownstreamError as error:
        remedy = "start it, or correct downstream.servers; clients get 451 until then"
        if config.downstream.identity is HandOver.PROXY:
            # A service that does not expect the header takes it for pipelining, or waits.
            remedy += f"; if it is there: {_IDENTITY_REMEDIES[HandOver.PROXY]}"
        yield fail("downstream", subject, f"does not take sessions: {error}", remedy)
        return
    offered = plain.capabilities
    names = " ".join(name for name, _ in offered.extensions) or "nothing"
    yield ok("downstream", subject, f"takes sessions, and offers {names}")
    wanted = _WANTED if server.scheme is Scheme.SMTP else _WANTED_OF_LMTP
    if missing := [name for name in wanted if not offered.has(name)]:
        yield warn(
            "downstream.capabilities",
            subject,
            f"does not offer {' '.join(missing)}, and so we do not either",
            "see its smtpd_discard_ehlo_keywords",
        )
    yield await _tls(config, server, config.downstream.tls, is_offered=offered.has("STARTTLS"))
    yield await _identity(config, server)
    async for finding in _relay(config, server):
        yield finding


async def _tls(config: Config, server: Server, tls: Tls, *, is_offered: bool) -> Finding:
    check, subject = "downstream.tls", str(server)
    is_near = bool(server.path) or is_loopback(server.host)
    if tls is Tls.NEVER:
        if is_near or not is_offered:
            return ok(check, subject, "not used" + ("" if is_near else ", and not offered"))
        remedy = 'set downstream.tls = "required", or "opportunistic"'
        return warn(check, subject, "offered and not used: mail crosses the network openly", remedy)
    if not is_offered:
        text, remedy = "STARTTLS is not offered", "give it a certificate (smtpd_tls_cert_file)"
        return (fail if tls is Tls.REQUIRED else warn)(check, subject, text, remedy)
    verified = wiring.connector_of(_changed(config, tls=Tls.REQUIRED), Metrics())
    try:
        await _soon(verified.ask_capabilities())
    except DownstreamError as error:
        remedy = "its certificate must be for this host name, in date, and of a CA known here"
        found = fail if tls is Tls.REQUIRED else warn
        return found(check, subject, f"cannot be verified: {error}", remedy)
    return ok(check, subject, "in use, and its certificate is good")


async def _identity(config: Config, server: Server) -> Finding:
    """Say whether a server takes a foreign client's address over."""
    check, subject = "downstream.identity", str(server)
    hand_over = config.downstream.identity
    try:
        session = await _soon(wiring.connector_of(config, Metrics()).open(_FOREIGN))
        await session.close(politely=True)
    except (IdentityError, UnreachableError) as error:
        return fail(check, subject, str(error), _IDENTITY_REMEDIES[hand_over])
    except DownstreamError as error:
        return fail(check, subject, f"the session breaks: {error}", "see its log at this time")
    if server.scheme is Scheme.LMTP:
        return ok(check, subject, "takes over the client's address where it offers XCLIENT")
    if hand_over is HandOver.NONE:
        return ok(check, subject, "not handed on, as configured: it sees our address for all")
    return ok(check, subject, f"takes over the client's address by {hand_over}")


async def _relay(config: Config, server: Server) -> AsyncIterator[Finding]:
    """Say whether a server relays for strangers that come through us, and for ourselves."""
    check, subject = "downstream.relay", str(server)
    recipient = config.downstream.relay_probe
    if server.scheme is not Scheme.SMTP:
        return
    if not recipient:
        remedy = "set downstream.relay_probe to a recipient that it must refuse"
        yield warn(check, subject, "not probed: downstream.relay_probe is empty", remedy)
        return
    remedy = "take our address out of its mynetworks, and end its relay restrictions with reject"
    try:
        standing = await _soon(probe(wiring.connector_of(config, Metrics()).open, recipient))
        if standing is Standing.SAFE:
            yield ok(check, subject, f"refuses {recipient} from a stranger")
        elif wiring.needs_relay_probe(config):
            text = f"an open relay behind us: it accepts {recipient} from a stranger"
            yield fail(check, subject, text, remedy)
        else:
            text = f"accepts {recipient} from whoever connects to us: from this machine only"
            yield warn(check, subject, text, "keep listen.smtp local, or " + remedy)
        if config.downstream.identity is HandOver.XCLIENT:
            yield await _trust(config, server, recipient)
    except DownstreamError as error:
        yield fail(check, subject, f"cannot be probed: {error}", "see its log at this time")


async def _trust(config: Config, server: Server, recipient: str) -> Finding:
    """Say whether a server would relay for our own address, without any identity handed on."""
    check, subject = "downstream.trust", str(server)
    bare = wiring.connector_of(_changed(config, identity=HandOver.NONE), Metrics())
    if await _soon(probe(bare.open, recipient)) is Standing.SAFE:
        return ok(check, subject, "does not relay for our own address either")
    return warn(
        check,
        subject,
        f"relays for our own address: {recipient} is accepted without an identity",
        "set mynetworks = (nothing) for the service behind us; then no fault of ours can open it",
    )


def _maildir(path: Path) -> Finding:
    check, subject = "downstream", f"maildir://{path}"
    near = path
    while not near.exists():
        near = near.parent
    if not near.is_dir() or not os.access(near, os.W_OK | os.X_OK):
        return fail(check, subject, f"{near} is not writable", "give it to the gateway's user")
    free = shutil.disk_usage(near).free
    if free < _LITTLE_DISK_OCTETS:
        return warn(check, subject, f"{free >> 20} MiB are free", "make room")
    return ok(check, subject, f"writable, {free >> 30} GiB free; for trying things out")


async def _soon(work: Awaitable[_T]) -> _T:
    """Wait for a server, but not as long as for mail.

    Raises:
        UnreachableError: it takes too long.
    """
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await work
    except TimeoutError as error:
        raise UnreachableError(f"no answer within {_PATIENCE_S:.0f} s") from error
