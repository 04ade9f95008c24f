"""Reports of transactions, as a relay would make them."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.handover import Client
from gateway.core.message_id import Form
from gateway.core.policy import Action, Decision, Sight, Sighting, Verdict, summary
from gateway.core.reply import Reply
from gateway.core.report import Outcome, Report
from gateway.core.unique_id import UniqueId

NOW_S = 1_795_523_637.25
ACCEPTED = Reply(250, b"250 2.0.0 Ok: queued as 4XyZ1\r\n")


def outcome_of(
    verdict: Verdict = Verdict.NEW,
    action: Action = Action.RELAYED,
    *,
    forward_path: bytes = b"bob@example.net",
    first: Sighting | None = None,
    reply: Reply | None = ACCEPTED,
    key: UniqueId | None = None,
) -> Outcome:
    """Return one recipient's outcome."""
    return Outcome(forward_path, Decision(verdict, action), key, first, reply)


def seen(age_s: int, *, copies: int = 1, note: bytes = b"4First1") -> Sighting:
    """Return the sighting of a copy accepted so long before `NOW_S`."""
    return Sighting(Sight.SEEN, int(NOW_S) - age_s, b"fingerprint", copies, note)


def report_of(
    *outcomes: Outcome,
    identity: bytes = b"1234@example.org",
    form: Form | None = Form.VALID,
    reverse_path: bytes = b"alice@example.org",
    client: Client | None = None,
    reply: Reply = ACCEPTED,
    size_octets: int = 4096,
    is_id_added: bool = False,
    overhead_s: float = 0.000345,
    at_s: float = NOW_S,
) -> Report:
    """Return a report over these outcomes; over one new recipient if there are none."""
    told: Sequence[Outcome] = outcomes or (outcome_of(),)
    return Report(
        at_s=at_s,
        client=client or Client("192.0.2.1", 4711, "mail.example.org", "mail.example.org"),
        reverse_path=reverse_path,
        outcomes=tuple(told),
        summary=summary([outcome.decision for outcome in told]),
        identity=identity,
        form=form,
        is_id_added=is_id_added,
        size_octets=size_octets,
        reply=reply,
        duration_s=0.0123456,
        overhead_s=overhead_s,
    )
