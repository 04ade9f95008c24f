"""High availability and access: Sentinel with a failover, Cluster, client certificates, ACL."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from gateway.core.policy import IN_FLIGHT, NEW, Sight, Sighting
from gateway.core.unique_id import UniqueId
from gateway.edge import redis_layout as layout
from gateway.edge.redis_cluster import _slot
from gateway.edge.redis_link import open_link
from gateway.edge.tracking_redis import RedisTrackingList
from gateway.errors import TrackingListError
from tests.support.need import need
from tests.support.process import free_port, temporary_folder, wait_until
from tests.support.redis import (
    RedisServer,
    Sentinels,
    redis_cluster,
    redis_sentinels,
    redis_server,
)
from tests.support.tracking import (
    LEASE_S,
    entry_of,
    eventually,
    record_of,
    some_id,
    some_token,
)

TIMEOUT_S = 0.5
# Of the wait that a busy machine disturbed least: far from making a connection, which may take 3 s.
SLACK_S = 1.0
# Nothing shall be late because somebody else keeps the machine busy for a moment.
PATIENCE_S = 30.0
FEW = 20

Open = Callable[..., RedisTrackingList]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    lists: list[RedisTrackingList] = []

    def open_one(url: str, timeout_s: float = PATIENCE_S) -> RedisTrackingList:
        lists.append(RedisTrackingList(open_link(url, timeout_s)))
        return lists[-1]

    yield open_one
    for one in lists:
        await one.close()


@pytest.fixture(scope="module")
def _nodes() -> Iterator[list[RedisServer]]:
    with redis_cluster() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    need("openssl")
    with temporary_folder("ca") as folder:
        for authority in ("ca", "stranger"):
            _openssl(
                folder,
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
                "-subj",
                f"/CN={authority}",
                "-keyout",
                f"{authority}.key",
                "-out",
                f"{authority}.pem",
            )
        for name, authority in (("server", "ca"), ("client", "ca"), ("other", "stranger")):
            _openssl(
                folder,
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
                "-subj",
                f"/CN={name}",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-CA",
                f"{authority}.pem",
                "-CAkey",
                f"{authority}.key",
                "-keyout",
                f"{name}.key",
                "-out",
                f"{name}.pem",
            )
        yield folder


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    port = free_port()
    options = (
        "--tls-port",
        str(port),
        "--tls-cert-file",
        str(folder / "server.pem"),
        "--tls-key-file",
        str(folder / "server.key"),
        "--tls-ca-cert-file",
        str(folder / "ca.pem"),
        "--tls-auth-clients",
        "yes",
    )
    with redis_server(*options):
        yield port


async def claimed(tracking_list: RedisTrackingList, unique_id: UniqueId, token: bytes) -> Sighting:
    (sighting,) = await tracking_list.claim([unique_id], token, LEASE_S)
    return sighting


async def sight_soon(tracking_list: RedisTrackingList, key: UniqueId) -> Sighting:
    """Claim until the list answers; a try takes no longer than the time-out."""
    found: list[Sighting] = []
    waits_s: list[float] = []

    async def answers() -> bool:
        begun = time.monotonic()
        try:
            found.append(await claimed(tracking_list, key, some_token()))
        except TrackingListError:
            return False
        finally:
            waits_s.append(time.monotonic() - begun)
        return True

    await eventually(answers, 60.0)
    assert min(waits_s) < TIMEOUT_S + SLACK_S
    return found[-1]


class TestSentinel:
    """A master, a replica, and a majority that decides."""

    @pytest.fixture
    def sentinels(self) -> Iterator[Sentinels]:
        with redis_sentinels() as group:
            yield group

    async def test_p1_after_a_failover_the_list_goes_on_with_what_was_replicated(
        self, sentinels: Sentinels, opened: Open
    ) -> None:
        tracking_list, key = opened(sentinels.url, TIMEOUT_S), some_id()
        await opened(sentinels.url).confirm([record_of(key)])
        assert (await sight_soon(tracking_list, key)).sight is Sight.SEEN
        await asyncio.to_thread(
            wait_until, lambda: sentinels.master.ask("WAIT", 1, 1000) == 1, "replication", 30.0
        )
        sentinels.master.kill()
        assert (await sight_soon(tracking_list, key)).sight is Sight.SEEN
        assert await sight_soon(tracking_list, some_id()) == NEW

    async def test_p4_a_master_made_replica_is_left_for_the_new_one(
        self, sentinels: Sentinels, opened: Open
    ) -> None:
        tracking_list, key = opened(sentinels.url, TIMEOUT_S), some_id()
        await opened(sentinels.url).confirm([record_of(key)])
        assert (await sight_soon(tracking_list, key)).sight is Sight.SEEN
        sentinels.fail_over()
        await asyncio.to_thread(
            wait_until, lambda: sentinels.master_port() == sentinels.replica.port, "failover", 30.0
        )
        assert (await sight_soon(tracking_list, key)).sight is Sight.SEEN
        assert await sight_soon(tracking_list, some_id()) == NEW

    async def test_a_sentinel_that_is_gone_is_passed_over(
        self, sentinels: Sentinels, opened: Open
    ) -> None:
        first, *others = sentinels.ports
        gone = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{first}/mail"
        assert await claimed(opened(gone), some_id(), some_token()) == NEW
        assert others

    async def test_a_group_nobody_knows_is_an_error_that_says_so(
        self, sentinels: Sentinels, opened: Open
    ) -> None:
        tracking_list = opened(sentinels.url.replace("/mail/", "/male/"))
        with pytest.raises(TrackingListError, match="knows no master 'male'"):
            await claimed(tracking_list, some_id(), some_token())


class TestCluster:
    """Three masters, and keys that belong to each."""

    @pytest.fixture
    def nodes(self, _nodes: list[RedisServer]) -> list[RedisServer]:
        for node in _nodes:
            node.ask("FLUSHALL")
        return _nodes

    @pytest.fixture
    def url(self, nodes: list[RedisServer]) -> str:
        return f"redis+cluster://127.0.0.1:1,127.0.0.1:{nodes[0].port}"

    async def test_claims_and_records_on_every_node(
        self, nodes: list[RedisServer], url: str, opened: Open
    ) -> None:
        tracking_list, other = opened(url), opened(url)
        keys = [key for node in nodes for key in _keys_on(nodes, node)]
        tokens = {key: some_token() for key in keys}
        found = await asyncio.gather(*(claimed(tracking_list, k, tokens[k]) for k in keys))
        assert set(found) == {NEW}
        assert {await claimed(other, key, some_token()) for key in keys} == {IN_FLIGHT}
        assert {await claimed(tracking_list, key, tokens[key]) for key in keys} == {NEW}
        for key in keys[:30]:
            await tracking_list.confirm([record_of(key)], [entry_of()])
        for key in keys[30:]:
            await tracking_list.release([key], tokens[key])
        found = [await claimed(other, key, some_token()) for key in keys]
        assert [s.sight for s in found] == [Sight.SEEN] * 30 + [Sight.NEW] * 30
        assert all(node.ask("DBSIZE") >= FEW for node in nodes)
        assert len(await tracking_list.trail(b"a@example.org", 100)) == 30
        assert len(await tracking_list.latest(100)) == 30

    async def test_all_recipients_of_a_message_live_on_one_node(
        self, nodes: list[RedisServer], url: str, opened: Open
    ) -> None:
        tracking_list = opened(url)
        keys = [some_id(b"one message!") for _ in range(20)]
        variant = some_id(b"one message!", b"variant!")
        await tracking_list.claim([*keys, variant], some_token(), LEASE_S)
        await tracking_list.confirm([record_of(key) for key in keys])
        holders = [node for node in nodes if node.ask("KEYS", "mo:{*")]
        assert len(holders) == 1
        assert len(await tracking_list.known(b"one message!")) == 21
        assert await tracking_list.forget(b"one message!", keys[0].recipient) == 1
        assert await tracking_list.forget(b"one message!", None) == 20

    async def test_a_slot_that_moves_is_followed(
        self, nodes: list[RedisServer], url: str, opened: Open
    ) -> None:
        tracking_list, key = opened(url), some_id()
        await claimed(tracking_list, some_id(), some_token())
        slot = _slot(layout.key_of(key))
        source = next(n for n in nodes if slot in range(*_range(nodes, n)))
        target = next(n for n in nodes if n is not source)
        source_id, target_id = (n.ask("CLUSTER", "MYID") for n in (source, target))
        # Under way: the key is not at the source, which says ASK.
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        assert await claimed(tracking_list, key, some_token()) == NEW
        assert target.ask("CLUSTER", "COUNTKEYSINSLOT", slot) == 1
        assert await claimed(tracking_list, key, some_token()) == IN_FLIGHT
        for node in (target, source, *nodes):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        # Done: the source says MOVED, once.
        assert await claimed(tracking_list, key, some_token()) == IN_FLIGHT
        assert tracking_list._link._owners[slot] == ("127.0.0.1", target.port)  # type: ignore[attr-defined]
        # And back, for the other tests.
        target.ask("FLUSHALL")
        for node in (source, target, *nodes):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", source_id)

    async def test_p4_a_node_that_stalls_costs_no_more_than_the_time_out(
        self, nodes: list[RedisServer], url: str, opened: Open
    ) -> None:
        tracking_list, patient = opened(url, TIMEOUT_S), opened(url)
        keys = _keys_on(nodes, nodes[1])[:4]
        for key in keys:
            await patient.confirm([record_of(key)])
            await sight_soon(tracking_list, key)
        nodes[1].pause()
        waits_s = []
        try:
            for key in keys:
                begun = time.monotonic()
                with pytest.raises(TrackingListError):
                    await claimed(tracking_list, key, some_token())
                waits_s.append(time.monotonic() - begun)
        finally:
            nodes[1].resume()
        assert min(waits_s) < TIMEOUT_S + SLACK_S
        for key in keys:
            assert (await sight_soon(tracking_list, key)).sight is Sight.SEEN

    async def test_nobody_there_is_an_error(self, opened: Open) -> None:
        with pytest.raises(TrackingListError, match="no node that answers"):
            await claimed(opened("redis+cluster://127.0.0.1:1"), some_id(), some_token())

    async def test_a_server_that_is_no_cluster_is_an_error(
        self, redis: RedisServer, opened: Open
    ) -> None:
        url = redis.url.replace("redis://", "redis+cluster://")
        with pytest.raises(TrackingListError, match="no node that answers"):
            await claimed(opened(url), some_id(), some_token())


def _keys_on(nodes: list[RedisServer], node: RedisServer) -> list[UniqueId]:
    """Return a few ids that belong to a node."""
    slots = range(*_range(nodes, node))
    keys = (some_id() for _ in itertools.count())
    return list(itertools.islice((key for key in keys if _slot(layout.key_of(key)) in slots), FEW))


def _range(nodes: list[RedisServer], node: RedisServer) -> tuple[int, int]:
    number = nodes.index(node)
    return number * 16384 // len(nodes), (number + 1) * 16384 // len(nodes)


class TestTls:
    """`rediss://`, both sides with certificates of an authority of our own."""

    async def test_with_a_client_certificate(self, port: int, folder: Path, opened: Open) -> None:
        url = (
            f"rediss://127.0.0.1:{port}?ssl_ca_certs={folder}/ca.pem"
            f"&ssl_certfile={folder}/client.pem&ssl_keyfile={folder}/client.key"
        )
        tracking_list, key = opened(url), some_id()
        await tracking_list.confirm([record_of(key)])
        assert (await claimed(tracking_list, key, some_token())).sight is Sight.SEEN

    @pytest.mark.parametrize(
        ("parameters", "problem"),
        [
            ("?ssl_ca_certs={0}/ca.pem", "certificate required|closed|reset"),
            (
                "?ssl_ca_certs={0}/ca.pem&ssl_certfile={0}/other.pem&ssl_keyfile={0}/other.key",
                "unknown ca|closed|reset|alert",
            ),
            (
                "?ssl_ca_certs={0}/stranger.pem",
                "certificate verify failed",
            ),
        ],
        ids=["no-client-certificate", "a-strangers-certificate", "a-server-nobody-vouches-for"],
    )
    async def test_p5_without_trust_on_both_sides_there_is_no_list(
        self, port: int, folder: Path, opened: Open, parameters: str, problem: str
    ) -> None:
        tracking_list = opened(f"rediss://127.0.0.1:{port}{parameters.format(folder)}")
        with pytest.raises(TrackingListError, match=f"(?i){problem}"):
            await claimed(tracking_list, some_id(), some_token())


class TestAccess:
    """Passwords, and a user that may do only what is needed."""

    NEEDED = ("+set", "+get", "+del", "+eval", "+xadd", "+xrevrange", "+expire", "+scan", "~mo:*")

    @pytest.fixture
    def user(self, redis: RedisServer) -> Iterator[str]:
        redis.ask("ACL", "SETUSER", "mailonce", "reset", "on", ">p@ss/word", *self.NEEDED)
        yield redis.url.replace("redis://", "redis://mailonce:p%40ss%2Fword@")
        redis.ask("ACL", "DELUSER", "mailonce")

    async def test_a_user_with_what_is_needed_and_no_more(self, user: str, opened: Open) -> None:
        tracking_list, key, token = opened(user), some_id(), some_token()
        assert await claimed(tracking_list, key, token) == NEW
        assert await claimed(tracking_list, key, token) == NEW
        await tracking_list.release([key], token)
        await tracking_list.confirm([record_of(key)], [entry_of()])
        assert len(await tracking_list.known(key.message)) == 1
        assert len(await tracking_list.trail(b"a@example.org", 10)) == 1
        assert len(await tracking_list.latest(10)) == 1
        assert await tracking_list.forget(key.message, None) == 1
        other = opened(user)
        await claimed(tracking_list, key, token)
        assert await claimed(other, key, some_token()) == IN_FLIGHT

    async def test_a_wrong_password_is_an_error_that_says_so(self, user: str, opened: Open) -> None:
        wrong = opened(user.replace("word@", "w0rd@"))
        with pytest.raises(TrackingListError, match="WRONGPASS") as caught:
            await claimed(wrong, some_id(), some_token())
        assert "w0rd" not in str(caught.value)

    async def test_a_missing_right_is_an_error_that_says_so(
        self, redis: RedisServer, user: str, opened: Open
    ) -> None:
        redis.ask("ACL", "SETUSER", "mailonce", "-set")
        with pytest.raises(TrackingListError, match="NOPERM"):
            await claimed(opened(user), some_id(), some_token())

    async def test_a_password_alone(self, opened: Open) -> None:
        with redis_server("--requirepass", "secret", access={"password": "secret"}) as server:
            url = server.url.replace("redis://", "redis://:secret@")
            assert await claimed(opened(url), some_id(), some_token()) == NEW
            with pytest.raises(TrackingListError, match="NOAUTH"):
                await claimed(opened(server.url), some_id(), some_token())


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(("openssl", *arguments), cwd=folder, check=True, capture_output=True)
