"""The first page of the console: is all well, what went on in the last hour, what came last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.core.activity import Activity
from gateway.core.report import Entry
from gateway.faces import http_chart as chart
from gateway.faces.http_decisions import table
from gateway.faces.http_frame import (
    Frame,
    badge,
    count,
    emptiness,
    live,
    page,
    panel,
    size,
    span,
    status_banner,
    wait,
)
from gateway.faces.http_html import Content, Html, shown, tag

_LATEST = 12
_TOP = 8
_FORMS = {"valid": "valid", "malformed": "malformed", "weak": "weak", "multiple": "several ids"}
_FORMS |= {"missing": "missing"}


@dataclass(frozen=True, slots=True)
class Overview:
    """What the page shows.

    Attributes:
        activity: of the last hour.
        latest: journal entries, newest first; None if the list did not answer.
        keeps: what the journal keeps, in words.
    """

    activity: Activity
    latest: Sequence[Entry] | None
    keeps: str


def overview_page(frame: Frame, overview: Overview) -> str:
    """Return the page."""
    return page(
        frame,
        "Overview",
        tag("h1", "Overview", class_="hidden"),
        live("health", status_banner(frame), _tiles(overview.activity)),
        live("hour", _hour(overview.activity)),
        live("decisions", _decisions(frame, overview)),
        live("senders", _senders(overview)),
    )


def _tiles(activity: Activity) -> Html:
    verdicts = activity.verdicts
    messages = sum(verdicts.values())
    actions = activity.actions
    minutes = max(activity.duration_s / 60, 1.0)
    return tag(
        "section",
        _tile("Messages", count(messages), f"{messages / minutes:.1f} a minute"),
        _tile("Duplicates", count(verdicts.get("duplicate", 0)), _share(verdicts, "duplicate")),
        _tile("Collisions", count(verdicts.get("collision", 0)), _share(verdicts, "collision")),
        _tile("Unchecked", count(verdicts.get("unchecked", 0)), _share(verdicts, "unchecked")),
        _tile("Put off", count(actions.get("deferred", 0)), _share(actions, "deferred")),
        _tile(
            "Overhead",
            wait(activity.overhead.quantile(0.5)),
            f"99 %: {wait(activity.overhead.quantile(0.99))}",
        ),
        _tile(
            "Tracking list",
            wait(activity.list_wait.quantile(0.5)),
            f"99 %: {wait(activity.list_wait.quantile(0.99))}",
        ),
        _tile("Sessions", count(activity.sessions), _workers(activity.workers)),
        class_="tiles",
        aria_label="The last hour in numbers",
    )


def _tile(name: str, value: str, note: str) -> Html:
    return tag(
        "div", tag("h3", name), tag("p", value, class_="value"), tag("p", note, class_="note")
    )


def _workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number} workers"


def _share(numbers: Mapping[str, int], name: str) -> str:
    total = sum(numbers.values())
    return f"{100 * numbers.get(name, 0) / total:.1f} %" if total else "–"


def _hour(activity: Activity) -> Html:
    messages = sum(activity.verdicts.values())
    age = activity.duration_s
    note = "messages a minute, by verdict" if age >= 3_540 else f"since the start, {span(age)} ago"
    if not messages:
        legend: Content = emptiness("No message has come yet.")
    else:
        legend = tag(
            "div",
            tag("div", tag("h3", "Verdicts"), chart.verdict_shares(activity.verdicts)),
            tag(
                "div",
                tag("h3", "Message-IDs"),
                chart.shares({form: activity.forms.get(form, 0) for form in _FORMS}, "f-", _FORMS),
            ),
            tag("div", tag("h3", "What became of recipients' copies"), _outcomes(activity)),
            class_="columns",
        )
    extra = (
        f"{size(activity.content_octets)} of content, "
        f"{count(activity.protocol_errors)} protocol errors of clients"
    )
    return panel(
        "Last hour",
        chart.hour(activity.intervals),
        legend,
        tag("p", extra, class_="note"),
        note=note,
    )


def _outcomes(activity: Activity) -> Html:
    """Return the numbers of recipients' copies by verdict and action, the most frequent first."""
    numbers = sorted(
        ((labels, n) for labels, n in activity.recipients.items() if n), key=lambda item: -item[1]
    )
    rows = [
        tag(
            "tr",
            tag("td", badge(verdict)),
            tag("td", action),
            tag("td", count(number), class_="number"),
        )
        for (verdict, action), number in numbers
    ]
    return tag("table", tag("tbody", *rows), class_="small")


def _decisions(frame: Frame, overview: Overview) -> Html:
    if overview.latest is None:
        content: Content = emptiness(
            "The tracking list does not answer: its journal cannot be read."
        )
    elif overview.latest:
        content = table(frame, overview.latest[:_LATEST])
    else:
        content = emptiness(f"Nothing yet. The journal keeps {overview.keeps}.")
    more = tag("a", "All decisions", href="/decisions")
    return panel("Recent decisions", content, note=more)


def _senders(overview: Overview) -> Html:
    latest = overview.latest or ()
    columns = [
        tag("div", tag("h3", title), _top(latest, blame)) for blame, title in _BLAMED_TITLES.items()
    ]
    note = (
        f"domains of the reverse-path in the newest {count(len(latest))} decisions; "
        f"the journal keeps {overview.keeps}"
    )
    return panel("Who sends them", tag("div", *columns, class_="columns"), note=note)


_BLAMED_TITLES = {
    "collision": "Collisions: one id, several messages",
    "malformed": "Malformed or weak ids",
    "missing": "No Message-ID",
}
_FORMS_BLAMED = {"malformed": ("malformed", "weak", "multiple"), "missing": ("missing",)}


def _top(latest: Sequence[Entry], blame: str) -> Html:
    """Return the sender domains most to blame for one thing, as a list with bars."""
    forms = _FORMS_BLAMED.get(blame, ())
    # A message of many recipients is one message.
    messages = {
        (entry.at_s, entry.message_id, entry.reverse_path): entry
        for entry in latest
        if entry.form in forms or entry.verdict == blame
    }
    numbers = Counter(_domain(entry.reverse_path) for entry in messages.values())
    if not numbers:
        return emptiness("None.")
    most = numbers.most_common(_TOP)
    rows = [
        tag(
            "li",
            tag(
                "svg",
                tag("rect", x=0, y=0, width=f"{100 * number / most[0][1]:.1f}", height=4),
                viewbox="0 0 100 4",
                preserveaspectratio="none",
                aria_hidden="true",
            ),
            tag("bdi", shown(domain)),
            tag("b", count(number)),
        )
        for domain, number in most
    ]
    return tag("ol", *rows, class_="top-list")


def _domain(reverse_path: str) -> str:
    return reverse_path.rpartition("@")[2].lower() or "<> (bounces)"
