"""Every recipe of deploy/postfix/ with real servers: each kind of mail, the way out and back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from tests.support.client import Client, Delivery, deliver, deliver_over
from tests.support.letter import fresh_id, letter
from tests.support.postfix import Postfix
from tests.support.process import wait_until
from tests.support.recipe import DEPLOY, NAMES, TEAM, USERS, Site, running_site

pytestmark = pytest.mark.postfix

BOB, CAROL = USERS
_STRANGER = "127.0.0.9"
# Where Postfix takes mail before mailonce does, its client hears nothing of what becomes of a copy.
_QUEUED_BEFORE = ("relayhost", "lmtp")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(f"recipe-{name}")) for name in NAMES],
)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with running_site(request.param) as running:
        yield running


def is_queued_before(site: Site) -> bool:
    return site.recipe.folder.name in _QUEUED_BEFORE


def send(site: Site, message: bytes, *recipients: str) -> Delivery:
    return deliver(site.port, "a@sender.test", recipients, message, source=_STRANGER)


def copy(
    site: Site, message_id: str, message: bytes, *recipients: str, lines: int = 1
) -> list[dict[str, Any]]:
    """Send a copy that is accepted; return what mailonce's log says of it."""
    before = len(site.gateway.log_lines(message_id=message_id))
    delivery = send(site, message, *recipients)
    assert delivery.is_accepted, delivery

    def told() -> list[dict[str, Any]]:
        found = site.gateway.log_lines(message_id=message_id)[before:]
        return found if len(found) >= lines else []

    return wait_until(told, "mailonce's log line")


def copy_until(
    site: Site, action: str, message_id: str, message: bytes, *recipients: str, lines: int = 1
) -> list[dict[str, Any]]:
    """Send copies until what becomes of one is what a reload has asked for.

    The supervisor says that it has reloaded before each worker has.
    """
    told: list[dict[str, Any]] = []
    for _ in range(20):
        told = copy(site, message_id, message, *recipients, lines=lines)
        if any(to["action"] == action for line in told for to in line["recipients"]):
            return told
    raise AssertionError(f"no copy was {action}: {told}")


def first_log(site: Site) -> Postfix:
    """Return the Postfix that the client talks to, or the only one."""
    return site.front or site.postfix


def test_p1_p2_observe_tag_drop(site: Site) -> None:
    """P1, P2: each stage of the roll-out does what the README says, and nothing else."""
    site.forget()
    message_id = fresh_id()
    message = letter(message_id, "Grüße\r\n..\r\n.\r\n\r\nend\r\n".encode())
    (new,) = copy(site, message_id, message, BOB)
    assert new["verdict"] == "new"
    ((recipient, delivered),) = site.wait_for(1)
    assert recipient == BOB
    assert delivered.endswith(b"\r\n" + message)
    assert b"X-Mailonce" not in delivered

    (observed,) = copy(site, message_id, message, BOB)
    assert (observed["verdict"], observed["action"]) == ("duplicate", "observed")
    _, (_, delivered) = site.wait_for(2)
    assert delivered.endswith(b"\r\n" + message)
    assert b"X-Mailonce" not in delivered

    site.gateway.reload({"dedup.action": "tag"})
    copy_until(site, "tagged", message_id, message, BOB)

    def tagged() -> list[bytes]:
        mark = b"X-Mailonce: duplicate; first-seen="
        return [delivered for _, delivered in site.delivered() if mark in delivered]

    assert wait_until(tagged, "tag")[0].endswith(b"\r\n" + message)

    site.gateway.reload({"dedup.action": "drop"})
    (dropped,) = copy_until(site, "dropped", message_id, message, BOB)
    assert "not delivered again" in dropped["reply"]
    assert dropped["recipients"][0]["first_seen"]
    site.forget()
    other = letter(fresh_id())
    copy(site, message_id, message, BOB)
    assert send(site, other, BOB).is_accepted
    ((_, delivered),) = site.wait_for(1)
    assert delivered.endswith(b"\r\n" + other), "what was dropped has come before it"


