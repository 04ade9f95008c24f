"""P1 and P2 under faults at random: what both sides recorded, and what it says of us in between."""

from __future__ import annotations

import json

import pytest
import uvloop

from tests.chaos.campaign import Outcome, Plan, run
from tests.chaos.fault import FAULTS
from tests.chaos.judge import NAMELESS
from tests.chaos.report import as_json, as_markdown
from tests.support.need import need

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.redis,
    pytest.mark.slow,
    pytest.mark.timeout(420),
    # Runs with clocks in them do not share the machine with one another.
    pytest.mark.xdist_group("chaos"),
]

# Nothing shall be unchecked because somebody else keeps the machine busy for a moment.
CALM = {
    "store.timeout": "20s",
    "dedup.in_flight_wait": "10s",
    "store.lease": "1m",
    "limits.idle_timeout": "1m",
}
# Only where no fault is a mail server that says nothing: there, each would take as long.
PATIENT = {
    "downstream.connect_timeout": "20s",
    "downstream.command_timeout": "20s",
    "downstream.final_reply_timeout": "20s",
}


def outcome_of(plan: Plan) -> Outcome:
    """Run a plan; what is wrong in any run is said here."""
    need("redis-server")
    outcome = uvloop.run(run(plan, print))
    print(as_markdown(outcome))
    print(json.dumps(as_json(outcome)))
    assert outcome.judgement.lost == ()
    assert outcome.judgement.altered == ()
    assert outcome.judgement.unexplained == ()
    assert outcome.stuck == ()
    return outcome


def test_p1_without_faults_exactly_one_copy_each_and_the_metrics_say_so() -> None:
    outcome = outcome_of(Plan(1, 1500, 0, 150.0, settings=CALM | PATIENT))
    ledger, judgement = outcome.ledger, outcome.judgement
    wanted = {(post.number, recipient) for post in ledger.posts for recipient in post.recipients}
    assert ledger.deliveries.keys() == ledger.promised.keys() == wanted
    assert {len(copies) for copies in ledger.deliveries.values()} == {1}
    assert judgement.extras.total() == 0
    marks = [copies[0].mark for copies in ledger.deliveries.values()]
    name = "mailonce_recipients_total"
    assert outcome.metric(name, action="relayed", verdict="new") == marks.count("")
    assert outcome.metric(name, action="tagged", verdict="collision") == marks.count("collision")
    assert marks.count("") + marks.count("collision") == len(marks)
    copies = sum(post.copies * len(post.recipients) for post in ledger.posts)
    assert outcome.metric(name, action="dropped", verdict="duplicate") >= copies > 0
    replies = outcome.metric("mailonce_downstream_replies_total", command="content")
    assert replies == outcome.accepted
    assert outcome.metric("mailonce_messages_total") == ledger.attempts
    assert outcome.metric("mailonce_store_operations_total", result="ok") > 0
    failed = outcome.metric("mailonce_store_operations_total") - outcome.metric(
        "mailonce_store_operations_total", result="ok"
    )
    assert failed == 0


def test_p1_with_faults_around_a_gateway_that_lives_its_metrics_agree() -> None:
    """The mail server and the clients fail, the gateway and its list do not."""
    around = tuple(fault for fault in FAULTS if fault.name.startswith(("downstream", "client")))
    outcome = outcome_of(Plan(2, 1500, 80, 80.0, around, CALM))
    extras = outcome.judgement.extras
    assert outcome.metric("mailonce_recipients_total", verdict="unchecked") == 0
    told = outcome.metric(
        "mailonce_downstream_replies_total", **{"command": "content", "class": "2"}
    )
    lost = outcome.metric(
        "mailonce_downstream_replies_total", **{"command": "content", "class": "lost"}
    )
    assert told <= outcome.accepted <= told + lost
    # Only what nobody can know costs a second copy.
    assert set(extras) <= {"connection lost after the dot: outcome unknown", NAMELESS}


@pytest.mark.parametrize("seed", [20261124])
def test_p1_nothing_is_lost_or_altered_under_faults_at_random(seed: int) -> None:
    outcome = outcome_of(Plan(seed, 5000, 200, 85.0))
    assert outcome.ledger.faults.total() == 200
    assert {fault.name for fault in FAULTS} == set(outcome.ledger.faults)
    assert len(outcome.ledger.posts) == 5000
