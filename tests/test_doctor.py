"""Doctor: each thing that can be wrong, made wrong for real, is found and comes with a remedy."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway import doctor
from gateway.cli import app
from gateway.config import Config, config_of
from gateway.core.rule import Mode
from gateway.doctor import listen
from gateway.doctor.finding import Finding, Level
from tests.support.certificate import Pair, make_certificate
from tests.support.gateway import Gateway, as_toml, running_gateway, settings_for
from tests.support.postfix import GUARD, Postfix, Service, running_postfix
from tests.support.process import free_port, wait_until
from tests.support.redis import RedisServer, redis_cluster, redis_server
from tests.support.sink import EXTENSIONS, Sink

OK, WARN, FAIL = Level.OK, Level.WARN, Level.FAIL


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    """Return a downstream that knows XCLIENT and refuses foreign recipients."""
    with Sink() as server:
        server.answer("rcpt", b"554 5.7.1 Relay access denied\r\n", always=True)
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def findings(**tables: Mapping[str, Any]) -> Sequence[Finding]:
    return doctor.examine(config(**tables))


def config(**tables: Mapping[str, Any]) -> Config:
    """Return a configuration in which nothing is said but what the test says."""
    quiet = {
        "listen": {"smtp": [f"127.0.0.1:{free_port()}"], "http": "", **tables.get("listen", {})},
        "downstream": {"servers": ["smtp://127.0.0.1:1"], **tables.get("downstream", {})},
        "store": {"url": "memory://", **tables.get("store", {})},
    }
    rest = {name: table for name, table in tables.items() if name not in quiet}
    return config_of({"hostname": "localhost.localdomain", **quiet, **rest})


def level(found: Sequence[Finding], check: str, subject: str = "") -> Level:
    """Return the level of the only finding of a check, or of its subject."""
    (only,) = of(found, check, subject)
    assert bool(only.remedy) is (only.level is not OK), only
    assert "\n" not in only.text + only.remedy
    return only.level


def text(found: Sequence[Finding], check: str) -> str:
    (only,) = of(found, check)
    return only.text


def of(found: Sequence[Finding], check: str, subject: str = "") -> list[Finding]:
    return [f for f in found if f.check == check and f.subject.endswith(subject)]


# --- The downstream ---


@pytest.mark.postfix
def test_p5_a_guarded_postfix_is_well() -> None:
    with running_postfix(Service(GUARD)) as postfix:
        found = downstream(postfix)
    assert {f.check: f.level for f in found if f.check.startswith("downstream")} == {
        "downstream": OK,
        "downstream.tls": OK,
        "downstream.identity": OK,
        "downstream.relay": OK,
        "downstream.trust": OK,
    }


@pytest.mark.postfix
def test_p5_a_postfix_that_does_not_know_us_is_told() -> None:
    with running_postfix(Service({**GUARD, "smtpd_authorized_xclient_hosts": ""})) as postfix:
        found = downstream(postfix)
    assert level(found, "downstream") is OK
    assert level(found, "downstream.identity") is FAIL
    assert "smtpd_authorized_xclient_hosts" in of(found, "downstream.identity")[0].remedy


@pytest.mark.postfix
def test_p5_a_postfix_that_trusts_our_address_is_told() -> None:
    service = Service(
        {
            **GUARD,
            "mynetworks": "127.0.0.0/8",
            "smtpd_relay_restrictions": "permit_mynetworks,reject_unauth_destination",
        }
    )
    with running_postfix(service, passes_to="smtp:[127.0.0.1]:1") as postfix:
        found = downstream(postfix)
        assert level(found, "downstream.relay") is OK  # who we hand on is a stranger all the same
        assert level(found, "downstream.trust") is WARN
        found = downstream(postfix, identity="none", clients=["10.0.0.0/8"])
        assert level(found, "downstream.relay") is FAIL
        found = downstream(postfix, identity="none", host="127.0.0.1")
        assert level(found, "downstream.relay") is WARN


def downstream(
    postfix: Postfix, identity: str = "xclient", host: str = "0.0.0.0", clients: Sequence[str] = ()
) -> Sequence[Finding]:
    return findings(
        listen={"smtp": [f"{host}:{free_port()}"], "clients": clients},
        downstream={"servers": [f"smtp://127.0.0.1:{postfix.port}"], "identity": identity},
    )


def test_each_server_is_looked_at_by_itself(sink: Sink) -> None:
    down = free_port()
    servers = [f"smtp://127.0.0.1:{down}", f"smtp://127.0.0.1:{sink.port}"]
    found = findings(downstream={"servers": servers})
    assert level(found, "downstream", str(down)) is FAIL
    assert level(found, "downstream", str(sink.port)) is OK
    assert level(found, "downstream.identity") is OK
    assert not doctor.is_well(found)


def test_a_server_that_does_not_take_the_proxy_header_is_told() -> None:
    with Sink() as plain:
        servers = [f"smtp://127.0.0.1:{plain.port}"]
        found = findings(downstream={"servers": servers, "identity": "proxy"})
    (first, *_) = [f for f in found if f.check.startswith("downstream")]
    assert first.level is FAIL


def test_a_server_that_refuses_the_identity_is_told() -> None:
    with Sink() as refusing:
        refusing.answer("xclient", b"550 5.7.0 no\r\n", always=True)
        found = findings(downstream={"servers": [f"smtp://127.0.0.1:{refusing.port}"]})
        assert level(found, "downstream.identity") is FAIL
        assert not refusing.transactions


def test_what_a_server_does_not_offer_is_told() -> None:
    with Sink(extensions=[each for each in EXTENSIONS if each != "PIPELINING"]) as poor:
        found = findings(downstream={"servers": [f"smtp://127.0.0.1:{poor.port}"]})
    assert level(found, "downstream.capabilities") is WARN
    assert "PIPELINING" in text(found, "downstream.capabilities")


@pytest.mark.tool
@pytest.mark.parametrize(
    ("tls", "is_offered", "expected"),
    [
        ("never", False, OK),
        ("never", True, OK),  # it is on this machine
        ("opportunistic", False, WARN),
        ("opportunistic", True, WARN),  # signed by itself
        ("required", False, FAIL),
        ("required", True, FAIL),
    ],
)
def test_tls_towards_the_downstream(
    tmp_path: Path, tls: str, is_offered: bool, expected: Level
) -> None:
    with Sink(tls=server_context(tmp_path) if is_offered else None) as server:
        servers = [f"smtp://localhost:{server.port}"]
        found = findings(downstream={"servers": servers, "tls": tls})
    assert level(found, "downstream.tls") is expected


def server_context(folder: Path) -> ssl.SSLContext:
    pair = make_certificate(folder, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    return context


def test_no_probe_is_told(sink: Sink) -> None:
    servers = [f"smtp://127.0.0.1:{sink.port}"]
    found = findings(downstream={"servers": servers, "relay_probe": ""})
    assert level(found, "downstream.relay") is WARN


def test_a_maildir_needs_a_folder(tmp_path: Path) -> None:
    found = findings(downstream={"servers": [f"maildir://{tmp_path}/new/Maildir"]})
    assert level(found, "downstream") is OK
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    found = findings(downstream={"servers": [f"maildir://{tmp_path}/file/Maildir"]})
    assert level(found, "downstream") is FAIL


# --- The tracking list ---


@pytest.mark.redis
def test_a_redis_that_serves_well(redis: RedisServer) -> None:
    redis.ask("CONFIG", "SET", "appendonly", "yes")
    found = findings(store={"url": redis.url, "timeout": "5s"})
    redis.ask("CONFIG", "SET", "appendonly", "no")
    checks = ("", ".clock", ".version", ".role", ".eviction", ".persistence")
    assert [level(found, f"store{check}") for check in checks] == [OK] * len(checks)
    assert not [key for key in redis.ask("KEYS", "*") if not key.startswith(b"mo:w:")]


@pytest.mark.redis
def test_a_redis_that_forgets_is_told(redis: RedisServer) -> None:
    assert level(findings(store={"url": redis.url}), "store.persistence") is WARN
    redis.ask("CONFIG", "SET", "save", "3600 1")
    assert level(findings(store={"url": redis.url}), "store.persistence") is OK
    redis.ask("CONFIG", "SET", "save", "")


@pytest.mark.redis
@pytest.mark.parametrize(
    ("policy", "most", "expected"),
    [
        ("allkeys-lru", "100mb", FAIL),  # other users' keys push ours out
        ("volatile-lru", "100mb", WARN),  # the oldest go: some prefer it
        ("allkeys-lru", "0", WARN),  # it cannot become full, as yet
        ("noeviction", "100mb", OK),
    ],
)
def test_the_eviction_policy_is_judged(
    redis: RedisServer, policy: str, most: str, expected: Level
) -> None:
    redis.ask("CONFIG", "SET", "maxmemory-policy", policy, "maxmemory", most)
    found = findings(store={"url": redis.url})
    assert (level(found, "store.eviction"), policy in text(found, "store.eviction")) == (
        expected,
        True,
    )
    redis.ask("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "0")
    assert level(findings(store={"url": redis.url}), "store.eviction") is OK


@pytest.mark.redis
def test_a_full_redis_is_told(redis: RedisServer) -> None:
    most = redis.ask("INFO", "memory")["used_memory"] * 11 // 10
    redis.ask("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", most)
    found = findings(store={"url": redis.url})
    redis.ask("CONFIG", "SET", "maxmemory", "0")
    assert level(found, "store.eviction") is WARN


@pytest.mark.redis
def test_a_replica_is_told(redis: RedisServer) -> None:
    with redis_server("--replicaof", "127.0.0.1", str(redis.port)) as replica:
        found = findings(store={"url": replica.url})
    assert level(found, "store") is FAIL
    assert level(found, "store.role") is FAIL


@pytest.mark.redis
def test_a_user_that_may_do_little_is_told(redis: RedisServer) -> None:
    rights = ("+set", "+eval", "+get", "+del", "+client", "~mo:*")
    redis.ask("ACL", "SETUSER", "poor", "on", ">word", *rights)
    found = findings(store={"url": f"redis://poor:word@127.0.0.1:{redis.port}", "timeout": "5s"})
    assert level(found, "store") is OK
    assert level(found, "store.redis") is WARN
    assert level(found, "store.clock") is WARN
    redis.ask("ACL", "SETUSER", "poor", "-set")
    found = findings(store={"url": f"redis://poor:word@127.0.0.1:{redis.port}"})
    assert level(found, "store") is FAIL
    found = findings(store={"url": f"redis://poor:wrong@127.0.0.1:{redis.port}"})
    assert level(found, "store") is FAIL
    assert "wrong" not in doctor.as_json(found)


@pytest.mark.redis
def test_every_master_of_a_cluster_is_looked_at() -> None:
    with redis_cluster() as nodes:
        found = findings(store={"url": f"redis+cluster://127.0.0.1:{nodes[0].port}"})
        for node in nodes:
            assert level(found, "store.version", str(node.port)) is OK


def test_a_list_that_is_not_there_is_told() -> None:
    found = findings(store={"url": f"redis://127.0.0.1:{free_port()}"})
    assert level(found, "store") is FAIL
    assert not of(found, "store.version")


def test_a_list_in_memory_is_told() -> None:
    assert level(findings(), "store") is WARN


def test_a_file_is_not_made_by_looking(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/list/seen.db"
    found = findings(store={"url": url})
    assert level(found, "store.folder") is OK
    assert not of(found, "store")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "list").touch()
    assert level(findings(store={"url": url}), "store.folder") is FAIL


def test_a_file_in_memory_is_told() -> None:
    found = findings(store={"url": f"sqlite:///dev/shm/mailonce-{free_port()}/seen.db"})
    assert level(found, "store.folder") is WARN
    assert "tmpfs" in text(found, "store.folder")


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "seen.db"
    file.write_bytes(b"this is no database" * 1000)
    found = findings(store={"url": f"sqlite://{file}"})
    assert level(found, "store.folder") is OK
    assert level(found, "store") is FAIL


def test_a_short_window_is_told() -> None:
    short = {"window": "1h", "url": "memory://"}
    assert level(findings(store=short), "store.window") is WARN
    assert not of(findings(), "store.window")


# --- Addresses ---


@pytest.fixture(scope="module")
def gateway(sink: Sink) -> Iterator[Gateway]:
    milter = free_port()
    settings = {**settings_for(sink.port), "listen.milter": [f"127.0.0.1:{milter}"]}
    with running_gateway(settings) as running:
        yield running


def test_a_gateway_that_runs_is_recognised(gateway: Gateway, sink: Sink) -> None:
    result = CliRunner().invoke(app, ["doctor", "--config", str(gateway.config_file), "--json"])
    assert (result.exit_code, result.stderr) == (0, ""), result.stdout
    report = json.loads(result.stdout)
    assert report["is_well"] is True
    found = {f["check"]: (f["level"], f["text"]) for f in report["findings"]}
    for check in ("listen.smtp", "listen.milter", "listen.http"):
        assert found[check] == ("ok", "mailonce answers here already")
    assert found["running"] == ("ok", "the gateway says that it is ready")
    assert found["downstream.relay"][0] == "ok"
    assert not sink.transactions
    table = CliRunner().invoke(app, ["doctor", "--config", str(gateway.config_file)])
    assert table.exit_code == 0
    assert "failures: 0" in table.stdout


@pytest.mark.parametrize(
    "listen", [{"listen.proxy_protocol": ["127.0.0.0/8"]}, {"listen.clients": ["10.0.0.0/8"]}]
)
def test_a_gateway_that_does_not_talk_to_everybody_is_recognised(
    sink: Sink, listen: dict[str, Any]
) -> None:
    milter = {"listen.milter": [f"127.0.0.1:{free_port()}"]}
    with running_gateway({**settings_for(sink.port), **listen, **milter}) as running:
        command = ["doctor", "--config", str(running.config_file), "--json"]
        found = json.loads(CliRunner().invoke(app, command).stdout)["findings"]
    levels = {each["check"]: each["level"] for each in found}
    assert (levels["listen.smtp"], levels["listen.milter"]) == ("ok", "ok"), found


def test_addresses_that_somebody_else_has_are_told(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
        unix.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        for listen in ({"smtp": [taken]}, {"http": taken}, {"milter": [taken]}):
            found = findings(listen=listen)
            assert level(found, f"listen.{next(iter(listen))}") is FAIL, listen
        found = findings(listen={"smtp": [f"unix:{path}"]})
        assert level(found, "listen.smtp") is FAIL
    found = findings(listen={"smtp": [f"unix:{path}"]})
    assert level(found, "listen.smtp") is OK  # a socket that nobody serves is replaced
    assert path.exists()


def test_what_answers_no_http_where_it_is_expected_is_told(sink: Sink) -> None:
    found = findings(listen={"http": f"127.0.0.1:{sink.port}"})
    assert level(found, "listen.http") is FAIL
    assert not of(found, "running")


def test_a_gateway_that_must_look_before_it_answers_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A downstream that hangs took it longer than was waited, and nothing was said of it at all."""
    monkeypatch.setattr(listen, "_ANSWER_S", 0.5)

    class Busy(BaseHTTPRequestHandler):
        """Alive at once, and ready when whoever has no patience is gone."""

        def do_GET(self) -> None:
            if self.path == "/readyz":
                time.sleep(1.0)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status": "ready"}' if self.path == "/readyz" else b"alive")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        found = findings(listen={"http": f"127.0.0.1:{server.server_port}"})
        server.shutdown()
        thread.join()
    assert level(found, "running") is OK


