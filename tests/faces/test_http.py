"""What each page and each API answers, over real HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp.http_parser import HttpRequestParserPy
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from gateway.core.handover import Client
from gateway.core.policy import Action, Verdict
from gateway.faces import http_lookup
from gateway.faces.http_guard import SECURITY_HEADERS, Access
from tests.support.console import WELL, Console, serving
from tests.support.report import NOW_S, seen

LOOPBACK = Access(is_loopback=True)
ID = b"life-of-a-message@example.org"
HOSTILE = b"<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\xff\x01\xe2\x80\xae@evil.test"
ODD_ID = b"\"'&lt;<script/onerror=alert2\xff\x01\xe2\x80\xae%3C@evil.test"


@pytest.fixture
async def console() -> AsyncIterator[Console]:
    async with serving(Console(), LOOPBACK) as served:
        yield served


@pytest.fixture
async def http(console: Console) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(console.url) as session:
        yield session


async def _text(http: aiohttp.ClientSession, path: str, status: int = 200) -> str:
    async with http.get(path) as answer:
        assert answer.status == status
        return await answer.text()


async def test_alive(http: aiohttp.ClientSession) -> None:
    assert await _text(http, "/healthz") == "alive\n"


READINESS = [
    (WELL, 200, "ready"),
    (replace(WELL, is_list_up=False), 200, "degraded"),
    (replace(WELL, is_list_up=False, defers_unchecked=True), 503, "unready"),
    (replace(WELL, is_downstream_up=False), 503, "unready"),
    (replace(WELL, has_probe_failed=True), 503, "unready"),
]


@pytest.mark.parametrize(("condition", "status", "word"), READINESS)
async def test_ready(
    console: Console, http: aiohttp.ClientSession, condition: object, status: int, word: str
) -> None:
    console.condition = condition  # type: ignore[assignment]
    body = json.loads(await _text(http, "/readyz", status))
    assert body["status"] == word
    assert bool(body["reasons"]) == (word != "ready")
    assert word in await _text(http, "/"), "the console says the same"


async def test_metrics_in_the_format_asked_for(
    console: Console, http: aiohttp.ClientSession
) -> None:
    await console.accept(ID, b"a@example.net")
    assert 'verdict="new"} 1.0' in await _text(http, "/metrics")
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with http.get("/metrics", headers=accept) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")


PAGES = ["/", "/decisions", "/message?message_id=life-of-a-message@example.org", "/message"]


@pytest.mark.parametrize("path", PAGES)
async def test_pages_forbid_what_they_do_not_need(
    console: Console, http: aiohttp.ClientSession, path: str
) -> None:
    await console.accept(ID, b"a@example.net")
    async with http.get(path) as answer:
        assert answer.status == 200
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers[name] == value
        assert "Python" not in answer.headers["Server"]
        page = await answer.text()
    assert "style=" not in page
    assert "<style" not in page
    assert "//" not in page.replace("<!doctype html>", ""), "no foreign hosts"


@pytest.mark.parametrize("path", PAGES)
async def test_pages_need_neither_journal_nor_list(
    console: Console, http: aiohttp.ClientSession, path: str
) -> None:
    """P4: whatever the list does, the console says so within a bounded time."""
    console.tracking_list.is_dead = True
    async with http.get(path) as answer:
        assert answer.status == (503 if "=" in path else 200)
        assert "does not answer" in await answer.text() or path == "/message"


async def test_assets_are_served(http: aiohttp.ClientSession) -> None:
    for path, kind in (("/console.css", "text/css"), ("/console.js", "text/javascript")):
        async with http.get(path) as answer:
            assert answer.status == 200
            assert answer.content_type == kind


async def test_unknown_page_says_nothing_of_us(http: aiohttp.ClientSession) -> None:
    assert await _text(http, "/etc/passwd", 404) == "404: Not Found"


async def test_overview_counts_the_last_hour(console: Console, http: aiohttp.ClientSession) -> None:
    for number in range(3):
        await console.accept(b"%d@example.org" % number, b"a@example.net")
    await console.accept(
        ID, b"a@example.net", verdict=Verdict.COLLISION, action=Action.TAGGED, first=seen(60)
    )
    page = await _text(http, "/")
    assert '<h3>Messages</h3><p class="value">4</p>' in page
    assert '<h3>Collisions</h3><p class="value">1</p><p class="note">25.0 %</p>' in page
    assert "example.org</bdi><b>1</b>" in page, "who sends collisions"


@pytest.mark.parametrize(
    "pasted",
    [ID, b"<%b>" % ID, b"  <%b>\r\n" % ID, ID.replace(b"example", b"EXAMPLE")],
)
async def test_api_finds_a_message_however_it_is_pasted(
    console: Console, http: aiohttp.ClientSession, pasted: bytes
) -> None:
    await console.accept(ID, b"a@example.net", b"b@example.net", at_s=NOW_S - 60)
    await console.accept(
        ID, b"a@example.net", verdict=Verdict.DUPLICATE, action=Action.DROPPED, first=seen(60)
    )
    found = json.loads(await _text(http, f"/api/messages?message_id={quote(pasted)}"))
    assert found["message_id"] == ID.decode()
    copies = [[(e["recipient"], e["verdict"]) for e in copy] for copy in found["copies"]]
    assert copies == [
        [("a@example.net", "new"), ("b@example.net", "new")],
        [("a@example.net", "duplicate")],
    ]
    assert found["copies"][1][0]["first_queue_id"] == "4First1"
    tracked = {(t["recipient"], t["state"], t["copies"]) for t in found["tracked"]}
    assert tracked == {("a@example.net", "seen", 1), ("b@example.net", "seen", 1)}


async def test_api_finds_ids_that_are_no_text(
    console: Console, http: aiohttp.ClientSession
) -> None:
    await console.accept(ODD_ID, b"a@example.net")
    found = json.loads(await _text(http, f"/api/messages?message_id={quote(ODD_ID)}"))
    assert found["message_id"].encode("latin-1") == ODD_ID
    assert len(found["copies"]) == 1


UNESCAPED = [
    (b"\xfc", "one octet of latin-1"),
    ("\u00fc".encode(), "UTF-8 of a character that latin-1 has, too"),
    ("\u0100\U0001f4e7".encode(), "UTF-8 of characters that it has not"),
    (b"\xc4", "UTF-8 cut short"),
]


@pytest.mark.parametrize("octets", [row[0] for row in UNESCAPED], ids=[row[1] for row in UNESCAPED])
async def test_api_takes_octets_as_they_come(
    console: Console, monkeypatch: pytest.MonkeyPatch, octets: bytes
) -> None:
    """Whoever pastes an id into a command may not have it percent-encoded (RFC 3986 section 2.1).

    aiohttp refuses that where its parser is the one in C, and lets it through where it is not.
    """
    message_id = b"odd-%b@example.org" % octets
    await console.accept(message_id, b"a@example.net")
    assert (await _get(console, message_id))[0] in (200, 400)
    monkeypatch.setattr("aiohttp.web_protocol.HttpRequestParser", HttpRequestParserPy)
    for written in (message_id, quote(message_id).encode()):
        status, body = await _get(console, written)
        assert status == 200
        found = json.loads(body)
        assert found["message_id"].encode("latin-1") == message_id
        assert len(found["copies"]) == 1


async def _get(console: Console, message_id: bytes) -> tuple[int, bytes]:
    """Ask for a message in just these octets; return status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(console.url).port)
    target = b"/api/messages?message_id=" + message_id
    writer.write(b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % target)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), body


