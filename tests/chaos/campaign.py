"""One run: messages at a steady pace, faults at random moments, then calm until all is through."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.fault import FAULTS, Fault, watch_master
from tests.chaos.judge import Judgement, judge
from tests.chaos.ledger import Ledger, now
from tests.chaos.post import Office, Post
from tests.chaos.stage import Stage, staged

RECOVERY_S = 60.0
"""Within which all must be through once faults have ended."""

_MOST_UNSENT = 3000
_ACT_EVENTS = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run shall be.

    Attributes:
        seed: of messages, faults and their moments.
        messages: distinct ones.
        events: faults.
        rate: messages a second, at most.
        faults: which may happen.
        settings: of the gateway, beyond the usual.
    """

    seed: int
    messages: int
    events: int
    rate: float
    faults: tuple[Fault, ...] = FAULTS
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to.

    Attributes:
        plan: of it.
        ledger: all recordings.
        judgement: on them.
        metrics: the gateway's at the end.
        took_s: from the first message to the last.
        drain_s: of these, after the last fault.
        longest_s: what the slowest message took from its first try.
        stuck: what is not through, though faults have been over for a minute.
        accepted: transactions that the mail server has accepted.
    """

    plan: Plan
    ledger: Ledger
    judgement: Judgement
    metrics: dict[tuple[str, tuple[tuple[str, str], ...]], float]
    took_s: float
    drain_s: float
    longest_s: float
    stuck: tuple[str, ...]
    accepted: int

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples that carry these labels."""
        return sum(
            value
            for (sample, its_labels), value in self.metrics.items()
            if sample == name and labels.items() <= dict(its_labels).items()
        )


Tell = Callable[[str], None]


async def run(plan: Plan, tell: Tell) -> Outcome:
    """Run it.

    Args:
        plan: of the run.
        tell: told every few seconds how far it is.
    """
    ledger, office = Ledger(), Office(plan.seed)
    has_sentinels = any(fault.needs == "sentinel" for fault in plan.faults) and plan.events > 0
    async with staged(
        office, ledger, plan.seed, settings=plan.settings, has_sentinels=has_sentinels
    ) as stage:
        began_s = now()
        telling = asyncio.create_task(_tell(stage, plan, tell))
        watching = asyncio.create_task(watch_master(stage))
        acts = max(2, plan.events // _ACT_EVENTS) if has_sentinels else 1
        posts = list(office.posts(plan.messages))
        for act in range(acts):
            await stage.move_list(stage.groups[act % len(stage.groups)])
            share = posts[act * len(posts) // acts : (act + 1) * len(posts) // acts]
            await _act(stage, plan, share, _chosen(plan, act, acts))
        calm_s = now()
        stage.house.forgive()
        stage.senders.vanishing.clear()
        while stage.senders.unsent and now() < calm_s + RECOVERY_S:  # noqa: ASYNC110 – as below
            await asyncio.sleep(0.05)
        end_s = now()
        telling.cancel()
        watching.cancel()
        stuck = tuple(stage.senders.stuck()) if stage.senders.unsent else ()
        metrics = await asyncio.to_thread(stage.gateway.metrics)
        await stage.stop_gateway()
    return Outcome(
        plan,
        ledger,
        judge(ledger),
        metrics,
        end_s - began_s,
        end_s - calm_s,
        stage.senders.longest_s,
        stuck,
        stage.house.accepted,
    )


def _chosen(plan: Plan, act: int, acts: int) -> list[Fault]:
    """Choose the faults of one act: each that can happen once, then by weight."""
    draw = random.Random(f"faults {plan.seed} {act}")
    count = (act + 1) * plan.events // acts - act * plan.events // acts
    absent = "sentinel" if act % 2 == 0 else "single"
    possible = [fault for fault in plan.faults if fault.needs != absent]
    chosen = draw.sample(possible, min(count, len(possible)))
    chosen += draw.choices(possible, [f.weight for f in possible], k=count - len(chosen))
    draw.shuffle(chosen)
    return chosen


async def _act(stage: Stage, plan: Plan, posts: Sequence[Post], faults: Sequence[Fault]) -> None:
    """Send messages and have faults meanwhile."""
    draw = random.Random(f"moments {plan.seed} {posts[0].number}")
    duration_s = len(posts) / plan.rate
    moments = sorted(draw.uniform(0.0, duration_s) for _ in faults)
    seeds = [draw.random() for _ in faults]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_feed(stage, plan, posts))
        for moment, fault, seed in zip(moments, faults, seeds, strict=True):
            tasks.create_task(_inject(stage, fault, moment, random.Random(seed)))


async def _inject(stage: Stage, fault: Fault, moment_s: float, draw: random.Random) -> None:
    await asyncio.sleep(moment_s)
    stage.ledger.faults[fault.name] += 1
    await fault.inject(stage, draw)


async def _feed(stage: Stage, plan: Plan, posts: Sequence[Post]) -> None:
    """Post messages at the pace of the plan; where clients cannot follow, wait for them."""
    due_s = now()
    for post in posts:
        due_s = max(due_s + 1 / plan.rate, now() - 1.0)
        if (wait_s := due_s - now()) > 0:
            await asyncio.sleep(wait_s)
        while stage.senders.unsent > _MOST_UNSENT:  # noqa: ASYNC110 – a look now and then will do
            await asyncio.sleep(0.1)
        await stage.senders.post(post)


async def _tell(stage: Stage, plan: Plan, tell: Tell) -> None:
    began_s = now()
    while True:
        await asyncio.sleep(10.0)
        ledger = stage.ledger
        tell(
            f"{now() - began_s:6.0f} s  {len(ledger.posts):7,} of {plan.messages:,} messages sent,"
            f" {stage.senders.unsent:5,} not through, {ledger.faults.total():5,} faults"
        )
