"""The milter behind a real Sendmail: what becomes of mail, read from the server behind that."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.client import Client, deliver, deliver_over, stuffed
from tests.support.milter_mail import SHAPES, Hop, fresh_message, fresh_number, hop_on
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

    @property
    def tags(self) -> list[bytes]:
        """Return the fields of ours."""
        return [line for line in self.message.split(b"\r\n") if line.startswith(b"X-Mailonce:")]


@dataclass(frozen=True, slots=True)
class _Site:
    """A Sendmail with several ports, each with milters of its own; a sink is behind it.

    Attributes:
        sendmail: itself.
        sink: what it relays to.
        store: the tracking list of the milters.
        careful: port behind which sightings are provisional.
        hopeful: port behind which they count at once.
        two: port behind which another milter comes first.
        deaf: port behind which the tracking list is out of reach.
    """

    sendmail: Sendmail
    sink: Sink
    store: Path
    careful: int
    hopeful: int
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
        store, careful = folder / "seen.db", folder / "careful.sock"
        virtual = folder / "virtual"
        virtual.write_text("virtual@alias.test:bob@drop.test\n")
        hopeful, first, deaf = free_port(), free_port(), free_port()
        doors = Door("careful"), Door("hopeful"), Door("first;careful"), Door("deaf")
        sink = stack.enter_context(Sink())
        filters = (
            _filter("careful", f"local:{careful}"),
            _filter("hopeful", f"inet:{hopeful}@127.0.0.1"),
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
            running_milter(hopeful, folder / "hopeful.log", is_acceptance_assumed=True, **common)
        )
        stack.enter_context(running_milter(first, folder / "first.log"))
        nobody = f"redis://127.0.0.1:{free_port()}/0"
        stack.enter_context(running_milter(deaf, folder / "deaf.log", store=nobody))
        yield _Site(sendmail, sink, store, *(door.port for door in doors))


@pytest.fixture
async def hop(site: _Site) -> AsyncIterator[Hop]:
    async with hop_on(site.store) as hop:
        yield hop


def test_new_message_is_not_altered(site: _Site) -> None:
    """P2."""
    message = fresh_message(b"X-Odd:  two\r\n\tlines \r\n", b"..dots\r\n\r\n.\r\nend\r\n")
    arrived = site.send_one(site.careful, message, "bob@tag.test")
    assert arrived.message.startswith(b"Received: from ")
    assert arrived.as_received == message


def test_duplicate_is_tagged_on_top(site: _Site) -> None:
    message = fresh_message()
    site.send_one(site.careful, message, "bob@tag.test")
    arrived = site.send_one(site.careful, message, "bob@tag.test")
    assert arrived.message.startswith(b"X-Mailonce: duplicate; first-seen=2")
    assert b"; copies=2; by=mx.test\r\nReceived: from " in arrived.message
    assert arrived.message.endswith(b"\r\n" + message)


def test_young_provisional_sighting_never_costs_a_copy(site: _Site) -> None:
    """P1."""
    message = fresh_message()
    for copies in (1, 2, 3):
        arrived = site.send_one(site.careful, message, "bob@drop.test")
        assert len(arrived.tags) == min(copies - 1, 1)


def test_confirmed_duplicate_is_discarded(site: _Site) -> None:
    """Sendmail says the same as of a message that it delivers."""
    message = fresh_message()
    site.send_one(site.hopeful, message, "bob@drop.test")
    site.sink.forget()
    delivery = deliver(site.hopeful, _ALICE, ["bob@drop.test"], message)
    assert delivery.final is not None
    assert re.match(r"250 2\.0\.0 \w+ Message accepted for delivery", delivery.final.lines[0])
    assert site.arrived() == []


def test_partial_loses_only_who_has_it(site: _Site) -> None:
    """P1."""
    message = fresh_message()
    site.send_one(site.hopeful, message, "bob@drop.test", '"dan b"@drop.test')
    arrived = site.send_one(
        site.hopeful,
        message,
        "bob@drop.test",
        "carol@drop.test",
        '"dan b"@drop.test',
        "bob@DROP.test",
    )
    assert arrived.recipients == ("carol@drop.test",)
    assert arrived.as_received == message


def test_partial_is_not_tagged(site: _Site) -> None:
    """P2: what is new to one of them carries nothing of ours."""
    message = fresh_message()
    site.send_one(site.careful, message, "bob@tag.test")
    arrived = site.send_one(site.careful, message, "bob@tag.test", "carol@tag.test")
    assert arrived.recipients == ("bob@tag.test", "carol@tag.test")
    assert arrived.as_received == message


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


def test_second_recipient_is_new(site: _Site) -> None:
    message = fresh_message()
    site.send_one(site.hopeful, message, "bob@drop.test")
    assert site.send_one(site.hopeful, message, "eve@drop.test").as_received == message


def test_collision_is_tagged(site: _Site) -> None:
    """P6."""
    message = fresh_message()
    site.send_one(site.hopeful, message, "bob@drop.test")
    other = message.replace(b"noon", b"one")
    arrived = site.send_one(site.hopeful, other, "bob@drop.test")
    assert arrived.tags[0].startswith(b"X-Mailonce: collision;")
    assert site.send(site.hopeful, other, "bob@drop.test") == []


def test_missing_id_is_added_and_the_same_again(site: _Site) -> None:
    """Sendmail would add one of its own, but only when it delivers."""
    message = re.sub(rb"Message-ID: .*\r\n", b"", fresh_message(body=b"%d\r\n" % fresh_number()))
    first = site.send_one(site.careful, message, "bob@tag.test").message
    assert first.startswith(b"Message-ID: <20261124090000.")
    assert first.lower().count(b"message-id:") == 1
    second = site.send_one(site.careful, message, "bob@tag.test").message
    assert second.startswith(b"X-Mailonce: duplicate;")
    assert second.split(b"\r\n")[1] == first.split(b"\r\n")[0]


def test_added_id_and_tag_outlive_the_queue(site: _Site) -> None:
    message = re.sub(rb"Message-ID: .*\r\n", b"", fresh_message(body=b"%d\r\n" % fresh_number()))
    first = site.send_one(site.careful, message, "bob@tag.test").message
    site.sink.forget()
    site.sink.answer("content", b"451 4.3.0 later\r\n")
    assert deliver(site.careful, _ALICE, ["bob@tag.test"], message).is_accepted
    [again] = site.arrived()
    assert len(again.tags) == 1
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
    [tag] = again.tags
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
        assert bool(each.tags) == (sent.index(sent[number]) < number), number


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


def test_two_milters_in_a_row(site: _Site) -> None:
    """Ours is the last: a tag of the one before is a forged one."""
    message = fresh_message()
    assert site.send_one(site.two, message, "bob@tag.test").as_received == message
    for copies in (2, 3):
        [tag] = site.send_one(site.two, message, "bob@tag.test").tags
        assert f"copies={copies};".encode() in tag


def test_list_out_of_reach_mail_flows(site: _Site) -> None:
    """P4."""
    message = fresh_message()
    for _ in range(2):
        arrived = site.send_one(site.deaf, message, "bob@drop.test")
        assert arrived.message.startswith(b"X-Mailonce: unchecked; by=mx.test\r\n")
        assert arrived.message.endswith(b"\r\n" + message)


async def test_copy_in_flight_elsewhere_is_451(site: _Site, hop: Hop) -> None:
    message = fresh_message()
    screened, _ = await hop.claim(message, b"bob@drop.test")
    delivery = deliver(site.careful, _ALICE, ["bob@drop.test"], message)
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
    arrived = site.send_one(site.careful, changed, "bob@drop.test")
    assert arrived.tags[0].startswith(b"X-Mailonce: collision;"), "the content counts"


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"Date: Tue, 24 Nov 2026 09:00:00 +0100\r\n\r\nno id %d\r\n", id="no id"),
        pytest.param(
            b"From alice Tue Nov 24 09:00:00 2026\r\nDate: Tue, 24 Nov 2026 09:00:00 +0100\r\n"
            b"\r\nmbox %d\r\n",
            id="mbox line",
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
    mc = _filter("mailonce", f"inet:{port}@127.0.0.1", ", F=T, T=R:3s")
    with (
        Sink() as sink,
        running_milter(port, tmp_path / "log", store=str(store), in_flight_wait_s=4.0),
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
    """P9: it writes packet by packet, and hears of none of them before the end of the message."""
    message = fresh_message()
    site.send(site.hopeful, message, "bob@drop.test")
    with Client(site.hopeful) as client:
        client.greet()
        took_s = min(
            deliver_over(client, _ALICE, ["bob@drop.test"], message).took_s for _ in range(5)
        )
    assert took_s < 0.035, "Linux puts an acknowledgement off for 40 ms"
