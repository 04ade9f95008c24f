"""What every mail server shows of a milter: the tests that are the same behind each of them.

A module of tests derives a class from `MilterBehaviour`, and has the fixtures ``site`` and ``hop``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import pytest

from tests.support.client import deliver
from tests.support.milter_mail import SHAPES, Hop, fresh_message, fresh_number, tags_of


class Passed(Protocol):
    """A message as the mail server passes it on."""

    @property
    def message(self) -> bytes:
        """Return its octets."""

    @property
    def recipients(self) -> tuple[str, ...]:
        """Return the forward-paths without brackets."""

    @property
    def as_received(self) -> bytes:
        """Return the content without the server's own Received field."""


class Site(Protocol):
    """A mail server with several ports; behind each, a milter whose list all but one share.

    Attributes:
        careful: sightings are provisional.
        hopeful: they count at once.
        hasty: likewise, and nobody waits for a copy in flight.
        two: another milter comes first, then the careful one.
        deaf: the tracking list is out of reach.
    """

    @property
    def careful(self) -> int: ...
    @property
    def hopeful(self) -> int: ...
    @property
    def hasty(self) -> int: ...
    @property
    def two(self) -> int: ...
    @property
    def deaf(self) -> int: ...

    def send(self, port: int, message: bytes, *recipients: str) -> Sequence[Passed]:
        """Have a message accepted, and return what is passed on of it."""

    def send_one(self, port: int, message: bytes, *recipients: str) -> Passed:
        """Have a message accepted that goes on."""


class MilterBehaviour:
    """Tests of one mail server."""

    def test_new_message_is_not_altered(self, site: Site) -> None:
        """P2."""
        message = fresh_message(b"X-Odd:  two\r\n\tlines \r\n", b"..dots\r\n\r\n.\r\nend\r\n")
        passed = site.send_one(site.careful, message, "bob@tag.test")
        assert passed.message.startswith(b"Received: from ")
        assert passed.as_received == message

    def test_duplicate_is_tagged_on_top(self, site: Site) -> None:
        message = fresh_message()
        site.send_one(site.careful, message, "bob@tag.test")
        passed = site.send_one(site.careful, message, "bob@tag.test")
        assert passed.message.startswith(b"X-Mailonce: duplicate; first-seen=2")
        assert b"; copies=2; by=mx.test\r\nReceived: from " in passed.message
        assert passed.message.endswith(b"\r\n" + message)

    def test_young_provisional_sighting_never_costs_a_copy(self, site: Site) -> None:
        """P1."""
        message = fresh_message()
        for copies in (1, 2, 3):
            passed = site.send_one(site.careful, message, "bob@drop.test")
            assert len(tags_of(passed.message)) == min(copies - 1, 1)

    def test_partial_loses_only_who_has_it(self, site: Site) -> None:
        """P1."""
        message = fresh_message()
        site.send_one(site.hopeful, message, "bob@drop.test", '"dan b"@drop.test')
        passed = site.send_one(
            site.hopeful,
            message,
            "bob@drop.test",
            "carol@drop.test",
            '"dan b"@drop.test',
            "bob@DROP.test",
        )
        assert passed.recipients == ("carol@drop.test",)
        assert passed.as_received == message

    def test_partial_is_not_tagged(self, site: Site) -> None:
        """P2: what is new to one of them carries nothing of ours."""
        message = fresh_message()
        site.send_one(site.careful, message, "bob@tag.test")
        passed = site.send_one(site.careful, message, "bob@tag.test", "carol@tag.test")
        assert passed.recipients == ("bob@tag.test", "carol@tag.test")
        assert passed.as_received == message
        again = site.send_one(site.careful, message, "bob@tag.test", "carol@tag.test")
        assert tags_of(again.message)[0].startswith(b"X-Mailonce: duplicate;")

    def test_second_recipient_is_new(self, site: Site) -> None:
        message = fresh_message()
        site.send_one(site.hopeful, message, "bob@drop.test")
        assert site.send_one(site.hopeful, message, "eve@drop.test").as_received == message

    def test_collision_is_tagged(self, site: Site) -> None:
        """P6."""
        message = fresh_message()
        site.send_one(site.hopeful, message, "bob@drop.test")
        other = message.replace(b"noon", b"one")
        passed = site.send_one(site.hopeful, other, "bob@drop.test")
        assert tags_of(passed.message)[0].startswith(b"X-Mailonce: collision;")
        assert site.send(site.hopeful, other, "bob@drop.test") == []

    def test_missing_id_is_added_and_the_same_again(self, site: Site) -> None:
        """Sendmail would add one of its own as well, but only when it delivers."""
        whole = fresh_message(body=b"%d\r\n" % fresh_number())
        message = re.sub(rb"Message-ID: .*\r\n", b"", whole)
        first = site.send_one(site.careful, message, "bob@tag.test").message
        assert first.startswith(b"Message-ID: <20261124090000.")
        assert first.lower().count(b"message-id:") == 1
        second = site.send_one(site.careful, message, "bob@tag.test").message
        assert second.startswith(b"X-Mailonce: duplicate;")
        assert second.split(b"\r\n")[1] == first.split(b"\r\n")[0]

    def test_two_milters_in_a_row(self, site: Site) -> None:
        """Ours is the last: a tag of the one before is a forged one."""
        message = fresh_message()
        assert site.send_one(site.two, message, "bob@tag.test").as_received == message
        for copies in (2, 3):
            [tag] = tags_of(site.send_one(site.two, message, "bob@tag.test").message)
            assert f"copies={copies};".encode() in tag

    def test_list_out_of_reach_mail_flows(self, site: Site) -> None:
        """P4."""
        message = fresh_message()
        for _ in range(2):
            passed = site.send_one(site.deaf, message, "bob@drop.test")
            assert passed.message.startswith(b"X-Mailonce: unchecked; by=mx.test\r\n")
            assert passed.message.endswith(b"\r\n" + message)

    async def test_copy_in_flight_elsewhere_is_451(self, site: Site, hop: Hop) -> None:
        message = fresh_message()
        screened, _ = await hop.claim(message, b"bob@drop.test")
        delivery = deliver(site.hasty, "alice@example.com", ["bob@drop.test"], message)
        assert delivery.final is not None
        assert delivery.final.lines[0].startswith("451 4.3.0 Another copy of this message")
        await hop.screening.release(screened)
        assert site.send_one(site.careful, message, "bob@drop.test").as_received == message

    @pytest.mark.parametrize(("extra", "body"), SHAPES)
    async def test_copy_seen_by_the_hop_is_known_to_the_milter(
        self, site: Site, hop: Hop, extra: bytes, body: bytes
    ) -> None:
        message = fresh_message(extra, body)
        await hop.pass_on(message, b"bob@drop.test")
        assert site.send(site.careful, message, "bob@drop.test") == []
        changed = message + b"changed\r\n"
        passed = site.send_one(site.careful, changed, "bob@drop.test")
        assert tags_of(passed.message)[0].startswith(b"X-Mailonce: collision;"), "content counts"

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
                b"Message-ID:\r\n <%d@folded.example.com>\r\n\r\nx\r\n",
                id="id on a line of its own",
            ),
        ],
    )
    async def test_identity_is_that_of_the_hop(self, site: Site, hop: Hop, message: bytes) -> None:
        own = message % fresh_number()
        await hop.pass_on(own, b"bob@drop.test")
        assert site.send(site.careful, own, "bob@drop.test") == []
