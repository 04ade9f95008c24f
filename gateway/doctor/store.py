"""Doctor: the tracking list. Is it there, fast enough, and does it keep what it is given?

What mail does with the list is tried with an id that no message can have; nothing of it stays.
Blocks for some seconds at most; never fails.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from gateway import wiring
from gateway.config import Config
from gateway.config.place import StoreScheme
from gateway.config.type import show_duration
from gateway.core.policy import NEW
from gateway.core.unique_id import MESSAGE_OCTETS, RECIPIENT_OCTETS, UniqueId
from gateway.doctor.finding import Finding, fail, ok, warn
from gateway.edge.redis_inspection import RedisState, inspect
from gateway.errors import ConfigError, TrackingListError

_ROUNDS = 20
_LEASE_S = 5.0
_PATIENCE_S = 5.0
_OLDEST = (7, 0)  # SET with NX and GET
_CLOCK_S = 2.0
_FULL = 0.8
_LITTLE_DISK_OCTETS, _NO_DISK_OCTETS = 1 << 30, 64 << 20
_ON_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "glusterfs", "ceph")


async def check_store(config: Config) -> AsyncIterator[Finding]:
    """Look at `store.url`."""
    url = config.store.url
    subject = str(url)
    if url.scheme is StoreScheme.MEMORY:
        remedy = "use sqlite:/// or redis:// for anything but trying things out"
        yield warn("store", subject, "known to one process alone, and gone with it", remedy)
        return
    if url.scheme is StoreScheme.SQLITE:
        path = Path(url.path)
        for finding in _file(path, subject):
            yield finding
        if not _exists(path):
            return  # made by whoever runs the gateway, at its first use
    yield await _tried(config, subject)
    if url.scheme.is_redis:
        try:
            states = await inspect(url.text.get_secret_value(), _PATIENCE_S)
        except (TrackingListError, ConfigError):
            return  # said already
        for state in states:
            for finding in _redis(state):
                yield finding


def check_times(config: Config) -> Iterator[Finding]:
    """Say how the times of list and downstream go together; `check` remarks on what is odd."""
    store, longest_s = config.store, config.final_reply_wait_s
    text = (
        f"{show_duration(store.lease)}; the downstream may take {show_duration(longest_s)} for its "
        f"last reply"
    )
    yield ok("store.lease", "", text)
    if store.window < 86_400:
        yield warn(
            "store.window",
            "",
            f"{show_duration(store.window)}: servers try again for about five days",
            "make it longer than the time for which senders retry",
        )


async def _tried(config: Config, subject: str) -> Finding:
    """Claim and release as mail does, and see how long that takes."""
    timeout_s = config.store.timeout
    patient = config.store.model_copy(update={"timeout": max(timeout_s, _PATIENCE_S)})
    took_s: list[float] = []
    try:
        store = wiring.store_of(config.model_copy(update={"store": patient}))
        try:
            for _ in range(_ROUNDS):
                unique_id = UniqueId(
                    secrets.token_bytes(MESSAGE_OCTETS), secrets.token_bytes(RECIPIENT_OCTETS)
                )
                token = secrets.token_bytes(8)
                began = time.perf_counter()
                (sighting,) = await store.claim([unique_id], token, _LEASE_S)
                took_s.append(time.perf_counter() - began)
                await store.release([unique_id], token)
                if sighting != NEW:
                    remedy = "give mailonce a database of its own"
                    return fail("store", subject, "holds an id that nobody has", remedy)
        finally:
            await store.close()
    except (TrackingListError, ConfigError) as error:
        remedy = "start it, correct store.url, or allow our user what docs/ lists for the ACL"
        return fail("store", subject, f"cannot be used: {error}", remedy)
    # The first one makes the connection, which mail does not wait for.
    return _speed(subject, sorted(took_s[1:]), timeout_s)


def _speed(subject: str, took_s: list[float], timeout_s: float) -> Finding:
    median_s, worst_s = took_s[len(took_s) // 2], took_s[-1]
    text = f"answers in {median_s * 1000:.1f} ms, at worst in {worst_s * 1000:.1f} ms"
    limit = show_duration(timeout_s)
    remedy = f"bring it nearer, or make store.timeout, {limit}, longer"
    if median_s > timeout_s:
        return fail("store", subject, f"{text}: mail passes unchecked", remedy)
    if worst_s > timeout_s / 2:
        return warn("store", subject, f"{text}: close to store.timeout, {limit}", remedy)
    return ok("store", subject, text)


def _file(path: Path, subject: str) -> Iterator[Finding]:
    """Look at the place of a SQLite file."""
    near = path.parent
    while not near.exists():
        near = near.parent
    target = path if path.exists() else near
    if not os.access(near, os.W_OK | os.X_OK) or not os.access(target, os.W_OK):
        remedy = "give file and folder to the gateway's user; SQLite makes files beside its own"
        yield fail("store.folder", subject, f"{target} is not writable", remedy)
        return
    kind = _file_system(near)
    if kind in _ON_NETWORK:
        remedy = "put it on a local disk, or use redis:// for several machines"
        text = f"on a network file system ({kind}), which SQLite's write-ahead log cannot use"
        yield fail("store.folder", subject, text, remedy)
        return
    if kind == "tmpfs":
        text = "in memory (tmpfs): a reboot forgets what was seen"
        yield warn("store.folder", subject, text, "put it below /var/lib, on a disk")
        return
    free = shutil.disk_usage(near).free
    if free < _NO_DISK_OCTETS:
        yield fail("store.folder", subject, f"only {free >> 20} MiB are free", "make room")
    elif free < _LITTLE_DISK_OCTETS:
        yield warn("store.folder", subject, f"only {free >> 20} MiB are free", "make room")
    else:
        made = "" if path.exists() else ", and the file will be made"
        yield ok("store.folder", subject, f"writable, {free >> 30} GiB free{made}")


def _exists(path: Path) -> bool:
    """Say whether a file is there; blocks, as all of this does, which no coroutine may openly."""
    return path.exists()


def _file_system(path: Path) -> str:
    """Return the kind of file system a folder is on, ``""`` if that cannot be told."""
    try:
        lines = Path("/proc/mounts").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    mounts = {words[1]: words[2] for line in lines if len(words := line.split()) > 2}
    resolved = path.resolve()
    nearest = next((p for p in (resolved, *resolved.parents) if str(p) in mounts), None)
    return mounts[str(nearest)] if nearest else ""


def _redis(state: RedisState) -> Iterator[Finding]:
    """Judge what a Redis says of itself."""
    yield _clock(state)
    if not state.info:
        remedy = "allow our user INFO (ACL: +info), at least for this look"
        yield warn("store.redis", state.name, "does not tell about itself", remedy)
        return
    yield _version(state)
    yield _role(state)
    yield _eviction(state)
    yield _persistence(state)


def _version(state: RedisState) -> Finding:
    text = state.info.get("redis_version", "")
    version = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    if version < _OLDEST:
        return fail("store.version", state.name, f"Redis {text}", "7.0 is the oldest that will do")
    return ok("store.version", state.name, f"Redis {text}")


def _role(state: RedisState) -> Finding:
    if state.info.get("role", "master") != "master":
        remedy = "name the master, or use redis+sentinel://"
        return fail("store.role", state.name, "a replica: it takes no writes", remedy)
    replicas = state.number("connected_slaves")
    return ok("store.role", state.name, f"master with {replicas} replicas")


def _eviction(state: RedisState) -> Finding:
    """Judge what happens when its memory is full."""
    check, policy = "store.eviction", state.info.get("maxmemory_policy", "")
    most, used = state.number("maxmemory"), state.number("used_memory")
    evicted = state.number("evicted_keys")
    room = f"{used >> 20} of {most >> 20} MiB used" if most else "no maxmemory"
    remedy = "give mailonce a Redis of its own, with maxmemory-policy noeviction and enough memory"
    if state.may_evict and policy.startswith("allkeys-"):
        text = f"{policy}, {room}: whatever fills it has our claims and records thrown away"
        return fail(check, state.name, text, remedy)
    if evicted:
        text = f"{evicted} keys were evicted since it started: duplicates passed as new"
        return warn(check, state.name, text, remedy)
    if state.may_evict:
        text = f"{policy}, {room}: when it is full, what it remembers goes early"
        return warn(check, state.name, text, remedy)
    if policy not in ("", "noeviction"):
        text = f"{policy}, {room}: with one, what it remembers would go early"
        return warn(check, state.name, text, remedy)
    if most and used > _FULL * most:
        text = f"{policy}, {room}: when it is full, mail passes unchecked"
        return warn(check, state.name, text, "give it more memory, or make store.window shorter")
    return ok(check, state.name, f"{policy}, {room}")


def _persistence(state: RedisState) -> Finding:
    check = "store.persistence"
    if state.info.get("loading") == "1":
        return fail(check, state.name, "is loading its data still", "wait until it has")
    if state.info.get("rdb_last_bgsave_status", "ok") != "ok":
        remedy = "see its log; it may refuse writes until it can save (disk full?)"
        return fail(check, state.name, "its last snapshot failed", remedy)
    if state.info.get("aof_enabled") == "1":
        return ok(check, state.name, "append-only file")
    if state.snapshots is None:
        return ok(check, state.name, "no append-only file; snapshots are not told of (CONFIG)")
    if state.snapshots:
        return ok(check, state.name, f"snapshots ({state.snapshots})")
    return warn(
        check,
        state.name,
        "neither append-only file nor snapshots: a restart forgets what was seen",
        "set appendonly yes; what is lost costs duplicates, never mail",
    )


def _clock(state: RedisState) -> Finding:
    check, ahead_s = "store.clock", state.clock_ahead_s
    if ahead_s is None:
        return warn(check, state.name, "does not tell its time", "allow our user TIME (ACL: +time)")
    text = f"{abs(ahead_s):.2f} s {'ahead of' if ahead_s > 0 else 'behind'} ours"
    if abs(ahead_s) > _CLOCK_S:
        return warn(check, state.name, f"its clock is {text}", "run NTP on both machines")
    return ok(check, state.name, f"its clock is {text}")
