"""The console in a real browser: it is used as a postmaster uses it, and attacked as mail can."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from gateway.core.handover import Client
from gateway.core.message_id import Form
from gateway.core.policy import Action, Verdict
from gateway.faces.http_guard import Access
from tests.support.console import WELL, Console, serving_in_thread
from tests.support.need import need, program
from tests.support.report import NOW_S, seen

pytestmark = [pytest.mark.tool, pytest.mark.slow, pytest.mark.timeout(300)]

TOKEN = "correct-horse"
ID = b"life-of-a-message@example.org"
SCRIPT = b"<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
ATTRIBUTE = b"\"'><svg/onload=document.title='owned'>" + b"\xe2\x80\xae" + b"x" * 400
WIDE, PHONE = (1280, 900), (390, 800)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    need("chromium", "chromedriver:chromium-driver")
    profile = tmp_path_factory.mktemp("chromium")
    options = webdriver.ChromeOptions()
    options.binary_location = str(program("chromium"))
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-proxy-server",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=str(program("chromedriver")))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture(autouse=True)
def _blank(browser: webdriver.Chrome) -> Iterator[None]:
    """Begin with nothing to complain of, and leave no page that goes on asking who has gone."""
    browser.get("about:blank")
    _faults(browser)
    yield
    browser.get("about:blank")


@pytest.fixture
def filled() -> Console:
    return Console()


async def _fill(console: Console) -> None:
    first = seen(3600, note=b"4XyZ1")
    await console.accept(ID, b"anna@example.net", b"ben@example.net", at_s=NOW_S - 3600)
    await console.accept(
        ID,
        b"anna@example.net",
        verdict=Verdict.DUPLICATE,
        action=Action.DROPPED,
        first=first,
        at_s=NOW_S - 60,
    )
    await console.accept(
        ID, b"ben@example.net", verdict=Verdict.COLLISION, action=Action.TAGGED, first=first
    )
    await console.accept(b"other@example.org", b"carl@example.net")
    for octets in (SCRIPT, ATTRIBUTE):
        await console.accept(
            octets,
            octets,
            verdict=Verdict.DUPLICATE,
            action=Action.TAGGED,
            first=seen(5, note=octets[:22]),
            form=Form.MALFORMED,
            reverse_path=octets,
            client=Client("2001:db8::1", helo=octets.decode("latin-1")),
        )


@pytest.fixture
def console(filled: Console) -> Iterator[Console]:
    with serving_in_thread(filled, Access(is_loopback=True), _fill):
        yield filled


def _all(browser: webdriver.Chrome, selector: str) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def _one(browser: webdriver.Chrome, selector: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, selector)


def _until(
    browser: webdriver.Chrome, condition: Callable[[webdriver.Chrome], bool], what: str = ""
) -> None:
    """Wait for a condition, and for the whole of the page.

    While a page changes, what was found of it is stale, and chromedriver has more than one error
    for that.
    """

    def is_there(page: webdriver.Chrome) -> bool:
        return condition(page) and _run(page, "return document.readyState") == "complete"

    patient = WebDriverWait(browser, 60, ignored_exceptions=[WebDriverException])
    patient.until(is_there, f"{what!r} does not show")


def _wait(browser: webdriver.Chrome, text: str) -> None:
    _until(browser, lambda page: text in page.find_element(By.TAG_NAME, "body").text, text)


def _run(browser: webdriver.Chrome, script: str, *arguments: object) -> object:
    return browser.execute_script(script, *arguments)


def _faults(browser: webdriver.Chrome) -> list[str]:
    """Return what the browser complained of since it was last asked."""
    entries = browser.get_log("browser")  # type: ignore[no-untyped-call]  # has no types
    return [
        entry["message"]
        for entry in entries
        if "favicon" not in entry["message"] and "404" not in entry["message"]
    ]


def test_search_leads_to_the_life_of_a_message(console: Console, browser: webdriver.Chrome) -> None:
    browser.set_window_size(*WIDE)
    browser.get(console.url)
    _one(browser, "#search").send_keys(f"<{ID.decode()}>", Keys.ENTER)
    _wait(browser, "What happened")
    events = [event.text for event in _all(browser, ".line > li")]
    assert len(events) == 3
    assert "anna@example.net" in events[0]
    assert "ben@example.net" in events[0]
    assert "dropped" in events[1]
    assert "The first copy came 59 min earlier, queue id 4XyZ1." in events[1]
    assert "another message with this Message-ID" in events[2]
    assert "250 2.0.0 Ok: queued as 4XyZ1" in events[0]
    assert _faults(browser) == []


def test_filters_narrow_the_list(console: Console, browser: webdriver.Chrome) -> None:
    browser.set_window_size(*WIDE)
    browser.get(f"{console.url}/decisions")
    assert len(_all(browser, "tbody tr")) == 7
    _one(browser, "select[name=verdict] option[value=collision]").click()
    _one(browser, ".filter button").click()
    _until(browser, lambda page: "verdict=collision" in page.current_url)
    (row,) = _all(browser, "tbody tr")
    assert "ben@example.net" in row.text
    _one(browser, ".filter a").click()
    _until(browser, lambda page: page.current_url.endswith("/decisions"))
    _one(browser, "input[name=text]").send_keys("carl@", Keys.ENTER)
    _until(browser, lambda page: "text=carl" in page.current_url)
    assert len(_all(browser, "tbody tr")) == 1


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("page", ["/", "/decisions", "message"])
def test_hostile_mail_runs_no_script_and_breaks_no_layout(
    console: Console, browser: webdriver.Chrome, page: str, size: tuple[int, int]
) -> None:
    browser.set_window_size(*size)
    browser.get(f"{console.url}/decisions?verdict=duplicate")
    if page == "message":
        _one(browser, "tbody .id").click()
    else:
        browser.get(console.url + page)
    _wait(browser, "mailonce")
    assert "owned" not in browser.title
    assert not _all(browser, "main script, main img, main svg[onload]")
    assert _faults(browser) == [], "nothing was even blocked by the policy"
    script = "return [document.documentElement.scrollWidth, window.innerWidth]"
    width, window = cast("list[int]", _run(browser, script))
    assert width <= window, "nothing sticks out at the right"
    assert "\u202e" not in _one(browser, "body").text


def test_console_is_used_by_keyboard_alone(console: Console, browser: webdriver.Chrome) -> None:
    browser.set_window_size(*WIDE)
    browser.get(console.url)
    seen_names = []
    for _ in range(7):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        focused = browser.switch_to.active_element
        seen_names.append(focused.text or focused.get_attribute("id"))
        outline = focused.value_of_css_property("outline-style")
        assert outline != "none", f"{seen_names[-1]} shows that it has the focus"
    assert seen_names[0] == "Skip to content"
    assert {"Overview", "Decisions", "search", "Find"} <= set(seen_names)


def test_every_field_and_picture_has_a_name(console: Console, browser: webdriver.Chrome) -> None:
    for path in ("/", "/decisions"):
        browser.get(console.url + path)
        for element in _all(browser, "input:not([type=hidden]), select, button, a"):
            assert element.accessible_name, element.get_attribute("outerHTML")
        for picture in _all(browser, "svg:not([aria-hidden])"):
            assert picture.accessible_name


def test_forget_lets_a_wanted_copy_pass(console: Console, browser: webdriver.Chrome) -> None:
    browser.get(f"{console.url}/message?message_id={ID.decode()}")
    assert len(_all(browser, ".decisions tbody tr")) == 2
    _all(browser, ".decisions tbody .forget button")[0].click()
    _wait(browser, "Forgotten: 1.")
    assert len(_all(browser, ".decisions tbody tr")) == 1
    _one(browser, ".panel > .forget button").click()
    _wait(browser, "the next copy passes as new")
    assert "Forgotten: 1." in _one(browser, ".notice").text


def test_page_refreshes_itself_but_not_under_the_reader(
    console: Console, browser: webdriver.Chrome
) -> None:
    browser.get(console.url)
    console.metrics.session_began()
    _run(browser, "refresh()")
    _until(
        browser, lambda page: page.find_elements(By.CSS_SELECTOR, ".tiles .value")[-1].text == "1"
    )
    script = "const a = document.querySelector('#decisions a'); a.focus(); refresh(); return a"
    link = cast("WebElement", _run(browser, script))
    console.metrics.session_began()
    _run(browser, "refresh()")
    _until(
        browser, lambda page: page.find_elements(By.CSS_SELECTOR, ".tiles .value")[-1].text == "2"
    )
    assert link.is_displayed(), "what has the focus was left alone"


def test_token_is_asked_for_once(filled: Console, browser: webdriver.Chrome) -> None:
    with serving_in_thread(filled, Access(is_loopback=False, token=TOKEN), _fill):
        browser.get(f"{filled.url}/decisions")
        assert browser.current_url.endswith("/login")
        assert "example.net" not in browser.page_source
        _one(browser, "input").send_keys("wrong", Keys.ENTER)
        _wait(browser, "That is not the token.")
        _one(browser, "input").send_keys(TOKEN, Keys.ENTER)
        _wait(browser, "Recent decisions")
        assert _run(browser, "return document.cookie") == ""
        browser.get(f"{filled.url}/message?message_id={ID.decode()}")
        _one(browser, ".panel > .forget button").click()
        _wait(browser, "Forgotten: 2.")
        _all(browser, "nav a")[-1].click()
        _until(browser, lambda page: page.current_url.endswith("/login"))
        browser.get(filled.url)
        assert browser.current_url.endswith("/login")


def test_loopback_with_a_token_shows_and_asks_before_it_changes(
    filled: Console, browser: webdriver.Chrome
) -> None:
    with serving_in_thread(filled, Access(is_loopback=True, token=TOKEN), _fill):
        browser.get(f"{filled.url}/message?message_id={ID.decode()}")
        assert not _all(browser, "form.forget")
        browser.find_element(By.LINK_TEXT, "Forget for all recipients").click()
        _until(browser, lambda page: page.current_url.endswith("/login"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes(
    console: Console, browser: webdriver.Chrome, scheme: str
) -> None:
    """WCAG 2.1 section 1.4.3: a contrast of 4.5 to 1."""
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    try:
        for condition in (WELL, replace(WELL, is_list_up=False), replace(WELL, is_stopping=True)):
            console.condition = condition
            for path in ("/", "/decisions", f"/message?message_id={ID.decode()}"):
                browser.get(console.url + path)
                assert _run(browser, _CONTRAST) == []
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


_CONTRAST = """
const parse = (text) => (text.match(/[0-9.]+/g) || []).map(Number);
const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = parse(getComputedStyle(e).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) { return colour; }
  }
  return [255, 255, 255];
};
const poor = [];
for (const element of document.querySelectorAll("body *:not(svg):not(svg *)")) {
  const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || element.closest(".hidden, .skip, option")) { continue; }
  const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < 4.5) { poor.push(`${element.textContent.trim()}: ${contrast.toFixed(2)}`); }
}
return poor;
"""
