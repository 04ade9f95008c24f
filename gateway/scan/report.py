"""What `scan` has found, as values, as JSON and for people.

The names in the JSON are an interface; they are told in docs/operations.md. Nothing here reads or
counts; texts that a sender chose are printed as printable ASCII alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.core.message_id import Form
from gateway.core.policy import Action, Verdict
from gateway.core.rule import Match
from gateway.scan.ledger import Example, Ledger

_LISTED = 100
_SHOWN = 10
_TROUBLE = ("duplicate", "collision", *(form for form in Form if form is not Form.VALID))
_FOR_PEOPLE = {
    Match.CONTENT: 'match = "content"',
    Match.MESSAGE_ID: 'match = "message-id"',
}
_WIDTH = 120


@dataclass(frozen=True, slots=True)
class Named:
    """What a sender or a domain has sent.

    Attributes:
        name: address or domain, ``""`` for messages without one.
        numbers: of messages (domains alone), by form, of duplicates and collisions.
    """

    name: str
    numbers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Choice:
    """What would become of the messages with ``action = "drop"`` and one ``match``.

    Attributes:
        dropped: duplicates that would not be delivered again.
        tagged: delivered with a field: collisions, and duplicates by a poor id.
        relayed: delivered as they are.
        unchecked: with a header section that is too long.
        other_content: of the dropped, those whose content was not that of the first.
    """

    dropped: int
    tagged: int
    relayed: int
    unchecked: int
    other_content: int


@dataclass(frozen=True, slots=True)
class Report:
    """All of it.

    Attributes:
        files: read.
        skipped: files in folders that do not look like mail.
        unreadable: files that could not be read.
        messages: in the files.
        octets: of them.
        duplicates: same id, same content, same recipient.
        collisions: same id, other content.
        untracked: without an id and a date, or with too long a header section.
        forms: messages by the form of their Message-ID.
        choices: by ``match``.
        domains: that stand out, most troublesome first.
        senders: likewise.
        examples: of duplicates and collisions.
        elapsed_s: seconds.
    """

    files: int
    skipped: int
    unreadable: int
    messages: int
    octets: int
    duplicates: int
    collisions: int
    untracked: int
    forms: Mapping[str, int]
    choices: Mapping[str, Choice]
    domains: Sequence[Named]
    senders: Sequence[Named]
    examples: Sequence[Example]
    elapsed_s: float


def report_of(
    ledger: Ledger, *, files: int, skipped: int, unreadable: int, elapsed_s: float
) -> Report:
    """Draw the sum."""
    counts = ledger.counts
    by_verdict = {
        verdict: sum(
            number
            for (match, found, _), number in ledger.decisions.items()
            if match is Match.CONTENT and found is verdict
        )
        for verdict in Verdict
    }
    return Report(
        files=files,
        skipped=skipped,
        unreadable=unreadable,
        messages=counts["messages"],
        octets=counts["octets"],
        duplicates=by_verdict[Verdict.DUPLICATE],
        collisions=by_verdict[Verdict.COLLISION],
        untracked=counts["untracked"],
        forms={str(form): counts[form] for form in Form},
        choices={str(match): _choice(ledger, match) for match in Match},
        domains=_named(ledger, "domain"),
        senders=_named(ledger, "sender"),
        examples=(*ledger.examples["collision"], *ledger.examples["duplicate"]),
        elapsed_s=round(elapsed_s, 3),
    )


def as_json(report: Report) -> str:
    """Return the report as JSON."""
    return json.dumps(asdict(report), indent=2)


def tell(report: Report, console: Console | None = None) -> None:
    """Print the report for people."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console = Console(file=console.file, highlight=False, width=_WIDTH)
    for line in _head(report):
        console.print(line)
    if report.messages:
        console.print(_forms(report))
        console.print(_choices(report))
        if report.domains:
            console.print(_names("Domains that stand out", "domain", report.domains))
        if report.senders:
            console.print(_names("Senders to blame", "sender", report.senders))
        for title, verdict in (("Collisions", "collision"), ("Exact duplicates", "duplicate")):
            examples = [each for each in report.examples if each.verdict == verdict]
            if examples:
                console.print(_examples(f"{title}, the first of them", examples))