def test_the_gateway_itself_is_asked_whatever_proxy_the_shell_names(gateway: Gateway) -> None:
    wait_until(lambda: gateway.http("/readyz")[0] == 200, "the gateway is ready")
    config_file = str(gateway.config_file)
    command = [sys.executable, "-m", "gateway", "doctor", "--config", config_file, "--json"]
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:1", "no_proxy": ""}
    done = subprocess.run(command, capture_output=True, check=False, env=environment, timeout=60)
    found = {f["check"]: f for f in json.loads(done.stdout)["findings"]}
    assert found["running"]["level"] == "ok"


def test_addresses_that_cannot_be_are_told(tmp_path: Path) -> None:
    for address in ("192.0.2.1:2525", f"unix:{tmp_path}/none/socket"):
        found = findings(listen={"smtp": [address], "clients": ["10.0.0.0/8"]})
        assert level(found, "listen.smtp") is FAIL, address


def test_a_gateway_without_its_downstream_says_so(gateway: Gateway, sink: Sink) -> None:
    sink.refuse()
    try:
        wait_until(lambda: gateway.http("/readyz")[0] == 503, "the gateway notices")
        result = CliRunner().invoke(app, ["doctor", "--config", str(gateway.config_file), "--json"])
    finally:
        sink.listen()
    assert result.exit_code == 1
    found = {f["check"]: f for f in json.loads(result.stdout)["findings"]}
    assert found["running"]["level"] == "fail"
    assert "downstream" in found["running"]["text"]
    assert found["downstream"]["level"] == "fail"


