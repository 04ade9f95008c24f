"""What postmasters get wrong in a recipe, done wrong on purpose: doctor is red, and helps."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificate import make_certificate
from tests.support.gateway import as_toml
from tests.support.postfix import Postfix, running_postfix
from tests.support.process import free_port, temporary_folder
from tests.support.recipe import Recipe, recipe
from tests.support.redis import redis_server

pytestmark = [pytest.mark.postfix, pytest.mark.xdist_group("mistakes")]

Settings = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bench:
    """A folder to do things wrong in, and doors of a Postfix that are right or wrong already.

    Attributes:
        folder: for files.
        edge: door of the recipe mx-edge.
        no_xclient: the same without smtpd_authorized_xclient_hosts.
        no_xforward: door of the recipe proxy-filter without smtpd_authorized_xforward_hosts.
        trusting: a door that relays for 127.0.0.1, as Postfix's own smtpd does.
        stack: ends with the test.
    """

    folder: Path
    edge: int
    no_xclient: int
    no_xforward: int
    trusting: int
    stack: ExitStack = field(default_factory=ExitStack)


def _door(made: Recipe, without: str) -> str:
    """Return the last service of a master.cf, less the lines that hold something."""
    text = made.text("master.cf")
    service = text[text.index("127.0.0.1:") :]
    lines = [line for line in service.splitlines() if not without or without not in line]
    assert not without or len(lines) < len(service.splitlines())
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def doors() -> Iterator[tuple[int, int, int, int]]:
    ports = [free_port() for _ in range(4)]
    edge, no_xclient = (recipe("mx-edge", {"127.0.0.1:10026": f"127.0.0.1:{p}"}) for p in ports[:2])
    with running_postfix(
        main=edge.main() | {"mynetworks": "127.0.0.0/8"},
        master=_door(edge, "")
        + _door(no_xclient, "smtpd_authorized_xclient_hosts")
        + _filter_door(ports[2])
        + f"127.0.0.1:{ports[3]} inet n - n - 10 smtpd\n",
        passes_to="smtp:[127.0.0.1]:1",
    ) as postfix:
        assert isinstance(postfix, Postfix)
        yield ports[0], ports[1], ports[2], ports[3]


def _filter_door(port: int) -> str:
    made = recipe(
        "proxy-filter",
        {"127.0.0.1:10026": f"127.0.0.1:{port}", "smtpd_proxy_filter=127.0.0.1:10025": "x"},
    )
    return _door(made, "smtpd_authorized_xforward_hosts")


@pytest.fixture
def bench(doors: tuple[int, int, int, int]) -> Iterator[Bench]:
    with temporary_folder("mistake") as folder, ExitStack() as stack:
        yield Bench(folder, *doors, stack)


def _entered(bench: Bench, made: AbstractContextManager[Any]) -> Any:  # noqa: ANN401 - whatever it is
    return bench.stack.enter_context(made)


def _tls(_bench: Bench, certificate: Path, key: Path) -> Settings:
    return {"tls.certificate": str(certificate), "tls.key": str(key)}


def _postfix_is_not_running(_bench: Bench) -> Settings:
    return {"downstream.servers": [f"smtp://127.0.0.1:{free_port()}"]}


def _xclient_is_not_allowed(bench: Bench) -> Settings:
    return {"downstream.servers": [f"smtp://127.0.0.1:{bench.no_xclient}"]}


def _xforward_is_not_allowed(bench: Bench) -> Settings:
    return {
        "downstream.servers": [f"smtp://127.0.0.1:{bench.no_xforward}"],
        "downstream.identity": "xforward",
        "listen.xforward": ["127.0.0.1"],
        "listen.smtp": [f"127.0.0.1:{free_port()}"],
    }


def _the_door_is_postfix_own_smtpd(bench: Bench) -> Settings:
    return {
        "downstream.servers": [f"smtp://127.0.0.1:{bench.trusting}"],
        "downstream.identity": "none",
        "listen.smtp": [f"0.0.0.0:{free_port()}"],
        "listen.clients": ["192.0.2.0/24"],
    }


def _proxy_header_to_a_door_without_it(_bench: Bench) -> Settings:
    return {"downstream.identity": "proxy"}


def _port_25_is_still_postfix_own(bench: Bench) -> Settings:
    return {"listen.smtp": [f"127.0.0.1:{bench.trusting}"]}


def _address_of_another_machine(_bench: Bench) -> Settings:
    return {"listen.smtp": ["192.0.2.10:25"]}


def _redis_is_not_running(_bench: Bench) -> Settings:
    return {"store.url": f"redis://127.0.0.1:{free_port()}/0"}


def _redis_is_the_replica(bench: Bench) -> Settings:
    server = _entered(bench, redis_server("--replicaof", "127.0.0.1 1"))
    return {"store.url": server.url}


def _redis_is_full(bench: Bench) -> Settings:
    server = _entered(bench, redis_server("--maxmemory-policy", "noeviction"))
    server.ask("SET", "something", "else")
    server.ask("CONFIG", "SET", "maxmemory", "1")
    return {"store.url": server.url}


def _redis_wants_a_password(bench: Bench) -> Settings:
    server = _entered(bench, redis_server("--requirepass", "pw", access={"password": "pw"}))
    return {"store.url": server.url}


def _state_directory_is_a_file(bench: Bench) -> Settings:
    (bench.folder / "state").write_text("")
    return {"store.url": f"sqlite://{bench.folder}/state/seen.db"}


def _key_of_another_certificate(bench: Bench) -> Settings:
    right = make_certificate(bench.folder, "mx.test")
    wrong = make_certificate(bench.folder, "other.test")
    return _tls(bench, right.certificate, wrong.key)


def _certificate_is_not_there(bench: Bench) -> Settings:
    return _tls(bench, bench.folder / "fullchain.pem", bench.folder / "privkey.pem")


def _tls_is_required_and_not_offered(bench: Bench) -> Settings:
    return {
        "downstream.servers": [f"smtp://localhost:{bench.edge}"],
        "downstream.tls": "required",
    }


# What is done wrong -> the check that turns red, and what the remedy must speak of.
MISTAKES: Mapping[Callable[[Bench], Settings], tuple[str, str]] = {
    _postfix_is_not_running: ("downstream", "start it"),
    _xclient_is_not_allowed: ("downstream.identity", "smtpd_authorized_xclient_hosts"),
    _xforward_is_not_allowed: ("downstream.identity", "smtpd_authorized_xforward_hosts"),
    _the_door_is_postfix_own_smtpd: ("downstream.relay", "mynetworks"),
    _proxy_header_to_a_door_without_it: ("downstream", "smtpd_upstream_proxy_protocol"),
    _port_25_is_still_postfix_own: ("listen.smtp", "ss -ltnp"),
    _address_of_another_machine: ("listen.smtp", "no interface of this machine"),
    _redis_is_not_running: ("store", "start it"),
    _redis_is_the_replica: ("store.role", "name the master"),
    _redis_is_full: ("store", "start it"),
    _redis_wants_a_password: ("store", "correct store.url"),
    _state_directory_is_a_file: ("store.folder", "gateway's user"),
    _key_of_another_certificate: ("tls.certificate", "belong together"),
    _certificate_is_not_there: ("configuration", "make it readable"),
    _tls_is_required_and_not_offered: ("downstream.tls", "smtpd_tls_cert_file"),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__.strip("_"))
def test_doctor_is_red_and_says_what_to_do(
    mistake: Callable[[Bench], Settings], bench: Bench
) -> None:
    check, remedy = MISTAKES[mistake]
    assert _failures(bench, {}) == {}, "without the mistake all is well"
    failures = _failures(bench, mistake(bench))
    assert check in failures, failures
    assert remedy in failures[check]


def _failures(bench: Bench, wrong: Settings) -> dict[str, str]:
    """Return check -> remedy of all that fails with the recipe mx-edge and one mistake."""
    made = recipe("mx-edge", {"127.0.0.1:10026": f"127.0.0.1:{bench.edge}"})
    own = {
        "hostname": "localhost.localdomain",
        "listen.smtp": [f"127.0.0.1:{free_port()}"],
        "listen.http": "",
        "store.url": f"sqlite://{bench.folder}/seen.db",
        "store.timeout": "20s",  # a busy machine is no mistake
        "tls.certificate": "",
        "tls.key": "",
    }
    config = bench.folder / "config.toml"
    config.write_text(as_toml({**made.settings(), **own, **wrong}))
    command = [sys.executable, "-m", "gateway", "doctor", "--json", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.stderr == ""
    told = json.loads(done.stdout)
    failures = {f["check"]: f["remedy"] for f in told["findings"] if f["level"] == "fail"}
    assert done.returncode == (1 if failures else 0)
    return failures
