"""``python -m tests.chaos``: many messages, many faults, one judgement; exit 0 if it is clean."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
from pathlib import Path

import uvloop

from tests.chaos.campaign import Outcome, Plan, run
from tests.chaos.report import as_json, as_markdown, faults_as_markdown

_MOST_SHOWN = 20
_MESSAGES_PER_FAULT = 50


def main() -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--events", type=int, help="faults; one for 50 messages unless said")
    parser.add_argument("--rate", type=float, default=100.0, help="messages a second, at most")
    parser.add_argument("--seed", type=int, help="of everything; at random unless said")
    parser.add_argument("--json", type=Path, default=Path("build/chaos.json"))
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    events = arguments.messages // _MESSAGES_PER_FAULT
    plan = Plan(
        seed,
        arguments.messages,
        events if arguments.events is None else arguments.events,
        arguments.rate,
    )
    # The last of the ranges of ports, so that a suite beside us takes none of ours at a restart.
    os.environ.setdefault("PYTEST_XDIST_WORKER", "gw7")
    # Told to stop, it stops the real servers first, as at Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"seed {plan.seed}: {plan.messages:,} messages, {plan.events:,} faults", flush=True)
    outcome = uvloop.run(run(plan, lambda text: print(text, flush=True)))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(as_json(outcome), indent=1) + "\n")
    print(f"\n{as_markdown(outcome)}\n\n{faults_as_markdown(outcome)}\n\n{arguments.json}")
    return _complain(outcome)


def _complain(outcome: Outcome) -> int:
    judgement = outcome.judgement
    problems = [
        *(f"lost: {text}" for text in judgement.lost),
        *(f"altered: {text}" for text in judgement.altered),
        *(f"delivered again: {text}" for text in judgement.unexplained),
        *(f"stuck: {text}" for text in outcome.stuck),
    ]
    for problem in problems[:_MOST_SHOWN]:
        print(problem, file=sys.stderr)
    if problems:
        print(f"{len(problems)} problems; seed {outcome.plan.seed}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
