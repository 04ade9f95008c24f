"""The configuration as a whole: defaults, overrides, every problem at once."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.config import config_of, listening_at, load
from gateway.config.key import Key, keys_of, tables
from gateway.config.model import Config
from gateway.config.place import Endpoint
from gateway.config.source import variable_of
from gateway.core.envelope import Envelope
from gateway.core.rule import Collisions, Match, Mode, Policy, policies
from gateway.errors import ConfigError

BAD_CONFIGS = sorted((Path(__file__).parent / "bad_configs").glob("*.toml"))

# Written out a second time on purpose: these values are promised to the outside.
DEFAULTS: dict[str, Any] = {
    "hostname": "",
    "workers": 1,
    "listen.smtp": ["127.0.0.1:2525"],
    "listen.milter": [],
    "listen.http": "127.0.0.1:9125",
    "listen.http_token": "",
    "listen.clients": [],
    "listen.proxy_protocol": [],
    "listen.xforward": [],
    "tls.certificate": "",
    "tls.key": "",
    "tls.required": False,
    "downstream.servers": ["smtp://127.0.0.1:10026"],
    "downstream.identity": "xclient",
    "downstream.tls": "never",
    "downstream.connect_timeout": "10s",
    "downstream.command_timeout": "5m",
    "downstream.final_reply_timeout": "10m",
    "downstream.relay_probe": "probe@relay-test.invalid",
    "store.url": "sqlite:///var/lib/mailonce/seen.db",
    "store.window": "5d",
    "store.lease": "20m",
    "store.timeout": "250ms",
    "store.on_failure": "deliver",
    "store.secret": "",
    "dedup.action": "tag",
    "dedup.match": "content",
    "dedup.collisions": "tag",
    "dedup.in_flight_wait": "10s",
    "dedup.list_copies": "distinct",
    "message_id.add_missing": True,
    "message_id.repair": False,
    "message_id.domain": "",
    "limits.sessions": 1000,
    "limits.sessions_per_client": 50,
    "limits.message_size": "50MiB",
    "limits.recipients": 1000,
    "limits.header_size": "256KiB",
    "limits.idle_timeout": "5m",
    "limits.errors": 20,
    "limits.hops": 100,
    "journal.keep": "duplicates",
    "journal.entries": 100000,
    "milter.provisional": "10m",
    "milter.assume_accepted": False,
    "log.format": "auto",
    "log.level": "info",
}
RULE_KEYS = ["recipients", "senders", "clients", "action", "match", "window"]

# Another value than the default for every key, and what comes out of it.
OTHERS: dict[str, tuple[Any, str]] = {
    "hostname": ("mx.example.org", "mx.example.org"),
    "workers": (4, "4"),
    "listen.smtp": (["[::1]:2525", "unix:/run/smtp"], "[::1]:2525 unix:/run/smtp"),
    "listen.milter": (["127.0.0.1:8890"], "127.0.0.1:8890"),
    "listen.http": ("unix:/run/http", "unix:/run/http"),
    "listen.http_token": ("s3same", "**********"),
    "listen.clients": (["192.0.2.0/24", "::1"], "192.0.2.0/24 ::1/128"),
    "listen.proxy_protocol": (["127.0.0.1"], "127.0.0.1/32"),
    "listen.xforward": (["127.0.0.0/8"], "127.0.0.0/8"),
    "tls.certificate": ("/etc/cert.pem", "/etc/cert.pem"),
    "tls.key": ("/etc/key.pem", "/etc/key.pem"),
    "tls.required": (True, "True"),
    "downstream.servers": (["lmtp:///run/lmtp", "smtp://mx"], "lmtp:///run/lmtp smtp://mx:25"),
    "downstream.identity": ("proxy", "proxy"),
    "downstream.tls": ("opportunistic", "opportunistic"),
    "downstream.connect_timeout": ("1s", "1.0"),
    "downstream.command_timeout": ("1m30s", "90.0"),
    "downstream.final_reply_timeout": ("2m", "120.0"),
    "downstream.relay_probe": ("", ""),
    "store.url": ("redis://:pass@db:7000/2?a=b", "redis://db:7000/2"),
    "store.window": ("7d", "604800.0"),
    "store.lease": ("15m", "900.0"),
    "store.timeout": ("1s500ms", "1.5"),
    "store.on_failure": ("tempfail", "tempfail"),
    "store.secret": ("pepper", "**********"),
    "dedup.action": ("observe", "observe"),
    "dedup.match": ("message-id", "message-id"),
    "dedup.collisions": ("relay", "relay"),
    "dedup.in_flight_wait": ("0s", "0.0"),
    "dedup.list_copies": ("same", "same"),
    "message_id.add_missing": (False, "False"),
    "message_id.repair": (True, "True"),
    "message_id.domain": ("ids.example.org", "ids.example.org"),
    "limits.sessions": (7, "7"),
    "limits.sessions_per_client": (8, "8"),
    "limits.message_size": ("1MiB", "1048576"),
    "limits.recipients": (9, "9"),
    "limits.header_size": ("64KiB", "65536"),
    "limits.idle_timeout": ("100ms", "0.1"),
    "limits.errors": (3, "3"),
    "limits.hops": (5, "5"),
    "journal.keep": ("all", "all"),
    "journal.entries": (6, "6"),
    "milter.provisional": ("1h", "3600.0"),
    "milter.assume_accepted": (True, "True"),
    "log.format": ("logfmt", "logfmt"),
    "log.level": ("debug", "debug"),
}
# A key that could not be had alone, and what it takes.
COMPANIONS = {
    "tls.certificate": {"tls.key": "/etc/key.pem"},
    "tls.key": {"tls.certificate": "/etc/cert.pem"},
    "tls.required": {"tls.certificate": "/etc/cert.pem", "tls.key": "/etc/key.pem"},
}


def all_keys() -> list[Key]:
    return [key for table in tables() if table != "policy" for key in keys_of(table)]


def document_of(values: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for path, value in values.items():
        table, _, name = path.rpartition(".")
        (document.setdefault(table, {}) if table else document)[name] = value
    return document


def value_at(config: Config, path: str) -> str:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def as_variable(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def environment_of(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="latin-1").splitlines()
    return dict(line[3:].split("=", 1) for line in lines if line.startswith("#! "))


@pytest.mark.parametrize("path", BAD_CONFIGS, ids=lambda path: path.stem)
def test_each_bad_config_gives_its_own_exact_problems(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path, environment_of(path))
    lines = [problem.replace(str(path), "FILE") for problem in caught.value.problems]
    assert lines == path.with_suffix(".error").read_text(encoding="utf-8").splitlines()
    assert str(caught.value) == "\n".join(caught.value.problems)


def test_bad_configs_are_pairs() -> None:
    folder = Path(__file__).parent / "bad_configs"
    assert {path.stem for path in folder.glob("*.error")} == {path.stem for path in BAD_CONFIGS}
    assert len(BAD_CONFIGS) > 90


@pytest.mark.parametrize("path", BAD_CONFIGS, ids=lambda path: path.stem)
def test_no_problem_tells_a_password(path: Path) -> None:
    assert "hunter2" not in path.with_suffix(".error").read_text(encoding="utf-8")


def test_an_unreadable_file_is_one_problem(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "none.toml", "cannot be read: No such file or directory"),
        (tmp_path, "cannot be read: Is a directory"),
        (Path("/dev/zero"), "not TOML: larger than 1MiB"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert caught.value.problems == (f"{path}: {reason}",)


def test_the_keys_are_those_that_are_promised() -> None:
    assert [key.path for key in all_keys()] == [
        "hostname",
        "workers",
        "policy",
        *list(DEFAULTS)[2:],
    ]
    assert [key.path for key in keys_of("policy")] == [f"policy.{name}" for name in RULE_KEYS]


def test_the_defaults_are_those_that_are_promised() -> None:
    assert {key.path: key.default for key in all_keys() if key.path != "policy"} == DEFAULTS
    assert config_of({}) == config_of(document_of(DEFAULTS)) == Config()


@pytest.mark.parametrize("path", OTHERS)
def test_every_key_can_be_set_in_the_file_and_in_the_environment(path: str) -> None:
    value, expected = OTHERS[path]
    assert value_at(config_of({}), path) != expected
    others = COMPANIONS.get(path, {})
    in_file = config_of(document_of({**others, path: value}))
    assert value_at(in_file, path) == expected
    in_environment = config_of(document_of(others), {variable_of(path): as_variable(value)})
    assert in_environment == in_file


def test_every_key_has_another_value_under_test() -> None:
    assert set(OTHERS) == set(DEFAULTS)


@pytest.mark.parametrize("path", OTHERS)
def test_the_environment_wins_over_the_file(path: str) -> None:
    value, expected = OTHERS[path]
    document = document_of({**DEFAULTS, **COMPANIONS.get(path, {})})
    assert value_at(config_of(document, {variable_of(path): as_variable(value)}), path) == expected


def test_rules_can_be_set_in_the_environment_and_replace_those_of_the_file() -> None:
    document = {"policy": [{"senders": ["*@example.net"], "action": "drop"}]}
    environ = {"MAILONCE_POLICY": '[{"recipients": ["*@example.org"], "window": "1h"}]'}
    (rule,) = config_of(document, environ).rules()
    assert (rule.recipients, rule.senders, rule.window_s) == (("*@example.org",), (), 3600.0)


def test_load_reads_file_and_environment(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('\ufeffhostname = "mx.example.org"\n[store]\nwindow = "1d"\n', encoding="utf-8")
    config = load(str(path), {"MAILONCE_STORE__WINDOW": "2d", "HOME": "/"})
    assert (config.hostname, config.store.window) == ("mx.example.org", 172_800.0)
    assert load(path).store.window == 86_400.0


def test_problems_come_in_the_order_of_the_file() -> None:
    document = {
        "store": {"lease": "x", "window": "x"},
        "listen": {"smtp": []},
        "workers": "x",
        "dedup": {"x": 1},
        "downstream": {"tls": "required"},
    }
    with pytest.raises(ConfigError) as caught:
        config_of(document, {"MAILONCE_LOG__LEVEL": "x", "MAILONCE_X": "1"})
    paths = [problem.partition(":")[0] for problem in caught.value.problems]
    assert paths == [
        "store.lease",
        "store.window",
        "listen.smtp",
        "workers",
        "dedup.x",
        "log.level",
        "MAILONCE_X",
    ]


def test_a_document_is_not_changed() -> None:
    document: dict[str, Any] = {"store": {"window": "1d"}}
    config_of(document, {"MAILONCE_STORE__WINDOW": "2d", "MAILONCE_LIMITS__HOPS": "5"})
    assert document == {"store": {"window": "1d"}}


def test_a_document_whose_keys_are_no_texts_is_refused() -> None:
    document: dict[Any, Any] = {1: 2}
    with pytest.raises(ConfigError, match=r"^\[1\]: Keys should be strings"):
        config_of(document)


def test_p5_sockets_that_were_handed_over_count_as_they_are() -> None:
    """P5: a public socket from systemd is public, whatever ``listen.smtp`` says."""
    public, local = Endpoint("0.0.0.0", 25), Endpoint("127.0.0.1", 25)
    none = config_of({"downstream": {"identity": "none"}})
    with pytest.raises(ConfigError, match=r"^downstream.identity: .* open relay: .* 0.0.0.0:25"):
        listening_at(none, [local, public])
    assert listening_at(none, [local]).listen.smtp == (local,)
    changed = listening_at(config_of({"hostname": "mx.example.org"}), [public])
    assert (changed.listen.smtp, changed.own_hostname) == ((public,), "mx.example.org")


def test_a_configuration_cannot_be_changed() -> None:
    config = config_of({})
    for table, name in ((config, "workers"), (config.store, "window"), (config.listen, "clients")):
        with pytest.raises(ValidationError):
            setattr(table, name, getattr(table, name))


def test_secrets_are_not_shown() -> None:
    config = config_of(
        {
            "store": {"url": "redis://user:hunter2@db/0?password=hunter2", "secret": "hunter2"},
            "listen": {"http_token": "hunter2"},
        }
    )
    assert "hunter2" not in f"{config} {config!r} {config.store.url} {config.store!r}"
    assert config.store.secret.get_secret_value() == "hunter2"


def test_the_default_policy_is_that_of_dedup_and_store() -> None:
    assert config_of({}).default_policy() == Policy()
    document = {
        "dedup": {"action": "drop", "match": "message-id", "collisions": "relay"},
        "store": {"window": "1h"},
    }
    expected = Policy(Mode.DROP, Match.MESSAGE_ID, Collisions.RELAY, 3600.0)
    assert config_of(document).default_policy() == expected


def test_rules_are_those_of_the_file_in_order() -> None:
    config = config_of(
        {
            "policy": [
                {"recipients": ["*@lists.example.org"], "match": "message-id", "window": "1d"},
                {"senders": [""], "clients": ["192.0.2.0/24"], "action": "bypass"},
            ]
        }
    )
    envelope = Envelope(
        client_address="192.0.2.7",
        reverse_path=b"",
        forward_paths=(b"a@lists.example.org", b"a@example.org"),
    )
    first, second = policies(config.default_policy(), config.rules(), envelope)
    assert first == Policy(Mode.TAG, Match.MESSAGE_ID, Collisions.TAG, 86_400.0)
    assert second == Policy(mode=Mode.BYPASS)


def test_our_name_is_the_machines_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getfqdn", lambda: "mx.example.org")
    assert config_of({}).own_hostname == "mx.example.org"
    config = config_of({"hostname": "a.example.org"})
    assert (config.own_hostname, config.id_domain) == ("a.example.org", "a.example.org")
    document = {"hostname": "a.example.org", "message_id": {"domain": "b.example.org"}}
    assert config_of(document).id_domain == "b.example.org"


@pytest.mark.parametrize(
    ("fqdn", "host", "expected"),
    [
        ("mx_1.example.org", "mx1", "mx1"),  # no name that EHLO could give
        ("localhost.localdomain", "mx1", "mx1"),  # a container without DNS
        ("::1", "localhost", "localhost"),  # nothing better to be had
    ],
)
def test_the_machines_name_is_one_that_can_be_given(
    monkeypatch: pytest.MonkeyPatch, fqdn: str, host: str, expected: str
) -> None:
    monkeypatch.setattr("socket.getfqdn", lambda: fqdn)
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert config_of({}).own_hostname == expected


def test_the_resolver_is_asked_once_and_only_if_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def getfqdn() -> str:
        asked.append("once")
        return "mx.example.org"

    monkeypatch.setattr("socket.getfqdn", getfqdn)
    config = config_of({})
    assert not asked
    assert config.own_hostname == config.own_hostname == config.id_domain
    assert asked == ["once"]
    assert config == config_of({})


def test_workers_are_as_many_as_cores_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 2, 5})
    assert config_of({"workers": 0}).worker_count == 3
    assert config_of({"workers": 2}).worker_count == 2


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from([key.path.rpartition(".")[2] for key in all_keys()]) | st.text()


@settings(deadline=None)  # machines that test are busy
@given(
    st.dictionaries(st.sampled_from(list(tables())), values | st.dictionaries(names, values)),
    st.dictionaries(st.sampled_from([variable_of(key.path) for key in all_keys()]), st.text()),
)
def test_whatever_comes_is_a_configuration_or_a_list_of_problems(
    document: dict[str, Any], environ: dict[str, str]
) -> None:
    problems: tuple[str, ...] | None = None
    try:
        config_of(document, environ)
    except ConfigError as error:
        problems = error.problems
    assert problems is None or problems
    for problem in problems or ():
        assert problem.partition(": ")[2]
        assert "\n" not in problem