def test_p1_partial(site: Site) -> None:
    """P1: of two recipients the one who has not got it gets it."""
    site.gateway.reload({"dedup.action": "drop"})
    seen = fresh_id()
    copy(site, seen, letter(seen), BOB)
    copy_until(site, "dropped", seen, letter(seen), BOB)
    site.forget()
    message_id = fresh_id()
    message = letter(message_id)
    copy(site, message_id, message, BOB)
    assert [recipient for recipient, _ in site.wait_for(1)] == [BOB]
    # SMTP before LMTP goes one recipient at a time: two lines for two.
    lines = 2 if site.recipe.folder.name == "lmtp" else 1
    told = copy(site, message_id, message, BOB, CAROL, lines=lines)
    decided = {to["to"]: to["action"] for line in told for to in line["recipients"]}
    assert decided == {BOB: "dropped", CAROL: "relayed"}
    assert sorted(recipient for recipient, _ in site.wait_for(2)) == [BOB, CAROL]


def test_p5_postfix_logs_the_client(site: Site) -> None:
    """P5: the address that Postfix logs is what the README says it is."""
    message_id = fresh_id()
    (told,) = copy(site, message_id, letter(message_id), BOB)
    log = first_log(site)
    if site.recipe.folder.name == "lmtp":
        log.wait_for_line(rf"postfix/smtp\[\d+\]: \w+: to=<{BOB}>, .* status=sent \(250 2\.0\.0 <")
        return
    queue_id = told["queue_id"]
    pattern = {
        "mx-edge": rf"postfix/mailonce/smtpd\[\d+\]: {queue_id}: client=unknown\[{_STRANGER}\]$",
        "haproxy": rf"postfix/mailonce/smtpd\[\d+\]: {queue_id}: client=unknown\[{_STRANGER}\]$",
        "proxy-filter": rf"postfix/mailonce/smtpd\[\d+\]: {queue_id}: "
        rf"client=localhost\[127\.0\.0\.1\], orig_client=unknown\[{_STRANGER}\]$",
        "relayhost": rf"status=sent \(250 2\.0\.0 Ok: queued as {queue_id}\)$",
    }[site.recipe.folder.name]
    log.wait_for_line(pattern)
    if site.recipe.folder.name == "proxy-filter":
        log.wait_for_line(rf"proxy-accept: END-OF-MESSAGE: 250 2\.0\.0 Ok: queued as {queue_id}")


def test_p5_strangers_cannot_relay(site: Site) -> None:
    """P5: with mailonce there, a foreign recipient is refused as without it."""
    refused = deliver(
        site.port, "a@sender.test", ["victim@elsewhere.test"], letter(fresh_id()), source=_STRANGER
    )
    assert refused.rcpt[0].code in (454, 554), refused
    assert b"Relay access denied" in refused.rcpt[0].wire
    first_log(site).wait_for_line(rf"reject: RCPT from unknown\[{_STRANGER}\]: .*Relay access")


def test_p5_nobody_else_gets_in(site: Site) -> None:
    """P5: mailonce's own port takes nothing from those it is not for."""
    name = site.recipe.folder.name
    with Client(site.gateway.port, source=_STRANGER) as client:
        match name:
            case "relayhost" | "lmtp":
                assert client.answer().code == 554, "listen.clients"
            case "haproxy":
                client.greet()
                proxy = "PROXY TCP4 198.51.100.1 198.51.100.2 1 25"
                assert client.command(proxy).code == 500, "nobody but HAProxy may send one"
            case _:
                assert b"XCLIENT" not in client.greet().wire
                assert client.command("XCLIENT NAME=x ADDR=127.0.0.1").code // 100 == 5
                if name == "mx-edge":
                    assert client.command("XFORWARD ADDR=127.0.0.1").code // 100 == 5


