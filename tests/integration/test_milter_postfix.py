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

from gateway.candidate import Screened
from gateway.core.envelope import Envelope
from gateway.core.policy import examine
from gateway.core.reply import reply
from gateway.core.rule import Policy
from gateway.core.unique_id import Sealer
from gateway.edge.tracking_sqlite import SqliteTrackingList
from gateway.inflow import Body, read_head
from gateway.screening import Screening, ScreeningSettings
from tests.support.client import Client, deliver, deliver_over, stuffed
from tests.support.milter_server import SECRET, running_milter, start_milter
from tests.support.need import need
from tests.support.postfix import GUARD, Postfix, Queued, Service, running_postfix
from tests.support.process import free_port, temporary_folder, wait_until

pytestmark = pytest.mark.postfix

_RULES = {"*@drop.test": "drop", "*@observe.test": "observe"}
_NUMBERS = count(1)
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


def _message(extra: bytes = b"", body: bytes = b"At noon?\r\n") -> bytes:
    """Return a message that nobody has seen."""
    return (
        b"From: Alice <alice@example.com>\r\nDate: Tue, 24 Nov 2026 09:00:00 +0100\r\n"
        b"Subject: lunch\r\nMessage-ID: <%d@example.com>\r\n%b\r\n%b"
        % (next(_NUMBERS), extra, body)
    )


def _tags(queued: Queued) -> list[bytes]:
    return [line for line in queued.message.split(b"\r\n") if line.startswith(b"X-Mailonce:")]


def test_new_message_is_not_altered(site: _Site) -> None:
    """P2."""
    message = _message(b"X-Odd:  two\r\n\tlines \r\n", b"..dots\r\n\r\n.\r\nend\r\n")
    queued = site.send_one(site.careful, message, "bob@tag.test")
    assert queued.as_received == message


def test_duplicate_is_tagged_on_top(site: _Site) -> None:
    message = _message()
    site.send_one(site.careful, message, "bob@tag.test")
    queued = site.send_one(site.careful, message, "bob@tag.test")
    assert queued.message.startswith(b"X-Mailonce: duplicate; first-seen=2")
    assert b"; copies=2; by=mx.test\r\nReceived: from " in queued.message
    assert queued.message.endswith(b"\r\n" + message)


def test_young_provisional_sighting_never_costs_a_copy(site: _Site) -> None:
    """P1."""
    message = _message()
    for copies in (1, 2, 3):
        queued = site.send_one(site.careful, message, "bob@drop.test")
        assert len(_tags(queued)) == min(copies - 1, 1)


def test_confirmed_duplicate_is_discarded(site: _Site) -> None:
    message = _message()
    site.send_one(site.hopeful, message, "bob@drop.test")
    assert site.send(site.hopeful, message, "bob@drop.test") == []
    site.postfix.wait_for_line("milter-discard")


def test_partial_loses_only_who_has_it(site: _Site) -> None:
    """P1."""
    message = _message()
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
    message = _message()
    site.send_one(site.careful, message, "bob@tag.test")
    queued = site.send_one(site.careful, message, "bob@tag.test", "carol@tag.test")
    assert queued.recipients == ("bob@tag.test", "carol@tag.test")
    assert queued.as_received == message
    queued = site.send_one(site.careful, message, "bob@tag.test", "carol@tag.test")
    assert _tags(queued)[0].startswith(b"X-Mailonce: duplicate;")


def test_alias_of_a_recipient_is_another_recipient(site: _Site) -> None:
    message = _message()
    site.send_one(site.hopeful, message, "bob@drop.test")
    queued = site.send_one(site.hopeful, message, "bob@drop.test", "team@alias.test")
    assert queued.recipients == ("bob@drop.test",)
    assert queued.as_received == message


def test_second_recipient_is_new(site: _Site) -> None:
    message = _message()
    site.send_one(site.hopeful, message, "bob@drop.test")
    assert site.send_one(site.hopeful, message, "eve@drop.test").as_received == message


