"""``mailonce trace`` and ``mailonce forget``: the life of a message, and its end in the list.

Both ask the tracking list and the journal of a configuration, beside a gateway that may be running,
and change nothing but what `forget` is asked to. All times are UTC; nothing that a client sent gets
to the terminal but printable ASCII. Fails with `TrackingListError` if the list cannot be asked.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from gateway import wiring
from gateway.config import Config
from gateway.config.place import StoreScheme
from gateway.core.policy import Sight
from gateway.core.report import Entry
from gateway.core.story import (
    Copy,
    Holding,
    Origin,
    Story,
    as_json,
    explanation,
    holding_json,
    identities_of,
)
from gateway.core.unique_id import Identity
from gateway.errors import TrackingListError
from gateway.recall import Forgotten, Recall

_T = TypeVar("_T")
# Nobody's mail waits for these questions, and the first one makes a connection.
_PATIENCE_S = 5.0
_SHOWN_RECIPIENTS = 10
_STYLES = {
    "new": "green",
    "duplicate": "yellow",
    "collision": "magenta",
    "in_flight": "cyan",
    "unchecked": "red",
}


def trace(config: Config, message_id: bytes) -> Story:
    """Return everything known of a message.

    Args:
        config: whose tracking list and secret.
        message_id: with or without brackets.

    Raises:
        ValueError: this is no Message-ID.
        TrackingListError: the list cannot be asked.
    """
    identities = _identities(message_id)
    return _asked(config, lambda recall: recall.story_of(identities))


def forget(config: Config, message_id: bytes, recipient: bytes | None) -> Forgotten:
    """Remove a message from the tracking list.

    Args:
        config: whose tracking list and secret.
        message_id: with or without brackets.
        recipient: with or without brackets; None for all.

    Raises:
        ValueError: this is no Message-ID, or no recipient.
        TrackingListError: the list cannot be asked.
    """
    identities = _identities(message_id)
    if recipient is not None:
        recipient = recipient.strip().removeprefix(b"<").removesuffix(b">")
        if not recipient:
            # A variable of a script that is not set: neither nobody nor everybody is meant.
            raise ValueError("--recipient: '' is none")
    return _asked(config, lambda recall: recall.forget(identities, recipient))


def absence(config: Config) -> str | None:
    """Return why there is no tracking list yet, so that nothing can be known of any message.

    Raises:
        TrackingListError: this user may not look for it.
    """
    url = config.store.url
    if url.scheme is not StoreScheme.SQLITE:
        return None
    try:
        Path(url.path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return f"{url.path} does not exist; has the gateway run yet?"
    except OSError as error:
        raise TrackingListError(f"{url.path}: {error.strerror or error}") from error
    return None


def tell(story: Story, console: Console | None = None) -> None:
    """Print a story for people."""
    console = console or Console(highlight=False)
    for line in _lines(story):
        console.print(line, soft_wrap=True)


def tell_forgotten(forgotten: Forgotten, console: Console | None = None) -> None:
    """Print for people what was forgotten."""
    console = console or Console(highlight=False)
    if not forgotten.number:
        console.print(Text(f"Nothing was there of <{_shown(forgotten.message_id)}>."))
        return
    console.print(Text(f"<{_shown(forgotten.message_id)}>", style="bold"), soft_wrap=True)
    for holding in forgotten.holdings:
        console.print(Text(f"  forgotten: {_held(holding)}"), soft_wrap=True)
    number = "1 record" if forgotten.number == 1 else f"{forgotten.number} records"
    console.print(f"{number} removed; the next copy passes as new.")


def story_json(story: Story) -> str:
    """Return a story as JSON: see docs/operations.md."""
    return json.dumps(as_json(story), indent=2)


def forgotten_json(forgotten: Forgotten) -> str:
    """Return what was forgotten as JSON: see docs/operations.md."""
    return json.dumps(
        {
            "message_id": forgotten.message_id,
            "removed": forgotten.number,
            "forgotten": [holding_json(holding) for holding in forgotten.holdings],
        },
        indent=2,
    )


def _identities(message_id: bytes) -> Sequence[Identity]:
    if not (found := identities_of(message_id)):
        raise ValueError(f"MESSAGE-ID: {_shown(message_id.decode('latin-1'))!r} is none")
    return found


def _asked(config: Config, ask: Callable[[Recall], Awaitable[_T]]) -> _T:
    """Ask the tracking list of a configuration one thing."""
    if config.store.url.scheme is StoreScheme.MEMORY:
        raise TrackingListError("memory:// is known to the gateway's own process alone")
    # Asking must not make the file: it would belong to whoever asks.
    is_absent = absence(config) is not None
    patient = config.store.model_copy(update={"timeout": max(config.store.timeout, _PATIENCE_S)})

    async def run() -> _T:
        store = (
            wiring.empty_store()
            if is_absent
            else wiring.store_of(config.model_copy(update={"store": patient}))
        )
        try:
            return await ask(Recall(store, wiring.sealer_of(config)))
        finally:
            await store.close()

    return asyncio.run(run())


def _lines(story: Story) -> Iterator[Text]:
    yield Text(f"<{_shown(story.message_id)}>", style="bold")
    if story.is_empty:
        yield Text("Nothing is known of this message. It never came, or its window is over; or it")
        yield Text("came once, was new, and the journal does not keep those (journal.keep).")
        return
    yield Text(_summary(story), style="dim")
    events = [(float(origin.at_s), list(_origin(origin))) for origin in story.origins]
    events += [(copy.head.at_s, list(_copy(copy))) for copy in story.copies]
    begun_s = min((at_s for at_s, _ in events), default=0.0)
    for at_s, (title, *details) in sorted(events, key=lambda event: event[0]):
        later_s = at_s - begun_s
        after = f"  (+{_span(later_s)})" if later_s >= 0.05 else ""
        yield Text("")
        yield Text.assemble((_moment(at_s), "bold"), "  ", title, (after, "dim"))
        yield from details
    yield from _memory(story)


def _summary(story: Story) -> str:
    recipients = {entry.recipient for copy in story.copies for entry in copy.entries}
    if not story.copies:
        return "Accepted before; the journal holds no decision about it."
    number = len(story.copies) + len(story.origins)
    copies = "1 copy" if number == 1 else f"{number} copies"
    people = "1 recipient" if len(recipients) == 1 else f"{len(recipients)} recipients"
    return f"{copies} for {people}; times are UTC."


def _origin(origin: Origin) -> Iterator[Text]:
    people = ", ".join(map(_shown, origin.recipients[:_SHOWN_RECIPIENTS]))
    yield Text(f"first copy, for {people}")
    where = f"Queue id downstream: {_shown(origin.queue_id)}. " if origin.queue_id else ""
    yield Text(f"    {where}Known from later copies; the journal does not hold it.", style="dim")


def _copy(copy: Copy) -> Iterator[Text]:
    head = copy.head
    client = _shown(head.client) or "a unix socket"
    helo = f" ({_shown(head.helo)})" if head.helo else ""
    yield Text(f"from <{_shown(head.reverse_path)}>, client {client}{helo}")
    yield Text(f"    {head.size_octets} octets, Message-ID {head.form or 'not read'}", style="dim")
    for entry in copy.entries:
        yield from _decision(entry)


def _decision(entry: Entry) -> Iterator[Text]:
    style = _STYLES.get(entry.verdict, "")
    yield Text.assemble(
        f"    {_shown(entry.recipient)}: ", (f"{entry.verdict}, {entry.action}", style)
    )
    yield Text(f"        {explanation(entry)}")
    if entry.first_seen_s:
        what = "That one" if entry.verdict == "collision" else "The first copy"
        queue_id = f", queue id {_shown(entry.first_queue_id)}" if entry.first_queue_id else ""
        text = f"{what} came {_moment(entry.first_seen_s)}{queue_id}."
        if entry.verdict == "duplicate":
            text += f" This is copy {entry.copies}."
        yield Text(f"        {text}")
    yield Text(f"        {_shown(entry.reply)}", style="dim")
    if entry.queue_id:
        yield Text(f"        Queue id downstream: {_shown(entry.queue_id)}", style="dim")


def _memory(story: Story) -> Iterator[Text]:
    yield Text("")
    if not story.holdings:
        yield Text("The tracking list holds nothing of it: the next copy passes as new.")
        return
    yield Text("The tracking list holds, to compare the next copy with:", style="bold")
    for holding in story.holdings:
        yield Text(f"    {_held(holding)}")


def _held(holding: Holding) -> str:
    """Write in one line what the list holds for one recipient."""
    sighting = holding.sighting
    who = _shown(holding.recipient) or "a recipient that the journal does not name"
    kind = " (list copy, resending or other content)" if holding.is_variant else ""
    if sighting.sight is not Sight.SEEN:
        return f"{who}{kind}: being delivered now"
    copies = "1 copy" if sighting.copies == 1 else f"{sighting.copies} copies"
    note = sighting.note.decode("latin-1")
    queue_id = f", queue id {_shown(note)}" if note else ""
    doubt = ", from the milter: not known to be accepted" if sighting.provisional_at_s else ""
    due = ", a retry is due for other recipients" if sighting.is_retry_due else ""
    return f"{who}{kind}: {copies} since {_moment(sighting.first_seen_s)}{queue_id}{doubt}{due}"


def _moment(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at_s))


def _span(duration_s: float) -> str:
    """Write a duration in its largest unit."""
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if duration_s >= unit_s:
            return f"{duration_s / unit_s:.1f} {unit}"
    return f"{duration_s:.1f} s"


def _shown(text: str) -> str:
    """Write what is no printable ASCII as an escape: a client chose it."""
    if text.isascii() and text.isprintable():
        return text
    return text.encode("unicode_escape").decode("ascii")
