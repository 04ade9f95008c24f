"""The milter as a mail server meets it: real sockets, real screening, the plainest list."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway.core.edition import EditionSettings
from gateway.core.envelope import Envelope
from gateway.core.fingerprint import Fingerprinter
from gateway.core.handover import Client
from gateway.core.policy import IN_FLIGHT, Action, Sighting, Verdict, examine
from gateway.core.reply import reply
from gateway.core.report import Keep, Report
from gateway.core.rule import Match, Mode, Policy, Rule
from gateway.core.unique_id import Sealer, UniqueId
from gateway.desk import Desk, RelaySettings
from gateway.edge.tracking_memory import MemoryTrackingList
from gateway.errors import TrackingListError
from gateway.faces import milter_session
from gateway.faces.milter import MilterServer, serve_milter
from gateway.faces.milter_message import MOST_FORGED, MilterSettings
from gateway.ports import Downstream
from gateway.screening import Screening, ScreeningSettings
from tests.support.milter_peer import V2_STEPS, Edit, MilterPeer, packet

MESSAGE = (
    b"From: Alice <alice@example.org>\r\nDate: Tue, 24 Nov 2026 09:00:00 +0100\r\n"
    b"Subject: lunch\r\nMessage-ID: <1@example.org>\r\n\r\nAt noon?\r\n"
)
OTHER = MESSAGE.replace(b"noon", b"one")
NO_ID = MESSAGE.replace(b"Message-ID: <1@example.org>\r\n", b"")
BOB, CAROL = b"<bob@example.net>", b"<carol@example.net>"


@dataclass
class _Recorder:
    """Journal and meter that keep what they are told."""

    reports: list[Report] = field(default_factory=list)
    complaints: list[tuple[str, str]] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    begun: int = 0

    def record(self, report: Report) -> None:
        self.reports.append(report)

    def complain(self, event: str, reason: str) -> None:
        self.complaints.append((event, reason))

    def session_began(self) -> None:
        self.begun += 1

    def session_ended(self, *, is_tls: bool, result: str) -> None:
        assert not is_tls
        self.results.append(result)

    def protocol_error(self, kind: str) -> None:
        self.errors.append(kind)


class _DeadList(MemoryTrackingList):
    """A tracking list that does not answer."""

    async def claim(self, *_: object, **__: object) -> Sequence[Sighting]:
        raise TrackingListError("gone")

    async def confirm(self, *_: object, **__: object) -> None:
        raise TrackingListError("gone")

    async def release(self, *_: object, **__: object) -> None:
        raise TrackingListError("gone")


class _BrokenList(MemoryTrackingList):
    """A tracking list with a bug."""

    async def claim(self, *_: object, **__: object) -> Sequence[Sighting]:
        raise ZeroDivisionError("a bug")


@dataclass
class _Clock:
    time_s: float = 1_795_500_000.0

    def __call__(self) -> float:
        return self.time_s


@dataclass
class _Rig:
    """A milter and all that stands behind it."""

    server: MilterServer
    address: tuple[str, int]
    recorder: _Recorder
    clock: _Clock
    tracking_list: MemoryTrackingList
    screening: Screening

    async def peer(self) -> MilterPeer:
        peer = await (await MilterPeer.connect(self.address)).negotiate()
        peer.introduce()
        return peer

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - what is waited for knows of no event
                await asyncio.sleep(0.001)


async def _no_downstream(client: Client) -> Downstream:
    raise AssertionError(f"a milter connects to nobody, {client}")


@dataclass
class _Open:
    """Opens rigs, and closes them at the end of the test."""

    rigs: list[_Rig] = field(default_factory=list)

    async def __call__(
        self,
        policy: Policy | None = None,
        settings: MilterSettings | None = None,
        screening: ScreeningSettings | None = None,
        tracking_list: MemoryTrackingList | None = None,
        header_size_octets: int = 65_536,
        allowed: str = "",
        listener: socket.socket | None = None,
    ) -> _Rig:
        recorder, clock = _Recorder(), _Clock()
        known = tracking_list or MemoryTrackingList(now=clock)
        chosen = screening or ScreeningSettings(in_flight_wait_s=0.0)
        screens = Screening(
            known, Sealer(b"secret"), replace(chosen, default=policy or Policy()), now=clock
        )
        edition = EditionSettings(hostname="mx.test", id_domain="mx.test")
        desk = Desk(
            _no_downstream,
            screens,
            recorder,
            RelaySettings(edition, header_size_octets, hops=100, lease_s=60.0, keep=Keep.ALL),
        )
        if listener is None:
            listener = socket.create_server(("127.0.0.1", 0))
        server = await serve_milter(
            [listener],
            lambda: desk,
            recorder,
            settings or MilterSettings(),
            [ip_network(allowed)] if allowed else (),
        )
        rig = _Rig(server, listener.getsockname(), recorder, clock, known, screens)
        self.rigs.append(rig)
        return rig


@pytest.fixture
async def open_rig() -> AsyncIterator[_Open]:
    opener = _Open()
    yield opener
    for rig in opener.rigs:
        await rig.server.close(grace_s=0.0)
        assert rig.server.sessions == 0


def _decisions(report: Report) -> list[tuple[Verdict, Action]]:
    return [(o.decision.verdict, o.decision.action) for o in report.outcomes]


async def test_negotiation_asks_for_the_least(open_rig: _Open) -> None:
    rig = await open_rig()
    async with await rig.peer() as peer:
        assert peer.version == 6
        assert peer.requests == 0x01 | 0x08 | 0x10 | 0x100
        assert peer.steps & 0x10 == 0, "the body is needed for the fingerprint"
        no_reply = sum(1 << bit for bit in (7, 12, 13, 14, 15, 18, 19))
        assert peer.steps & no_reply == no_reply
        assert peer.macro_lists == b"\0\0\0\x05i\0"


async def test_new_message_costs_one_round_trip_and_stays_as_it_is(open_rig: _Open) -> None:
    rig = await open_rig()
    async with await rig.peer() as peer:
        peer.send(peer.message(MESSAGE))
        assert await peer.next() == ("c", b"")
        await rig.until(lambda: rig.recorder.reports)
        assert not peer._unread
    [report] = rig.recorder.reports
    assert _decisions(report) == [(Verdict.NEW, Action.RELAYED)]
    assert report.client.address == "192.0.2.7"
    assert report.client.helo == "client.test"
    assert report.identity == b"1@example.org"
    assert report.size_octets == len(MESSAGE)
    assert report.overhead_s <= report.duration_s


async def test_queue_id_goes_to_journal_and_record(open_rig: _Open) -> None:
    rig = await open_rig(Policy(mode=Mode.TAG))
    async with await rig.peer() as peer:
        await peer.deliver(MESSAGE)
        await peer.deliver(MESSAGE)
        await rig.until(lambda: len(rig.recorder.reports) == 2)
    first, second = await rig.tracking_list.trail(b"1@example.org", 10)
    assert (first.queue_id, first.verdict) == ("4ABC", "new")
    assert (second.first_queue_id, second.verdict, second.copies) == ("4ABC", "duplicate", 2)


async def test_duplicate_is_tagged(open_rig: _Open) -> None:
    rig = await open_rig()
    async with await rig.peer() as peer:
        await peer.deliver(MESSAGE)
        answer = await peer.deliver(MESSAGE)
    assert answer.verdict == "c"
    assert answer.inserted == [
        b"X-Mailonce: duplicate; first-seen=2026-11-24T06:00:00Z; copies=2; by=mx.test"
    ]
    assert answer.edits[0].index == 0


async def test_young_provisional_sighting_never_costs_a_copy(open_rig: _Open) -> None:
    """P1: the mail server may have refused what the milter saw."""
    rig = await open_rig(Policy(mode=Mode.DROP))
    async with await rig.peer() as peer:
        await peer.deliver(MESSAGE)
        rig.clock.time_s += 599
        answer = await peer.deliver(MESSAGE)
    assert answer.verdict == "c"
    assert answer.inserted[0].startswith(b"X-Mailonce: duplicate;")


async def test_old_provisional_sighting_counts(open_rig: _Open) -> None:
    rig = await open_rig(Policy(mode=Mode.DROP))
    async with await rig.peer() as peer:
        await peer.deliver(MESSAGE)
        rig.clock.time_s += 601
        assert (await peer.deliver(MESSAGE)).verdict == "d"
    await rig.until(lambda: len(rig.recorder.reports) == 2)
    report = rig.recorder.reports[1]
    assert _decisions(report) == [(Verdict.DUPLICATE, Action.DROPPED)]
    assert report.reply.wire.startswith(b"250 2.0.0 Ok: duplicate")


async def test_every_copy_passed_on_starts_the_doubt_anew(open_rig: _Open) -> None:
    """P1: the second may be the retry of a first that failed, and may fail as well."""
    rig = await open_rig(Policy(mode=Mode.DROP))
    async with await rig.peer() as peer:
        for _ in range(4):
            assert (await peer.deliver(MESSAGE)).verdict == "c"
            rig.clock.time_s += 400
        rig.clock.time_s += 400
        assert (await peer.deliver(MESSAGE)).verdict == "d"


async def test_assumed_acceptance_counts_at_once(open_rig: _Open) -> None:
    rig = await open_rig(
        Policy(mode=Mode.DROP), settings=MilterSettings(is_acceptance_assumed=True)
    )
    async with await rig.peer() as peer:
        await peer.deliver(MESSAGE)
        assert (await peer.deliver(MESSAGE)).verdict == "d"


async def _seen_by_the_hop(rig: _Rig, message: bytes, *recipients: bytes) -> None:
    """Have a message accepted as the SMTP face does it, outcome known."""
    section, _, body = message.partition(b"\r\n\r\n")
    examination = examine(section + b"\r\n")
    fingerprinter = Fingerprinter(examination.identifying)
    fingerprinter.update(b"\r\n" + body)
    screened = await rig.screening.claim(
        examination, Envelope(b"alice@example.org", recipients, ""), fingerprinter.digest()
    )
    screened = await rig.screening.resolve(screened, fingerprinter.digest())
    await rig.screening.settle(
        screened,
        rig.screening.decide(screened),
        [reply(250, "2.0.0", "Ok")] * len(recipients),
        fingerprinter.digest(),
    )


async def test_copy_seen_by_the_hop_is_known_and_dropped_at_once(open_rig: _Open) -> None:
    rig = await open_rig(Policy(mode=Mode.DROP))
    await _seen_by_the_hop(rig, MESSAGE, b"bob@example.net")
    async with await rig.peer() as peer:
        assert (await peer.deliver(MESSAGE)).verdict == "d"


async def test_hop_turns_a_provisional_sighting_into_a_confirmed_one(open_rig: _Open) -> None:
    rig = await open_rig(Policy(mode=Mode.DROP))
    async with await rig.peer() as peer:
        await peer.deliver(MESSAGE)
        await rig.until(lambda: rig.recorder.reports)
        await _seen_by_the_hop(rig, MESSAGE, b"bob@example.net")
        assert (await peer.deliver(MESSAGE)).verdict == "d"


async def test_milter_takes_nothing_from_what_the_hop_confirmed(open_rig: _Open) -> None:
    rig = await open_rig(Policy(mode=Mode.TAG))
    await _seen_by_the_hop(rig, MESSAGE, b"bob@example.net")
    async with await rig.peer() as peer:
        await peer.deliver(MESSAGE)
        await rig.until(lambda: rig.recorder.reports)
    [outcome] = rig.recorder.reports[0].outcomes
    assert outcome.unique_id is not None
    [(_, sighting)] = await rig.tracking_list.known(outcome.unique_id.message)
    assert (sighting.copies, sighting.provisional_at_s) == (2, 0)


async def test_collision_is_tagged_and_its_own_copy_is_a_duplicate(open_rig: _Open) -> None:
    """P6: another content under a known id is never withheld."""
    rig = await open_rig(Policy(mode=Mode.DROP))
    await _seen_by_the_hop(rig, MESSAGE, b"bob@example.net")
    async with await rig.peer() as peer:
        answer = await peer.deliver(OTHER)
        assert answer.verdict == "c"
        assert answer.inserted[0].startswith(b"X-Mailonce: collision;")
        rig.clock.time_s += 601
        assert (await peer.deliver(OTHER)).verdict == "d"


async def test_recipients_that_have_it_are_taken_away(open_rig: _Open) -> None:
    rig = await open_rig(Policy(mode=Mode.DROP))
    await _seen_by_the_hop(rig, MESSAGE, b"bob@example.net")
    async with await rig.peer() as peer:
        answer = await peer.deliver(MESSAGE, [BOB, CAROL])
        await rig.until(lambda: rig.recorder.reports)
    assert (answer.verdict, answer.removed, answer.inserted) == ("c", [BOB], [])
    [report] = rig.recorder.reports
    assert _decisions(report) == [
        (Verdict.DUPLICATE, Action.DROPPED),
        (Verdict.NEW, Action.RELAYED),
    ]
    assert report.summary.verdict is Verdict.PARTIAL


async def test_recipient_written_in_two_ways_is_one_and_goes_in_both(open_rig: _Open) -> None:
    rig = await open_rig(Policy(mode=Mode.DROP))
    await _seen_by_the_hop(rig, MESSAGE, b"bob@example.net")
    twice = [BOB, b"<bob@EXAMPLE.net>", BOB, CAROL]
    async with await rig.peer() as peer:
        answer = await peer.deliver(MESSAGE, twice)
        await rig.until(lambda: rig.recorder.reports)
    assert answer.removed == [BOB, b"<bob@EXAMPLE.net>"]
    assert len(rig.recorder.reports[0].outcomes) == 2


async def test_nobody_is_tagged_where_it_would_be_wrong_for_somebody(open_rig: _Open) -> None:
    rig = await open_rig(Policy(mode=Mode.TAG))
    await _seen_by_the_hop(rig, MESSAGE, b"bob@example.net")
    async with await rig.peer() as peer:
        answer = await peer.deliver(MESSAGE, [BOB, CAROL])
        await rig.until(lambda: rig.recorder.reports)
    assert (answer.verdict, answer.edits) == ("c", ())
    assert _decisions(rig.recorder.reports[0]) == [
        (Verdict.DUPLICATE, Action.OBSERVED),
        (Verdict.NEW, Action.RELAYED),
    ]


async def test_second_recipient_is_new(open_rig: _Open) -> None:
    rig = await open_rig(Policy(mode=Mode.DROP))
    await _seen_by_the_hop(rig, MESSAGE, b"bob@example.net")
    async with await rig.peer() as peer:
        answer = await peer.deliver(MESSAGE, [CAROL])
    assert (answer.verdict, answer.edits) == ("c", ())


async def test_missing_id_is_added_below_the_tag(open_rig: _Open) -> None:
    rig = await open_rig()
    async with await rig.peer() as peer:
        first = await peer.deliver(NO_ID)
        second = await peer.deliver(NO_ID)
    assert len(first.inserted) == 1
    assert first.inserted[0].startswith(b"Message-ID: <20261124090000.")
    # Before that, one that Sendmail would add goes.
    assert first.edits[0] == Edit("m", b"Message-ID", b"", 1)
    assert second.inserted[0].startswith(b"X-Mailonce: duplicate;")
    assert second.inserted[1:] == first.inserted


@pytest.mark.parametrize("message", [NO_ID, MESSAGE], ids=["given an id", "with an id"])
@pytest.mark.parametrize("recipients", [1, 0], ids=["checked", "unchecked"])
async def test_p7_journal_knows_a_message_by_the_id_that_it_has_or_is_given(
    open_rig: _Open, message: bytes, recipients: int
) -> None:
    """What a postmaster pastes into `trace` is the Message-ID that the mailbox shows."""
    limits = MilterSettings(recipients=1 + recipients)
    rig = await open_rig(settings=limits)
    async with await rig.peer() as peer:
        answer = await peer.deliver(message, [BOB, CAROL])
        await rig.until(lambda: rig.recorder.reports)
    shown = next((f for f in answer.inserted if f.startswith(b"Message-ID")), b"<1@example.org>")
    assert b"<%b>" % rig.recorder.reports[0].identity in shown


async def test_forged_fields_go_from_the_last_to_the_first(open_rig: _Open) -> None:
    rig = await open_rig()
    forged = b"X-Mailonce: duplicate\r\nx-mailonce: collision\r\n" + MESSAGE
    async with await rig.peer() as peer:
        answer = await peer.deliver(forged)
    assert [(e.code, e.name.lower(), e.index, e.body) for e in answer.edits] == [
        ("m", b"x-mailonce", 2, b""),
        ("m", b"x-mailonce", 1, b""),
    ]


@pytest.mark.parametrize("header_size_octets", [1 << 18, 1000], ids=["examined", "beyond that"])
async def test_more_forged_fields_than_can_be_removed_do_not_pass(
    open_rig: _Open, header_size_octets: int
) -> None:
    """None may stay, and removing so many would hold the mail server up; nothing is remembered."""
    rig = await open_rig(header_size_octets=header_size_octets)
    async with await rig.peer() as peer:
        refused = await peer.deliver(
            b"X-Mailonce: x\r\n" * (MOST_FORGED + 1) + MESSAGE, [BOB, CAROL]
        )
        assert (refused.verdict, refused.edits) == ("y", ())
        passed = await peer.deliver(b"X-Mailonce: x\r\n" * MOST_FORGED + MESSAGE, [BOB, CAROL])
        assert passed.verdict == "c"
        assert [edit.index for edit in passed.edits if edit.code == "m"] == [
            *range(MOST_FORGED, 0, -1)
        ]
        assert [f for f in passed.inserted if b"duplicate" in f] == []
    assert [s for _, s in _decisions(rig.recorder.reports[0])] == [Action.DEFERRED] * 2


async def test_in_flight_is_451(open_rig: _Open) -> None:
    rig = await open_rig()
    section, _, body = MESSAGE.partition(b"\r\n\r\n")
    envelope = Envelope(b"", (b"bob@example.net",), "")
    held = await rig.screening.claim(examine(section + b"\r\n"), envelope)
    async with await rig.peer() as peer:
        answer = await peer.deliver(MESSAGE, [BOB, CAROL])
        assert answer.verdict == "y"
        assert answer.text.startswith("451 4.3.0 Another copy")
        assert answer.edits == ()
        await rig.screening.release(held)
        assert (await peer.deliver(MESSAGE, [BOB, CAROL])).edits == ()
    assert body
    assert [s for _, s in _decisions(rig.recorder.reports[0])] == [Action.DEFERRED] * 2


async def test_list_down_mail_flows_with_the_unchecked_tag(open_rig: _Open) -> None:
    """P4."""
    rig = await open_rig(tracking_list=_DeadList())
    async with await rig.peer() as peer:
        answer = await peer.deliver(MESSAGE)
    assert answer.verdict == "c"
    assert answer.inserted == [b"X-Mailonce: unchecked; by=mx.test"]


async def test_list_down_may_tempfail(open_rig: _Open) -> None:
    """P4."""
    rig = await open_rig(
        tracking_list=_DeadList(),
        screening=ScreeningSettings(defers_unchecked=True, in_flight_wait_s=0.0),
    )
    async with await rig.peer() as peer:
        answer = await peer.deliver(MESSAGE)
    assert answer.verdict == "y"
    assert answer.text.startswith("451 4.3.0 Duplicates cannot be checked")


async def test_our_bug_is_451_and_the_connection_goes_on(open_rig: _Open) -> None:
    rig = await open_rig(tracking_list=_BrokenList())
    async with await rig.peer() as peer:
        for _ in range(2):
            answer = await peer.deliver(MESSAGE)
            assert (answer.verdict, answer.text[:9]) == ("y", "451 4.3.0")
            assert "bug" not in answer.text
    assert [event for event, _ in rig.recorder.complaints] == ["bug", "bug"]


async def test_many_messages_each_with_its_own_verdict(open_rig: _Open) -> None:
    rig = await open_rig()
    async with await rig.peer() as peer:
        for number in range(50):
            message = MESSAGE.replace(b"<1@", b"<%d@" % (number // 2))
            answer = await peer.deliver(message)
            assert len(answer.inserted) == number % 2, number
    await rig.until(lambda: rig.server.sessions == 0)
    assert rig.recorder.begun == 1


async def test_messages_sent_without_waiting_are_answered_in_order(open_rig: _Open) -> None:
    rig = await open_rig()
    async with await rig.peer() as peer:
        peer.send(b"".join(peer.message(MESSAGE) for _ in range(3)))
        assert [len((await peer.answer()).inserted) for _ in range(3)] == [0, 1, 1]


async def test_octet_by_octet(open_rig: _Open) -> None:
    rig = await open_rig()
    async with await rig.peer() as peer:
        for octet in peer.message(MESSAGE, chunk_octets=3):
            peer.send(bytes((octet,)))
            await peer.writer.drain()
        assert (await peer.answer()).verdict == "c"
        assert (await peer.deliver(MESSAGE)).inserted


async def test_abort_leaves_nothing_behind(open_rig: _Open) -> None:
    rig = await open_rig(Policy(mode=Mode.DROP))
    async with await rig.peer() as peer:
        whole = peer.message(MESSAGE)
        peer.send(whole[: whole.index(b"At noon")].rpartition(packet("D", b"E")[:4])[0])
        peer.send(packet("A"))
        assert (await peer.deliver(MESSAGE)).edits == ()


async def test_new_connection_on_the_same_socket_is_another_client(open_rig: _Open) -> None:
    rig = await open_rig()
    async with await rig.peer() as peer:
        await peer.deliver(MESSAGE)
        peer.send(packet("K"))
        peer.introduce("2001:db8::1", "other.test")
        await peer.deliver(OTHER)
        await rig.until(lambda: len(rig.recorder.reports) == 2)
    clients = [(r.client.address, r.client.helo) for r in rig.recorder.reports]
    assert clients == [("192.0.2.7", "client.test"), ("2001:db8::1", "other.test")]


async def test_quit_ends_the_session_well(open_rig: _Open) -> None:
    rig = await open_rig()
    async with await rig.peer() as peer:
        await peer.deliver(MESSAGE)
        peer.send(packet("Q"))
        assert await peer.is_closed()
    await rig.until(lambda: rig.recorder.results)
    assert rig.recorder.results == ["ok"]


async def test_version_2_gets_an_answer_to_each_command(open_rig: _Open) -> None:
    rig = await open_rig()
    peer = await MilterPeer.connect(rig.address)
    async with await peer.negotiate(2, 0x3F, V2_STEPS) as peer:
        assert (peer.version, peer.macro_lists) == (2, b"")
        peer.introduce()
        assert [await peer.next() for _ in "CH"] == [("c", b"")] * 2
        for expected in (0, 1):
            peer.send(packet("M", b"<a@b>\0"))
            assert await peer.next() == ("c", b"")
            peer.send(packet("R", BOB + b"\0"))
            assert await peer.next() == ("c", b"")
            for name, body in ((b"Subject", b"x"), (b"Message-ID", b"<2@example.org>")):
                peer.send(packet("L", name + b"\0" + body + b"\0"))
                assert await peer.next() == ("c", b"")
            peer.send(packet("B", b"text\r\n"))
            assert await peer.next() == ("c", b"")
            peer.send(packet("E"))
            tags = (await peer.answer()).inserted
            assert len(tags) == expected
            # A server that has eaten the blank puts one back.
            assert all(tag.startswith(b"X-Mailonce:duplicate") for tag in tags)


async def test_leading_space_makes_no_difference(open_rig: _Open) -> None:
    rig = await open_rig()
    spaces = MESSAGE.replace(b"Subject: lunch", b"Subject:\r\n  lunch  at\r\n\tnoon ")
    async with await rig.peer() as peer:
        await peer.deliver(spaces)
    older = await MilterPeer.connect(rig.address)
    async with await older.negotiate(steps=0x1FFFFF & ~(1 << 20)) as peer:
        answer = await peer.deliver(spaces)
    assert answer.inserted[0].startswith(b"X-Mailonce:duplicate")


async def test_body_may_come_with_the_end(open_rig: _Open) -> None:
    rig = await open_rig()
    async with await rig.peer() as peer:
        await peer.deliver(MESSAGE)
        head = peer.message(MESSAGE.partition(b"At noon")[0]).removesuffix(packet("E"))
        peer.send(head + packet("E", b"At noon?\r\n"))
        assert (await peer.answer()).inserted[0].startswith(b"X-Mailonce: duplicate")


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(packet("M", b"<a@b>\0"), id="MAIL before the negotiation"),
        pytest.param(b"EHLO milter\r\n", id="SMTP"),
        pytest.param(b"\0\0\0\0M", id="no command"),
        pytest.param(b"\xff\xff\xff\xffM", id="4 GiB (P8)"),
        pytest.param(packet("O", struct.pack("!III", 1, 0x1FF, 0)), id="version 1"),
        pytest.param(packet("O", struct.pack("!III", 6, 0, 0)), id="nothing is allowed"),
        pytest.param(packet("O", b"\0"), id="short negotiation"),
    ],
)
async def test_nonsense_ends_the_connection(open_rig: _Open, octets: bytes) -> None:
    rig = await open_rig()
    async with await MilterPeer.connect(rig.address) as peer:
        peer.send(octets)
        assert await peer.is_closed()
    await rig.until(lambda: rig.recorder.results)
    assert rig.recorder.results == ["error"]
    assert rig.recorder.errors == ["command"]


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(packet("R", BOB + b"\0"), id="RCPT without MAIL"),
        pytest.param(packet("L", b"Subject\0x\0"), id="field without MAIL"),
        pytest.param(packet("E"), id="end without MAIL"),
        pytest.param(packet("M", b"<a@b>"), id="string without end"),
        pytest.param(packet("M", b"<" + b"a" * 5000 + b">\0"), id="long address (P8)"),
        pytest.param(packet("?"), id="unknown command"),
    ],
)
async def test_nonsense_in_a_session_ends_it(open_rig: _Open, octets: bytes) -> None:
    rig = await open_rig()
    async with await rig.peer() as peer:
        peer.send(octets)
        assert await peer.is_closed()
    await rig.until(lambda: rig.recorder.results)
    assert rig.recorder.results == ["error"]


async def test_message_to_nobody_goes_on(open_rig: _Open) -> None:
    rig = await open_rig()
    async with await rig.peer() as peer:
        assert (await peer.deliver(MESSAGE, [])).verdict == "c"
        assert (await peer.deliver(MESSAGE)).verdict == "c"


async def test_huge_header_section_passes_unchecked(open_rig: _Open) -> None:
    """P8: a header section over its limit is not kept."""
    rig = await open_rig(header_size_octets=1000)
    huge = b"X-Filler: " + b"x" * 2000 + b"\r\n" + MESSAGE
    async with await rig.peer() as peer:
        for _ in range(2):
            answer = await peer.deliver(huge)
            assert answer.inserted == [b"X-Mailonce: unchecked; by=mx.test"]


async def test_too_many_recipients_pass_unchecked(open_rig: _Open) -> None:
    """P8: nobody loses a copy over our limits."""
    rig = await open_rig(settings=MilterSettings(recipients=3))
    many = [b"<r%d@example.net>" % n for n in range(5)]
    async with await rig.peer() as peer:
        answer = await peer.deliver(MESSAGE, many)
    assert (answer.verdict, answer.removed) == ("c", [])
    assert answer.inserted == [b"X-Mailonce: unchecked; by=mx.test"]


async def test_one_connection_too_many_is_refused(open_rig: _Open) -> None:
    """P8."""
    rig = await open_rig(settings=MilterSettings(sessions=1))
    async with await rig.peer() as peer:
        async with await MilterPeer.connect(rig.address) as second:
            assert await second.is_closed()
        assert (await peer.deliver(MESSAGE)).verdict == "c"
    await rig.until(lambda: len(rig.recorder.results) == 2)
    assert rig.recorder.results == ["refused", "ok"]


async def test_strangers_may_not_connect(open_rig: _Open) -> None:
    rig = await open_rig(allowed="192.0.2.0/24")
    async with await MilterPeer.connect(rig.address) as peer:
        assert await peer.is_closed()
    assert rig.recorder.complaints[0][0] == "milter_refused"


async def test_silence_in_the_middle_of_content_ends_the_connection(open_rig: _Open) -> None:
    """P8."""
    rig = await open_rig(settings=MilterSettings(idle_timeout_s=0.05))
    async with await rig.peer() as peer:
        peer.send(packet("M", b"<a@b>\0") + packet("R", BOB + b"\0") + packet("L", b"A\0 b\0"))
        assert await peer.is_closed()
    await rig.until(lambda: rig.recorder.results)
    assert rig.recorder.results == ["timeout"]


async def test_silence_between_messages_is_the_clients_business(open_rig: _Open) -> None:
    rig = await open_rig(settings=MilterSettings(idle_timeout_s=0.05))
    async with await rig.peer() as peer:
        await peer.deliver(MESSAGE)
        await asyncio.sleep(0.2)  # four times the limit for content
        assert (await peer.deliver(MESSAGE)).verdict == "c"


class _SlowList(MemoryTrackingList):
    """A tracking list that answers a claim when it is told to."""

    def __init__(self, clock: _Clock) -> None:
        super().__init__(now=clock)
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def claim(
        self, unique_ids: Sequence[UniqueId], token: bytes, lease_s: float
    ) -> Sequence[Sighting]:
        found = await super().claim(unique_ids, token, lease_s)
        self.asked.set()
        await self.may_answer.wait()
        return found


@pytest.mark.parametrize("ending", ["hangs up", "aborts"])
async def test_server_that_gives_up_waiting_has_its_claims_released(
    open_rig: _Open, ending: str
) -> None:
    """P1: what the mail server may have refused is not remembered."""
    slow = _SlowList(_Clock())
    rig = await open_rig(tracking_list=slow)
    async with await rig.peer() as peer:
        peer.send(peer.message(MESSAGE))
        async with asyncio.timeout(30):
            await slow.asked.wait()
        if ending == "aborts":
            (session,) = rig.server._open
            peer.send(packet("A") + packet("Q"))
            await rig.until(lambda: session._is_given_up)
        else:
            peer.writer.transport.abort()
            await rig.until(lambda: rig.recorder.results)
        slow.may_answer.set()
        await rig.until(lambda: rig.server.sessions == 0)
    assert rig.recorder.reports == []
    async with await rig.peer() as peer:
        assert (await peer.deliver(MESSAGE)).edits == ()


async def test_answer_that_nobody_can_be_given_any_more_counts_for_nothing(
    open_rig: _Open,
) -> None:
    """P1: the list answers in the moment in which we cut the connection."""
    slow = _SlowList(_Clock())
    rig = await open_rig(
        Policy(mode=Mode.DROP),
        settings=MilterSettings(is_acceptance_assumed=True),
        tracking_list=slow,
    )
    async with await rig.peer() as peer:
        peer.send(peer.message(MESSAGE))
        async with asyncio.timeout(30):
            await slow.asked.wait()
        slow.may_answer.set()
        (session,) = rig.server._open
        session.cut()
        await rig.until(lambda: rig.server.sessions == 0)
    assert rig.recorder.reports == []
    async with await rig.peer() as peer:
        assert (await peer.deliver(MESSAGE)).verdict == "c"


async def test_server_that_waits_for_us_is_asked_for_patience(
    open_rig: _Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milter_session, "_PROGRESS_EVERY_S", 0.02)
    slow = _SlowList(_Clock())
    rig = await open_rig(tracking_list=slow)
    async with await rig.peer() as peer:
        peer.send(peer.message(MESSAGE))
        for _ in range(3):
            assert await peer.next() == ("p", b"")
        slow.may_answer.set()
        while (command := (await peer.next())[0]) == "p":
            pass
        assert command == "c"
        # Nothing stands between an answer and the next one.
        await rig.until(lambda: rig.recorder.reports)
        assert (await peer.deliver(OTHER)).verdict == "c"


async def test_message_under_way_is_finished_when_we_stop(open_rig: _Open) -> None:
    slow = _SlowList(_Clock())
    rig = await open_rig(tracking_list=slow)
    async with await rig.peer() as peer:
        peer.send(peer.message(MESSAGE))
        async with asyncio.timeout(30):
            await slow.asked.wait()
        closing = asyncio.create_task(rig.server.close(grace_s=60.0))
        slow.may_answer.set()
        assert (await peer.answer()).verdict == "c"
        assert await peer.is_closed()
        await closing
    assert len(rig.recorder.reports) == 1
    assert rig.recorder.results == ["ok"]


async def test_message_that_never_ends_is_cut_when_the_grace_is_over(open_rig: _Open) -> None:
    rig = await open_rig()
    async with await rig.peer() as peer:
        peer.send(packet("M", b"<a@b>\0"))
        (session,) = rig.server._open
        await rig.until(lambda: session._message is not None)
        await rig.server.close(grace_s=0.05)
        assert await peer.is_closed()
    assert rig.recorder.results == ["lost"]


async def test_idle_connection_is_closed_at_once(open_rig: _Open) -> None:
    rig = await open_rig()
    async with await rig.peer() as peer:
        await peer.deliver(MESSAGE)
        await rig.until(lambda: rig.recorder.reports)
        async with asyncio.timeout(30):
            await rig.server.close(grace_s=3600.0)
        assert await peer.is_closed()
    assert rig.recorder.results == ["ok"]


async def test_settings_may_change_in_between(open_rig: _Open) -> None:
    rig = await open_rig(Policy(mode=Mode.DROP))
    async with await rig.peer() as peer:
        await peer.deliver(MESSAGE)
        assert (await peer.deliver(MESSAGE)).verdict == "c"
        rig.server.settings = MilterSettings(is_acceptance_assumed=True)
        await peer.deliver(OTHER.replace(b"<1@", b"<2@"))
        assert (await peer.deliver(OTHER.replace(b"<1@", b"<2@"))).verdict == "d"


async def test_unix_socket(open_rig: _Open, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "milter.sock"))
    listener.listen()
    rig = await open_rig(listener=listener, allowed="192.0.2.0/24")
    async with await rig.peer() as peer:
        assert (await peer.deliver(MESSAGE)).verdict == "c"


async def test_bypassed_mail_is_left_alone(open_rig: _Open) -> None:
    rig = await open_rig(
        screening=ScreeningSettings(
            rules=(Rule(recipients=("*@example.net",), mode=Mode.BYPASS),), in_flight_wait_s=0.0
        )
    )
    async with await rig.peer() as peer:
        for _ in range(2):
            assert (await peer.deliver(NO_ID)).edits == ()


async def test_policy_sees_the_client_of_the_mail_server(open_rig: _Open) -> None:
    rule = Rule(clients=(ip_network("192.0.2.7/32"),), mode=Mode.OBSERVE, match=Match.MESSAGE_ID)
    rig = await open_rig(screening=ScreeningSettings(rules=(rule,), in_flight_wait_s=0.0))
    async with await rig.peer() as peer:
        await peer.deliver(MESSAGE)
        assert (await peer.deliver(MESSAGE)).edits == ()
        await rig.until(lambda: len(rig.recorder.reports) == 2)
    assert _decisions(rig.recorder.reports[1]) == [(Verdict.DUPLICATE, Action.OBSERVED)]


async def test_nothing_claimed_is_left_in_flight(open_rig: _Open) -> None:
    rig = await open_rig(Policy(mode=Mode.DROP))
    async with await rig.peer() as peer:
        for message in (MESSAGE, OTHER, MESSAGE, OTHER):
            await peer.deliver(message, [BOB, CAROL])
        await rig.until(lambda: len(rig.recorder.reports) == 4)
    key = rig.recorder.reports[0].outcomes[0].unique_id
    assert key is not None
    known = await rig.tracking_list.known(key.message)
    assert len(known) == 4
    assert all(sighting != IN_FLIGHT for _, sighting in known)


_COMMANDS = "ABCDEHKLMNOQRTU?"


@pytest.mark.parametrize("seed", range(40))
async def test_any_packets_in_any_order_are_no_bug_of_ours(open_rig: _Open, seed: int) -> None:
    """P8: whatever comes is answered, waited on or ends the connection; the next one works."""
    chance = random.Random(seed)
    payloads = [b"", b"\0", b"a\0b\0", b"<a@b>\0", b"x" * 300, b"E", b"Ei\0q\0", b"\0" * 40]
    rig = await open_rig()
    peer = await rig.peer()
    async with peer:
        for _ in range(60):
            command = chance.choice(_COMMANDS)
            payload = chance.choice([*payloads, chance.randbytes(chance.randrange(60))])
            peer.send(packet(command, payload))
        peer.writer.write_eof()
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                await peer.next()
    await rig.until(lambda: rig.server.sessions == 0)
    assert [event for event, _ in rig.recorder.complaints if event == "bug"] == []
    async with await rig.peer() as after:
        assert (await after.deliver(MESSAGE)).verdict == "c"