def test_collision_is_tagged(site: _Site) -> None:
    """P6."""
    message = _message()
    site.send_one(site.hopeful, message, "bob@drop.test")
    other = message.replace(b"noon", b"one")
    queued = site.send_one(site.hopeful, other, "bob@drop.test")
    assert _tags(queued)[0].startswith(b"X-Mailonce: collision;")
    assert site.send(site.hopeful, other, "bob@drop.test") == []


def test_missing_id_is_added_and_the_same_again(site: _Site) -> None:
    date = b"Date: Tue, 24 Nov 2026 09:00:00 +0100"
    message = _message(body=b"%d\r\n" % next(_NUMBERS))
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
    message = _message(forged)
    queued = site.send_one(site.careful, message, "bob@tag.test")
    assert queued.as_received == message.replace(forged, b"X-Other: 1\r\n")
    again = site.send_one(site.careful, message, "bob@tag.test")
    assert len(_tags(again)) == 1
    assert _tags(again)[0].startswith(b"X-Mailonce: duplicate; first-seen=")


def test_many_messages_on_one_connection_each_with_its_own_verdict(site: _Site) -> None:
    site.postfix.forget()
    fresh = [_message() for _ in range(12)]
    sent = [fresh[0], *[m for pair in zip(fresh[1:], fresh, strict=False) for m in pair]]
    with Client(site.careful) as client:
        client.greet()
        for message in sent:
            assert deliver_over(client, "a@example.com", ["bob@tag.test"], message).is_accepted
    for number, queued in enumerate(site.postfix.wait_for_queued(len(sent))):
        assert queued.message.endswith(sent[number])
        assert bool(_tags(queued)) == (sent.index(sent[number]) < number), number


def test_reset_and_refused_recipients_leave_nothing_behind(site: _Site) -> None:
    message = _message()
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
    message = _message()
    first = site.send_one(site.two, message, "bob@tag.test")
    assert first.as_received == message
    for copies in (2, 3):
        again = site.send_one(site.two, message, "bob@tag.test")
        [tag] = _tags(again)
        assert f"copies={copies};".encode() in tag


def test_list_out_of_reach_mail_flows(site: _Site) -> None:
    """P4."""
    message = _message()
    for _ in range(2):
        queued = site.send_one(site.deaf, message, "bob@drop.test")
        assert queued.message.startswith(b"X-Mailonce: unchecked; by=mx.test\r\n")
        assert queued.message.endswith(b"\r\n" + message)


class _Wire:
    """Content as the SMTP face reads it."""

    waited_s = 0.0

    def __init__(self, message: bytes) -> None:
        self._left = stuffed(message).removesuffix(b".\r\n")
        self.octets = 0

    async def read(self) -> bytes:
        taken, self._left = self._left[:700], self._left[700:]
        self.octets += len(taken)
        return taken

    async def discard(self) -> None:
        self._left = b""


@dataclass(frozen=True, slots=True)
class _Hop:
    """What the SMTP face does with a message, on the milters' list."""

    screening: Screening

    async def claim(self, message: bytes, *recipients: bytes) -> tuple[Screened, bytes]:
        content = _Wire(message)
        head = await read_head(content, 262_144)
        examination = examine(head.section, is_whole=head.is_complete)
        body = Body(content, head, examination)
        while await body.read():
            pass
        fingerprint = body.fingerprint()
        envelope = Envelope(b"alice@example.com", recipients, "")
        screened = await self.screening.claim(examination, envelope, fingerprint)
        return await self.screening.resolve(screened, fingerprint), fingerprint

    async def pass_on(self, message: bytes, *recipients: bytes) -> None:
        screened, fingerprint = await self.claim(message, *recipients)
        accepted = [reply(250, "2.0.0", "Ok: queued as HOP1")] * len(recipients)
        decisions = self.screening.decide(screened)
        await self.screening.settle(screened, decisions, accepted, fingerprint)


