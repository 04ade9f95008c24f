"""P5: SMTP smuggling ends here, before servers that are open to it and before a real Postfix.

Each variant is something that some server has taken for the end of content. What follows it is
another message, in the name of whoever the smuggler likes. The gateway may refuse the content or
pass it on; what must never happen is that the server behind sees two messages.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.client import Client, ClosedError
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.letter import fresh_id
from tests.support.postfix import GUARD, Postfix, Service, running_postfix
from tests.support.sink import Sink

X = "x@example.org"
_LINE_ENDS = {"CRLF": b"\r\n", "LF": b"\n", "CR": b"\r", "CRCRLF": b"\r\r\n", "LFCR": b"\n\r"}
_WRONG = {
    f"{before}.{after}": _LINE_ENDS[before] + b"." + _LINE_ENDS[after]
    for before in _LINE_ENDS
    for after in _LINE_ENDS
    # Behind CR the right end is still the right end: what follows it are commands.
    if (before, after) not in (("CRLF", "CRLF"), ("CRCRLF", "CRLF"))
}
VARIANTS = {
    # every pair of line ends but the right one
    **_WRONG,
    # octets that some servers drop, or end strings at
    "NUL-before": b"\r\n\0.\r\n",
    "NUL-behind": b"\r\n.\0\r\n",
    "NUL-between": b"\r\n.\r\0\n",
    "blank-behind": b"\r\n. \r\n",
    "tab-behind": b"\r\n.\t\r\n",
    "blank-before": b"\r\n .\r\n",
    "two-dots": b"\r\n..\r\n",
    "vertical-tab": b"\r\n.\x0b\r\n",
    "form-feed": b"\r\n.\x0c\r\n",
    "next-line": b"\r\n.\x85\r\n",
    "utf-8-line-separator": b"\r\n.\xe2\x80\xa8\r\n",
    "soft-hyphen": b"\r\n.\xad\r\n",
    "delete": b"\r\n.\x7f\r\n",
    "backspace": b"\r\n.\x08\r\n",
    "overlong-utf-8": b"\r\n\xc0\xae\r\n",
    "high-bit": b"\r\n\xae\r\n",
}
# A server as wide open as could be: it ends content at whatever any of them was seen to.
_OPEN = [*_WRONG.values(), *(VARIANTS[name] for name in VARIANTS if name.startswith("NUL"))]
_SMUGGLED = (
    b"MAIL FROM:<admin@example.org>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\n"
    b"Subject: smuggled\r\n\r\nsmuggled\r\n.\r\n"
)
PLACES = ("body", "header", "at once")


def _content(variant: bytes, place: str, message_id: str) -> bytes:
    head = b"Message-ID: <%b>\r\nSubject: a test" % message_id.encode()
    if place == "header":
        return head + variant + _SMUGGLED
    if place == "at once":
        return variant.removeprefix(b"\r\n") + _SMUGGLED
    return head + b"\r\n\r\nHello" + variant + _SMUGGLED


def _smuggle(port: int, variant: bytes, place: str, *, is_cut: bool = False) -> list[int]:
    """Send a message with a smuggled one in it; return the codes of all replies after the 354."""
    codes: list[int] = []
    with Client(port) as client:
        client.greet()
        client.command("MAIL FROM:<a@sender.test>")
        assert client.command(f"RCPT TO:<{X}>").code == 250
        assert client.command("DATA").code == 354
        content = _content(variant, place, fresh_id())
        if is_cut:
            at = content.index(_SMUGGLED)
            client.send(content[: at - len(variant)])
            client.send_slowly(content[at - len(variant) : at + 10], 1)
            client.send(content[at + 10 :])
        else:
            client.send(content)
        try:
            while len(codes) < 10:
                codes.append(client.answer().code)
                if len(codes) == 1:
                    client.send(b"NOOP\r\nQUIT\r\n")
        except ClosedError:
            pass
    return codes


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    """Return a server that is open to smuggling."""
    with Sink(ends=[b"\r\n.\r\n", *_OPEN]) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(sink: Sink) -> Iterator[Gateway]:
    with running_gateway(settings_for(sink.port)) as instance:
        yield instance


def test_there_are_enough_variants() -> None:
    assert len(VARIANTS) >= 25
    assert len(set(VARIANTS.values())) == len(VARIANTS)


@pytest.mark.parametrize("name", [name for name in VARIANTS if VARIANTS[name] in _OPEN])
def test_without_us_the_server_sees_two(name: str) -> None:
    """A server can be open to it, or nothing below would prove anything."""
    with Sink(ends=[b"\r\n.\r\n", VARIANTS[name]]) as server:
        _smuggle(server.port, VARIANTS[name], "body")
        assert len([each for each in server.transactions if each.is_ended]) == 2


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", VARIANTS)
def test_the_server_never_sees_a_second_message(
    gateway: Gateway, sink: Sink, name: str, place: str
) -> None:
    for is_cut in (False, True):
        sink.forget()
        codes = _smuggle(gateway.port, VARIANTS[name], place, is_cut=is_cut)
        assert len(codes) == 3, f"one reply to the content, to NOOP and QUIT: {codes}"
        assert codes[0] in (250, 550)
        assert codes[1:] == [250, 221]
        assert all("admin@" not in each.mail for each in sink.transactions)
        ended = [each for each in sink.transactions if each.is_ended]
        assert len(ended) == (codes[0] == 250)
        if VARIANTS[name] in _OPEN:
            assert codes[0] == 550


INJECTIONS = [
    b"MAIL FROM:<a@sender.test>\rRCPT TO:<victim@example.org>\r\n",
    b"MAIL FROM:<a@sender.test>\nRCPT TO:<victim@example.org>\r\n",
    b"MAIL FROM:<a@sender.test>\0\r\n",
    b"MAIL FROM:<a@sender.test> BODY=8BITMIME\r\r\n",
    b"EHLO client.test\rXCLIENT ADDR=127.0.0.1\r\n",
    b"EHLO client.test\nXCLIENT ADDR=127.0.0.1\r\n",
    b"XCLIENT ADDR=127.0.0.1\r\n",
    b"XFORWARD ADDR=127.0.0.1 HELO=x+0D+0AMAIL\r\n",
    b"BDAT 10 LAST\r\n",
    b"PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\n",
]


@pytest.mark.parametrize("command", INJECTIONS)
def test_nothing_comes_through_a_command(gateway: Gateway, sink: Sink, command: bytes) -> None:
    """P5: no line that a client may send makes two of them downstream, or is believed."""
    sink.forget()
    with Client(gateway.port) as client:
        client.greet()
        client.send(command)
        for _ in range(command.count(b"\n")):
            assert client.answer().code // 100 == 5
        assert client.command("MAIL FROM:<a@sender.test>").code in (250, 500)
        client.command(f"RCPT TO:<{X}>")
        client.command("RSET")
    assert all("victim" not in line.text for _, line in sink.journal)
    told = [line.text for _, line in sink.journal if line.verb == "XCLIENT"]
    assert all(" HELO=client.test" in text for text in told), "the name is the one that was greeted"


def test_xforward_values_stay_values() -> None:
    """P5: what a trusted filter's client forwards is decoded, and told again as one value."""
    extensions = ["PIPELINING", "XFORWARD NAME ADDR PORT PROTO HELO SOURCE"]
    with Sink(extensions=extensions) as server:
        settings = {
            **settings_for(server.port),
            "downstream.identity": "xforward",
            "listen.xforward": ["127.0.0.0/8"],
        }
        with running_gateway(settings) as instance, Client(instance.port) as client:
            client.greet()
            command = b"XFORWARD ADDR=192.0.2.7 HELO=a+0D+0ARCPT+20TO:<victim@example.org>"
            assert client.command(command).code // 100 in (2, 5)
            client.command("MAIL FROM:<a@sender.test>")
            client.command(f"RCPT TO:<{X}>")
        assert [line.verb for _, line in server.journal].count("RCPT") == 1


