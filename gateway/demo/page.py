"""What a demo prints: what became of each message, what was counted, where to look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.config.place import host_port
from gateway.demo.letter import CAROL
from gateway.demo.place import HOST, Place
from gateway.demo.post import Outcome

_WIDTH = 132
_TEXT_WIDTH = 42


def console_of_stdout() -> Console:
    """Return a console for standard output; a pipe or file has no width, so it gets one."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH)


def tell_outcomes(outcomes: Sequence[Outcome], console: Console) -> None:
    """Print a row for each message."""
    console.print(_table(outcomes))


def tell_counts(
    found: Counter[tuple[str, str]], problem: str, console: Console, *, is_right: bool
) -> None:
    """Print what ``/metrics`` counts.

    Args:
        found: messages by verdict and action.
        problem: why there is nothing, ``""`` if there is.
        console: to print on.
        is_right: whether that is what was sent.
    """
    parts = [f"{number} {verdict}, {action}" for (verdict, action), number in sorted(found.items())]
    told = problem or "; ".join(parts) or "nothing"
    console.print(_mark(is_right=is_right) + Text(f" /metrics counts: {told}\n"))


def tell_end(console: Console, *, is_right: bool) -> None:
    """Print whether everything went as expected."""
    if is_right:
        console.print(Text("All of it is as it should be.", style="green"))
    else:
        text = "Something is not as it should be: see the rows marked ✗."
        console.print(Text(text, style="bold red"))


def tell_where(place: Place, console: Console) -> None:
    """Print where to look while it serves."""
    smtp = host_port(HOST, place.smtp_port)
    web = f"http://{host_port(HOST, place.http_port)}"
    table = Table(
        box=None, show_header=False, title="\nStill serving, until Ctrl-C", title_justify="left"
    )
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, where in (
        ("SMTP", f"{smtp}   (any recipient; {CAROL} gets duplicates tagged)"),
        ("console", f"{web}/"),
        ("metrics", f"{web}/metrics"),
        ("delivered", f"{place.maildir}/new"),
        ("log", str(place.log_file)),
        ("one message", f"mailonce trace MESSAGE-ID --config {place.config_file}"),
    ):
        table.add_row(name, Text(where))
    console.print(table)


def _table(outcomes: Sequence[Outcome]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="What became of each message", title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in ("sent", "for", "expected", "reply", "verdict, action", "delivered, and added"):
        table.add_column(heading, overflow="fold")
    for outcome in outcomes:
        expected = outcome.letter.expected
        table.add_row(
            _mark(is_right=outcome.is_as_expected),
            Text(outcome.letter.title),
            Text("\n".join(_short(recipient) for recipient in outcome.letter.recipients)),
            Text(f"{expected.code}, {_copies(len(expected.delivered))}"),
            Text(_cut(f"{outcome.code} {outcome.reply}"), style="dim"),
            Text("\n".join(f"{made.verdict}, {made.action}" for _, made in outcome.decisions)),
            Text("\n".join(_told(outcome)) or "nothing"),
        )
    return table


def _told(outcome: Outcome) -> Iterator[str]:
    """Say what is in the Maildir."""
    for item in outcome.delivered:
        yield f"to {_short(item.recipient)}" + ("" if item.is_intact else ", ALTERED")
        if item.field:
            yield _cut(_abridged(item.field))


def _abridged(field: str) -> str:
    """Leave out of X-Mailonce what is the same in every row."""
    parts = field.split("; ")
    return "; ".join(part for part in parts if not part.startswith(("first-seen=", "by=")))


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT_WIDTH else f"{text[: _TEXT_WIDTH - 1]}…"


def _copies(number: int) -> str:
    return {0: "no copy", 1: "1 copy"}.get(number, f"{number} copies")


def _short(address: str) -> str:
    return address.partition("@")[0]


def _mark(*, is_right: bool) -> Text:
    return Text("✓", style="green") if is_right else Text("✗", style="bold red")
