"""Doctor: the certificate for STARTTLS. In date, for our name, with its key, of a known CA?

A handshake with ourselves, in memory, shows what a client would see. Never fails.
"""

from __future__ import annotations

import ssl
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway import wiring
from gateway.config import Config
from gateway.doctor.finding import Finding, fail, ok, warn
from gateway.errors import ConfigError

_SOON_S = 14 * 86_400
_CHECK = "tls.certificate"


def check_tls(config: Config) -> Iterator[Finding]:
    """Look at `[tls]`."""
    certificate, key = config.tls.certificate, config.tls.key
    if certificate is None or key is None:
        yield ok(_CHECK, "", "none: STARTTLS is not offered to clients")
        return
    subject = str(certificate)
    try:
        server = wiring.server_tls_of(config)
    except ConfigError as error:
        remedy = "both must be PEM, readable by the gateway's user, and belong together"
        yield fail(_CHECK, subject, error.problems[0].partition(": ")[2], remedy)
        return
    if server is not None:
        yield _validity(server, certificate)
        yield _name(server, certificate, config.own_hostname)
        yield _authority(server, subject)
    yield from _key_file(key)


def _validity(server: ssl.SSLContext, certificate: Path) -> Finding:
    subject, remedy = str(certificate), "renew it; it is read again on SIGHUP and on change"
    try:
        shown = _handshake(server, _trusting(certificate), "")
    except ssl.SSLError as error:
        return fail(_CHECK, subject, f"clients cannot accept it: {_reason(error)}", remedy)
    ends_at_s = ssl.cert_time_to_seconds(str(shown["notAfter"]))
    left_s = ends_at_s - time.time()
    text = f"belongs to its key, and is good for {left_s / 86_400:.0f} days"
    if left_s < _SOON_S:
        return warn(_CHECK, subject, text, remedy)
    return ok(_CHECK, subject, text)


def _name(server: ssl.SSLContext, certificate: Path, hostname: str) -> Finding:
    subject = str(certificate)
    trusting = _trusting(certificate)
    trusting.check_hostname = True
    try:
        _handshake(server, trusting, hostname)
    except ssl.SSLError as error:
        remedy = "have it issued for our hostname, or set hostname to a name it is for"
        return warn("tls.name", subject, _reason(error), remedy)
    return ok("tls.name", subject, f"is for {hostname}")


def _authority(server: ssl.SSLContext, subject: str) -> Finding:
    common = ssl.create_default_context()
    common.check_hostname = False
    try:
        _handshake(server, common, "")
    except ssl.SSLError as error:
        remedy = "put the whole chain into the file; of a private CA, clients must know it"
        return warn("tls.authority", subject, f"not known here: {_reason(error)}", remedy)
    return ok("tls.authority", subject, "is of a CA that this machine knows")


def _key_file(key: Path) -> Iterator[Finding]:
    try:
        mode = key.stat().st_mode
    except OSError:
        return
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        remedy = f"chmod o= {key}"
        yield warn("tls.key", str(key), "everybody on this machine may read the key", remedy)


def _trusting(certificate: Path) -> ssl.SSLContext:
    """Return a client that trusts this very certificate, whoever has signed it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(certificate)
    return context


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> dict[str, Any]:
    """Shake hands in memory, and return what the client is shown.

    Raises:
        ssl.SSLError: the client does not accept the server.
    """
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=name or None)
    while True:
        waiting = 0
        for side in (theirs, ours):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                waiting += 1
        if not waiting:
            return dict(theirs.getpeercert() or {})


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return error.reason or str(error)
