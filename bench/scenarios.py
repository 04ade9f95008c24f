"""What is measured, and what mailonce has to reach.

A scenario takes a stage and gives samples. What smtp-source sends has a Message-ID of its own in
each message, so that with it everything is new; "every message twice" and latencies come from our
own generator, on both sides of their ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench import process
from bench.load import Load
from bench.peers import Peer, direct, haproxy, haraka, mailonce, postfix, stock
from bench.preload import preload
from bench.rig import idle_sessions
from bench.sample import Sample, Target
from bench.stage import Pace, Stage

PEERS = {
    peer.name: peer
    for module in (direct, haproxy, postfix, haraka, stock, mailonce)
    for peer in module.PEERS
}
OURS = "mailonce"
BEFORE = "before"
FULL = Pace(rounds=5, seconds=2.0, warm_s=2.0, retries=1)
QUICK = Pace(rounds=3, seconds=0.4, warm_s=0.3, retries=0)
LARGE = Load(sessions=8, size_octets=25_000_000)
IDLE_SESSIONS = 5_000
TRACKED_IDS = 2_000_000
_GROWTH_ROUNDS = 3
_KIB = 1024
_KEPT_OPEN = Load()
_RECONNECT = Load(keeps_open=False)
_LATENCY = Load(sessions=1, own=True)
_ALL = (*PEERS, BEFORE)
_FAST = ("direct", "haproxy", "postfix", OURS, BEFORE)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing that is measured.

    Attributes:
        name: for the command line and the results.
        title: for people.
        unit: of its figure.
        key: the value that is its figure.
        run: measures it.
        is_quick: whether it belongs to the short list.
    """

    name: str
    title: str
    unit: str
    key: str
    run: Callable[[Stage], list[Sample]]
    is_quick: bool = False


def _compare(stage: Stage, *, name: str, load: Load, peers: Sequence[str]) -> list[Sample]:
    """Measure peers under the same load."""
    stations = stage.stations(peers)
    return stage.run(name, [stage.course(station.peer.name, station, load) for station in stations])


def _variant(name: str, *, action: str = "tag", certificate: Path | None = None) -> Peer:
    """Return mailonce with other settings than its peer's."""
    start = partial(mailonce.start_mailonce, action=action, certificate=certificate)
    return Peer(name, name, start)


def mailonce_before(tree: Path) -> Peer:
    """Return mailonce as it is in another folder."""
    title = f"mailonce as in {tree.name}"
    return Peer(BEFORE, title, partial(mailonce.start_mailonce, workers=0, tree=tree))


