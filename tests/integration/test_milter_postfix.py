"""The milter behind a real Postfix: what becomes of mail, read from Postfix's own queue."""

from __future__ import annotations

import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tests.support.client import Client, deliver, deliver_over, stuffed
from tests.support.milter_behaviour import MilterBehaviour
from tests.support.milter_mail import Hop, fresh_message, hop_on, tags_of
from tests.support.milter_server import running_milter, start_milter
from tests.support.need import need
from tests.support.postfix import GUARD, Postfix, Queued, Service, running_postfix
from tests.support.process import free_port, temporary_folder, wait_until

pytestmark = pytest.mark.postfix

_RULES = {"*@drop.test": "drop", "*@observe.test": "observe"}
_MARK = re.compile(rb"<\d+\.\d+@load\.example\.com>")


@dataclass(frozen=True, slots=True)
class _Site:
    """A Postfix with several ways in, each with milters of its own.

    Attributes:
        postfix: itself.
        store: the tracking list of the milters.
        careful: port behind which sightings are provisional.
        hopeful: port behind which they count at once.
        hasty: like careful, but nobody waits for a copy in flight.
        two: port behind which another milter comes first.
        deaf: port behind which the tracking list is out of reach.
    """

    postfix: Postfix
    store: Path
    careful: int
    hopeful: int
    hasty: int
    two: int
    deaf: int

    def send(self, port: int, message: bytes, *recipients: str) -> list[Queued]:
        """Have a message accepted, and return what is in the queue of it."""
        self.postfix.forget()
        delivery = deliver(port, "alice@example.com", recipients, message)
        assert delivery.is_accepted, delivery
        return self.postfix.queued()

    def send_one(self, port: int, message: bytes, *recipients: str) -> Queued:
        """Have a message accepted that goes on."""
        [queued] = self.send(port, message, *recipients)
        return queued


@pytest.fixture(scope="module")
def site() -> Iterator[_Site]:
    need("postfix", root=True)
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder("milter"))
        store = folder / "seen.db"
        careful = folder / "careful.sock"
        hopeful, hasty, first, deaf = (free_port() for _ in range(4))
        common = {"store": str(store), "rules": _RULES}
        stack.enter_context(running_milter(careful, folder / "careful.log", **common))
        stack.enter_context(
            running_milter(hopeful, folder / "hopeful.log", is_acceptance_assumed=True, **common)
        )
        stack.enter_context(
            running_milter(hasty, folder / "hasty.log", in_flight_wait_s=0.0, **common)
        )
        stack.enter_context(running_milter(first, folder / "first.log"))
        nobody = f"redis://127.0.0.1:{free_port()}/0"
        stack.enter_context(running_milter(deaf, folder / "deaf.log", store=nobody))
        services = [
            Service({**GUARD, "smtpd_milters": milters})
            for milters in (
                f"unix:{careful}",
                f"inet:127.0.0.1:{hopeful}",
                f"inet:127.0.0.1:{hasty}",
                f"inet:127.0.0.1:{first}, unix:{careful}",
                f"inet:127.0.0.1:{deaf}",
            )
        ]
        domains = "tag.test drop.test observe.test"
        postfix = stack.enter_context(
            running_postfix(*services, main={"relay_domains": domains, **_ALIASES})
        )
        yield _Site(postfix, store, *(service.port for service in services))


_ALIASES = {
    "virtual_alias_domains": "alias.test",
    "virtual_alias_maps": "inline:{team@alias.test=bob@drop.test}",
}


def test_confirmed_duplicate_is_discarded(site: _Site) -> None:
    message = fresh_message()
    site.send_one(site.hopeful, message, "bob@drop.test")
    assert site.send(site.hopeful, message, "bob@drop.test") == []
    site.postfix.wait_for_line("milter-discard")


def test_alias_of_a_recipient_is_another_recipient(site: _Site) -> None:
    message = fresh_message()
    site.send_one(site.hopeful, message, "bob@drop.test")
    queued = site.send_one(site.hopeful, message, "bob@drop.test", "team@alias.test")
    assert queued.recipients == ("bob@drop.test",)
    assert queued.as_received == message


def test_forged_tags_are_removed(site: _Site) -> None:
    """P2: and nothing else is."""
    forged = b"X-Mailonce: duplicate\r\nX-Other: 1\r\nx-mailonce: collision;\r\n  folded\r\n"
    message = fresh_message(forged)
    queued = site.send_one(site.careful, message, "bob@tag.test")
    assert queued.as_received == message.replace(forged, b"X-Other: 1\r\n")
    again = site.send_one(site.careful, message, "bob@tag.test")
    assert len(tags_of(again.message)) == 1
    assert tags_of(again.message)[0].startswith(b"X-Mailonce: duplicate; first-seen=")


