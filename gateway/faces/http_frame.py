"""The frame of every page of the console, and the small pieces that pages share.

Values in, markup out: no request, no clock, nothing that waits. All times are UTC.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from urllib.parse import quote

from gateway import __version__
from gateway.core.readiness import Readiness, Status
from gateway.faces.http_html import Content, Html, join, shown, tag

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3_600, 86_400
_STATUS_TEXT = {
    Status.READY: "Mail flows",
    Status.DEGRADED: "Mail flows, with a limitation",
    Status.UNREADY: "Mail is put off",
}
_PAGES = (("/", "Overview"), ("/decisions", "Decisions"))
WORDS = {
    "new": "new",
    "duplicate": "duplicate",
    "collision": "collision",
    "in_flight": "in flight",
    "unchecked": "unchecked",
    "bypassed": "bypassed",
    "partial": "partial",
}
"""Verdicts as they are written for people."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What every page shows around its own content.

    Attributes:
        hostname: of this gateway.
        readiness: now.
        now_s: Unix time.
        path: of the page.
        form_secret: for forms that change something.
        may_log_out: whether a cookie was given.
        is_locked: whether the token must be typed in before anything can be changed.
        pasted: what stands in the search field.
    """

    hostname: str
    readiness: Readiness
    now_s: float
    path: str = "/"
    form_secret: str = ""
    may_log_out: bool = False
    is_locked: bool = False
    pasted: str = ""


def page(frame: Frame, title: str, *content: Content) -> str:
    """Return a whole document."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="robots", content="noindex"),
        tag("title", f"{title} · mailonce"),
        tag("link", rel="stylesheet", href="/console.css"),
        tag("script", src="/console.js", defer=True),
    )
    body = tag(
        "body",
        tag("a", "Skip to content", class_="skip", href="#content"),
        _header(frame),
        tag("main", *content, id="content", tabindex="-1"),
        _footer(frame),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en")


def live(name: str, *content: Content) -> Html:
    """Return a part of a page that the browser refreshes by itself."""
    return tag("div", *content, id=name, class_="live", data_live=name)


def panel(title: str, *content: Content, note: Content = None, class_: str = "") -> Html:
    """Return a titled part of a page."""
    heading = tag("header", tag("h2", title), tag("p", note, class_="note") if note else None)
    return tag("section", heading, *content, class_=f"panel {class_}".strip())


def badge(verdict: str) -> Html:
    """Return a verdict as a coloured word."""
    known = verdict if verdict in WORDS else "other"
    return tag("span", WORDS.get(verdict, verdict), class_=f"badge v-{known}")


def moment(at_s: float, now_s: float) -> Html:
    """Return a time with how long ago it was."""
    stamp = time.gmtime(at_s)
    is_today = now_s - at_s < _DAY_S / 2
    text = time.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M", stamp)
    exact = time.strftime("%Y-%m-%dT%H:%M:%SZ", stamp)
    return tag("time", text, datetime=exact, title=f"{exact}, {ago(now_s - at_s)}")


def ago(elapsed_s: float) -> str:
    """Say how long ago something was."""
    return "just now" if elapsed_s < 1 else f"{span(elapsed_s)} ago"


def span(duration_s: float) -> str:
    """Write a duration of seconds to days in its largest unit."""
    for unit_s, unit in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "min")):
        if duration_s >= unit_s:
            return f"{duration_s / unit_s:.0f} {unit}"
    return f"{duration_s:.0f} s"


def wait(duration_s: float | None) -> str:
    """Write a short duration, measured."""
    if duration_s is None:
        return "–"
    if duration_s < 1:
        return f"{duration_s * 1000:.2g} ms" if duration_s < 0.1 else f"{duration_s * 1000:.0f} ms"
    return f"{duration_s:.1f} s"


def size(octets: float) -> str:
    """Write a number of octets."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if octets < 1024:
            return f"{octets:.0f} {unit}" if unit == "B" or octets >= 10 else f"{octets:.1f} {unit}"
        octets /= 1024
    return f"{octets:.1f} TiB"


def count(number: float) -> str:
    """Write a number with its thousands apart."""
    return f"{number:,.0f}".replace(",", "\u202f")


def message_link(message_id: str, *content: Content, class_: str = "id") -> Html:
    """Return a link to the life of a message; the octets of its id go into it as they are."""
    if not message_id:
        return tag("span", "none", class_="faint")
    text = content or (shown(message_id),)
    octets = quote(message_id.encode("latin-1", "replace"), safe="")
    whole = shown(message_id)
    return tag("a", *text, href=f"/message?message_id={octets}", class_=class_, title=whole)


def address(path: str) -> Html:
    """Return a reverse-path or forward-path; the null reverse-path is ``<>``."""
    text = shown(path) or "<>"
    return tag("bdi", text, class_="address", title=text)


def emptiness(text: str) -> Html:
    """Return what stands where there is nothing to show."""
    return tag("p", text, class_="empty")


def _header(frame: Frame) -> Html:
    status = frame.readiness.status
    links = [
        tag("a", name, href=path, aria_current="page" if path == frame.path else None)
        for path, name in _PAGES
    ]
    if frame.may_log_out:
        links.append(tag("a", "Log out", href="/logout"))
    elif frame.is_locked:
        links.append(tag("a", "Log in", href="/login"))
    search = tag(
        "form",
        tag("label", "Message-ID", for_="search", class_="hidden"),
        tag(
            "input",
            type="search",
            id="search",
            name="message_id",
            placeholder="Find a Message-ID",
            value=frame.pasted or None,
            autocomplete="off",
            spellcheck="false",
            autocapitalize="none",
            maxlength=2000,
            accesskey="/",
        ),
        tag("button", "Find", type="submit"),
        action="/message",
        role="search",
    )
    pill = live(
        "status", tag("span", tag("i", aria_hidden="true"), status, class_=f"pill s-{status}")
    )
    name = tag(
        "a", tag("b", "mailonce"), tag("span", shown(frame.hostname)), href="/", class_="brand"
    )
    return tag("header", name, pill, tag("nav", *links, aria_label="Pages"), search, class_="top")


def status_banner(frame: Frame) -> Html | None:
    """Return the reasons why not all is well, or None."""
    readiness = frame.readiness
    if not readiness.reasons:
        return None
    reasons = [tag("li", reason) for reason in readiness.reasons]
    return tag(
        "section",
        tag("h2", _STATUS_TEXT[readiness.status]),
        tag("ul", *reasons),
        class_=f"banner s-{readiness.status}",
        role="status",
    )


def _footer(frame: Frame) -> Html:
    links = join(
        tag("a", "metrics", href="/metrics"),
        " · ",
        tag("a", "readiness", href="/readyz"),
        " · ",
        tag("a", "decisions as JSON", href="/api/decisions?limit=100"),
    )
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(frame.now_s))
    return tag(
        "footer", tag("p", f"mailonce {__version__} · all times UTC · {stamp}"), tag("p", links)
    )
