"""``python -m tests.chaos.soak``: half an hour at half of the maximum rate; does anything grow?

First it finds out how many messages a second go through here, for ten seconds; then it sends half
as many, some of them twice, and looks every few seconds at what could grow: memory, descriptors and
threads of every process of the gateway, open sessions, keys and memory of Redis. The window is
short, so that keys end as fast as they come. A curve of all goes to a folder, as CSV and SVG.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

import uvloop

from tests.chaos.ledger import Ledger, now
from tests.chaos.plot import as_svg
from tests.chaos.post import Kind, Office
from tests.chaos.stage import Stage, staged
from tests.support.redis import RedisServer

WINDOW_S = 60.0
_MEASURE_S = 10.0
_EVERY_S = 5.0
_PAGE_OCTETS = 4096
_SETTINGS = {
    "store.window": f"{WINDOW_S:g}s",
    "store.timeout": "5s",
    "journal.keep": "duplicates",
    "journal.entries": 1000,
}
# The curve is judged from here on: before, caches fill and the first window has not passed.
_WARM_SHARE = 0.3
_MAY_GROW = 1.1


@dataclass(frozen=True, slots=True)
class Sample:
    """One look.

    Attributes:
        at_s: since the beginning.
        rate: messages a second since the last look.
        memory_octets: resident, of all processes of the gateway.
        descriptors: open files of them.
        threads: of them.
        sessions: open.
        redis_keys: in the list.
        redis_octets: of Redis.
    """

    at_s: float
    rate: float
    memory_octets: int
    descriptors: int
    threads: int
    sessions: int
    redis_keys: int
    redis_octets: int


GROWING = ("memory_octets", "descriptors", "threads", "redis_keys", "redis_octets")


async def soak(seconds: float, seed: int) -> list[Sample]:
    """Run it and return what was seen."""
    ledger, office = Ledger(), Office(seed)
    async with staged(office, ledger, seed, settings=_SETTINGS, has_sentinels=False) as stage:
        most = await _send(stage, office, ledger, None, _MEASURE_S)
        print(f"{most:.0f} messages a second at most; now half of that for {seconds:.0f} s")
        samples: list[Sample] = []
        looking = asyncio.create_task(_look(stage, ledger, samples))
        await _send(stage, office, ledger, most / 2, seconds)
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
        await stage.stop_gateway()
    assert not ledger.altered, ledger.altered[:3]
    return samples


async def _send(
    stage: Stage, office: Office, ledger: Ledger, rate: float | None, seconds: float
) -> float:
    """Send for some time, as fast as it goes or at a rate; return messages a second."""
    began_s, first = now(), len(ledger.posts)
    posts = office.posts(10**9)
    for _ in range(first):
        next(posts)
    for post in posts:
        sent = len(ledger.posts) - first
        if rate is not None and (wait_s := began_s + sent / rate - now()) > 0:
            await asyncio.sleep(wait_s)
        while stage.senders.unsent > (2000 if rate else 100):  # noqa: ASYNC110 – as in campaign
            await asyncio.sleep(0.002)
        if now() > began_s + seconds:
            break
        if post.kind is Kind.HUGE:
            ledger.posts.append(post)  # not sent: it would only make the curve of memory jump
        else:
            await stage.senders.post(post)
            _forget(ledger)
    return (len(ledger.posts) - first) / (now() - began_s)


def _forget(ledger: Ledger) -> None:
    """Keep our own recordings small: this run is about the gateway's memory, not about ours."""
    if len(ledger.deliveries) > 50_000:
        ledger.deliveries.clear()
        ledger.promised.clear()
        ledger.remembered.clear()


async def _look(stage: Stage, ledger: Ledger, samples: list[Sample]) -> None:
    began_s, seen = now(), len(ledger.posts)
    while True:
        await asyncio.sleep(_EVERY_S)
        since_s = samples[-1].at_s if samples else 0.0
        at_s = now() - began_s
        rate = (len(ledger.posts) - seen) / (at_s - since_s)
        seen = len(ledger.posts)
        samples.append(await asyncio.to_thread(_sample, stage, at_s, rate))
        if len(samples) % 12 == 1:
            print(samples[-1], flush=True)


def _sample(stage: Stage, at_s: float, rate: float) -> Sample:
    pids = [stage.gateway.pid, *stage.gateway.worker_pids]
    keys, octets = _redis(stage.group.servers[0])
    return Sample(
        round(at_s, 1),
        round(rate, 1),
        sum(int(_proc(pid, "statm").split()[1]) * _PAGE_OCTETS for pid in pids),
        sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
        sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids),
        int(stage.gateway.metric("mailonce_sessions")),
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
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("build/soak"))
    arguments = parser.parse_args()
    # The last of the ranges of ports, so that a suite beside us takes none of ours at a restart.
    os.environ.setdefault("PYTEST_XDIST_WORKER", "gw7")
    samples = uvloop.run(soak(arguments.minutes * 60, arguments.seed))
    write(samples, arguments.folder)
    complaints = grown(samples)
    for complaint in complaints:
        print(f"grows: {complaint}", file=sys.stderr)
    print(f"{samples[-1]}\n{arguments.folder}/soak.csv, soak.svg")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