async def test_api_answers_for_what_it_cannot_find(http: aiohttp.ClientSession) -> None:
    found = json.loads(await _text(http, "/api/messages?message_id=nobody@example.org", 404))
    assert found["copies"] == found["tracked"] == []
    for query in ("", "?message_id=", "?message_id=%3C%3E"):
        assert "error" in json.loads(await _text(http, f"/api/messages{query}", 400))


async def test_api_says_when_the_list_does_not_answer(
    console: Console, http: aiohttp.ClientSession
) -> None:
    console.tracking_list.is_dead = True
    for path in ("/api/decisions", "/api/messages?message_id=a@b.example"):
        assert "does not answer" in json.loads(await _text(http, path, 503))["error"]


async def _fill(console: Console) -> None:
    for number in range(5):
        await console.accept(b"new-%d@example.org" % number, b"a@example.net")
    for action in (Action.TAGGED, Action.DROPPED):
        await console.accept(
            b"twice@example.org",
            b"b@example.net",
            verdict=Verdict.DUPLICATE,
            action=action,
            first=seen(60),
        )


FILTERS = [
    ("", 7, "everything"),
    ("?limit=3", 3, "no more than asked for"),
    ("?verdict=duplicate", 2, "by verdict"),
    ("?verdict=duplicate&action=dropped", 1, "by several"),
    ("?form=missing", 0, "none"),
    ("?text=B@EXAMPLE.net", 2, "by address, in any case"),
    ("?text=new-3", 1, "by id"),
    ("?text=192.0.2.1", 7, "by client"),
    ("?text=%FF%00", 0, "by octets"),
    ("?verdict=&action=&text=&limit=", 7, "an empty form"),
    ("?other=x", 7, "what is not known is ignored"),
]


