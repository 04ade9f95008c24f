"""Trace and forget, on a gateway that runs: what a postmaster is told, and what a re-send meets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.core.answer import REFUSED_CONTENT
from tests.support.client import Client, Delivery, deliver
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.letter import fresh_id, letter
from tests.support.process import wait_until
from tests.support.redis import redis_server
from tests.support.sink import Sink

PROJECT = Path(__file__).parents[1]
SECRET = "a secret that keys the digests"


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with Sink() as server:
        yield server


@pytest.fixture(scope="module", params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def gateway(request: pytest.FixtureRequest, sink: Sink) -> Iterator[Gateway]:
    settings = {
        **settings_for(sink.port),
        "dedup.action": "drop",
        "journal.keep": "all",
        "store.secret": SECRET,
    }
    if request.param == "redis":
        with (
            redis_server() as server,
            running_gateway({**settings, "store.url": server.url}) as running,
        ):
            yield running
    else:
        with running_gateway(settings) as running:
            yield running


def send(gateway: Gateway, message: bytes, *recipients: str) -> Delivery:
    delivery = deliver(gateway.port, "a@sender.test", recipients, message)
    assert delivery.is_accepted
    return delivery


def run(gateway: Gateway, command: str, *arguments: str) -> tuple[int, str, str]:
    return run_with(gateway.config_file, command, *arguments)


def run_with(config: Path, command: str, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [command, *arguments, "--config", str(config)])
    return result.exit_code, result.stdout, result.stderr


def traced(gateway: Gateway, message_id: str) -> dict[str, Any]:
    code, out, error = run(gateway, "trace", message_id, "--json")
    assert (code, error) == (0, "")
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_p7_the_life_of_a_message_is_told(gateway: Gateway) -> None:
    message_id = fresh_id()
    began_s = int(time.time())
    send(gateway, letter(message_id), "b@here.test")
    accepted_s = time.time()
    send(gateway, letter(message_id), "b@here.test", "c@here.test")
    found = traced(gateway, f"<{message_id}>")
    assert found["message_id"] == message_id
    assert [
        [(entry["recipient"], entry["verdict"], entry["action"]) for entry in copy]
        for copy in found["copies"]
    ] == [
        [("b@here.test", "new", "relayed")],
        [("b@here.test", "duplicate", "dropped"), ("c@here.test", "new", "relayed")],
    ]
    first, (again, other) = found["copies"][0][0], found["copies"][1]
    assert first["queue_id"]
    assert (again["first_queue_id"], again["copies"]) == (first["queue_id"], 2)
    assert began_s <= again["first_seen_s"] <= accepted_s
    assert other["queue_id"] not in ("", first["queue_id"])
    held = {holding["recipient"]: holding for holding in found["tracked"]}
    assert (held["b@here.test"]["copies"], held["c@here.test"]["copies"]) == (2, 1)
    assert held["b@here.test"]["queue_id"] == first["queue_id"]
    assert {holding["state"] for holding in found["tracked"]} == {"seen"}

    code, text, error = run(gateway, "trace", message_id)
    assert (code, error) == (0, "")
    assert text.startswith(f"<{message_id}>\n2 copies for 2 recipients")
    assert re.search(r"b@here\.test: duplicate, dropped\n +This recipient had this message", text)
    assert text.count(first["queue_id"]) >= 3  # of the copy itself, in the duplicate, in the list


def test_p7_a_message_without_an_id_is_found_by_the_one_it_was_given(
    gateway: Gateway, sink: Sink
) -> None:
    message = letter(None, fresh_id().encode())
    send(gateway, message, "b@here.test")
    match = re.search(rb"Message-ID: (<\S+>)", sink.transactions[-1].message)
    assert match
    send(gateway, message, "b@here.test")
    found = traced(gateway, match[1].decode())
    verdicts = [entry["verdict"] for copy in found["copies"] for entry in copy]
    assert verdicts == ["new", "duplicate"]
    assert [holding["copies"] for holding in found["tracked"]] == [2]
    assert run(gateway, "forget", match[1].decode())[0] == 0
    send(gateway, message, "b@here.test")
    copies = traced(gateway, match[1].decode())["copies"]
    assert copies[-1][0]["verdict"] == "new"


def test_what_is_not_known_ends_with_code_1(gateway: Gateway) -> None:
    message_id = fresh_id()
    code, out, error = run(gateway, "trace", message_id)
    assert (code, error) == (1, "")
    assert "Nothing is known" in out
    code, out, error = run(gateway, "trace", message_id, "--json")
    empty: dict[str, object] = {"first_copies": [], "copies": [], "tracked": []}
    assert (code, json.loads(out), error) == (1, {"message_id": message_id, **empty}, "")
    code, out, error = run(gateway, "forget", message_id)
    assert (code, out, error) == (1, f"Nothing was there of <{message_id}>.\n", "")


@pytest.mark.parametrize(
    ("copies", "verdict"), [(0, "new"), (1, "unchecked")], ids=["new", "not compared yet"]
)
def test_p7_what_we_refuse_ourselves_is_told(gateway: Gateway, copies: int, verdict: str) -> None:
    message_id = fresh_id()
    for _ in range(copies):
        send(gateway, letter(message_id), "b@here.test")

    def claims() -> float:
        return gateway.metric("mailonce_store_operations_total", operation="claim")

    before = claims()
    with Client(gateway.port) as client:
        client.greet()
        client.command("MAIL FROM:<a@sender.test>")
        client.command("RCPT TO:<b@here.test>")
        assert client.command("DATA").code == 354
        client.send(f"Message-ID: <{message_id}>\r\n\r\nAs yet ".encode())
        wait_until(lambda: claims() > before, "the list is asked", 30.0)
        client.send(b"a bare\nline feed\r\n.\r\n")
        assert client.answer().code == 550
    found = traced(gateway, message_id)
    [entry] = found["copies"][-1]
    assert (entry["verdict"], entry["action"]) == (verdict, "rejected")
    assert entry["reply"] == REFUSED_CONTENT["bare_lf"].text
    assert len(found["tracked"]) == copies
    _, told, _ = run(gateway, "trace", message_id)
    assert "We refused its content: 550 5.5.2 Bare LF" in told


def test_p7_a_message_in_a_loop_is_known_by_its_id(gateway: Gateway) -> None:
    message_id = fresh_id()
    looped = b"Received: by x\r\n" * 101 + letter(message_id)
    assert not deliver(gateway.port, "a@sender.test", ["b@here.test"], looped).is_accepted
    [[entry]] = traced(gateway, message_id)["copies"]
    assert (entry["form"], entry["action"]) == ("valid", "rejected")
    assert entry["reply"] == REFUSED_CONTENT["hops"].text


def test_a_forgotten_message_passes_at_once(gateway: Gateway) -> None:
    message_id = fresh_id()
    for _ in range(2):
        send(gateway, letter(message_id), "b@here.test", "c@here.test")
    code, out, error = run(gateway, "forget", message_id, "--recipient", "b@HERE.test", "--json")
    removed = json.loads(out)
    assert (code, error, removed["removed"]) == (0, "", 1)
    assert [holding["recipient"] for holding in removed["forgotten"]] == ["b@here.test"]
    assert removed["forgotten"][0]["copies"] == 2
    send(gateway, letter(message_id), "b@here.test", "c@here.test")
    copies = traced(gateway, message_id)["copies"]
    assert [entry["verdict"] for entry in copies[-1]] == ["new", "duplicate"]

    code, out, error = run(gateway, "forget", f"<{message_id}>")
    assert (code, error) == (0, "")
    assert "forgotten: b@here.test: 1 copy since" in out
    assert "2 records removed; the next copy passes as new." in out
    send(gateway, letter(message_id), "b@here.test", "c@here.test")
    copies = traced(gateway, message_id)["copies"]
    assert [entry["verdict"] for entry in copies[-1]] == ["new", "new"]


def test_forgetting_takes_collisions_along_and_nobody_elses(gateway: Gateway) -> None:
    message_id, other_id = fresh_id(), fresh_id()
    send(gateway, letter(message_id), "b@here.test")
    send(gateway, letter(message_id, b"other\r\n"), "b@here.test")
    send(gateway, letter(other_id), "b@here.test")
    code, out, _ = run(gateway, "forget", message_id)
    assert code == 0
    assert "2 records removed" in out
    assert traced(gateway, message_id)["tracked"] == []
    assert len(traced(gateway, other_id)["tracked"]) == 1


def test_nothing_a_client_sent_reaches_the_terminal_as_it_is(gateway: Gateway) -> None:
    message_id = fresh_id()
    sender = "a\x1b[31m@sender.test"
    deliver(gateway.port, sender, ["b\x1b]0;x\x07@here.test"], letter(message_id))
    code, out, _ = run(gateway, "trace", message_id)
    assert code == 0
    assert "\\x1b" in out
    assert out.replace("\n", "").isprintable()
    assert out.isascii()


def test_an_id_of_any_octets_is_found(gateway: Gateway) -> None:
    message_id = f"caf\xe9.{fresh_id()}"
    send(gateway, letter(message_id), "b@here.test")
    pasted = os.fsdecode(message_id.encode("latin-1"))
    arguments: list[str | Path] = ["trace", pasted, "--json", "--config", gateway.config_file]
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        capture_output=True,
        check=True,
        cwd=PROJECT,
        timeout=60,
    )
    assert json.loads(done.stdout)["message_id"] == message_id


def test_forgetting_takes_a_recipient_in_brackets(gateway: Gateway) -> None:
    message_id = fresh_id()
    send(gateway, letter(message_id), "b@here.test")
    assert run(gateway, "forget", message_id, "--recipient", "<b@here.test>")[0] == 0


@pytest.mark.parametrize("recipient", ["", " ", "<>"])
def test_forgetting_for_an_empty_recipient_is_an_error(gateway: Gateway, recipient: str) -> None:
    """Found by `--recipient "$WHO"` with WHO unset: it was told that nothing is known."""
    message_id = fresh_id()
    send(gateway, letter(message_id), "b@here.test")
    code, out, error = run(gateway, "forget", message_id, "--recipient", recipient)
    assert (code, out, error) == (2, "", "--recipient: '' is none\n")
    assert run(gateway, "forget", message_id)[0] == 0


def test_what_we_added_to_is_not_said_to_have_passed_as_it_came(gateway: Gateway) -> None:
    message = b"Date: Tue, 24 Nov 2026 09:00:00 +0000\r\nSubject: %b\r\n\r\nx\r\n" % (
        fresh_id().encode()
    )
    final = send(gateway, message, "b@here.test").final
    assert final is not None
    queue_id = final.lines[-1].split()[-1]
    wait_until(lambda: gateway.log_lines(event="message", queue_id=queue_id), "it is logged", 30.0)
    (line,) = gateway.log_lines(event="message", queue_id=queue_id)
    assert line["id_added"] is True
    code, out, _ = run(gateway, "trace", line["message_id"])
    assert code == 0
    assert "passed on without a mark" in out
    assert "as it came" not in out


@pytest.mark.parametrize("command", ["trace", "forget"])
@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("memory://", "memory:// is known to the gateway's own process alone"),
        ("redis://127.0.0.1:1", "Connect call failed"),
    ],
)
def test_a_list_that_cannot_be_asked_ends_with_code_2(
    tmp_path: Path, command: str, url: str, problem: str
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[store]\nurl = "{url}"\n', encoding="utf-8")
    code, out, error = run_with(config, command, "a1b2c3@example.org")
    assert (code, out) == (2, "")
    assert problem in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("command", ["trace", "forget"])
def test_nothing_is_known_where_no_list_is_yet(tmp_path: Path, command: str) -> None:
    """A gateway makes the file with its first message: nothing is known until then, code 1."""
    config, file = tmp_path / "config.toml", tmp_path / "none" / "seen.db"
    config.write_text(f'[store]\nurl = "sqlite://{file}"\n', encoding="utf-8")
    code, out, error = run_with(config, command, "a1b2c3@example.org", "--json")
    assert (code, error) == (1, f"{file} does not exist; has the gateway run yet?\n")
    assert json.loads(out)["message_id"] == "a1b2c3@example.org"
    assert not file.parent.exists()


@pytest.mark.parametrize("command", ["trace", "forget"])
def test_a_list_that_may_not_be_looked_for_ends_with_code_2(tmp_path: Path, command: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[store]\nurl = "sqlite:///{"a" * 300}/seen.db"\n', encoding="utf-8")
    code, out, error = run_with(config, command, "a1b2c3@example.org")
    assert (code, out) == (2, "")
    assert error.endswith("File name too long\n")


@pytest.mark.parametrize("command", ["trace", "forget"])
def test_what_is_no_message_id_ends_with_code_2(gateway: Gateway, command: str) -> None:
    assert run(gateway, command, "<>") == (2, "", "MESSAGE-ID: '<>' is none\n")


def test_another_secret_finds_nothing_in_the_list(gateway: Gateway, tmp_path: Path) -> None:
    message_id = fresh_id()
    send(gateway, letter(message_id), "b@here.test")
    config = tmp_path / "config.toml"
    text = gateway.config_file.read_text(encoding="utf-8")
    config.write_text(text.replace(SECRET, "another"), encoding="utf-8")
    _, out, _ = run_with(config, "trace", message_id, "--json")
    assert json.loads(out)["tracked"] == []
    assert run_with(config, "forget", message_id)[0] == 1
