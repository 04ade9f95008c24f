"""P5 for HTTP: who may see, who may change, and what other people's pages cannot do."""

import re

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request

from gateway.core.unique_id import Identity
from gateway.faces.http_guard import COOKIE, COOKIE_AGE_S, Access, Guard
from tests.support.console import Console, serving

TOKEN = "correct-horse"
LOCAL = Access(is_loopback=True)
LOCAL_WITH_TOKEN = Access(is_loopback=True, token=TOKEN)
PUBLIC = Access(is_loopback=False, token=TOKEN)
PUBLIC_WITHOUT = Access(is_loopback=False)
ID = b"a-message@example.org"
OPEN = ["/metrics", "/healthz", "/readyz"]
CLOSED = ["/", "/decisions", "/message?message_id=x@y.example"]
API = ["/api/decisions", "/api/messages?message_id=x@y.example"]
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def console() -> Console:
    filled = Console()
    await filled.accept(ID, b"a@example.net", b"b@example.net")
    return filled


async def _status(console: Console, path: str, **options: object) -> int:
    async with (
        aiohttp.ClientSession(console.url, cookie_jar=aiohttp.DummyCookieJar()) as http,
        http.get(path, allow_redirects=False, **options) as answer,  # type: ignore[arg-type]
    ):
        await answer.read()
        return answer.status


@pytest.mark.parametrize("access", [LOCAL, LOCAL_WITH_TOKEN, PUBLIC, PUBLIC_WITHOUT])
async def test_machines_need_no_token(console: Console, access: Access) -> None:
    async with serving(console, access):
        assert [await _status(console, path) for path in OPEN] == [200] * 3


@pytest.mark.parametrize("access", [LOCAL, LOCAL_WITH_TOKEN])
async def test_reading_on_loopback_needs_no_token(console: Console, access: Access) -> None:
    async with serving(console, access):
        assert {await _status(console, path) for path in CLOSED + API} <= {200, 404}


async def test_elsewhere_all_but_metrics_and_health_needs_the_token(console: Console) -> None:
    async with serving(console, PUBLIC):
        assert [await _status(console, path) for path in CLOSED + API] == [401] * 5
        html = {"Accept": "text/html,*/*;q=0.8"}
        pages = [await _status(console, path, headers=html) for path in CLOSED]
        assert pages == [303] * 3, "to the login page"
        assert [await _status(console, path, headers=html) for path in API] == [401] * 2
        for path in CLOSED + API:
            assert await _status(console, path, headers=BEARER) in (200, 404)


async def test_without_a_token_nothing_is_shown_elsewhere(console: Console) -> None:
    async with serving(console, PUBLIC_WITHOUT):
        for headers in ({}, {"Authorization": "Bearer "}, BEARER):
            found = [await _status(console, path, headers=headers) for path in CLOSED + API]
            assert found == [403] * 5


WRONG = [
    "Bearer wrong",
    "Bearer",
    "Bearer ",
    f"Basic {TOKEN}",
    TOKEN,
    f"Bearer {TOKEN}x",
    f"Bearer {TOKEN[:-1]}",
    "Bearer caf\xe9",
]


@pytest.mark.parametrize("value", WRONG)
async def test_wrong_token_is_refused(console: Console, value: str) -> None:
    async with serving(console, PUBLIC):
        headers = {"Authorization": value, "Accept": "text/html"}
        for path in (*CLOSED, "/api/decisions"):
            assert await _status(console, path, headers=headers) == 401


HOSTS = [
    ("127.0.0.1:{port}", True),
    ("localhost:{port}", True),
    ("localhost", True),
    ("LOCALHOST", True),
    ("[::1]:{port}", True),
    ("127.9.9.9", True),
    ("evil.example", False),
    ("evil.example:{port}", False),
    ("127.0.0.1.evil.example", False),
    ("localhost.evil.example", False),
    ("evil.example@127.0.0.1", True),
    ("[::1", False),
    ("x" * 5000, False),
    ("192.0.2.1", False),
]


@pytest.mark.parametrize(("host", "is_ours"), HOSTS)
async def test_other_names_for_loopback_are_refused(
    console: Console, host: str, is_ours: bool
) -> None:
    """DNS rebinding: a page of evil.example whose name now points at 127.0.0.1."""
    async with serving(console, LOCAL):
        headers = {"Host": host.format(port=console.port)}
        for path in ("/", "/metrics", "/api/decisions"):
            assert await _status(console, path, headers=headers) == (200 if is_ours else 421)


async def _forget(
    console: Console,
    headers: dict[str, str] | None = None,
    recipient: str = "",
    secret: str | None = None,
) -> int:
    form = {"message_id": ID.decode(), "recipient": recipient}
    if secret is not None:
        form["secret"] = secret
    async with (
        aiohttp.ClientSession(console.url) as http,
        http.post("/forget", data=form, headers=headers, allow_redirects=False) as answer,
    ):
        await answer.read()
        return answer.status


async def _secret(console: Console, headers: dict[str, str] | None = None) -> str:
    async with (
        aiohttp.ClientSession(console.url) as http,
        http.get(f"/message?message_id={ID.decode()}", headers=headers) as answer,
    ):
        match = re.search(r'name="secret" value="([0-9a-f]+)"', await answer.text())
    return match[1] if match else ""