# --- Certificates ---


@pytest.mark.tool
def test_a_certificate_of_our_own(tmp_path: Path) -> None:
    pair = make_certificate(tmp_path, "localhost.localdomain")
    pair.key.chmod(0o600)
    found = findings(tls=tls_of(pair))
    assert level(found, "tls.certificate") is WARN  # it is good for a day
    assert "belongs to its key, and is good for 1 days" in text(found, "tls.certificate")
    assert level(found, "tls.name") is OK
    assert level(found, "tls.authority") is WARN
    assert not of(found, "tls.key")
    pair.key.chmod(0o644)
    assert level(findings(tls=tls_of(pair)), "tls.key") is WARN


@pytest.mark.tool
def test_a_certificate_for_another_name_is_told(tmp_path: Path) -> None:
    pair = make_certificate(tmp_path, "other.example.org")
    assert level(findings(tls=tls_of(pair)), "tls.name") is WARN


@pytest.mark.tool
def test_a_certificate_of_another_key_is_told(tmp_path: Path) -> None:
    one, other = make_certificate(tmp_path, "one.test"), make_certificate(tmp_path, "other.test")
    found = findings(tls={"certificate": str(one.certificate), "key": str(other.key)})
    assert level(found, "tls.certificate") is FAIL


@pytest.mark.tool
def test_an_expired_certificate_is_told(tmp_path: Path) -> None:
    pair = make_certificate(tmp_path, "localhost.localdomain")
    expired = Pair(tmp_path / "expired.crt", pair.key)
    (tmp_path / "index").touch()
    command = ["openssl", "ca", "-selfsign", "-batch", "-notext", "-md", "sha256"]
    command += ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"]
    command += ["-keyfile", str(pair.key), "-in", str(tmp_path / "request")]
    command += ["-out", str(expired.certificate), "-config", str(tmp_path / "ca")]
    (tmp_path / "ca").write_text(
        f"[ca]\ndefault_ca = a\n[a]\ndatabase = {tmp_path}/index\nnew_certs_dir = {tmp_path}\n"
        f"serial = {tmp_path}/serial\npolicy = p\nrand_serial = yes\n[p]\ncommonName = supplied\n"
    )
    request = ["openssl", "req", "-new", "-subj", "/CN=localhost.localdomain"]
    request += ["-key", str(pair.key), "-out", str(tmp_path / "request")]
    for each in (request, command):
        subprocess.run(each, check=True, capture_output=True, timeout=30)
    found = findings(tls=tls_of(expired))
    assert level(found, "tls.certificate") is FAIL
    assert "expired" in text(found, "tls.certificate")