def _choice(ledger: Ledger, match: Match) -> Choice:
    found = {
        (verdict, action): number
        for (its_match, verdict, action), number in ledger.decisions.items()
        if its_match is match
    }

    def number(action: Action) -> int:
        return sum(
            count
            for (verdict, its_action), count in found.items()
            if its_action is action and verdict is not Verdict.UNCHECKED
        )

    unchecked = sum(count for (verdict, _), count in found.items() if verdict is Verdict.UNCHECKED)
    return Choice(
        dropped=number(Action.DROPPED),
        tagged=number(Action.TAGGED),
        relayed=number(Action.RELAYED),
        unchecked=unchecked,
        other_content=ledger.lost[match],
    )


def _named(ledger: Ledger, kind: str) -> Sequence[Named]:
    return [Named(name, ledger.of(kind, name)) for name in ledger.top(kind, _TROUBLE, _LISTED)]


def _head(report: Report) -> Iterator[Text]:
    mebibytes = report.octets / (1 << 20)
    yield Text(
        f"{report.messages} messages, {mebibytes:.1f} MiB, in {report.files} files, read in"
        f" {report.elapsed_s:.1f} s",
        style="bold",
    )
    if report.skipped:
        yield Text(f"passed over, since they do not look like mail: {report.skipped}", "dim")
    if report.unreadable:
        yield Text(f"could not be read: {report.unreadable}", "red")
    if report.messages:
        yield Text(
            f"{report.duplicates} exact duplicates ({_share(report.duplicates, report)}), "
            f"{report.collisions} collisions ({_share(report.collisions, report)}), "
            f"{report.untracked} with nothing to tell copies by"
        )


def _share(number: int, report: Report) -> str:
    return f"{100 * number / report.messages:.2f} %"


def _forms(report: Report) -> Table:
    table = _table("Message-IDs by form", "form", "messages", "share")
    for form, number in report.forms.items():
        table.add_row(form, str(number), _share(number, report))
    return table


def _choices(report: Report) -> Table:
    headings = ("", "dropped", "of other content", "tagged", "relayed", "unchecked")
    table = _table('What the gateway would do, with action = "drop"', *headings)
    for match, text in _FOR_PEOPLE.items():
        choice = report.choices[match]
        lost = Text(str(choice.other_content), style="bold red" if choice.other_content else "")
        table.add_row(
            text,
            str(choice.dropped),
            lost,
            str(choice.tagged),
            str(choice.relayed),
            str(choice.unchecked),
        )
    return table


def _names(title: str, kind: str, named: Sequence[Named]) -> Table:
    is_domain = kind == "domain"
    whats = ("messages", *_TROUBLE) if is_domain else _TROUBLE
    table = _table(title, kind, *(what.replace("_", " ") for what in whats))
    for each in named[:_SHOWN]:
        numbers = [str(each.numbers.get(what) or "·") for what in whats]
        table.add_row(Text(_shown(each.name) or "(none)"), *numbers)
    if len(named) > _SHOWN:
        table.caption = "more of them: --json"
    return table


def _examples(title: str, examples: Sequence[Example]) -> Table:
    table = Table(
        "Message-ID", "sender", "where", "first", title=title, title_justify="left", box=box.SIMPLE
    )
    for column in table.columns:
        column.overflow = "fold"
    for each in examples[:_SHOWN]:
        cells = (each.message_id or "(none)", each.sender, each.place, each.first_place)
        table.add_row(*(Text(_shown(cell)) for cell in cells))
    return table


def _table(title: str, name: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column(name, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _shown(text: str) -> str:
    """Write what is no printable ASCII as an escape: a sender chose it."""
    if text.isascii() and text.isprintable():
        return text
    return text.encode("unicode_escape", "backslashreplace").decode("ascii")