async def _held(console: Console) -> int:
    key = console.sealer.unique_ids(Identity(b"id", ID), [b"a@example.net"])[0]
    return len(await console.tracking_list.known(key.message))


async def test_form_of_the_console_forgets(console: Console) -> None:
    async with serving(console, LOCAL):
        secret = await _secret(console)
        assert await _forget(console, recipient="a%40example.net", secret=secret) == 303
        assert await _held(console) == 1
        assert await _forget(console, secret=secret) == 303
        assert await _held(console) == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://["},
        {"Origin": "null"},
    ],
)
async def test_form_of_another_page_does_not(console: Console, headers: dict[str, str]) -> None:
    async with serving(console, LOCAL):
        secret = await _secret(console)
        assert await _forget(console, headers, secret=secret) == 403
        assert await _held(console) == 2


@pytest.mark.parametrize("secret", [None, "", "0" * 64, "\xe9"])
async def test_form_without_the_secret_does_not(console: Console, secret: str | None) -> None:
    async with serving(console, LOCAL):
        assert await _forget(console, secret=secret) == 403
        assert await _held(console) == 2


async def test_where_there_is_a_token_it_is_needed_to_change_anything(console: Console) -> None:
    async with serving(console, LOCAL_WITH_TOKEN):
        secret = await _secret(console)
        assert secret == "", "no form for who may not use it"
        assert await _forget(console, secret=secret) == 403
        assert await _forget(console, BEARER) == 200, "a client of ours, no browser"
        assert await _held(console) == 0


async def test_browser_gets_a_cookie_for_the_token(console: Console) -> None:
    jar = aiohttp.CookieJar(unsafe=True)  # cookies of an IP address
    html = {"Accept": "text/html"}
    async with (
        serving(console, PUBLIC),
        aiohttp.ClientSession(console.url, cookie_jar=jar, headers=html) as http,
    ):
        async with http.get("/") as answer:
            assert answer.url.path == "/login"
        async with http.post("/login", data={"token": "wrong"}) as answer:
            assert answer.status == 403
            assert "Set-Cookie" not in answer.headers
        async with http.post("/login", data={"token": TOKEN}, allow_redirects=False) as answer:
            assert answer.status == 303
            cookie = answer.headers["Set-Cookie"]
        for part in ("HttpOnly", "SameSite=Strict", f"Max-Age={COOKIE_AGE_S}"):
            assert part in cookie
        assert TOKEN not in cookie
        async with http.get("/") as answer:
            assert answer.url.path == "/"
            assert "Log out" in await answer.text()
        secret = await _secret_of(http)
        form = {"message_id": ID.decode(), "secret": secret}
        async with http.post("/forget", data=form, allow_redirects=False) as answer:
            assert answer.status == 303
        async with http.get("/logout") as answer:
            assert answer.url.path == "/login"


async def _secret_of(http: aiohttp.ClientSession) -> str:
    async with http.get(f"/message?message_id={ID.decode()}") as answer:
        match = re.search(r'name="secret" value="([0-9a-f]+)"', await answer.text())
    assert match
    return match[1]


async def test_forged_and_expired_cookies_are_refused(console: Console) -> None:
    async with serving(console, PUBLIC):
        for value in ("", "1.2", f"9999999999.{'0' * 64}", "x.y.z", f"{TOKEN}"):
            headers = {"Cookie": f"{COOKIE}={value}"}
            assert await _status(console, "/api/decisions", headers=headers) == 401


class _Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_cookie_ends() -> None:
    clock = _Clock()
    guard = Guard(PUBLIC, clock)
    login = make_mocked_request("POST", "/login", headers={"Host": "mx.example.org"})
    cookie = guard.logged_in(login, TOKEN)
    request = make_mocked_request("GET", "/", headers={"Cookie": f"{COOKIE}={cookie}"})
    assert guard.is_known(request)
    clock.now_s += COOKIE_AGE_S + 1
    assert not guard.is_known(request)


def test_the_secret_of_our_forms_is_no_cookie() -> None:
    """Whoever sees a page can read it, and it is sealed with the same key."""
    guard = Guard(PUBLIC)
    headers = {"Cookie": f"{COOKIE}=form.{guard.form_secret}"}
    assert not guard.is_known(make_mocked_request("GET", "/", headers=headers))


def test_cookie_of_another_process_or_token_is_none() -> None:
    login = make_mocked_request("POST", "/login", headers={"Host": "mx.example.org"})
    cookie = Guard(PUBLIC).logged_in(login, TOKEN)
    request = make_mocked_request("GET", "/", headers={"Cookie": f"{COOKIE}={cookie}"})
    assert not Guard(PUBLIC).is_known(request)


async def test_login_of_another_page_is_refused(console: Console) -> None:
    async with serving(console, PUBLIC), aiohttp.ClientSession(console.url) as http:
        headers = {"Sec-Fetch-Site": "cross-site"}
        async with http.post("/login", data={"token": TOKEN}, headers=headers) as answer:
            assert answer.status == 403


async def test_cookie_is_for_tls_only_where_there_is_tls(console: Console) -> None:
    async with serving(console, PUBLIC), aiohttp.ClientSession(console.url) as http:
        headers = {"X-Forwarded-Proto": "https"}
        async with http.post(
            "/login", data={"token": TOKEN}, headers=headers, allow_redirects=False
        ) as answer:
            assert "Secure" in answer.headers["Set-Cookie"]
