"""The milter behind a real Sendmail: what becomes of mail, read from the server behind that."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.client import Client, deliver, deliver_over, stuffed
from tests.support.milter_behaviour import MilterBehaviour
from tests.support.milter_mail import Hop, fresh_message, fresh_number, hop_on, tags_of
from tests.support.milter_server import running_milter
from tests.support.process import free_port, temporary_folder
from tests.support.sendmail import HOSTNAME, Door, Sendmail, running_sendmail
from tests.support.sink import Sink

pytestmark = pytest.mark.sendmail

_RULES = {"*@drop.test": "drop", "*@observe.test": "observe", f"*@{HOSTNAME}": "drop"}
_ALICE = "alice@example.com"
_RECEIVED = re.compile(rb"^Received: from .*?\r\n(?![ \t])", re.DOTALL | re.MULTILINE)


def _filter(name: str, socket: str, rest: str = ", F=T") -> str:
    return f"INPUT_MAIL_FILTER(`{name}', `S={socket}{rest}')dnl\n"


@dataclass(frozen=True, slots=True)
class _Arrived:
    """A message as Sendmail has passed it on.

    Attributes:
        recipients: forward-paths without brackets, sorted.
        message: its octets.
    """

    recipients: tuple[str, ...]
    message: bytes

    @property
    def as_received(self) -> bytes:
        """Return the content without the Received field of this Sendmail."""
        return _RECEIVED.sub(b"", self.message, count=1)


@dataclass(frozen=True, slots=True)
class _Site:
    """A Sendmail with several ports, each with milters of its own; a sink is behind it.

    Attributes:
        sendmail: itself.
        sink: what it relays to.
        store: the tracking list of the milters.
        careful: port behind which sightings are provisional.
        hopeful: port behind which they count at once.
        hasty: like careful, but nobody waits for a copy in flight.
        near: like hopeful, with the milter on a unix socket.
        two: port behind which another milter comes first.
        deaf: port behind which the tracking list is out of reach.
    """

    sendmail: Sendmail
    sink: Sink
    store: Path
    careful: int
    hopeful: int
    hasty: int
    near: int
    two: int
    deaf: int

    def send(self, port: int, message: bytes, *recipients: str) -> list[_Arrived]:
        """Have a message accepted, and return what has arrived of it."""
        self.sink.forget()
        delivery = deliver(port, _ALICE, recipients, message)
        assert delivery.is_accepted, delivery
        return self.arrived()

    def send_one(self, port: int, message: bytes, *recipients: str) -> _Arrived:
        """Have a message accepted that goes on."""
        [arrived] = self.send(port, message, *recipients)
        return arrived

    def arrived(self) -> list[_Arrived]:
        """Return what has arrived since the sink has forgotten; Sendmail holds nothing back."""
        self.sendmail.wait_until_idle()
        return [
            _Arrived(tuple(sorted(each.delivered)), each.message) for each in self.sink.accepted
        ]


@pytest.fixture(scope="module")
def site() -> Iterator[_Site]:
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder("milter"))
        store, careful, near = folder / "seen.db", folder / "careful.sock", folder / "near.sock"
        virtual = folder / "virtual"
        virtual.write_text("virtual@alias.test:bob@drop.test\n")
        hopeful, hasty, first, deaf = (free_port() for _ in range(4))
        names = ("careful", "hopeful", "hasty", "near", "first;careful", "deaf")
        doors = tuple(map(Door, names))
        sink = stack.enter_context(Sink())
        filters = (
            _filter("careful", f"local:{careful}"),
            _filter("hopeful", f"inet:{hopeful}@127.0.0.1"),
            _filter("hasty", f"inet:{hasty}@127.0.0.1"),
            _filter("near", f"local:{near}"),
            _filter("first", f"inet:{first}@127.0.0.1"),
            _filter("deaf", f"inet:{deaf}@127.0.0.1"),
            f"FEATURE(`virtusertable', `text -k0 -v1 -z: {virtual}')dnl\n",
            "VIRTUSER_DOMAIN(`alias.test')dnl\n",
        )
        sendmail = stack.enter_context(
            running_sendmail(
                *doors, passes_to=sink.port, mc="".join(filters), aliases="team:bob@drop.test\n"
            )
        )
        common = {"store": str(store), "rules": _RULES}
        stack.enter_context(running_milter(careful, folder / "careful.log", **common))
        stack.enter_context(
            running_milter(hasty, folder / "hasty.log", in_flight_wait_s=0.0, **common)
        )
        for address, name in ((hopeful, "hopeful"), (near, "near")):
            log = folder / f"{name}.log"
            stack.enter_context(running_milter(address, log, is_acceptance_assumed=True, **common))
        stack.enter_context(running_milter(first, folder / "first.log"))
        nobody = f"redis://127.0.0.1:{free_port()}/0"
        stack.enter_context(running_milter(deaf, folder / "deaf.log", store=nobody))
        yield _Site(sendmail, sink, store, *(door.port for door in doors))


@pytest.fixture
async def hop(site: _Site) -> AsyncIterator[Hop]:
    async with hop_on(site.store) as hop:
        yield hop


class TestSendmail(MilterBehaviour):
    """What is the same behind every mail server."""


def test_confirmed_duplicate_is_discarded(site: _Site) -> None:
    """Sendmail says the same as of a message that it delivers."""
    message = fresh_message()
    site.send_one(site.hopeful, message, "bob@drop.test")
    site.sink.forget()
    delivery = deliver(site.hopeful, _ALICE, ["bob@drop.test"], message)
    assert delivery.final is not None
    assert re.match(r"250 2\.0\.0 \w+ Message accepted for delivery", delivery.final.lines[0])
    assert site.arrived() == []


def test_alias_of_a_recipient_is_another_recipient(site: _Site) -> None:
    """Sendmail looks into its aliases after it has asked a milter that may remove recipients."""
    message = fresh_message()
    site.send_one(site.hopeful, message, "bob@drop.test")
    arrived = site.send_one(site.hopeful, message, "bob@drop.test", f"team@{HOSTNAME}")
    assert arrived.recipients == ("bob@drop.test",)
    assert site.send(site.hopeful, message, f"team@{HOSTNAME}") == []


def test_two_names_of_one_address_are_one_recipient(site: _Site) -> None:
    """P1: to Sendmail itself, which gives them one copy; whoever has it does not get another."""
    message = fresh_message()
    site.send_one(site.hopeful, message, "bob@drop.test")
    assert site.send(site.hopeful, message, "bob@drop.test", "virtual@alias.test") == []
    other = fresh_message()
    arrived = site.send_one(site.hopeful, other, "virtual@alias.test", "bob@drop.test")
    assert arrived.recipients == ("bob@drop.test",)


def test_added_id_and_tag_outlive_the_queue(site: _Site) -> None:
    message = re.sub(rb"Message-ID: .*\r\n", b"", fresh_message(body=b"%d\r\n" % fresh_number()))
    first = site.send_one(site.careful, message, "bob@tag.test").message
    site.sink.forget()
    site.sink.answer("content", b"451 4.3.0 later\r\n")
    assert deliver(site.careful, _ALICE, ["bob@tag.test"], message).is_accepted
    [again] = site.arrived()
    assert len(tags_of(again.message)) == 1
    assert again.message.split(b"\r\n")[1] == first.split(b"\r\n")[0]
    assert again.message.lower().count(b"message-id:") == 1


def test_forged_tags_are_removed(site: _Site) -> None:
    """P2: and nothing else is."""
    forged = (
        b"X-Mailonce: duplicate\r\nX-Other: 1\r\nx-mailonce: collision;\r\n  folded\r\n"
        b"X-MAILONCE:\r\nX-Mailonce :third\r\nX-Mailonce-Not: 2\r\n"
    )
    message = fresh_message(forged)
    expected = message.replace(forged, b"X-Other: 1\r\nX-Mailonce-Not: 2\r\n")
    assert site.send_one(site.careful, message, "bob@tag.test").as_received == expected
    again = site.send_one(site.careful, message, "bob@tag.test")
    [tag] = tags_of(again.message)
    assert tag.startswith(b"X-Mailonce: duplicate; first-seen=")
    assert again.message.endswith(b"\r\n" + expected)


def test_many_messages_on_one_connection_each_with_its_own_verdict(site: _Site) -> None:
    site.sink.forget()
    fresh = [fresh_message() for _ in range(6)]
    sent = [fresh[0], *[m for pair in zip(fresh[1:], fresh, strict=False) for m in pair]]
    with Client(site.careful) as client:
        client.greet()
        for message in sent:
            assert deliver_over(client, _ALICE, ["bob@tag.test"], message).is_accepted
    arrived = site.arrived()
    assert len(arrived) == len(sent)
    for number, each in enumerate(arrived):
        assert each.message.endswith(sent[number])
        assert bool(tags_of(each.message)) == (sent.index(sent[number]) < number), number


def test_reset_and_refused_recipients_leave_nothing_behind(site: _Site) -> None:
    """P1: whom Sendmail refuses after its own look the milter never hears of."""
    message = fresh_message()
    site.sink.forget()
    with Client(site.hopeful, source="127.0.0.2") as client:
        client.greet()
        client.command("MAIL FROM:<a@example.com>")
        client.command("RCPT TO:<bob@drop.test>")
        assert client.command("RSET").code == 250
        client.command("MAIL FROM:<a@example.com>")
        assert client.command("RCPT TO:<x@elsewhere.test>").code == 550
        assert client.command(f"RCPT TO:<no-such-user@{HOSTNAME}>").code == 550
        client.command("RCPT TO:<bob@drop.test>")
        client.command("DATA")
        client.send(stuffed(message))
        assert client.answer().code == 250
    [arrived] = site.arrived()
    assert arrived.as_received == message
    assert arrived.recipients == ("bob@drop.test",)
    for other in ("x@elsewhere.test", "bob@drop.test"):
        site.send(site.hopeful, message, other)
    assert site.arrived() == []


async def test_hop_knows_what_the_milter_saw(site: _Site, hop: Hop) -> None:
    message = fresh_message(b"Subject: folded\r\n\there\r\n")
    arrived = site.send_one(site.careful, message, "bob@drop.test")
    screened, _ = await hop.claim(message, b"bob@drop.test")
    [candidate] = screened.candidates
    assert candidate.is_same_content
    assert candidate.sighting is not None
    assert candidate.sighting.provisional_at_s > 0
    # Sendmail names the message in its Received field and its log by the same queue id.
    assert b"id " + candidate.sighting.note in arrived.message


def _code(client: Client, message: bytes) -> int:
    """Return the code of the reply that decided; the connection is greeted."""
    last = deliver_over(client, _ALICE, ["bob@tag.test"], message).last
    return last.code if last else 0


@pytest.mark.parametrize(
    ("flag", "codes"),
    [
        pytest.param(", F=T", (451, 451), id="T defers"),
        pytest.param(", F=4", (421, 421), id="4 ends the session"),
        pytest.param(", F=R", (550, 554), id="R refuses"),
        pytest.param("", (250, 250), id="none: mail passes unchecked"),
    ],
)
def test_milter_killed_its_flag_holds(tmp_path: Path, flag: str, codes: tuple[int, int]) -> None:
    """P1: whatever was answered with 250 has arrived; on an old connection and on a new one."""
    port, log = free_port(), tmp_path / "milter.log"
    sent = [fresh_message() for _ in range(4)]
    mc = _filter("mailonce", f"inet:{port}@127.0.0.1", flag)
    with Sink() as sink, running_sendmail(passes_to=sink.port, mc=mc) as sendmail:
        with running_milter(port, log) as milter, Client(sendmail.port) as old:
            old.greet()
            found = [_code(old, sent[0])]
            milter.kill()
            found.append(_code(old, sent[1]))
            with Client(sendmail.port) as new:
                banner = new.answer()
                if banner.code == 220 and new.command("EHLO client.test").code == 250:
                    found.append(_code(new, sent[2]))
                else:
                    found.append(banner.code)
        with running_milter(port, log), Client(sendmail.port) as back:
            back.greet()
            found.append(_code(back, sent[3]))
        sendmail.wait_until_idle()
    assert found == [250, *codes, 250]
    arrived = [each.message for each in sink.accepted]
    accepted = [message for message, code in zip(sent, found, strict=True) if code == 250]
    assert len(arrived) == len(accepted)
    assert all(map(bytes.endswith, arrived, accepted))


async def test_sendmail_has_patience_while_another_copy_is_in_flight(tmp_path: Path) -> None:
    """Sendmail waits for R, not for E. Then its flag would hold, and without one the copy pass."""
    port, store = free_port(), tmp_path / "seen.db"
    mc = _filter("mailonce", f"inet:{port}@127.0.0.1", ", F=T, T=R:6s")
    with (
        Sink() as sink,
        running_milter(port, tmp_path / "log", store=str(store), in_flight_wait_s=8.0),
        running_sendmail(passes_to=sink.port, mc=mc) as sendmail,
    ):
        async with hop_on(store) as hop:
            message = fresh_message()
            screened, _ = await hop.claim(message, b"bob@drop.test")
            delivery = deliver(sendmail.port, _ALICE, ["bob@drop.test"], message)
            await hop.screening.release(screened)
        assert delivery.final is not None
        assert delivery.final.lines[0].startswith("451 4.3.0 Another copy of this message")
        assert sink.accepted == []


def test_sendmail_does_not_wait_for_acknowledgements(site: _Site) -> None:
    """P9: it writes packet by packet, and hears of none of them before the end of the message.

    Over a unix socket nothing is acknowledged. Over TCP a message took fifty times as long.
    """
    message = fresh_message()
    site.send_one(site.hopeful, message, "bob@drop.test")
    took_s: dict[int, list[float]] = {site.near: [], site.hopeful: []}
    with Client(site.near) as near, Client(site.hopeful) as far:
        clients = {site.near: near, site.hopeful: far}
        for client in clients.values():
            client.greet()
        for _ in range(20):  # by turns: what else the machine does slows both down
            for port, client in clients.items():
                delivery = deliver_over(client, _ALICE, ["bob@drop.test"], message)
                took_s[port].append(delivery.took_s)
    assert min(took_s[site.hopeful]) < 5 * min(took_s[site.near])
