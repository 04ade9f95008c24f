"""A run as Markdown and as JSON: pure, apart from asking what machine this is."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from bench.peers import haraka
from bench.sample import Sample, Spread, cost_ratio_of, is_met, result_of, spread, values_of
from bench.scenarios import PEERS, SCENARIOS, TARGETS, Scenario

_COSTS = ("cpu_us", "redis_us", "sink_us", "load_us", "chain_us")
_SMALL = 100


@dataclass(frozen=True, slots=True)
class Run:
    """All that a run gave.

    Attributes:
        samples: every measurement.
        missing: peers that could not be had, and why.
        failures: rounds that did not count, and why.
        conditions: of the machine and its software.
    """

    samples: Sequence[Sample]
    missing: dict[str, str]
    failures: Sequence[str]
    conditions: dict[str, str]


def conditions(cache: Path) -> dict[str, str]:
    """Return what the figures depend on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "processor": f"{os.cpu_count()} x {model}",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "load average at start": f"{os.getloadavg()[0]:.2f}",
        "Postfix": _first_line("postconf", "-h", "mail_version"),
        "HAProxy": _first_line("haproxy", "-v"),
        "Redis": _first_line("redis-server", "--version"),
        "Node.js": _first_line("node", "--version"),
        "Haraka": haraka.version(cache) or "not installed",
        "Python packages": ", ".join(
            f"{name} {version(name)}" for name in ("aiosmtpd", "redis", "hiredis", "uvloop")
        ),
    }


def _first_line(*args: str) -> str:
    try:
        run = subprocess.run(args, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "not installed"
    return (run.stdout.splitlines() or ["?"])[0].strip()


def as_json(run: Run) -> str:
    """Return everything, with each round by itself."""
    return json.dumps(asdict(run), indent=1, sort_keys=True) + "\n"


def as_markdown(run: Run) -> str:
    """Return the tables."""
    parts = ["# Measurements", _conditions(run), _targets(run.samples)]
    parts += [
        _scenario(run.samples, scenario)
        for scenario in SCENARIOS
        if any(sample.scenario == scenario.name for sample in run.samples)
    ]
    if run.missing:
        lines = [f"* `{name}`: {_one_line(why)}" for name, why in run.missing.items()]
        parts.append("## Missing peers\n\n" + "\n".join(lines))
    if run.failures:
        lines = [f"* {_one_line(why)}" for why in run.failures]
        parts.append("## Failed measurements\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())[-300:]


def _conditions(run: Run) -> str:
    lines = [f"* {key}: {value}" for key, value in run.conditions.items()]
    lines.append(
        "* figures: median (lowest to highest) of interleaved rounds; load, sink and Redis on the"
        " same cores; a ratio is the median of the ratios within each round"
    )
    lines.append(
        "* by CPU time: the ratio that the CPU time of everything in the chain would give, load and"
        " sink included; it changes little with what else the machine does"
    )
    lines.append("* every round checked: all messages accepted, and all of them at the sink")
    return "\n".join(lines)


def _targets(samples: Sequence[Sample]) -> str:
    rows = []
    for target in TARGETS:
        result = result_of(samples, target)
        if result is None:
            continue
        what = f"{target.subject}, {target.key}"
        what += f" above {target.base}" if target.base else ""
        bound = f"{'≥' if target.is_minimum else '≤'} {target.bound:g}"
        bound += " ×" if target.other else ""
        verdict = "met" if is_met(target, result) else "**not met**"
        rows.append(
            [
                target.scenario,
                what,
                target.other or "–",
                bound,
                _text(result),
                _text(cost_ratio_of(samples, target)),
                verdict,
            ]
        )
    if not rows:
        return "## Targets\n\nNone was measured."
    heads = ["scenario", "what", "against", "target", "result", "by CPU time", ""]
    return "## Targets\n\n" + _table(heads, rows)


def _scenario(samples: Sequence[Sample], scenario: Scenario) -> str:
    heads = [
        "",
        scenario.unit,
        "CPU µs/message",
        "of that, by process",
        "Redis",
        "sink",
        "load",
        "all",
    ]
    heads += ["p99 µs", "peak RSS MiB", "all its RSS MiB", "others %"]
    subjects = dict.fromkeys(
        sample.subject for sample in samples if sample.scenario == scenario.name
    )
    rows = []
    for subject in subjects:

        def of(key: str, subject: str = subject) -> Spread | None:
            return spread(list(values_of(samples, scenario.name, subject, key).values()))

        if of(scenario.key) is None:
            continue
        foreign = of("foreign")
        rows.append(
            [
                PEERS[subject].title if subject in PEERS else subject,
                _text(of(scenario.key)),
                _middle(of(_COSTS[0])),
                _by_process(samples, scenario.name, subject),
                *(_middle(of(key)) for key in _COSTS[1:]),
                _middle(of("p99_us")),
                _middle(of("rss_mib")),
                _middle(of("rss_sum_mib")),
                f"{foreign.middle * 100:.0f}" if foreign else "",
            ]
        )
    return f"## {scenario.name}: {scenario.title}\n\n" + _table(heads, rows)


def _by_process(samples: Sequence[Sample], scenario: str, subject: str) -> str:
    names = {
        key
        for sample in samples
        if sample.scenario == scenario and sample.subject == subject
        for key in sample.values
        if key.startswith("cpu_us.")
    }
    costs = []
    for name in names:
        found = spread(list(values_of(samples, scenario, subject, name).values()))
        if found and found.middle >= 1:
            costs.append((found.middle, name.removeprefix("cpu_us.")))
    return ", ".join(f"{name} {cost:.0f}" for cost, name in sorted(costs, reverse=True))


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= _SMALL else f"{value:.3g}"


def _middle(found: Spread | None) -> str:
    return _number(found.middle) if found else ""


def _text(found: Spread | None) -> str:
    if found is None:
        return ""
    if found.low == found.high:
        return _number(found.middle)
    return f"{_number(found.middle)} ({_number(found.low)}–{_number(found.high)})"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
