"""A run as a table for people and as JSON for machines."""

from __future__ import annotations

import os
import platform
from typing import Any

from tests.chaos.campaign import Outcome
from tests.chaos.judge import CAUSES


def as_markdown(outcome: Outcome) -> str:
    """Return the table that the README shows."""
    judgement, ledger = outcome.judgement, outcome.ledger
    copies = sum(len(found) for found in ledger.deliveries.values())
    rows = [
        ("messages, distinct", f"{len(ledger.posts):,}"),
        ("copies for one recipient each, promised with a 2xx", f"{judgement.promised:,}"),
        ("attempts of the clients", f"{ledger.attempts:,}"),
        ("faults", f"{ledger.faults.total():,}"),
        ("**lost**", f"**{len(judgement.lost)}**"),
        ("**altered**", f"**{len(judgement.altered)}**"),
        ("delivered once more, of all copies", f"{copies - judgement.delivered:,} of {copies:,}"),
        *((f"– {cause}", f"{judgement.extras[cause]:,}") for cause in CAUSES),
        ("– **for no such reason**", f"**{len(judgement.unexplained)}**"),
        ("all through after the last fault in", f"{outcome.drain_s:.0f} s"),
    ]
    lines = [f"| seed {outcome.plan.seed} | |", "|---|--:|"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    return "\n".join(lines)


def faults_as_markdown(outcome: Outcome) -> str:
    """Return the table of faults, and of what they came to downstream and at clients."""
    lines = ["| fault | times |", "|---|--:|"]
    lines += [f"| {name} | {count:,} |" for name, count in sorted(outcome.ledger.faults.items())]
    lines += ["", "| trouble | replies, connections |", "|---|--:|"]
    lines += [f"| {name} | {count:,} |" for name, count in sorted(outcome.ledger.troubles.items())]
    return "\n".join(lines)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return everything that can be counted."""
    judgement, ledger, plan = outcome.judgement, outcome.ledger, outcome.plan
    return {
        "seed": plan.seed,
        "machine": {"processors": os.cpu_count(), "python": platform.python_version()},
        "messages": len(ledger.posts),
        "attempts": ledger.attempts,
        "final_replies": dict(sorted(ledger.codes.items())),
        "promised": judgement.promised,
        "delivered": judgement.delivered,
        "copies": sum(len(found) for found in ledger.deliveries.values()),
        "faults": dict(sorted(ledger.faults.items())),
        "troubles": dict(sorted(ledger.troubles.items())),
        "lost": list(judgement.lost),
        "altered": list(judgement.altered),
        "extras": {cause: judgement.extras[cause] for cause in CAUSES},
        "unexplained": list(judgement.unexplained),
        "stuck": list(outcome.stuck),
        "took_s": round(outcome.took_s, 1),
        "drain_s": round(outcome.drain_s, 1),
        "longest_s": round(outcome.longest_s, 1),
    }
