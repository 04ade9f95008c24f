"""The life of one message as a time line, and what can be done about it."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from gateway.core.policy import Sight
from gateway.core.report import Entry
from gateway.core.story import Copy, Holding, Origin, Story, explanation
from gateway.faces.http_frame import (
    Frame,
    address,
    badge,
    emptiness,
    moment,
    page,
    panel,
    size,
    span,
)
from gateway.faces.http_html import Content, Html, shown, tag

_SHOWN_RECIPIENTS = 50


def message_page(frame: Frame, story: Story, notice: str = "") -> str:
    """Return the page of one message.

    Args:
        frame: around it.
        story: of the message.
        notice: what was just done, ``""`` for nothing.
    """
    title = tag("h1", tag("bdi", shown(story.message_id)), class_="message-id")
    told = tag("p", notice, class_="notice", role="status") if notice else None
    if story.is_empty:
        return page(frame, "Not known", title, told, _nothing())
    return page(
        frame,
        "A message",
        title,
        tag("p", _summary(story), class_="lead"),
        told,
        panel("What happened", _line(frame, story)),
        _memory(frame, story),
    )


def search_page(frame: Frame, problem: str) -> str:
    """Return the page for what is no Message-ID, or a list that does not answer."""
    return page(frame, "Find a message", tag("h1", "Find a message"), emptiness(problem))


def _nothing() -> Html:
    return panel(
        "Nothing is known of this message",
        tag(
            "ul",
            tag("li", "It never came through this gateway, or its window is over."),
            tag(
                "li",
                "It came once and was new, and the journal does not keep those (journal.keep).",
            ),
            tag("li", "The sender wrote the id in another way: search the log for a part of it."),
            class_="plain",
        ),
    )


def _summary(story: Story) -> str:
    entries = [entry for copy in story.copies for entry in copy.entries]
    if not entries:
        return "Accepted before; the journal holds no decision about it."
    number = len(story.copies) + len(story.origins)
    recipients = len({entry.recipient for entry in entries})
    first = min([entry.at_s for entry in entries] + [origin.at_s for origin in story.origins])
    last = max(entry.at_s for entry in entries)
    copies = "1 copy" if number == 1 else f"{number} copies"
    people = "1 recipient" if recipients == 1 else f"{recipients} recipients"
    return f"{copies} for {people}" + (f" within {span(last - first)}." if number > 1 else ".")


def _line(frame: Frame, story: Story) -> Html:
    """Return origins and copies in the order of time."""
    times = [origin.at_s for origin in story.origins] + [copy.head.at_s for copy in story.copies]
    begun_s = min(times, default=0.0)
    events = [(float(origin.at_s), _origin(frame, origin)) for origin in story.origins]
    events += [(copy.head.at_s, _copy(frame, copy, begun_s)) for copy in story.copies]
    events.sort(key=lambda event: event[0])
    return tag("ol", *[markup for _, markup in events], class_="line")


def _origin(frame: Frame, origin: Origin) -> Html:
    where = f"The downstream took it as {shown(origin.queue_id)}. " if origin.queue_id else ""
    return tag(
        "li",
        tag("header", moment(origin.at_s, frame.now_s), tag("b", "First copy"), badge("new")),
        tag("p", f"{where}Known from later copies; the journal does not hold it.", class_="note"),
        class_="event v-new",
    )


def _copy(frame: Frame, copy: Copy, begun_s: float) -> Html:
    head = copy.head
    later_s = head.at_s - begun_s
    after = tag("span", f"after {span(later_s)}", class_="faint") if later_s >= 1 else None
    told = copy.entries[:_SHOWN_RECIPIENTS]
    more = len(copy.entries) - len(told)
    helo = tag("bdi", shown(head.helo), class_="faint")
    loudest = next((e.verdict for e in copy.entries if e.verdict != "new"), head.verdict)
    return tag(
        "li",
        tag("header", moment(head.at_s, frame.now_s), tag("b", "Copy received"), after),
        _facts(
            ("from", address(head.reverse_path)),
            ("client", (shown(head.client) or "local", " ", helo)),
            ("size", size(head.size_octets)),
            ("id", head.form or "unknown"),
        ),
        *[_recipient(entry) for entry in told],
        tag("p", f"and {more} more recipients", class_="note") if more else None,
        class_=f"event v-{loudest}",
    )


def _recipient(entry: Entry) -> Html:
    code = tag("code", shown(entry.queue_id), title="queue id of the downstream")
    return tag(
        "div",
        tag(
            "header",
            address(entry.recipient),
            badge(entry.verdict),
            tag("span", entry.action),
            code if entry.queue_id else None,
        ),
        tag("p", explanation(entry), " ", _earlier(entry)),
        tag("p", tag("samp", shown(entry.reply)), class_="reply") if entry.reply else None,
        class_="recipient",
    )


def _earlier(entry: Entry) -> str:
    """Say when the earlier message came that this one was compared with, and where it went."""
    if not entry.first_seen_s:
        return ""
    what = "The other message" if entry.verdict == "collision" else "The first copy"
    queue_id = f", queue id {shown(entry.first_queue_id)}" if entry.first_queue_id else ""
    return f"{what} came {span(max(entry.at_s - entry.first_seen_s, 0))} earlier{queue_id}."


def _memory(frame: Frame, story: Story) -> Html:
    """Return what the tracking list holds, with the means to forget it."""
    if not story.holdings:
        return panel(
            "Tracking list", emptiness("Holds nothing of it: the next copy passes as new.")
        )
    names = ("Recipient", "State", "First copy", "Copies", "Queue id", "")
    head = tag("thead", tag("tr", *[tag("th", name, scope="col") for name in names]))
    rows = [_holding(frame, story, holding) for holding in story.holdings]
    return panel(
        "Tracking list",
        tag("table", head, tag("tbody", *rows), class_="decisions"),
        _forget(frame, story, "", "Forget for all recipients"),
        note="what a further copy would be compared with",
    )


def _holding(frame: Frame, story: Story, holding: Holding) -> Html:
    sighting = holding.sighting
    is_seen = sighting.sight is Sight.SEEN
    state = "accepted" if is_seen else "being delivered"
    if sighting.provisional_at_s:
        state = "passed on by the milter, outcome not known"
    kind = tag("span", " list copy, resending or other content", class_="faint")
    forget = _forget(frame, story, holding.recipient, "Forget") if holding.recipient else None
    recipient: Content = tag("span", "not in the journal", class_="faint")
    cells: Sequence[tuple[str, Content]] = (
        ("Recipient", address(holding.recipient) if holding.recipient else recipient),
        ("State", (state, kind if holding.is_variant else None)),
        ("First copy", moment(sighting.first_seen_s, frame.now_s) if is_seen else "–"),
        ("Copies", sighting.copies if is_seen else "–"),
        ("Queue id", tag("code", shown(sighting.note.decode("latin-1")))),
        ("", forget),
    )
    return tag("tr", *[tag("td", content, data_name=name) for name, content in cells])


def _forget(frame: Frame, story: Story, recipient: str, text: str) -> Html:
    if frame.is_locked:
        return tag("a", text, href="/login", class_="button quiet", title="needs the token")
    octets = quote(story.message_id.encode("latin-1", "replace"))
    whose = quote(recipient.encode("latin-1", "replace"))
    return tag(
        "form",
        tag("input", type="hidden", name="message_id", value=octets),
        tag("input", type="hidden", name="recipient", value=whose),
        tag("input", type="hidden", name="secret", value=frame.form_secret),
        tag("button", text, type="submit", class_="quiet", title="so that a wanted re-send passes"),
        method="post",
        action="/forget",
        class_="forget",
    )


def _facts(*pairs: tuple[str, Content]) -> Html:
    return tag("dl", *[tag("div", tag("dt", name), tag("dd", content)) for name, content in pairs])
