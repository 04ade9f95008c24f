"""``python -m tests.chaos.soak``: half an hour at half of the maximum rate; does anything grow?

First it finds out how many messages a second go through here; then it sends half as many, a tenth
of them twice, and some on a connection each, and looks every few seconds at what could grow:
memory, descriptors and threads of every process of the gateway, open sessions, keys and memory of
Redis. The window is short, so that keys end as fast as they come. The load is `bench`'s, and the
end Postfix's smtp-sink, so that it is the gateway that says what the most is. Every message must be
accepted, and every one counted at the end. A curve of all goes to a folder, as CSV and SVG.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

from bench.load import Load, send
from bench.sink import Sink, start_sink
from tests.chaos.plot import as_svg
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.redis import RedisServer, redis_server

WINDOW_S = 60.0
_MEASURED = 20_000
_EVERY_S = 5.0
_PAGE_OCTETS = 4096
_SESSIONS = 10
_TWICE_SHARE = 0.1
_RECONNECTING = 20
_SETTINGS = {
    "workers": 0,
    "downstream.identity": "xforward",  # smtp-sink answers XCLIENT wrongly
    "downstream.relay_probe": "",
    "store.window": f"{WINDOW_S:g}s",
    "journal.entries": 1000,
    "limits.sessions_per_client": 1000,
}
# The curve is judged from here on: before, caches fill and the first window has not passed.
_WARM_SHARE = 0.3
_MAY_GROW = 1.1


@dataclass(frozen=True, slots=True)
class Sample:
    """One look.

    Attributes:
        at_s: since the beginning.
        arrived: messages at the end of the way so far.
        rate: messages a second since the last look.
        memory_octets: resident, of all processes of the gateway.
        descriptors: open files of them.
        threads: of them.
        sessions: open.
        redis_keys: in the list.
        redis_octets: of Redis.
    """

    at_s: float
    arrived: int
    rate: float
    memory_octets: int
    descriptors: int
    threads: int
    sessions: int
    redis_keys: int
    redis_octets: int


GROWING = ("memory_octets", "descriptors", "threads", "redis_keys", "redis_octets")


def soak(seconds: float) -> list[Sample]:
    """Run it and return what was seen.

    Raises:
        RuntimeError: a message was refused, or did not arrive.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mailonce-soak-")))
        folder.chmod(0o755)  # smtp-sink is somebody else
        redis = stack.enter_context(redis_server())
        sink = start_sink(folder)
        stack.callback(sink.child.stop)
        settings = {**settings_for(sink.port), **_SETTINGS, "store.url": redis.url}
        gateway = stack.enter_context(running_gateway(settings))
        most = _most(gateway)
        print(f"{most:.0f} messages a second at most; now half of that for {seconds:.0f} s")
        before = sink.count()
        samples: list[Sample] = []
        senders = _Senders(gateway.port, most / 2, seconds, folder)
        stack.callback(senders.stop)
        began_s = time.monotonic()
        while senders.are_running and not senders.complaints():
            time.sleep(_EVERY_S)  # between two looks
            samples.append(_sample(gateway, redis, sink, began_s, samples))
            if len(samples) % 12 == 1:
                print(samples[-1], flush=True)
        if complaints := senders.complaints():
            raise RuntimeError("; ".join(complaints))
        arrived = sink.count_of(before + senders.messages, limit_s=10.0) - before
        if arrived != senders.messages:
            raise RuntimeError(f"{senders.messages} messages accepted, {arrived} arrived")
        print(f"{arrived:,} messages, all accepted and all at the end")
    return samples


def _most(gateway: Gateway) -> float:
    """Return how many messages a second go through."""
    rate = 0.0
    for _ in range(2):  # the first time pays for what is done once
        sent = send(gateway.port, Load(sessions=2 * _SESSIONS, own=True), _MEASURED)
        if sent.complaint or sent.messages != _MEASURED:
            raise RuntimeError(sent.complaint)
        rate = sent.messages / sent.seconds
    return rate


