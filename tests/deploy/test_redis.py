"""deploy/redis/: the configuration is what the doctor wants, and holds what the table says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from redis.exceptions import NoPermissionError

from gateway.core.unique_id import UniqueId
from gateway.edge.redis_journal import RedisJournal
from gateway.edge.redis_layout import key_of, record_value, set_record
from tests.support.cli import mailonce
from tests.support.client import deliver
from tests.support.gateway import running_gateway, settings_for
from tests.support.letter import fresh_id, letter
from tests.support.process import free_port, start, temporary_folder, wait_until
from tests.support.redis import RedisServer, redis_server
from tests.support.sink import Sink
from tests.support.tracking import entry_of, record_of

pytestmark = [pytest.mark.redis, pytest.mark.xdist_group("deploy-redis")]

_FOLDER = Path(__file__).parents[2] / "deploy/redis"
_README = (_FOLDER / "README.md").read_text()
_NUMBERS = count(1)
BOB = "bob@example.org"


def options(file: str = "redis.conf") -> list[str]:
    """Return what the file says as options of the command line, places apart."""
    lines = [
        line for line in (_FOLDER / file).read_text().splitlines() if line[:1] not in ("", "#")
    ]
    words = [line.split(" ") for line in lines]
    left = [each for each in words if each[0] not in ("bind", "port", "dir")]
    return [
        option
        for name, *values in left
        for option in (f"--{name}", *(v.strip('"') for v in values))
    ]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """Return a Redis that is configured as recommended."""
    with redis_server(*options()) as server:
        yield server


def test_the_doctor_finds_nothing_wrong(redis: RedisServer) -> None:
    with Sink() as sink, running_gateway({**settings_for(sink.port), "store.url": redis.url}) as gw:
        told = mailonce("doctor", "--config", gw.config_file)
    assert told.code == 0
    lines = [line for line in told.out.splitlines() if "store." in line]
    assert lines
    assert all("✓ ok" in line for line in lines), told.out
    assert "noeviction" in told.out
    assert "append-only file" in told.out


def test_one_user_with_few_rights_is_enough(redis: RedisServer) -> None:
    """The ACL of the README lets mail, trace, forget and doctor do all they do, and no more."""
    (rule,) = re.findall(r"^user mailonce on >PASSWORD (.*)$", _README, re.MULTILINE)
    redis.ask("ACL", "SETUSER", "mailonce", "on", ">PASSWORD", *rule.split())
    url = f"redis://mailonce:PASSWORD@127.0.0.1:{redis.port}/0"
    settings = {"store.url": url, "store.secret": "key", "dedup.action": "drop"}
    with Sink() as sink, running_gateway({**settings_for(sink.port), **settings}) as gateway:
        message_id = fresh_id()
        for _ in range(2):
            assert deliver(gateway.port, "a@s.test", [BOB], letter(message_id)).is_accepted
        assert len(sink.accepted) == 1
        redis.ask("SET", "another", "application")
        for command in (["doctor"], ["trace", message_id], ["forget", message_id]):
            told = mailonce(*command, "--config", gateway.config_file)
            assert told.code == 0, told
            assert not [line for line in told.out.splitlines() if "! warn   store" in line], told
    with redis.client() as client:
        client.execute_command("AUTH", "mailonce", "PASSWORD")
        with pytest.raises(NoPermissionError):
            client.execute_command("GET", "another")
    redis.ask("ACL", "DELUSER", "mailonce")


def test_a_full_redis_lets_mail_pass_and_says_so(redis: RedisServer) -> None:
    """P4: with noeviction mail goes on, unchecked and counted; nothing is thrown away."""
    with Sink() as sink, running_gateway({**settings_for(sink.port), "store.url": redis.url}) as gw:
        before = redis.ask("CONFIG", "GET", "maxmemory")[1]
        redis.ask("CONFIG", "SET", "maxmemory", "1")
        try:
            assert deliver(gw.port, "a@s.test", [BOB], letter(fresh_id())).is_accepted
            assert len(sink.accepted) == 1
            gw.wait_for_metric(1.0, "mailonce_messages_total", verdict="unchecked")
            gw.wait_for_log("store_unavailable")
        finally:
            redis.ask("CONFIG", "SET", "maxmemory", before)


def _used(server: RedisServer) -> int:
    """Return the memory that its data takes, less what is on its way to a client or to the disk."""
    with server.client() as client:
        memory = client.info("memory")
    passing = ("mem_clients_normal", "mem_aof_buffer")
    return int(memory["used_memory"]) - sum(int(memory[name]) for name in passing)


def _octets_each(redis: RedisServer, number: int) -> float:
    """Return what one tracked recipient costs, with the keys and values that mail makes."""
    redis.ask("FLUSHALL")
    before = _used(redis)
    with redis.client() as client:
        pipeline = client.pipeline(transaction=False)
        for serial in range(number):
            unique_id = UniqueId(serial.to_bytes(12), serial.to_bytes(8, "little"))
            record = replace(record_of(unique_id, note=b"4gBhB03wJGz5W"), window_s=432_000.0)
            command = set_record(key_of(unique_id), record_value(record), 432_000_000)
            pipeline.execute_command(*command)
        pipeline.execute()
    return (_used(redis) - before) / number


def test_a_tracked_recipient_costs_what_the_table_says(redis: RedisServer) -> None:
    """Just before Redis doubles its tables, and just after: between these it always is."""
    (least, most) = map(int, re.findall(r"\*\*(\d+) to (\d+) octets\*\*", _README)[0])
    full, doubled = _octets_each(redis, 2**15), _octets_each(redis, 2**15 + 1)
    assert least - 5 <= full <= 200, full
    assert full < doubled <= most + 5, doubled


def test_a_journal_entry_costs_what_the_readme_says(redis: RedisServer) -> None:
    (octets,) = map(
        int, re.findall(r"an entry of the journal\s+about \*\*(\d+) octets\*\*", _README)
    )
    redis.ask("FLUSHALL")
    before = _used(redis)
    entries = 20_000
    journal = RedisJournal(2 * entries)
    reply = "250 2.0.0 Ok: duplicate of an already accepted message, not delivered again"
    with redis.client() as client:
        pipeline = client.pipeline(transaction=False)
        for serial in range(entries):
            entry = replace(entry_of(f"{serial}.4711@mail.shop.example"), reply=reply)
            for command in journal.written([entry]):
                pipeline.execute_command(*command)
        pipeline.execute()
    assert (_used(redis) - before) / entries == pytest.approx(octets, rel=0.15)


def test_the_table_follows_from_the_octets() -> None:
    """Messages a day, days, recipients each, octets at worst: multiplied as the README says."""
    most = int(re.findall(r"\*\*\d+ to (\d+) octets\*\*", _README)[0])
    rows = re.findall(r"^\| ([\d,]+) \| ([\d,]+) \| (\d+) (M|G)iB \|$", _README, re.MULTILINE)
    assert len(rows) >= 4
    for messages_, records_, size, unit in rows:
        messages, records = (int(number.replace(",", "")) for number in (messages_, records_))
        assert records == messages * 5 * 1.5
        mebibytes = records * most / 2**20
        told = int(size) * (1024 if unit == "G" else 1)
        assert mebibytes <= told <= 1.5 * mebibytes + 1, (messages, mebibytes)


def test_sentinel_starts_and_finds_the_master(redis: RedisServer) -> None:
    with temporary_folder("sentinel") as folder:
        port = free_port()
        text = (_FOLDER / "sentinel.conf").read_text()
        for there, here in (
            ("port 26379", f"port {port}\nbind 127.0.0.1"),
            ("dir /var/lib/redis", f"dir {folder}"),
            ("192.0.2.31 6379", f"127.0.0.1 {redis.port}"),
        ):
            assert there in text
            text = text.replace(there, here)
        (folder / "sentinel.conf").write_text(text)
        child = start(["redis-server", folder / "sentinel.conf", "--sentinel"], folder / "log")
        try:
            wait_until(lambda: "+monitor master mail" in child.tail(), "Sentinel", 30.0, child)
            url = f"redis+sentinel://127.0.0.1:{port}/mail/0"
            with Sink() as sink:
                settings = {**settings_for(sink.port), "store.url": url, "dedup.action": "drop"}
                with running_gateway(settings) as gateway:
                    message = letter(fresh_id())
                    for _ in range(2):
                        assert deliver(gateway.port, "a@s.test", [BOB], message).is_accepted
                assert len(sink.accepted) == 1
        finally:
            child.kill()