@pytest.mark.parametrize(("query", "number", "reason"), FILTERS, ids=[row[2] for row in FILTERS])
async def test_filters(
    console: Console, http: aiohttp.ClientSession, query: str, number: int, reason: str
) -> None:
    await _fill(console)
    found = json.loads(await _text(http, f"/api/decisions{query}"))
    assert len(found["decisions"]) == number, reason
    assert found["looked_at"] == 7
    page = await _text(http, f"/decisions{query}")
    assert page.count('<td data-name="Time"') == number


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=-1",
        "limit=many",
        "limit=²",
        "limit=" + "9" * 5000,
        "verdict=partial",
        "verdict=NEW",
        "action=eaten",
        "form=odd",
    ],
)
async def test_filter_that_is_none_is_refused(http: aiohttp.ClientSession, query: str) -> None:
    assert "expected" in json.loads(await _text(http, f"/api/decisions?{query}", 400))["error"]
    assert "expected" in await _text(http, f"/decisions?{query}", 400)


async def test_endless_query_is_refused(http: aiohttp.ClientSession) -> None:
    """P8."""
    await _text(http, "/api/decisions?" + "&".join(f"a{n}=1" for n in range(100)), 400)


async def test_large_form_is_refused(http: aiohttp.ClientSession) -> None:
    """P8."""
    async with http.post("/forget", data={"message_id": "x" * 100_000}) as answer:
        assert answer.status == 413


class _Scripts(HTMLParser):
    """Collects what a browser would run or load, and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.active: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {name for name, _ in attrs}
        if tag in ("script", "img", "iframe", "object", "svg:script") or any(
            name.startswith("on") for name in names
        ):
            self.active.append(self.get_starttag_text() or tag)

    def handle_data(self, data: str) -> None:
        self.text += data


OURS = ['<script src="/console.js" defer>']


@settings(max_examples=25)
@given(st.one_of(st.sampled_from([HOSTILE, ODD_ID]), st.binary(min_size=1, max_size=60)))
def test_nothing_a_client_sent_becomes_markup(octets: bytes) -> None:
    async def check() -> None:
        async with serving(Console(), LOOPBACK) as console:
            await console.accept(
                octets,
                octets,
                verdict=Verdict.DUPLICATE,
                action=Action.TAGGED,
                first=seen(60, note=octets[:22]),
                reverse_path=octets,
                client=Client("192.0.2.1", helo=octets.decode("latin-1")),
            )
            async with aiohttp.ClientSession(console.url) as http:
                for path in ("/", "/decisions", f"/message?message_id={quote(octets)}"):
                    async with http.get(path) as answer:
                        parser = _Scripts()
                        parser.feed(await answer.text())
                    assert parser.active == OURS
                    assert "\u202e" not in parser.text
                    assert "\x01" not in parser.text

    asyncio.run(check())


async def test_many_readers_cost_the_list_one_question(
    console: Console, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_lookup, "_FRESH_S", 600.0)
    await console.accept(ID, b"a@example.net")
    await _text(http, "/")
    console.tracking_list.is_dead = True
    assert "life-of-a-message" in await _text(http, "/decisions"), "known for a moment"
