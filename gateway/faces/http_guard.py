"""Who may see and do what over HTTP, and what browsers may do with our pages.

Bound to loopback, anybody on this machine may look; but a browser on this machine also runs other
people's pages. They must not reach us under a name of theirs (DNS rebinding: the Host header is
checked), nor make the browser send our forms (the form carries a secret, and the request must come
from our own origin). Bound elsewhere, everything but metrics and health needs the token, as
``Authorization: Bearer`` or, for a browser, as a cookie given after it was typed in once. Where
there is a token, it is needed to change anything, on loopback too.

Nothing here fails: a request is let through or answered.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import ip_address
from types import MappingProxyType
from urllib.parse import urlsplit

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

COOKIE = "mailonce"
COOKIE_AGE_S = 12 * 3_600
OPEN_PATHS = frozenset(("/metrics", "/healthz", "/readyz"))
ICON = "/favicon.ico"
_BEFORE_LOGIN = frozenset(("/login", "/console.css", "/console.js", ICON))
_MAX_HOST = 300

SECURITY_HEADERS = MappingProxyType(
    {
        "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
        "connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        "Cache-Control": "no-store",
    }
)


@dataclass(frozen=True, slots=True)
class Access:
    """Where we listen, and the token.

    Attributes:
        is_loopback: whether only this machine can reach us.
        token: ``listen.http_token``, ``""`` for none.
    """

    is_loopback: bool
    token: str = ""


class Guard:
    """Lets requests through or not."""

    def __init__(self, access: Access, now: Callable[[], float] = time.time) -> None:
        """Guard by these rules.

        Args:
            access: where we listen, and the token.
            now: Unix time.
        """
        self._access = access
        self._now = now
        # Cookies and forms end with the process, and with the token they were given for.
        key = blake2b(secrets.token_bytes(32), key=blake2b(access.token.encode()).digest())
        self._key = key.digest()
        self.form_secret = self._sealed("form")
        """What our own forms carry, and nobody else's can know."""

    def refusal(self, request: web.Request) -> web.Response | None:
        """Return the answer to a request that may not pass, else None."""
        if self._access.is_loopback and not _is_local_name(request.host):
            text = "This console answers only to the name or address of the local machine.\n"
            return web.Response(status=421, text=text)
        if request.path in OPEN_PATHS or request.path in _BEFORE_LOGIN:
            return None
        if self._access.is_loopback or self.is_known(request):
            return None
        if not self._access.token:
            text = "Set listen.http_token, or let listen.http be a loopback address.\n"
            return web.Response(status=403, text=text)
        if not _is_browser_page(request):
            headers = {"WWW-Authenticate": 'Bearer realm="mailonce"'}
            return web.json_response(
                {"error": "a bearer token is needed"}, status=401, headers=headers
            )
        return web.Response(status=303, headers={"Location": "/login"})

    def may_change(self, request: web.Request, form_secret: str) -> bool:
        """Say whether a request may change anything.

        Args:
            request: a POST.
            form_secret: as it came with the form, ``""`` if there was none.
        """
        if self._has_bearer(request):
            return True  # no page of others can make a browser send that header
        is_ours = _is_same_origin(request) and _are_equal(form_secret, self.form_secret)
        return is_ours and (not self._access.token or self.is_known(request))

    @property
    def has_token(self) -> bool:
        """Say whether there is a token to be typed in."""
        return bool(self._access.token)

    def is_known(self, request: web.Request) -> bool:
        """Say whether a request came with the token, or with the cookie given for it."""
        return self._has_bearer(request) or self._is_cookie(request.cookies.get(COOKIE, ""))

    def logged_in(self, request: web.Request, token: str) -> str | None:
        """Return the cookie for who typed in the token; None if it was not the token."""
        if not self._access.token or not _is_same_origin(request):
            return None
        if not _are_equal(token, self._access.token):
            return None
        ends_at = str(int(self._now()) + COOKIE_AGE_S)
        return f"{ends_at}.{self._sealed(ends_at)}"

    def _has_bearer(self, request: web.Request) -> bool:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        is_bearer = scheme.lower() == "bearer" and bool(self._access.token)
        return is_bearer and _are_equal(token.strip(), self._access.token)

    def _is_cookie(self, value: str) -> bool:
        ends_at, _, seal = value.partition(".")
        if not self._access.token or not _are_equal(seal, self._sealed(ends_at)):
            return False
        # No digits: the secret of our forms, which is sealed likewise and stands in every page.
        return ends_at.isdigit() and self._now() < int(ends_at)

    def _sealed(self, text: str) -> str:
        return blake2b(text.encode("utf-8", "replace"), key=self._key, digest_size=32).hexdigest()


def _are_equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def _is_local_name(host: str) -> bool:
    """Say whether a Host header names this machine as seen from itself."""
    if len(host) > _MAX_HOST:
        return False
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def _is_browser_page(request: web.Request) -> bool:
    """Say whether a person looks at the answer, who can log in; a machine is to hear what it lacks.

    RFC 9110 section 12.5.1: browsers name HTML among what they accept, and nothing else does.
    """
    is_page = request.method == "GET" and not request.path.startswith("/api/")
    accepts_html = "text/html" in request.headers.get("Accept", "")
    return is_page and accepts_html and "Authorization" not in request.headers


def _is_same_origin(request: web.Request) -> bool:
    """Say whether a page of ours made a browser send this; old browsers send neither header."""
    site = request.headers.get("Sec-Fetch-Site", "")
    if site:
        return site == "same-origin"
    origin = request.headers.get("Origin", "")
    # Scheme and host, no path (RFC 6454 section 7.1). `urlsplit` raises on a bracket.
    return not origin or origin.partition("://")[2] == request.host