@pytest.fixture
async def hop(site: _Site) -> AsyncIterator[_Hop]:
    tracking_list = SqliteTrackingList(site.store, 5.0)
    settings = ScreeningSettings(default=Policy(), in_flight_wait_s=0.0)
    yield _Hop(Screening(tracking_list, Sealer(SECRET), settings))
    await tracking_list.close()


async def test_copy_in_flight_elsewhere_is_451(site: _Site, hop: _Hop) -> None:
    message = _message()
    screened, _ = await hop.claim(message, b"bob@drop.test")
    delivery = deliver(site.careful, "alice@example.com", ["bob@drop.test"], message)
    assert delivery.final is not None
    assert delivery.final.lines[0].startswith("451 4.3.0 Another copy of this message")
    await hop.screening.release(screened)
    assert site.send_one(site.careful, message, "bob@drop.test").as_received == message


_LONG = b"x" * 5000
_SHAPES = [
    pytest.param(b"", b"At noon?\r\n", id="plain"),
    pytest.param(b"", b"", id="no body"),
    pytest.param(b"", b"no line end", id="no line end"),
    pytest.param(b"", b"\r\n\r\n\r\n", id="empty lines only"),
    pytest.param(b"", b".\r\n..\r\n.x\r\n", id="dots"),
    pytest.param(b"", b"a \t\r\n  b\r\n\tc  \r\n", id="blanks in the body"),
    pytest.param(b"", b"\xff\xfe\xe4\r\n", id="8-bit body"),
    pytest.param(b"", _LONG + b"\r\n" + _LONG, id="lines longer than 998 octets"),
    pytest.param(b"", b"line\r\n" * 30_000, id="body of several chunks"),
    pytest.param(b"Subject: a\r\n b\r\n\tc\r\n", b"x\r\n", id="two subjects, one folded"),
    pytest.param(b"Subject:\r\n\tx\r\n", b"x\r\n", id="folded at once"),
    pytest.param(b"Subject: \r\n", b"x\r\n", id="empty subject"),
    pytest.param(b"Subject:nothing before\r\n", b"x\r\n", id="no blank"),
    pytest.param(b"Subject:\t \ttabs\t\r\n", b"x\r\n", id="tabs"),
    pytest.param(b"SUBJECT  : blank before the colon\r\n", b"x\r\n", id="blank before the colon"),
    pytest.param(b"From: B\xfcrger <b@example.com>\r\n", b"x\r\n", id="8-bit field"),
    pytest.param(b"From: a, b,\r\n c <c@example.com>\r\n", b"x\r\n", id="two authors"),
    pytest.param(b"X-Long: " + _LONG + b"\r\n", b"x\r\n", id="long field"),
    pytest.param(b"no field at all\r\n", b"x\r\n", id="the body begins without an empty line"),
    pytest.param(
        b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b"\r\n',
        b"--b\r\nContent-Type: text/plain\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--\r\n",
        id="parts",
    ),
    pytest.param(
        b"Content-Type: message/rfc822\r\n",
        b"Subject: inner\r\n\tfolded\r\n\r\nbody\r\n",
        id="a message in a message",
    ),
    pytest.param(b"List-Id: <a.example.com>\r\n", b"x\r\n", id="list copy"),
    pytest.param(
        b"Resent-From: r@example.com\r\nResent-Message-ID: <r@example.com>\r\n",
        b"x\r\n",
        id="resent",
    ),
]


@pytest.mark.parametrize(("extra", "body"), _SHAPES)
async def test_copy_seen_by_the_hop_is_known_to_the_milter(
    site: _Site, hop: _Hop, extra: bytes, body: bytes
) -> None:
    message = _message(extra, body)
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
async def test_identity_is_that_of_the_hop(site: _Site, hop: _Hop, message: bytes) -> None:
    own = message % next(_NUMBERS)
    await hop.pass_on(own, b"bob@drop.test")
    assert site.send(site.careful, own, "bob@drop.test") == []


async def test_hop_knows_what_the_milter_saw(site: _Site, hop: _Hop) -> None:
    message = _message(b"Subject: folded\r\n\there\r\n")
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
