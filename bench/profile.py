"""Where mailonce's time goes: ``python -m bench.profile [--how py-spy|cprofile|strace|perf]``.

One worker under one load. py-spy samples functions, but puts time on system calls that the
interpreter spent; perf tells interpreter, kernel and libraries truly apart; cProfile counts calls
(its own cost falls on small functions); strace counts system calls.
"""

from __future__ import annotations

import argparse
import os
import pstats
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.load import Load
from bench.peers import Peer, mailonce
from bench.rig import Rig, Station, measure, messages_for

_LOADS = {
    "open": Load(),
    "reconnect": Load(keeps_open=False),
    "new": Load(own=True),
    "twice": Load(own=True, copies=2),
    "large": Load(sessions=8, size_octets=25_000_000),
    "latency": Load(sessions=1, own=True),
    "recipients": Load(recipients=10),
}
_SITE = Path(__file__).parent / "site"
_TOP = 45
_WARM_S = 0.5
_SAMPLES_PER_S = 500


def _worker(station: Station) -> int:
    child = station.running.child
    assert child is not None
    return mailonce.worker_pids(child)[0]


def _beside(args: list[str], work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Run a tool beside the load and end it with the load."""
    values: dict[str, float] = {}
    with subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as tool:
        load = threading.Thread(target=lambda: values.update(work()))
        load.start()
        load.join()
        tool.send_signal(signal.SIGINT)
        tool.wait(30)
    return values


def _py_spy(station: Station, work: Callable[[], dict[str, float]], folder: Path) -> str:
    output = folder / "stacks"
    args = [str(Path(sys.executable).with_name("py-spy")), "record", "--threads"]
    args += ["--pid", str(_worker(station)), "--rate", str(_SAMPLES_PER_S), "--format", "raw"]
    values = _beside([*args, "--duration", "600", "--output", str(output)], work)
    own: Counter[str] = Counter()
    all_of: Counter[str] = Counter()
    for line in output.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *places = stack.split(";")
        if "MainThread" not in thread:
            continue
        # One entry per function: the line number is cut off.
        frames = [place.rpartition(":")[0] + ")" for place in places]
        own[frames[-1]] += int(count)
        for frame in set(frames):
            all_of[frame] += int(count)
    total = sum(own.values()) or 1
    lines = [f"{'own %':>6} {'with callees %':>15}  function"]
    for frame, hits in own.most_common(_TOP):
        lines.append(f"{hits / total:6.1%} {all_of[frame] / total:15.1%}  {frame}")
    return _rates(values) + "\n".join(lines)


def _strace(station: Station, work: Callable[[], dict[str, float]], folder: Path) -> str:
    output = folder / "calls"
    args = ["strace", "-c", "-f", "-o", str(output), "-p", str(_worker(station))]
    values = _beside(args, work)
    lines = ["calls per message"]
    for line in output.read_text().splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[0][:1].isdigit():
            calls = int(fields[3]) / values["messages"]
            if calls > 0.005:
                lines.append(f"{calls:8.2f}  {fields[-1]}")
    return _rates(values) + "\n".join(lines)


def _cprofile(station: Station, work: Callable[[], dict[str, float]], folder: Path) -> str:
    pid = _worker(station)
    os.kill(pid, signal.SIGUSR2)
    values = work()
    assert station.running.child is not None
    station.running.child.stop()
    stats = pstats.Stats(str(folder / f"{pid}.pstats")).strip_dirs()
    # What is documented (`get_stats_profile`) has no calls by line.
    found: dict[tuple[str, int, str], tuple[int, int, float, float, object]]
    found = stats.stats  # type: ignore[attr-defined] # typeshed does not know the attribute
    messages = values["messages"]
    calls = sum(entry[1] for entry in found.values()) / messages
    by_file: Counter[str] = Counter()
    for (file, _, _), (_, _, own_s, _, _) in found.items():
        by_file[file] += round(own_s / messages * 1e9)
    lines = [f"{calls:.0f} calls per message", "  own µs  module (~: built in)"]
    lines += [f"{own_ns / 1000:8.1f}  {file}" for file, own_ns in by_file.most_common(_TOP)]
    lines.append(" calls   own µs  with callees µs  function")
    for (file, line, name), (_, count, own_s, all_s, _) in sorted(
        found.items(), key=lambda item: -item[1][2]
    )[: 2 * _TOP]:
        lines.append(
            f"{count / messages:6.1f} {own_s / messages * 1e6:8.1f} {all_s / messages * 1e6:16.1f}"
            f"  {name} ({file}:{line})"
        )
    return _rates(values) + "\n".join(lines)


def _perf(station: Station, work: Callable[[], dict[str, float]], folder: Path) -> str:
    output = str(folder / "perf.data")
    args = ["perf", "record", "-e", "cpu-clock", "-F", "997", "-p", str(_worker(station))]
    values = _beside([*args, "-o", output], work)
    parts = [_rates(values)]
    for sort in ("dso", "symbol"):
        args = ["perf", "report", "-i", output, "--stdio", "--sort", sort]
        run = subprocess.run(args, capture_output=True, text=True, check=True)
        lines = [line for line in run.stdout.splitlines() if line and line[0] != "#"]
        parts.append("\n".join(lines[:_TOP]))
    return "\n\n".join(parts)


def _rates(values: dict[str, float]) -> str:
    return (
        f"{values['messages']:.0f} messages, {values['rate']:.0f}/s under observation, "
        f"{values['cpu_us']:.0f} µs of CPU each\n"
    )


_TOOLS = {"py-spy": _py_spy, "strace": _strace, "cprofile": _cprofile, "perf": _perf}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--how", choices=list(_TOOLS), default="py-spy")
    parser.add_argument("--load", choices=list(_LOADS), default="open")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--action", choices=["tag", "drop", "observe"], default="tag")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mailonce-profile-") as name, Rig() as rig:
        folder = Path(name)
        environment = {}
        if arguments.how == "cprofile":
            environment = {"PYTHONPATH": str(_SITE), "BENCH_PROFILE": str(folder)}
        start = partial(
            mailonce.start_mailonce, workers=1, action=arguments.action, environment=environment
        )
        station = rig.start(Peer("mailonce", "mailonce", start))
        if station is None:
            sys.exit(rig.missing["mailonce"])
        load = _LOADS[arguments.load]
        count = messages_for(station, load, arguments.seconds, _WARM_S)
        is_dropped = arguments.action == "drop" and load.copies > 1
        delivered = count // load.copies if is_dropped else count
        work = partial(measure, station, load, count, delivered=delivered)
        print(_TOOLS[arguments.how](station, work, folder))


if __name__ == "__main__":
    main()