@pytest.mark.postfix
@pytest.mark.parametrize("is_trusting", [False, True], ids=["guarded", "we-are-in-mynetworks"])
def test_a_real_postfix_never_sees_a_second_message(*, is_trusting: bool) -> None:
    """Where its own ``smtpd_forbid_bare_newline`` is off, or excludes us, as well."""
    # Postfix 3.7's default is to be open to some of these.
    options = {"smtpd_authorized_xclient_hosts": "127.0.0.0/8"} if is_trusting else GUARD
    main = {"mynetworks": "127.0.0.0/8"} if is_trusting else {}
    with running_postfix(Service(options), main=main) as postfix:
        if is_trusting:
            assert _smuggle(postfix.port, b"\n.\r\n", "body").count(250) > 2, "open without us"
            postfix.forget()
        identity = {"downstream.identity": "none" if is_trusting else "xclient"}
        with running_gateway({**settings_for(postfix.port), **identity}) as instance:
            accepted = _smuggle_all(instance)
        _expect(postfix, accepted)


def _smuggle_all(gateway: Gateway) -> int:
    """Send every variant; return how many were accepted."""
    accepted = 0
    for variant in VARIANTS.values():
        codes = _smuggle(gateway.port, variant, "body")
        assert len(codes) == 3, codes
        accepted += codes[0] == 250
    return accepted


def _expect(postfix: Postfix, count: int) -> None:
    queued = postfix.wait_for_queued(count)
    assert len(queued) == count
    assert {each.sender for each in queued} == {"a@sender.test"}
    assert {each.recipients for each in queued} == {(X,)}
