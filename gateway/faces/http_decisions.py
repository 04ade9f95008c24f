"""Decisions of the journal as a table, with filters; which of them a filter lets through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.core.message_id import Form
from gateway.core.policy import Action, Verdict
from gateway.core.report import Entry
from gateway.faces.http_frame import (
    WORDS,
    Frame,
    address,
    badge,
    count,
    emptiness,
    live,
    message_link,
    moment,
    page,
    panel,
    size,
)
from gateway.faces.http_html import Content, Html, shown, tag

DEFAULT_LIMIT, MOST = 50, 500
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "verdict": tuple(v for v in Verdict if v is not Verdict.PARTIAL),
    "action": tuple(Action),
    "form": tuple(Form),
}
_LIMITS = (50, 100, 200, 500)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries to show; ``""`` does not restrict.

    Attributes:
        verdict: equal to.
        action: equal to.
        form: equal to.
        text: contained in an address, in the client's address or name, or in the id, in any case.
        limit: most of them.
    """

    verdict: str = ""
    action: str = ""
    form: str = ""
    text: str = ""
    limit: int = DEFAULT_LIMIT

    @property
    def is_open(self) -> bool:
        """Say whether it lets everything through."""
        return not (self.verdict or self.action or self.form or self.text)

    def chosen(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Return the first entries that pass."""
        found = []
        for entry in entries:
            if self._passes(entry):
                found.append(entry)
                if len(found) == self.limit:
                    break
        return found

    def _passes(self, entry: Entry) -> bool:
        return (
            self.verdict in ("", entry.verdict)
            and self.action in ("", entry.action)
            and self.form in ("", entry.form)
            and (not self.text or self._is_in(entry))
        )

    def _is_in(self, entry: Entry) -> bool:
        text = self.text.lower()
        places = (entry.recipient, entry.reverse_path, entry.client, entry.helo, entry.message_id)
        return any(text in place.lower() for place in places)


def filter_of(query: Mapping[str, str]) -> Filter:
    """Read a filter from a query.

    Args:
        query: names and values; those not known are ignored.

    Raises:
        ValueError: a value is none of those there are; the text says which are.
    """
    for name, choices in _CHOICES.items():
        if query.get(name, "") not in ("", *choices):
            raise ValueError(f"{name}: expected one of {', '.join(choices)}")
    limit = query.get("limit", "") or str(DEFAULT_LIMIT)
    if not (limit.isascii() and limit.isdigit() and len(limit) < 6 and 1 <= int(limit) <= MOST):
        raise ValueError(f"limit: expected a whole number from 1 to {MOST}")
    return Filter(
        query.get("verdict", ""),
        query.get("action", ""),
        query.get("form", ""),
        query.get("text", ""),
        int(limit),
    )


def decisions_page(frame: Frame, chosen: Filter, entries: Sequence[Entry] | None) -> str:
    """Return the page.

    Args:
        frame: around it.
        chosen: by the reader.
        entries: newest of the journal; None if the list did not answer.
    """
    if entries is None:
        note, content = "", emptiness("The tracking list does not answer: try again.")
    else:
        found = chosen.chosen(entries)
        note = f"{count(len(found))} of the newest {count(len(entries))}"
        content = table(frame, found) if found else emptiness("No decision fits.")
    return page(
        frame,
        "Decisions",
        tag("h1", "Decisions", class_="hidden"),
        _form(chosen),
        live("decisions", panel("Decisions", content, note=note)),
    )


def table(frame: Frame, entries: Sequence[Entry]) -> Html:
    """Return entries as a table; on a narrow screen each becomes a card."""
    names = ("Time", "Verdict", "Action", "Message-ID", "From", "To", "Client", "Size")
    head = tag("thead", tag("tr", *[tag("th", name, scope="col") for name in names]))
    rows = [
        tag(
            "tr",
            *_cells(frame, entry),
        )
        for entry in entries
    ]
    return tag("table", head, tag("tbody", *rows), class_="decisions")


def _cells(frame: Frame, entry: Entry) -> Sequence[Html]:
    copies = tag("span", f" ×{entry.copies}", class_="faint") if entry.copies > 1 else None
    client = shown(entry.client) or "local"
    cells: Sequence[tuple[str, str, Content]] = (
        ("Time", "when", moment(entry.at_s, frame.now_s)),
        ("Verdict", "verdict", tag("span", badge(entry.verdict), copies)),
        ("Action", "verdict", entry.action),
        ("Message-ID", "wide", message_link(entry.message_id)),
        ("From", "path", address(entry.reverse_path)),
        ("To", "path", address(entry.recipient)),
        ("Client", "client", tag("span", client, title=f"{client} {shown(entry.helo)}")),
        ("Size", "number", size(entry.size_octets)),
    )
    return [
        tag("td", content, data_name=name, class_=class_ or None) for name, class_, content in cells
    ]


def _form(chosen: Filter) -> Html:
    current = {"verdict": chosen.verdict, "action": chosen.action, "form": chosen.form}
    selects = [
        _select(name, name.capitalize(), choices, current[name])
        for name, choices in _CHOICES.items()
    ]
    text = tag(
        "label",
        tag("span", "Address, client or id"),
        tag(
            "input",
            type="search",
            name="text",
            value=chosen.text or None,
            placeholder="contains …",
            spellcheck="false",
            autocapitalize="none",
            maxlength=500,
        ),
        class_="grow",
    )
    limits = tag(
        "label",
        tag("span", "Rows"),
        tag("select", *[_option(str(n), str(n), str(chosen.limit)) for n in _LIMITS], name="limit"),
    )
    clear = None if chosen.is_open else tag("a", "Clear", href="/decisions", class_="button quiet")
    buttons = tag("div", tag("button", "Show", type="submit"), clear, class_="buttons")
    return tag("form", *selects, text, limits, buttons, class_="filter", aria_label="Filter")


def _select(name: str, title: str, choices: Sequence[str], current: str) -> Html:
    options = [_option("", "any", current)]
    options += [_option(choice, WORDS.get(choice, choice), current) for choice in choices]
    return tag("label", tag("span", title), tag("select", *options, name=name))


def _option(value: str, text: str, current: str) -> Html:
    return tag("option", text, value=value, selected=value == current)