def test_many_messages_on_one_connection_each_with_its_own_verdict(site: _Site) -> None:
    site.postfix.forget()
    fresh = [fresh_message() for _ in range(12)]
    sent = [fresh[0], *[m for pair in zip(fresh[1:], fresh, strict=False) for m in pair]]
    with Client(site.careful) as client:
        client.greet()
        for message in sent:
            assert deliver_over(client, "a@example.com", ["bob@tag.test"], message).is_accepted
    for number, queued in enumerate(site.postfix.wait_for_queued(len(sent))):
        assert queued.message.endswith(sent[number])
        assert bool(tags_of(queued.message)) == (sent.index(sent[number]) < number), number


def test_reset_and_refused_recipients_leave_nothing_behind(site: _Site) -> None:
    message = fresh_message()
    site.postfix.forget()
    with Client(site.hopeful) as client:
        client.greet()
        client.command("MAIL FROM:<a@example.com>")
        client.command("RCPT TO:<bob@drop.test>")
        assert client.command("RSET").code == 250
        client.command("MAIL FROM:<a@example.com>")
        assert client.command("RCPT TO:<x@elsewhere.test>").code == 554
        client.command("RCPT TO:<bob@drop.test>")
        client.command("DATA")
        client.send(stuffed(message))
        assert client.answer().code == 250
    [queued] = site.postfix.queued()
    assert queued.as_received == message
    assert queued.recipients == ("bob@drop.test",)


@pytest.fixture
async def hop(site: _Site) -> AsyncIterator[Hop]:
    async with hop_on(site.store) as hop:
        yield hop


class TestPostfix(MilterBehaviour):
    """What is the same behind every mail server."""


async def test_hop_knows_what_the_milter_saw(site: _Site, hop: Hop) -> None:
    message = fresh_message(b"Subject: folded\r\n\there\r\n")
    site.send_one(site.careful, message, "bob@drop.test")
    screened, _ = await hop.claim(message, b"bob@drop.test")
    [candidate] = screened.candidates
    assert candidate.is_same_content
    assert candidate.sighting is not None
    assert candidate.sighting.provisional_at_s > 0
    # Postfix names the message in its log by the same queue id.
    name = candidate.sighting.note.decode()
    wait_until(lambda: name in site.postfix.log(), "its line in the log")


@pytest.mark.parametrize("default_action", ["tempfail", "accept"])
def test_milter_killed_under_load_nothing_is_lost(tmp_path: Path, default_action: str) -> None:
    """P1: whatever was answered with 250 is in the queue, and Postfix's default action holds."""
    need("postfix", root=True)
    port, log = free_port(), tmp_path / "milter.log"
    service = Service({**GUARD, "smtpd_milters": f"inet:127.0.0.1:{port}"})
    main = {"relay_domains": "tag.test", "milter_default_action": default_action}
    milter = start_milter(port, log, store=str(tmp_path / "seen.db"))
    accepted: list[list[bytes]] = [[] for _ in range(4)]
    refused: list[int] = []
    stop = threading.Event()
    with running_postfix(service, main=main) as postfix:

        def load(mine: list[bytes], name: int) -> None:
            for number in count():
                if stop.is_set():
                    return
                mark = b"<%d.%d@load.example.com>" % (name, number)
                message = b"From: a@example.com\r\nMessage-ID: %b\r\n\r\nx\r\n" % mark
                delivery = deliver(postfix.port, "a@example.com", ["bob@tag.test"], message)
                if delivery.is_accepted:
                    mine.append(mark)
                else:
                    assert delivery.last is not None
                    refused.append(delivery.last.code)

        threads = [
            threading.Thread(target=load, args=(mine, name)) for name, mine in enumerate(accepted)
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                before = sum(map(len, accepted))
                wait_until(lambda: sum(map(len, accepted)) > before + 20, "mail flows")  # noqa: B023
                milter.kill()
                if default_action == "tempfail":
                    wait_until(lambda: refused, "mail is deferred")
                milter = start_milter(port, log, store=str(tmp_path / "seen.db"))
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)
            milter.stop()
        # Read from the queue's files themselves: they are many.
        files = [file for file in (postfix.folder / "queue/hold").rglob("*") if file.is_file()]
        queued = {mark for file in files for mark in _MARK.findall(file.read_bytes())}
    assert {mark for mine in accepted for mark in mine} <= queued
    assert set(refused) <= {451}
    assert bool(refused) == (default_action == "tempfail")