def test_a_missing_certificate_is_told() -> None:
    found = findings(tls={"certificate": "/none/a", "key": "/none/b"})
    assert level(found, "tls.certificate") is FAIL
    assert {f.level for f in of(found, "configuration")} == {FAIL}


def tls_of(pair: Pair) -> dict[str, str]:
    return {"certificate": str(pair.certificate), "key": str(pair.key)}


# --- The machine ---


def test_names_that_are_none_are_told() -> None:
    odd = config().model_copy(update={"hostname": "localhost"})
    assert level(doctor.examine(odd), "hostname") is WARN
    unknown = config().model_copy(update={"hostname": "no-such-host.invalid"})
    assert level(doctor.examine(unknown), "hostname") is WARN


def test_too_few_descriptors_are_told() -> None:
    assert level(findings(limits={"sessions": 1_000_000}), "descriptors") is WARN
    assert level(findings(limits={"sessions": 10}), "descriptors") is OK


def test_a_temporary_folder_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/none")
    assert level(findings(), "temporary folder") is FAIL


def test_what_is_open_to_others_is_told() -> None:
    found = findings(listen={"http": f"0.0.0.0:{free_port()}"})
    assert level(found, "http") is WARN


def test_what_is_odd_in_the_configuration_is_told() -> None:
    found = findings(dedup={"action": Mode.DROP, "match": "message-id"})
    assert level(found, "configuration") is WARN


def test_the_command_fails_if_anything_does(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    settings = {
        "listen.smtp": [f"127.0.0.1:{free_port()}"],
        "listen.http": "",
        "downstream.servers": [f"smtp://127.0.0.1:{free_port()}"],
        "store.url": f"sqlite://{tmp_path}/seen.db",
    }
    file.write_text(as_toml(settings), encoding="utf-8")
    result = CliRunner().invoke(app, ["doctor", "--config", str(file)])
    assert (result.exit_code, result.stderr) == (1, "")
    assert "✗ fail" in result.stdout
    assert "→ start it" in result.stdout
