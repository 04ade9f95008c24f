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
from tests.support.milter_mail import SHAPES, Hop, fresh_message, fresh_number, hop_on
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
        two: port behind which another milter comes first.
        deaf: port behind which the tracking list is out of reach.
    """

    postfix: Postfix
    store: Path
    careful: int
    hopeful: int
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
        careful, hopeful, first, deaf = (
            folder / "careful.sock",
            free_port(),
            free_port(),
            free_port(),
        )
        common = {"store": str(store), "rules": _RULES}
        stack.enter_context(running_milter(careful, folder / "careful.log", **common))
        stack.enter_context(
            running_milter(hopeful, folder / "hopeful.log", is_acceptance_assumed=True, **common)
        )
        stack.enter_context(running_milter(first, folder / "first.log"))
        nobody = f"redis://127.0.0.1:{free_port()}/0"
        stack.enter_context(running_milter(deaf, folder / "deaf.log", store=nobody))
        services = [
            Service({**GUARD, "smtpd_milters": milters})
            for milters in (
                f"unix:{careful}",
                f"inet:127.0.0.1:{hopeful}",
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


def _tags(queued: Queued) -> list[bytes]:
    return [line for line in queued.message.split(b"\r\n") if line.startswith(b"X-Mailonce:")]


def test_new_message_is_not_altered(site: _Site) -> None:
    """P2."""
    message = fresh_message(b"X-Odd:  two\r\n\tlines \r\n", b"..dots\r\n\r\n.\r\nend\r\n")
    queued = site.send_one(site.careful, message, "bob@tag.test")
    assert queued.as_received == message


def test_duplicate_is_tagged_on_top(site: _Site) -> None:
    message = fresh_message()
    site.send_one(site.careful, message, "bob@tag.test")
    queued = site.send_one(site.careful, message, "bob@tag.test")
    assert queued.message.startswith(b"X-Mailonce: duplicate; first-seen=2")
    assert b"; copies=2; by=mx.test\r\nReceived: from " in queued.message
    assert queued.message.endswith(b"\r\n" + message)


def test_young_provisional_sighting_never_costs_a_copy(site: _Site) -> None:
    """P1."""
    message = fresh_message()
    for copies in (1, 2, 3):
        queued = site.send_one(site.careful, message, "bob@drop.test")
        assert len(_tags(queued)) == min(copies - 1, 1)


def test_confirmed_duplicate_is_discarded(site: _Site) -> None:
    message = fresh_message()
    site.send_one(site.hopeful, message, "bob@drop.test")
    assert site.send(site.hopeful, message, "bob@drop.test") == []
    site.postfix.wait_for_line("milter-discard")


def test_partial_loses_only_who_has_it(site: _Site) -> None:
    """P1."""
    message = fresh_message()
    site.send_one(site.hopeful, message, "bob@drop.test", '"dan b"@drop.test')
    queued = site.send_one(
        site.hopeful,
        message,
        "bob@drop.test",
        "carol@drop.test",
        '"dan b"@drop.test',
        "bob@DROP.test",
    )
    assert queued.recipients == ("carol@drop.test",)
    assert queued.as_received == message


def test_partial_is_not_tagged(site: _Site) -> None:
    """P2: what is new to one of them carries nothing of ours."""
    message = fresh_message()
    site.send_one(site.careful, message, "bob@tag.test")
    queued = site.send_one(site.careful, message, "bob@tag.test", "carol@tag.test")
    assert queued.recipients == ("bob@tag.test", "carol@tag.test")
    assert queued.as_received == message
    queued = site.send_one(site.careful, message, "bob@tag.test", "carol@tag.test")
    assert _tags(queued)[0].startswith(b"X-Mailonce: duplicate;")


def test_alias_of_a_recipient_is_another_recipient(site: _Site) -> None:
    message = fresh_message()
    site.send_one(site.hopeful, message, "bob@drop.test")
    queued = site.send_one(site.hopeful, message, "bob@drop.test", "team@alias.test")
    assert queued.recipients == ("bob@drop.test",)
    assert queued.as_received == message


def test_second_recipient_is_new(site: _Site) -> None:
    message = fresh_message()
    site.send_one(site.hopeful, message, "bob@drop.test")
    assert site.send_one(site.hopeful, message, "eve@drop.test").as_received == message


def test_collision_is_tagged(site: _Site) -> None:
    """P6."""
    message = fresh_message()
    site.send_one(site.hopeful, message, "bob@drop.test")
    other = message.replace(b"noon", b"one")
    queued = site.send_one(site.hopeful, other, "bob@drop.test")
    assert _tags(queued)[0].startswith(b"X-Mailonce: collision;")
    assert site.send(site.hopeful, other, "bob@drop.test") == []


def test_missing_id_is_added_and_the_same_again(site: _Site) -> None:
    date = b"Date: Tue, 24 Nov 2026 09:00:00 +0100"
    message = fresh_message(body=b"%d\r\n" % fresh_number())
    message = b"\r\n".join(
        line for line in message.split(b"\r\n") if not line.startswith(b"Message-ID:")
    )
    assert date in message
    first = site.send_one(site.careful, message, "bob@tag.test").message
    assert first.startswith(b"Message-ID: <20261124090000.")
    second = site.send_one(site.careful, message, "bob@tag.test").message
    assert second.startswith(b"X-Mailonce: duplicate;")
    assert second.split(b"\r\n")[1] == first.split(b"\r\n")[0]


def test_forged_tags_are_removed(site: _Site) -> None:
    """P2: and nothing else is."""
    forged = b"X-Mailonce: duplicate\r\nX-Other: 1\r\nx-mailonce: collision;\r\n  folded\r\n"
    message = fresh_message(forged)
    queued = site.send_one(site.careful, message, "bob@tag.test")
    assert queued.as_received == message.replace(forged, b"X-Other: 1\r\n")
    again = site.send_one(site.careful, message, "bob@tag.test")
    assert len(_tags(again)) == 1
    assert _tags(again)[0].startswith(b"X-Mailonce: duplicate; first-seen=")


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
        assert bool(_tags(queued)) == (sent.index(sent[number]) < number), number


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


def test_two_milters_in_a_row(site: _Site) -> None:
    """Ours is the last: a tag of the one before is a forged one."""
    message = fresh_message()
    first = site.send_one(site.two, message, "bob@tag.test")
    assert first.as_received == message
    for copies in (2, 3):
        again = site.send_one(site.two, message, "bob@tag.test")
        [tag] = _tags(again)
        assert f"copies={copies};".encode() in tag


def test_list_out_of_reach_mail_flows(site: _Site) -> None:
    """P4."""
    message = fresh_message()
    for _ in range(2):
        queued = site.send_one(site.deaf, message, "bob@drop.test")
        assert queued.message.startswith(b"X-Mailonce: unchecked; by=mx.test\r\n")
        assert queued.message.endswith(b"\r\n" + message)


@pytest.fixture
async def hop(site: _Site) -> AsyncIterator[Hop]:
    async with hop_on(site.store) as hop:
        yield hop


async def test_copy_in_flight_elsewhere_is_451(site: _Site, hop: Hop) -> None:
    message = fresh_message()
    screened, _ = await hop.claim(message, b"bob@drop.test")
    delivery = deliver(site.careful, "alice@example.com", ["bob@drop.test"], message)
    assert delivery.final is not None
    assert delivery.final.lines[0].startswith("451 4.3.0 Another copy of this message")
    await hop.screening.release(screened)
    assert site.send_one(site.careful, message, "bob@drop.test").as_received == message


@pytest.mark.parametrize(("extra", "body"), SHAPES)
async def test_copy_seen_by_the_hop_is_known_to_the_milter(
    site: _Site, hop: Hop, extra: bytes, body: bytes
) -> None:
    message = fresh_message(extra, body)
    await hop.pass_on(message, b"bob@drop.test")
    assert site.send(site.careful, message, "bob@drop.test") == []
    changed = message + b"changed\r\n"
    queued = site.send_one(site.careful, changed, "bob@drop.test")
    assert _tags(queued)[0].startswith(b"X-Mailonce: collision;"), "the content counts"


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"Date: Tue, 24 Nov 2026 09:00:00 +0100\r\n\r\nno id %d\r\n", id="no id"),
        pytest.param(
            b"From alice Tue Nov 24 09:00:00 2026\r\nDate: Tue, 24 Nov 2026 09:00:00 +0100\r\n"
            b"\r\nmbox %d\r\n",
            id="mbox line: Postfix makes a field of it",
        ),
        pytest.param(
            b"Message-ID:\r\n <%d@folded.example.com>\r\n\r\nx\r\n", id="id on a line of its own"
        ),
    ],
)
async def test_identity_is_that_of_the_hop(site: _Site, hop: Hop, message: bytes) -> None:
    own = message % fresh_number()
    await hop.pass_on(own, b"bob@drop.test")
    assert site.send(site.careful, own, "bob@drop.test") == []


async def test_hop_knows_what_the_milter_saw(site: _Site, hop: Hop) -> None:
    message = fresh_message(b"Subject: folded\r\n\there\r\n")
    site.send_one(site.careful, message, "bob@drop.test")
    screened, _ = await hop.claim(message, b"bob@drop.test")
    [candidate] = screened.candidates
    assert candidate.is_same_content
    assert candidate.sighting is not None
    assert candidate.sighting.provisional_at_s > 0
    # Postfix names the message in its log by the same queue id.
    assert candidate.sighting.note.decode() in site.postfix.log()


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
