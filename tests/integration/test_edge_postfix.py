"""P5 with a real Postfix behind: it sees the client, and is no more open than before."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client, ClosedError, deliver, deliver_over
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.letter import fresh_id, letter
from tests.support.need import need
from tests.support.postfix import GUARD, Postfix, Service, running_postfix
from tests.support.process import StartError, free_port, temporary_folder, wait_until
from tests.support.sink import Sink

pytestmark = pytest.mark.postfix

X, FOREIGN = "x@example.org", "victim@elsewhere.test"
NOT_PROVEN = b"421 4.3.5 The next server is not proven safe behind this relay\r\n"
UNREACHABLE = b"451 4.4.1 The next server cannot be reached, try again later\r\n"
_EVERYBODY = {
    **GUARD,
    "mynetworks": "0.0.0.0/0",
    "smtpd_relay_restrictions": "permit_mynetworks,reject_unauth_destination",
}
_NAMED = "192.0.2.77", "mail.client.example"
_LIAR = "192.0.2.78", "bank.example"
# Forward look-ups find the first of these names, and lead the second one elsewhere.
_HOSTS = f"127.0.0.1 localhost\n{_NAMED[0]} {_NAMED[1]}\n"


def _public(port: int) -> dict[str, object]:
    """Return settings for a listener that anybody can reach."""
    return {"listen.smtp": [f"0.0.0.0:{port}"]}


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    with running_postfix(Service(GUARD), main={"inet_protocols": "all"}) as instance:
        yield instance


@pytest.fixture(scope="module")
def gateway(postfix: Postfix) -> Iterator[Gateway]:
    """Return a public gateway behind a load balancer, in a world where one client has a name."""
    need("unshare:util-linux", root=True)
    with temporary_folder("hosts") as folder:
        hosts = folder / "hosts"
        hosts.write_text(_HOSTS)
        mount = f'mount --bind {hosts} /etc/hosts && exec "$@"'
        settings = {
            **settings_for(postfix.port),
            "listen.smtp": [f"127.0.0.1:{(port := free_port())}", f"unix:{folder}/smtp"],
            "listen.proxy_protocol": ["127.0.0.0/8"],
        }
        wrapper = ("unshare", "--mount", "sh", "-c", mount, "sh")
        with running_gateway(settings, wrapper=wrapper) as instance:
            instance.port = port
            yield instance


def _unix(gateway: Gateway) -> str:
    listeners: list[str] = gateway.settings["listen.smtp"]
    return listeners[1].removeprefix("unix:")


def _deliver_as(gateway: Gateway, header: bytes, recipient: str = X) -> int:
    """Send a message behind a PROXY header; return the code of the last reply."""
    with Client(gateway.port) as client:
        client.send(header)
        client.greet("helo.client.example")
        client.command("MAIL FROM:<a@sender.test>")
        said = client.command(f"RCPT TO:<{recipient}>")
        if said.code == 250 and client.command("DATA").code == 354:
            client.send(letter(fresh_id()) + b".\r\n")
            said = client.answer()
        return said.code


PROXIED = [
    (f"PROXY TCP4 {_NAMED[0]} 192.0.2.1 40000 25\r\n", f"{_NAMED[1]}[{_NAMED[0]}]", "named"),
    ("PROXY TCP4 192.0.2.79 192.0.2.1 40000 25\r\n", "unknown[192.0.2.79]", "nameless"),
    ("PROXY TCP6 2001:db8::7 2001:db8::1 40000 25\r\n", "unknown[2001:db8::7]", "IPv6"),
]


@pytest.mark.parametrize(("header", "shown", "reason"), PROXIED, ids=[row[2] for row in PROXIED])
def test_postfix_logs_address_and_name(
    gateway: Gateway, postfix: Postfix, header: str, shown: str, reason: str
) -> None:
    postfix.forget()
    assert _deliver_as(gateway, header.encode()) == 250, reason
    (queued,) = postfix.wait_for_queued(1)
    line = postfix.wait_for_line(rf"smtpd\[\d+\]: {queued.queue_id}: client=(\S+)$")
    assert line[1] == shown
    assert queued.attributes["log_helo_name"] == "helo.client.example"
    assert queued.attributes["log_client_port"] == "40000"


@pytest.mark.parametrize("header", [row[0] for row in PROXIED], ids=[row[2] for row in PROXIED])
def test_a_foreign_recipient_is_refused(gateway: Gateway, header: str) -> None:
    assert _deliver_as(gateway, header.encode(), FOREIGN) == 554


def test_a_health_check_of_the_proxy_sends_no_mail() -> None:
    """LOCAL and UNKNOWN stand for the proxy itself, which the server behind may trust."""
    with Sink() as sink:
        settings = {
            **settings_for(sink.port),
            "listen.proxy_protocol": ["127.0.0.0/8"],
            "downstream.relay_probe": "",
        }
        with running_gateway(settings) as gateway:
            for header in (b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00", b"PROXY UNKNOWN\r\n"):
                with Client(gateway.port) as client:
                    client.send(header)
                    assert client.greet().code == 250
                    assert client.command("MAIL FROM:<a@sender.test>").code == 421
        # We look now and then whether it is there; in the name of a client nothing was said.
        assert {line.verb for _, line in sink.journal} <= {"EHLO", "QUIT"}


def test_a_client_without_address_is_nobody_to_postfix(gateway: Gateway, postfix: Postfix) -> None:
    """A unix socket: XCLIENT says that there is no address, and nothing is relayed for it."""
    postfix.forget()
    taken = deliver(0, "a@sender.test", [X], letter(fresh_id()), host=_unix(gateway))
    assert taken.is_accepted
    (queued,) = postfix.wait_for_queued(1)
    line = postfix.wait_for_line(rf"smtpd\[\d+\]: {queued.queue_id}: client=(\S+)$")
    assert line[1] == "unknown[unknown]"
    refused = deliver(0, "a@sender.test", [FOREIGN], letter(fresh_id()), host=_unix(gateway))
    assert refused.rcpt[0].code == 554


def test_postfix_that_cannot_take_the_address_gets_no_mail() -> None:
    """Without IPv6 it answers 501 and would go on in our own name: fail closed."""
    with running_postfix(Service({**GUARD, "mynetworks": "127.0.0.0/8"})) as ipv4_only:
        settings = {**settings_for(ipv4_only.port), "listen.proxy_protocol": ["127.0.0.0/8"]}
        with running_gateway(settings) as instance, Client(instance.port) as client:
            client.send(PROXIED[2][0].encode())
            client.greet()
            assert client.command("MAIL FROM:<a@sender.test>").code == 421
            assert client.is_closed()
            assert instance.metric(
                "mailonce_downstream_replies_total", **{"command": "identity", "class": "5"}
            )
            instance.wait_for_log("refused XCLIENT: 501 .*smtpd_authorized_xclient_hosts")
        assert "cleanup" not in ipv4_only.log()


OPEN = [
    ({**_EVERYBODY}, {}, "relays for all"),
    (
        {"mynetworks": "127.0.0.0/8"},
        {"downstream.identity": "none", "listen.clients": ["127.0.0.0/8"]},
        "we are in mynetworks, and hand nobody on",
    ),
]


@pytest.mark.parametrize(("options", "settings", "reason"), OPEN, ids=[row[2] for row in OPEN])
def test_an_open_relay_is_not_served(
    options: dict[str, str], settings: dict[str, object], reason: str
) -> None:
    """P5: `serve` refuses to start, and `doctor` says why."""
    # The harness's own transport puts every foreign address off: no relay would seem open.
    main = {"default_transport": "discard:"}
    relaying = running_postfix(Service(options), main=main)
    with relaying as relay, temporary_folder("config") as folder:
        wanted = {**settings_for(relay.port), **_public(free_port()), **settings}
        refused = pytest.raises(StartError, match=r"with 1 and said:[\s\S]*open relay")
        with refused, running_gateway(wanted):
            raise AssertionError(f"{reason}: served")
        gateway = Gateway(folder, wanted, {})
        gateway.write_config()
        assert "an open relay behind us" in _doctor(gateway.config_file, status=1)
        assert "DATA" not in relay.log()


def _doctor(config: Path, *, status: int) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "doctor", "--json", "--config", config],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == status, done.stderr
    return done.stdout


def test_a_probe_that_fails_later_closes_the_door_until_it_passes() -> None:
    main = {"default_transport": "discard:", "open_to": "127.0.0.0/8"}
    with running_postfix(Service({**_EVERYBODY, "mynetworks": "$open_to"}), main=main) as relay:
        port = free_port()
        with running_gateway({**settings_for(relay.port), **_public(port)}) as instance:
            within = Client(port)
            within.greet()
            relay.reload(open_to="0.0.0.0/0")

            def has_failed() -> bool:
                # Postfix goes over to it process by process; a probe may meet an old one.
                instance.reload()
                return "relay_probe_failed" in instance.log()

            wait_until(has_failed, "the probe fails", 60.0)
            instance.wait_for_metric(1, "mailonce_relay_probe_failed")
            # The worker hears of it a moment later.
            wait_until(lambda: _is_turned_away(port), "nobody is let in")
            assert within.command("MAIL FROM:<a@sender.test>").wire == NOT_PROVEN
            within.close()
            assert instance.http("/readyz")[0] == 503
            relay.reload(open_to="127.0.0.0/8")

            def is_ready() -> bool:
                instance.reload()
                return instance.http("/readyz")[0] == 200

            wait_until(is_ready, "the probe passes again", 60.0)
            wait_until(lambda: _is_taken(port), "mail passes")


def _is_turned_away(port: int) -> bool:
    """Say whether a new client hears that the next server is not proven, and nothing else."""
    with Client(port) as client:
        banner = client.answer()
        assert banner.wire == NOT_PROVEN or banner.code == 220
        return banner.wire == NOT_PROVEN and client.is_closed()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_downstream_that_comes_later_is_asked_before_its_first_message(workers: int) -> None:
    with Sink() as sink:
        sink.refuse()
        port = free_port()
        settings = {**settings_for(sink.port), **_public(port), "workers": workers}
        with running_gateway(settings, until="alive") as instance:
            assert deliver(port, "a@sender.test", [X], letter(fresh_id())).mail is not None
            assert instance.http("/readyz")[0] == 503
            with Client(port) as client:
                client.greet()
                assert client.command("MAIL FROM:<a@sender.test>").wire == UNREACHABLE
                with _without_supervisor(instance):
                    sink.listen()
                    sink.forget()
                    assert client.command("MAIL FROM:<a@sender.test>").code == 250
            asked = [line.text for _, line in sink.journal if line.verb in ("MAIL", "RCPT")]
            assert asked == [
                "MAIL FROM:<>",
                "RCPT TO:<probe@relay-test.invalid>",
                "MAIL FROM:<a@sender.test>",
            ]


@contextlib.contextmanager
def _without_supervisor(gateway: Gateway) -> Iterator[None]:
    """Have only the workers of a gateway run: its supervisor would notice and ask, too."""
    os.kill(gateway.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(gateway.pid, signal.SIGCONT)


def _before_an_open_relay(sink: Sink, port: int) -> dict[str, Any]:
    """Return settings under which the sink relays for strangers: it takes what is not .invalid."""
    return {
        **settings_for(sink.port),
        **_public(port),
        "downstream.relay_probe": "probe@open.test",
    }


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"450 4.1.2 Domain not found", id="no-such-domain"),
        pytest.param(b"451 4.3.0 Try again later", id="out-of-order"),
    ],
)
def test_p5_a_probe_that_proves_nothing_is_called_so(answer: bytes) -> None:
    """P5, P7: the downstream is there; what helps is another probe, not a look whether it runs."""
    with Sink() as sink:
        sink.answer("RCPT", answer + b"\r\n", always=True)
        port = free_port()
        with running_gateway(_before_an_open_relay(sink, port), until="alive") as gateway:
            at_start = gateway.wait_for_log('"event":"relay_probe_unanswered".*')
            assert answer.decode() in at_start[0]
            with Client(port) as client:
                client.greet()
                assert client.command("MAIL FROM:<a@sender.test>").wire == UNREACHABLE
            gateway.wait_for_log('(?s)("event":"relay_probe_unanswered".*){2}')
            said = gateway.log_lines(event="relay_probe_unanswered")
            assert all("downstream.relay_probe" in line["remedy"] for line in said)
            assert not gateway.log_lines(event="downstream_unreachable")


def test_one_that_comes_later_and_relays_gets_nothing() -> None:
    with Sink() as sink:
        sink.refuse()
        port = free_port()
        settings = _before_an_open_relay(sink, port)
        with running_gateway(settings, until="alive"), Client(port) as client:
            client.greet()
            sink.listen()
            assert client.command("MAIL FROM:<a@sender.test>").code == 421
            assert client.is_closed()
            assert "a@sender.test" not in str([line.text for _, line in sink.journal])


def test_a_probe_that_is_not_wanted_any_more_holds_nobody_up() -> None:
    with Sink() as sink:
        sink.refuse()
        port = free_port()
        settings = _before_an_open_relay(sink, port)
        with running_gateway(settings, until="alive") as gateway:
            sink.listen()
            gateway.reload()
            gateway.wait_for_metric(1, "mailonce_relay_probe_failed")
            gateway.reload({"downstream.relay_probe": ""})
            gateway.wait_for_metric(0, "mailonce_relay_probe_failed")
            wait_until(lambda: _is_taken(port), "mail passes")


def _is_taken(port: int) -> bool:
    with contextlib.suppress(ClosedError), Client(port) as client:
        if client.answer().code == 220:
            client.command("EHLO client.test")
            return deliver_over(client, "a@sender.test", [X], letter(fresh_id())).is_accepted
    return False


def test_p5_who_is_behind_a_proxy_that_is_believed_since_a_reload_is_a_stranger() -> None:
    """The downstream is away at the reload, and so is asked before their first message."""
    with Sink() as sink:
        probe = {"downstream.relay_probe": "probe@open.test"}
        with running_gateway({**settings_for(sink.port), **probe}) as gateway:
            sink.refuse()
            gateway.reload({"listen.proxy_protocol": ["127.0.0.0/8"]})
            gateway.wait_for_log("downstream_unreachable")

            def is_refused() -> bool:
                # Until the worker has heard of the reload, it takes the header for a command.
                with Client(gateway.port) as client:
                    client.send(b"PROXY TCP4 192.0.2.77 127.0.0.1 1234 25\r\n")
                    client.greet()
                    return client.command("MAIL FROM:<a@sender.test>").code == 421

            with _without_supervisor(gateway):
                sink.listen()
                wait_until(is_refused, "a stranger is refused")


def test_a_second_server_is_asked_too() -> None:
    """Mail goes there when the first one is away."""
    with Sink() as first, Sink() as second:
        refusal = b"554 5.7.1 Relay access denied\r\n"
        first.answer("RCPT", refusal)
        port = free_port()
        servers = [f"smtp://127.0.0.1:{sink.port}" for sink in (first, second)]
        # Neither of them refuses it by itself, and so the second one relays.
        probe = {"downstream.relay_probe": "probe@open.test"}
        settings = {"downstream.servers": servers, **_public(port), **probe}
        with pytest.raises(StartError, match="open relay"), running_gateway(settings):
            raise AssertionError
        second.refuse()
        first.answer("RCPT", refusal)
        with running_gateway(settings), Client(port) as client:
            assert deliver(port, "a@sender.test", [X], letter(fresh_id())).is_accepted
            # Let in before anybody can find out; then nobody would be.
            client.greet()
            first.refuse()
            second.listen()
            assert client.command("MAIL FROM:<a@sender.test>").code == 421
            assert not second.transactions
