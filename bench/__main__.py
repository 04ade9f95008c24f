"""Command line of the rig: ``python -m bench [--quick] [--scenario NAME] [--peer NAME]``.

``--before FOLDER`` measures an older checkout (``git worktree add FOLDER COMMIT``) in the same
rounds: the way to see what a change brought.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from bench.plot import as_svg
from bench.report import Run, as_json, as_markdown, conditions
from bench.rig import CACHE, Rig
from bench.sample import Sample
from bench.scenarios import BEFORE, FULL, OURS, PEERS, QUICK, SCENARIOS, mailonce_before
from bench.stage import Stage

_RESULTS = Path(__file__).parent / "results"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the short list, short rounds")
    parser.add_argument(
        "--scenario", action="append", choices=[scenario.name for scenario in SCENARIOS]
    )
    parser.add_argument("--peer", action="append", choices=list(PEERS), help="only these")
    parser.add_argument(
        "--before", type=Path, help="another checkout of mailonce, measured beside this one"
    )
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of one measurement")
    parser.add_argument("--out", type=Path, help="folder of the results")
    return parser.parse_args()


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Measure, print the tables, write the results; return 1 if anything failed or is missing."""
    arguments = _arguments()
    pace = QUICK if arguments.quick else FULL
    pace = replace(
        pace,
        rounds=arguments.rounds or pace.rounds,
        seconds=arguments.seconds or pace.seconds,
    )
    wanted = [
        scenario
        for scenario in SCENARIOS
        if (scenario.name in arguments.scenario if arguments.scenario else True)
        and (scenario.is_quick or arguments.scenario or not arguments.quick)
    ]
    peers = {name: peer for name, peer in PEERS.items() if name in (arguments.peer or PEERS)}
    if arguments.before:
        peers[BEFORE] = mailonce_before(arguments.before.resolve())
    samples: list[Sample] = []
    with Rig() as rig:
        found = conditions(CACHE)
        stage = Stage(rig, peers, pace, _say)
        for scenario in wanted:
            _say(f"{scenario.name}: {scenario.title}")
            samples += scenario.run(stage)
        run = Run(samples, rig.missing, stage.failures, found)
    text = as_markdown(run)
    print(text)
    is_whole = not (arguments.quick or arguments.scenario or arguments.peer)
    out = arguments.out or (_RESULTS if is_whole else CACHE / "results")
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.md").write_text(text)
    (out / "results.json").write_text(as_json(run))
    (out / "results.svg").write_text(as_svg(samples))
    _say(f"written to {out}")
    return 1 if run.failures or OURS in run.missing else 0


if __name__ == "__main__":
    sys.exit(main())