class _Senders:
    """What sends while the soak looks on.

    Attributes:
        messages: of all of them together.
    """

    def __init__(self, port: int, rate: float, seconds: float, folder: Path) -> None:
        twice = round(rate * _TWICE_SHARE * seconds) * 2
        once = round((rate * (1 - 2 * _TWICE_SHARE) - _RECONNECTING) * seconds)
        apart = round(_RECONNECTING * seconds)
        self.messages = once + twice + apart
        generate = [sys.executable, "-m", "bench.generator", f"--port={port}"]
        generate += [f"--sessions={_SESSIONS}"]
        # One second between two messages of each session, each on a connection of its own.
        reconnect = ["smtp-source", "-s", str(_RECONNECTING), "-w", "1", "-m", str(apart)]
        reconnect += ["-M", f"soak{os.getpid()}.example.net", "-t", "r@example.org"]
        self._outputs = [folder / f"sender-{number}" for number in range(3)]
        self._processes = [
            _started([*generate, f"--messages={once}", f"--rate={once / seconds}"], 0, folder),
            _started(
                [*generate, f"--messages={twice}", f"--rate={twice / seconds}", "--copies=2"],
                1,
                folder,
            ),
            _started([*reconnect, f"127.0.0.1:{port}"], 2, folder),
        ]

    @property
    def are_running(self) -> bool:
        """Say whether any of them still sends."""
        return any(process.poll() is None for process in self._processes)

    def complaints(self) -> list[str]:
        """Return what went wrong for those that have ended."""
        found = []
        for process, output in zip(self._processes, self._outputs, strict=True):
            text = output.read_text("latin-1")
            if process.returncode:
                found.append(text[-400:])
            elif text.startswith("{") and (complaint := json.loads(text)["complaint"]):
                found.append(complaint)
        return found

    def stop(self) -> None:
        """End those that have not."""
        for process in self._processes:
            process.kill()
            process.wait()


def _started(command: list[str], number: int, folder: Path) -> subprocess.Popen[bytes]:
    with (folder / f"sender-{number}").open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)


def _sample(
    gateway: Gateway, redis: RedisServer, sink: Sink, began_s: float, before: Sequence[Sample]
) -> Sample:
    at_s, arrived = time.monotonic() - began_s, sink.count()
    since_s, earlier = (before[-1].at_s, before[-1].arrived) if before else (0.0, 0)
    pids = [gateway.pid, *gateway.worker_pids]
    keys, octets = _redis(redis)
    return Sample(
        round(at_s, 1),
        arrived,
        round((arrived - earlier) / (at_s - since_s), 1) if before else 0.0,
        sum(int(_proc(pid, "statm").split()[1]) * _PAGE_OCTETS for pid in pids),
        sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
        sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids),
        int(gateway.metric("mailonce_sessions")),
        keys,
        octets,
    )


def _proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def _redis(server: RedisServer) -> tuple[int, int]:
    with server.client() as client:
        return int(client.dbsize()), int(client.info("memory")["used_memory"])


def grown(samples: Sequence[Sample]) -> list[str]:
    """Say what was more in the last quarter than after the warm-up."""
    warm = samples[int(len(samples) * _WARM_SHARE) :]
    quarter = max(1, len(warm) // 4)
    complaints = []
    for name in GROWING:
        first = median(getattr(sample, name) for sample in warm[:quarter])
        last = median(getattr(sample, name) for sample in warm[-quarter:])
        if last > first * _MAY_GROW:
            complaints.append(f"{name}: {first:,.0f} and then {last:,.0f}")
    return complaints


def write(samples: Sequence[Sample], folder: Path) -> None:
    """Write the curve."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "soak.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Sample)], lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(sample) for sample in samples)
    series = {
        name: [(sample.at_s, float(getattr(sample, name))) for sample in samples]
        for name in ("rate", *GROWING, "sessions")
    }
    (folder / "soak.svg").write_text(as_svg("mailonce at half of its maximum rate", series))


def main() -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--folder", type=Path, default=Path("build/soak"))
    arguments = parser.parse_args()
    # The last of the ranges of ports, so that a suite beside us takes none of ours at a restart.
    os.environ.setdefault("PYTEST_XDIST_WORKER", "gw7")
    samples = soak(arguments.minutes * 60)
    write(samples, arguments.folder)
    complaints = grown(samples)
    for complaint in complaints:
        print(f"grows: {complaint}", file=sys.stderr)
    print(f"{samples[-1]}\n{arguments.folder}/soak.csv, soak.svg")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