def test_p5_smuggling_ends_here(site: Site) -> None:
    """P5: whatever end of content a server might know, one message stays one."""
    site.forget()
    hidden = (
        b"MAIL FROM:<admin@example.org>\r\nRCPT TO:<%b>\r\nDATA\r\nSubject: hidden\r\n\r\nx\r\n"
    )
    port = site.gateway.port if is_queued_before(site) else site.port
    for end in (b"\n.\r\n", b"\n.\n", b"\r.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n\0.\r\n"):
        source = "127.0.0.1" if is_queued_before(site) else _STRANGER
        with Client(port, source=source) as client:
            client.greet()
            client.command("MAIL FROM:<a@sender.test>")
            client.command(f"RCPT TO:<{BOB}>")
            assert client.command("DATA").code == 354
            client.send(letter(fresh_id()) + end + hidden % BOB.encode() + b".\r\n")
            # Behind a front of Postfix it is the front that refuses or mends; here we do.
            assert client.answer().code // 100 in ((2, 5) if _has_front(site) else (5,)), end
    last = letter(fresh_id())
    assert send(site, last, BOB).is_accepted
    wait_until(
        lambda: any(message.endswith(b"\r\n" + last) for _, message in site.delivered()),
        "the last",
    )
    for _, message in site.delivered():
        header = message.partition(b"\r\n\r\n")[0]
        assert b"Subject: hidden" not in header
        assert b"admin@example.org" not in header


def test_p6_forged_field_is_removed(site: Site) -> None:
    """P6: what a client says in our name does not reach a mailbox."""
    site.forget()
    forged = (
        b"X-Mailonce: duplicate; first-seen=2020-01-01T00:00:00Z; copies=9; by=postfix.test\r\n"
    )
    message = letter(fresh_id())
    assert send(site, forged + message, BOB).is_accepted
    ((_, delivered),) = site.wait_for(1)
    assert b"X-Mailonce" not in delivered
    assert delivered.endswith(b"\r\n" + message)


def test_what_this_recipe_is_for(site: Site) -> None:
    _PECULIAR[site.recipe.folder.name](site)


def _mx_edge_offers_tls_itself(site: Site) -> None:
    site.forget()
    message = letter(fresh_id())
    with Client(site.port, source=_STRANGER) as client:
        assert b"STARTTLS" in client.greet().wire
        assert client.start_tls().code == 220
        assert b"SIZE 52426752" in client.command("EHLO client.test").wire, "50 MiB less our fields"
        assert deliver_over(client, "a@sender.test", [BOB], message).is_accepted
    ((_, delivered),) = site.wait_for(1)
    assert delivered.endswith(b"\r\n" + message)
    site.postfix.wait_for_line(rf"client=unknown\[{_STRANGER}\]$")


def _proxy_filter_says_250_only_after_mailonce(site: Site) -> None:
    """P1: without mailonce the client keeps its message."""
    site.forget()
    message = letter(fresh_id())
    site.gateway.stop()
    try:
        delivery = send(site, message, BOB)
        assert not delivery.is_accepted
        assert delivery.last is not None
        assert delivery.last.code == 451
        site.postfix.wait_for_line(r"connect to proxy filter 127\.0\.0\.1:\d+: Connection refused")
    finally:
        site.gateway.start()
    assert send(site, message, BOB).is_accepted
    assert len(site.wait_for(1)) == 1


def _relayhost_keeps_mail_in_its_queue(site: Site) -> None:
    """P3: mailonce keeps nothing; what it cannot take waits where it is."""
    site.forget()
    assert site.front is not None
    message = letter(fresh_id())
    site.gateway.stop()
    try:
        assert send(site, message, BOB).is_accepted
        front = site.front
        front.wait_for_line(r"status=deferred \(connect to 127\.0\.0\.1.*Connection refused")
        wait_until(lambda: front.queued("deferred"), "it has put the message aside")
    finally:
        site.gateway.start()
    site.front.command("postqueue", "-f")
    ((_, delivered),) = site.wait_for(1)
    assert delivered.endswith(b"\r\n" + message)


def _lmtp_sees_an_alias_and_its_target_as_one(site: Site) -> None:
    site.gateway.reload({"dedup.action": "drop"})
    warm = fresh_id()
    copy(site, warm, letter(warm), BOB)
    copy_until(site, "dropped", warm, letter(warm), BOB)
    site.forget()
    message_id = fresh_id()
    told = copy(site, message_id, letter(message_id), TEAM, BOB, lines=2)
    assert sorted(line["action"] for line in told) == ["dropped", "relayed"]
    assert [recipient for recipient, _ in site.wait_for(1)] == [BOB]
    site.postfix.wait_for_line(rf"to=<{BOB}>, .*status=sent \(250 2\.0\.0 Ok: duplicate of an")
    wait_until(lambda: f"orig_to=<{TEAM}>" in site.postfix.log(), "the line of the other")


