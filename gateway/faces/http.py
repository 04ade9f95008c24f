"""HTTP: metrics, health, the console and its API (all read-only but `/forget`).

    /metrics  /healthz  /readyz                    for machines
    /  /decisions  /message?message_id=            the console
    /api/decisions?limit=  /api/messages?message_id=   the same as JSON
    /forget (POST)                                 so that a wanted re-send passes

Runs beside mail, never in its way: what it shows comes from memory, or from the tracking list
within a bounded time. Handlers hold no state of their own; who may pass is `http_guard`'s business,
what pages look like that of the modules beside. A handler that fails answers 500 without details.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from urllib.parse import quote

from aiohttp import web

from gateway.core.activity import Activity
from gateway.core.readiness import Readiness, Status
from gateway.core.report import Entry, Keep
from gateway.core.story import as_json, identities_of
from gateway.core.unique_id import Sealer
from gateway.errors import TrackingListError
from gateway.faces.http_decisions import decisions_page, filter_of
from gateway.faces.http_frame import Frame
from gateway.faces.http_guard import (
    COOKIE,
    COOKIE_AGE_S,
    ICON,
    OPEN_PATHS,
    SECURITY_HEADERS,
    Access,
    Guard,
)
from gateway.faces.http_login import login_page
from gateway.faces.http_lookup import Lookup
from gateway.faces.http_message import message_page, search_page
from gateway.faces.http_overview import Overview, overview_page
from gateway.faces.http_request import form_of, octets_of, query_of, quiet
from gateway.ports import History

_MAX_BODY_OCTETS = 16 << 10
_MAX_CONNECTIONS = 200  # far more than people, probes and Prometheus have
_SILENCE_S = 75.0  # for which a connection stays open without a whole request; a scrape a minute
_NO_ANSWER = "the tracking list does not answer"
_KEEPS = {
    Keep.OFF: "nothing (journal.keep)",
    Keep.DUPLICATES: "all but what was new",
    Keep.ALL: "every decision",
}
_log = logging.getLogger(__name__)
_log.addFilter(quiet)
_ASSETS = {"console.css": "text/css", "console.js": "text/javascript"}


@dataclass(frozen=True, slots=True)
class Sources:
    """Where pages come from.

    Attributes:
        metrics: returns the metrics page and its content type for an Accept header.
        look: has readiness looked at anew.
        readiness: returns whether the gateway can work, from memory.
        activity: returns what went on in the last hour, from memory.
        history: the tracking list's past.
        sealer: of the tracking list.
    """

    metrics: Callable[[str], tuple[bytes, str]]
    look: Callable[[], Awaitable[None]]
    readiness: Callable[[], Readiness]
    activity: Callable[[], Activity]
    history: History
    sealer: Sealer


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """What the postmaster chose.

    Attributes:
        access: where we listen, and the token.
        hostname: of this gateway.
        keep: what the journal keeps.
    """

    access: Access
    hostname: str
    keep: Keep = Keep.DUPLICATES


class HttpFace:
    """The HTTP server."""

    def __init__(
        self, sources: Sources, settings: HttpSettings, now: Callable[[], float] = time.time
    ) -> None:
        """Serve nothing yet.

        Args:
            sources: of what is shown.
            settings: the postmaster's.
            now: Unix time.
        """
        self._sources = sources
        self._settings = settings
        self._now = now
        self._guard = Guard(settings.access, now)
        self._lookup = Lookup(sources.history, sources.sealer)
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None

    async def start(self, listener: socket.socket) -> None:
        """Serve on a listening socket; it belongs to this server from now on."""
        runner = web.AppRunner(
            self.application(),
            access_log=None,
            logger=_log,
            shutdown_timeout=2.0,
            keepalive_timeout=_SILENCE_S,
        )
        await runner.setup()
        self._runner = runner
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self._admitted, sock=listener)

    def reload(self, *, hostname: str, keep: Keep, sealer: Sealer) -> None:
        """Go on with what a reload may change; where we listen, and the token, stay."""
        self._settings = replace(self._settings, hostname=hostname, keep=keep)
        self._lookup = Lookup(self._sources.history, sealer)

    async def stop(self) -> None:
        """Stop serving; requests under way get two seconds."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _admitted(self) -> asyncio.BaseProtocol:
        """Return who talks to the next client; there is a limit to how many are talked to."""
        server = self._runner.server if self._runner is not None else None
        if server is None or len(server.connections) >= _MAX_CONNECTIONS:
            return _Farewell()
        return server()

    def application(self) -> web.Application:
        """Return the routes, behind the guard."""
        app = web.Application(middlewares=[self._guarded], client_max_size=_MAX_BODY_OCTETS)
        app.on_response_prepare.append(_add_headers)
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._health),
                web.get("/readyz", self._ready),
                web.get("/", self._overview),
                web.get("/decisions", self._decisions),
                web.get("/message", self._message),
                web.get("/api/decisions", self._api_decisions),
                web.get("/api/messages", self._api_messages),
                web.post("/forget", self._forget),
                web.get("/login", self._login_form),
                web.post("/login", self._login),
                web.get("/logout", self._logout),
                *[web.get(f"/{name}", _asset(name, kind)) for name, kind in _ASSETS.items()],
                web.get(ICON, _no_icon),
            ]
        )
        return app

    @web.middleware
    async def _guarded(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        return self._guard.refusal(request) or await handler(request)

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._sources.metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _ready(self, _request: web.Request) -> web.Response:
        await self._sources.look()
        found = self._sources.readiness()
        body = {"status": found.status.value, "reasons": list(found.reasons)}
        return web.json_response(body, status=503 if found.status is Status.UNREADY else 200)

    async def _overview(self, request: web.Request) -> web.Response:
        latest = await self._newest()
        overview = Overview(self._sources.activity(), latest, _KEEPS[self._settings.keep])
        return _html(overview_page(self._frame(request), overview))

    async def _decisions(self, request: web.Request) -> web.Response:
        try:
            chosen = filter_of(query_of(request))
        except ValueError as error:
            return _html(search_page(self._frame(request), f"{error}."), 400)
        return _html(decisions_page(self._frame(request), chosen, await self._newest()))

    async def _message(self, request: web.Request) -> web.Response:
        query = query_of(request)
        pasted = query.get("message_id", "").encode("latin-1")
        frame = self._frame(request, pasted)
        identities = identities_of(pasted)
        if not identities:
            text = "Paste a Message-ID, with or without its brackets, into the field above."
            return _html(search_page(frame, text), 400 if pasted else 200)
        try:
            told = await self._lookup.story(identities)
        except TrackingListError:
            return _html(search_page(frame, f"Not now: {_NO_ANSWER}."), 503)
        forgotten = query.get("forgotten", "")
        notice = ""
        if forgotten.isascii() and forgotten.isdigit():
            notice = f"Forgotten: {int(forgotten[:6])}. The next copy passes as new."
        return _html(message_page(frame, told, notice), 404 if told.is_empty else 200)

    async def _api_decisions(self, request: web.Request) -> web.Response:
        try:
            chosen = filter_of(query_of(request))
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        newest = await self._newest()
        if newest is None:
            return web.json_response({"error": _NO_ANSWER}, status=503)
        found = [asdict(entry) for entry in chosen.chosen(newest)]
        return web.json_response({"decisions": found, "looked_at": len(newest)})

    async def _api_messages(self, request: web.Request) -> web.Response:
        identities = identities_of(query_of(request).get("message_id", "").encode("latin-1"))
        if not identities:
            return web.json_response({"error": "message_id: expected a Message-ID"}, status=400)
        try:
            told = await self._lookup.story(identities)
        except TrackingListError:
            return web.json_response({"error": _NO_ANSWER}, status=503)
        return web.json_response(as_json(told), status=404 if told.is_empty else 200)

    async def _forget(self, request: web.Request) -> web.Response:
        form = await form_of(request)
        if not self._guard.may_change(request, form.get("secret", "")):
            text = "Not allowed: this needs the token, and a form of this console.\n"
            return web.Response(status=403, text=text)
        pasted = octets_of(form, "message_id")
        identities = identities_of(pasted)
        if not identities:
            return web.Response(status=400, text="message_id: expected a Message-ID\n")
        try:
            forgotten = await self._lookup.forget(identities, octets_of(form, "recipient"))
        except TrackingListError:
            return web.Response(status=503, text=f"Not now: {_NO_ANSWER}.\n")
        if "secret" not in form:
            return web.json_response({"forgotten": forgotten})
        raise web.HTTPSeeOther(f"/message?message_id={quote(pasted)}&forgotten={forgotten}")

    async def _login_form(self, request: web.Request) -> web.Response:
        if self._guard.is_known(request) or not self._guard.has_token:
            raise web.HTTPSeeOther("/")
        return _html(login_page(self._settings.hostname, has_failed=False))

    async def _login(self, request: web.Request) -> web.Response:
        cookie = self._guard.logged_in(request, (await form_of(request)).get("token", ""))
        if cookie is None:
            return _html(login_page(self._settings.hostname, has_failed=True), 403)
        answer = web.Response(status=303, headers={"Location": "/"})
        answer.set_cookie(
            COOKIE,
            cookie,
            max_age=COOKIE_AGE_S,
            httponly=True,
            samesite="Strict",
            secure=request.headers.get("X-Forwarded-Proto", request.scheme) == "https",
        )
        return answer

    async def _logout(self, _request: web.Request) -> web.Response:
        answer = web.Response(status=303, headers={"Location": "/login"})
        answer.del_cookie(COOKIE)
        return answer

    async def _newest(self) -> Sequence[Entry] | None:
        """Return the newest journal entries; None if there is no answer."""
        try:
            return await self._lookup.newest()
        except TrackingListError:
            return None

    def _frame(self, request: web.Request, pasted: bytes = b"") -> Frame:
        return Frame(
            hostname=self._settings.hostname,
            readiness=self._sources.readiness(),
            now_s=self._now(),
            path=request.path,
            form_secret=self._guard.form_secret,
            may_log_out=COOKIE in request.cookies,
            is_locked=self._guard.has_token and not self._guard.is_known(request),
            pasted=pasted.decode("latin-1"),
        )


class _Farewell(asyncio.Protocol):
    """What a client gets that is one too many: nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio`."""
        transport.close()


async def _no_icon(_request: web.Request) -> web.Response:
    """Answer browsers, all of which ask; 404 would be a fault in their console."""
    return web.Response(status=204)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "mailonce"
    if request.path not in OPEN_PATHS:
        response.headers.update(SECURITY_HEADERS)


def _html(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="text/html")


def _asset(name: str, content_type: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    text = files("gateway.faces").joinpath(name).read_text("utf-8")

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type=content_type)

    return answer
