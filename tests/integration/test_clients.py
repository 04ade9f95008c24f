"""The clients that postmasters use, each with and without TLS, all through one gateway."""

from __future__ import annotations

import smtplib
import ssl
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.support.certificate import Pair, make_certificate
from tests.support.client import deliver
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.letter import fresh_id, letter
from tests.support.need import miss, need, program
from tests.support.postfix import running_postfix
from tests.support.process import temporary_folder, wait_until
from tests.support.sink import Sink

pytestmark = pytest.mark.tool

X = "x@example.org"
_BODY = b"Hello\r\n.\r\n..dots\r\n" + "Grüße\r\n".encode() + b"x" * 900 + b"\r\n"
Send = Callable[[Gateway, Pair, bool, bytes], None]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with temporary_folder("tls") as folder:
        yield make_certificate(folder, "gateway.test", "127.0.0.1")


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with Sink() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(sink: Sink, pair: Pair) -> Iterator[Gateway]:
    settings = {
        **settings_for(sink.port),
        "tls.certificate": str(pair.certificate),
        "tls.key": str(pair.key),
    }
    with running_gateway(settings) as instance:
        yield instance


def _run(name: str, *args: str, octets: bytes = b"") -> bytes:
    done = subprocess.run(
        [str(program(name)), *args], input=octets, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode("utf-8", "replace")[-2000:]
    return done.stdout + done.stderr


def _swaks(gateway: Gateway, pair: Pair, is_tls: bool, message: bytes) -> None:
    del pair
    need("swaks")
    if is_tls and b"TLS supported" not in _run("swaks", "--support"):
        miss("swaks lacks TLS: apt-get install libnet-ssleay-perl")
    server = f"127.0.0.1:{gateway.port}"
    args = ["--server", server, "--from", "a@sender.test", "--to", X, "--data", "-"]
    said = _run("swaks", *args, *(["-tls"] if is_tls else []), octets=message)
    assert (b"=== TLS started with cipher TLSv1." in said) == is_tls


def _curl(gateway: Gateway, pair: Pair, is_tls: bool, message: bytes) -> None:
    need("curl")
    args = ["--silent", "--show-error", "--mail-from", "a@sender.test", "--mail-rcpt", X]
    tls = ["--ssl-reqd", "--cacert", str(pair.certificate)] if is_tls else []
    _run("curl", *args, *tls, "-T", "-", f"smtp://127.0.0.1:{gateway.port}", octets=message)


def _smtplib(gateway: Gateway, pair: Pair, is_tls: bool, message: bytes) -> None:
    with smtplib.SMTP("127.0.0.1", gateway.port, "client.test", 30) as client:
        if is_tls:
            client.starttls(context=ssl.create_default_context(cafile=pair.certificate))
        assert client.sendmail("a@sender.test", [X], message, ["BODY=8BITMIME"]) == {}


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("send", [_swaks, _curl, _smtplib])
def test_a_client_delivers_octet_for_octet(
    gateway: Gateway, pair: Pair, sink: Sink, send: Send, is_tls: bool
) -> None:
    """P2: dots, eight-bit octets, long lines."""
    sink.forget()
    message = letter(fresh_id(), _BODY)
    gateway.wait_for_metric(0, "mailonce_sessions")  # who was there before is counted
    before = gateway.metric("mailonce_sessions_total", tls="yes")
    send(gateway, pair, is_tls, message)
    ((recipient, delivered),) = sink.deliveries()
    assert recipient == X
    assert delivered.rstrip(b"\r\n") == message.rstrip(b"\r\n"), "swaks adds an empty line"
    gateway.wait_for_metric(before + is_tls, "mailonce_sessions_total", tls="yes")


@pytest.mark.parametrize("sessions", [1, 5])
@pytest.mark.parametrize("is_kept", [False, True], ids=["a-connection-each", "kept"])
def test_smtp_source(gateway: Gateway, sink: Sink, sessions: int, is_kept: bool) -> None:
    """It has no TLS."""
    need("smtp-source:postfix")
    sink.forget()
    args = ["-s", str(sessions), "-m", "40", "-l", "4096", "-f", "a@sender.test", "-t", X]
    _run("smtp-source", *args, *(["-d"] if is_kept else []), f"127.0.0.1:{gateway.port}")
    assert len(sink.accepted) == 40


@pytest.mark.postfix
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_a_postfix_relays_through_us(
    gateway: Gateway, pair: Pair, sink: Sink, is_tls: bool
) -> None:
    """It pipelines, says what it declares, and its retry after our 451 is no duplicate."""
    main = {
        "smtp_tls_security_level": "encrypt" if is_tls else "none",
        "smtp_tls_CAfile": str(pair.certificate),
        "smtp_tls_loglevel": "1",
        "inet_protocols": "ipv4",
    }
    passes_to = f"smtp:[127.0.0.1]:{gateway.port}"
    # To flush the queue, Postfix looks for its pickup service.
    master = "pickup unix n - n 60 1 pickup"
    with running_postfix(passes_to=passes_to, main=main, master=master) as relaying:
        sink.forget()
        sink.answer("content", b"451 4.3.0 Later\r\n")
        message = letter(fresh_id(), _BODY)
        delivery = deliver(
            relaying.port,
            "a@sender.test",
            [X, "y@example.org"],
            message,
            mail_parameters="BODY=8BITMIME",
        )
        assert delivery.is_accepted
        relaying.wait_for_line(r"status=deferred \(host 127\.0\.0\.1\S* said: 451 4\.3\.0 Later")
        wait_until(lambda: relaying.queued("deferred"), "it has put the message aside")
        relaying.command("postqueue", "-f")
        relaying.wait_for_line(r"to=<x@example\.org>, .*status=sent \(250 ", 30.0)
        relaying.wait_for_line(r"removed$")
        assert ("TLS connection established" in relaying.log()) == is_tls
    refused, accepted = sink.transactions
    assert (refused.delivered, accepted.delivered) == ((), (X, "y@example.org"))
    assert accepted.message.endswith(message), "under the relay's own Received"
    commands = [line.text for _, line in sink.journal if line.verb == "MAIL"]
    assert all("SIZE=" in text and "BODY=8BITMIME" in text for text in commands)