def _haproxy_goes_round_mailonce_while_it_is_down(site: Site) -> None:
    site.gateway.stop()
    try:
        site.forget()
        message = letter(fresh_id())
        wait_until(lambda: is_taken(site, message), "HAProxy takes the other door", 60.0)
        site.wait_for(1)
        site.postfix.wait_for_line(
            rf"postfix/direct/smtpd\[\d+\]: \w+: client=unknown\[{_STRANGER}\]"
        )
    finally:
        site.gateway.start()
    before = len(site.gateway.log_lines(event="message"))

    def comes_through() -> bool:
        is_taken(site, letter(fresh_id()))
        return len(site.gateway.log_lines(event="message")) > before

    wait_until(comes_through, "HAProxy comes back", 60.0)


_PECULIAR: Mapping[str, Callable[[Site], None]] = {
    "mx-edge": _mx_edge_offers_tls_itself,
    "proxy-filter": _proxy_filter_says_250_only_after_mailonce,
    "relayhost": _relayhost_keeps_mail_in_its_queue,
    "lmtp": _lmtp_sees_an_alias_and_its_target_as_one,
    "haproxy": _haproxy_goes_round_mailonce_while_it_is_down,
}


def is_taken(site: Site, message: bytes) -> bool:
    """Send a message to bob; say whether it was accepted, even if nobody listens just now."""
    try:
        return send(site, message, BOB).is_accepted
    except OSError:
        return False


def test_doctor_is_green(site: Site) -> None:
    findings = doctor(site)
    failures = [finding for finding in findings if finding["level"] == "fail"]
    assert not failures
    # The names of the test machine apart, nothing is warned of but what the READMEs speak of.
    expected = {"user", "hostname", "tls.certificate", "tls.authority", "descriptors"}
    is_behind_a_filter = site.recipe.folder.name == "proxy-filter"
    spoken_of = {"downstream.relay"} if is_behind_a_filter else set()
    warned = {finding["check"] for finding in findings if finding["level"] == "warn"}
    assert warned - expected == spoken_of


def doctor(site: Site) -> Sequence[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "doctor", "--json", "--config", site.gateway.config_file],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert done.returncode == (0 if told["is_well"] else 1)
    findings: Sequence[dict[str, Any]] = told["findings"]
    return findings


def test_roll_back_in_one_command(site: Site) -> None:
    """The command of the README takes mailonce out; mail flows without it. Runs last."""
    message_id = fresh_id()
    message = letter(message_id)
    copy(site, message_id, message, BOB)
    site.forget()
    site.run_command("Roll back")

    later_id = fresh_id()

    def arrives(message: bytes) -> bool:
        # What Postfix has running when it reloads may take one connection more the old way, and
        # its queue manager may miss a message then, until it looks again minutes later.
        is_taken(site, message)
        return any(m.endswith(message) and b"X-Mailonce" not in m for _, m in site.delivered())

    wait_until(lambda: arrives(message), "a copy that mailonce would have tagged or dropped", 60.0)
    later = letter(later_id)
    wait_until(lambda: arrives(later), "a message past mailonce", 60.0)
    site.gateway.stop()  # then all its lines are written
    assert site.gateway.log_lines(message_id=message_id)
    assert not site.gateway.log_lines(message_id=later_id), "mailonce has no part in it"


def test_each_recipe_is_whole() -> None:
    """Every folder has its files, and the table of the overview has every folder."""
    overview = (DEPLOY / "postfix/README.md").read_text()
    folders = {path.name for path in (DEPLOY / "postfix").iterdir() if path.is_dir()}
    assert folders == {*NAMES, "milter"}
    assert set(re.findall(r"^\| \[([\w-]+)\]", overview, re.MULTILINE)) == folders
    for name in folders:
        names = {path.name for path in (DEPLOY / "postfix" / name).iterdir()}
        assert names >= {"main.cf", "master.cf", "config.toml", "README.md"}, name


def _has_front(site: Site) -> bool:
    return site.recipe.folder.name == "proxy-filter"