def _twice(stage: Stage) -> list[Sample]:
    """Every message once, and every message twice: the second copy is dropped, or tagged."""
    courses = []
    for action in ("drop", "tag"):
        station = stage.start(_variant(f"mailonce ({action})", action=action))
        if station is None:
            continue
        if action == "drop":
            courses.append(stage.course("new", station, Load(own=True)))
        course = stage.course(f"twice, {action}", station, Load(own=True, copies=2))
        if course and action == "drop":
            course = replace(course, delivered=course.messages // 2)
        courses.append(course)
    return stage.run("twice", courses)


def _idle(stage: Stage) -> list[Sample]:
    """Throughput beside idle sessions, and what one of them takes."""
    alone = stage.start(_variant("mailonce (alone)"))
    beside = stage.start(_variant("mailonce (idle)"))
    if alone is None or beside is None or beside.running.child is None:
        return []
    courses = [
        stage.course("alone", alone, _KEPT_OPEN),
        stage.course("beside idle sessions", beside, _KEPT_OPEN),
    ]
    pids = list(process.usage([beside.running.child.pid]))
    before_kib = sum(map(process.rss_kib, pids))
    with idle_sessions(beside.running.port, IDLE_SESSIONS):
        taken_kib = sum(map(process.rss_kib, pids)) - before_kib
        samples = stage.run("idle", courses)
    each = {"kib_each": taken_kib / IDLE_SESSIONS}
    return [*samples, Sample("idle", "an idle session", 0, each)]


def _tracked(stage: Stage) -> list[Sample]:
    """Throughput with an empty tracking list and with a full one."""
    redis = stage.rig.start_redis()
    before_octets = redis.used_octets()
    preload(redis.port, TRACKED_IDS)
    each = {"octets_each": (redis.used_octets() - before_octets) / TRACKED_IDS}
    courses = []
    for name, other in (("empty list", stage.rig.start_redis()), ("full list", redis)):
        station = stage.start(_variant(f"mailonce ({name})"), other)
        if station:
            courses.append(stage.course(name, station, _KEPT_OPEN))
    return [*stage.run("tracked", courses), Sample("tracked", "a tracked id", 0, each)]


def _growth(stage: Stage, *, name: str, loads: dict[str, Load]) -> list[Sample]:
    """Measure mailonce, and the sink alone, along one axis."""
    courses = []
    for label, load in loads.items():
        for peer in ("direct", OURS):
            station = stage.station(peer)
            if station:
                courses.append(stage.course(f"{peer} {label}", station, load))
    return stage.run(name, courses, most_rounds=_GROWTH_ROUNDS)


def _tls(stage: Stage) -> list[Sample]:
    """With and without TLS towards the client; our generator on both sides."""
    certificate = stage.rig.certificate()
    station = stage.start(_variant("mailonce (tls)", certificate=certificate))
    if station is None:
        return []
    loads = {
        "plain": Load(own=True),
        "tls": Load(own=True, tls=True),
        "plain, 1 MiB": Load(own=True, size_octets=2**20),
        "tls, 1 MiB": Load(own=True, tls=True, size_octets=2**20),
    }
    return stage.run("tls", [stage.course(label, station, load) for label, load in loads.items()])


_SIZES = {
    f"{size // _KIB} KiB": Load(size_octets=size, sessions=20 if size < 2**20 else 8)
    for size in (2**10, 2**12, 2**14, 2**16, 2**18, 2**20, 2**22, 25 * 2**20)
}
_SESSIONS = {str(count): Load(sessions=count, least=10) for count in (1, 10, 100, 1000)}
_RECIPIENTS = {str(count): Load(recipients=count) for count in (1, 10, 100)}

SCENARIOS = (
    Scenario(
        "open",
        "4 KiB, 20 sessions kept open",
        "messages/s",
        "rate",
        partial(_compare, name="open", load=_KEPT_OPEN, peers=_ALL),
        is_quick=True,
    ),
    Scenario(
        "reconnect",
        "4 KiB, 20 sessions, a connection per message",
        "messages/s",
        "rate",
        partial(_compare, name="reconnect", load=_RECONNECT, peers=(*_FAST, "haraka", "stock")),
        is_quick=True,
    ),
    Scenario("twice", "4 KiB, every message twice", "messages/s", "rate", _twice, is_quick=True),
    Scenario(
        "large",
        "25 MB, 8 sessions",
        "MiB/s",
        "mib_s",
        partial(_compare, name="large", load=LARGE, peers=(*_FAST, "stock")),
    ),
    Scenario(
        "latency",
        "4 KiB, one session",
        "µs, median",
        "p50_us",
        partial(_compare, name="latency", load=_LATENCY, peers=_FAST),
        is_quick=True,
    ),
    Scenario("idle", "4 KiB beside 5,000 idle sessions", "messages/s", "rate", _idle),
    Scenario("tracked", "4 KiB, 2 million ids tracked", "messages/s", "rate", _tracked),
    Scenario(
        "sessions",
        "4 KiB, by number of sessions",
        "messages/s",
        "rate",
        partial(_growth, name="sessions", loads=_SESSIONS),
    ),
    Scenario(
        "recipients",
        "4 KiB, by number of recipients",
        "messages/s",
        "rate",
        partial(_growth, name="recipients", loads=_RECIPIENTS),
    ),
    Scenario(
        "size",
        "by size of the message",
        "messages/s",
        "rate",
        partial(_growth, name="size", loads=_SIZES),
    ),
    Scenario("tls", "20 sessions with and without TLS", "messages/s", "rate", _tls),
)

TARGETS = (
    Target("open", "rate", OURS, "postfix", 2.0),
    Target("open", "rate", OURS, "haraka", 12.0),
    Target("open", "rate", OURS, "stock", 8.0),
    Target("open", "rate", OURS, "stock-1", 8.0),
    Target("open", "rate", OURS, "haproxy", 0.8),
    Target("open", "rate", OURS, BEFORE, 1.0),
    Target("reconnect", "rate", OURS, "postfix", 1.2),
    Target("reconnect", "rate", OURS, BEFORE, 1.0),
    Target("twice", "rate", "twice, drop", "new", 1.2),
    Target("large", "mib_s", OURS, "direct", 0.8),
    Target("large", "rss_mib", OURS, "", 64.0, is_minimum=False),
    Target("latency", "p50_us", OURS, "postfix", 1.0, is_minimum=False, base="direct"),
    Target("latency", "p99_us", OURS, "postfix", 1.0, is_minimum=False, base="direct"),
    Target("idle", "kib_each", "an idle session", "", 12.0, is_minimum=False),
    Target("idle", "rate", "beside idle sessions", "alone", 0.9),
    Target("tracked", "rate", "full list", "empty list", 0.95),
    Target("tracked", "octets_each", "a tracked id", "", 200.0, is_minimum=False),
)
