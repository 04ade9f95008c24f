"""Nothing grows faster than its input, however hostile (P8).

Compares each function with itself: four times the input may take four times as long, and some, but
not sixteen times. Absolute times would be about the machine.
"""

import time
from collections.abc import Callable

import pytest

from gateway.core.capability import parse_ehlo
from gateway.core.content import ContentScanner, Unstuffer
from gateway.core.edition import EditionSettings, editions
from gateway.core.envelope import Envelope, normalized, parse_path
from gateway.core.header import header_length, prepended, select, without
from gateway.core.message_id import message_id_of
from gateway.core.policy import Action, Decision, Verdict, examine
from gateway.core.reply import Reply, take_reply
from gateway.core.rule import Policy, Rule, policies
from gateway.core.tag import generated_id

_SIZE = 16_000
_FACTOR = 4
# Quadratic would be 16. Caches and the allocator make linear look like 6 at times.
_MOST = 9.0
# Below this a measurement says more about the machine.
_LEAST_S = 0.001


def examined(section: bytes) -> None:
    examine(section)


def identified(value: bytes) -> None:
    message_id_of([value])
    message_id_of([value, value])


def dated(value: bytes) -> None:
    generated_id(examine(b"Date: " + value.replace(b"\n", b"") + b"\r\n"), bytes(16), "b.d")


def signed(value: bytes) -> None:
    examine(b"DKIM-Signature: " + value.replace(b"\n", b"\n ") + b"\r\n")


def pathed(value: bytes) -> None:
    parse_path(b"TO:<" + value)
    parse_path(b"TO:" + value + b">")
    normalized(value)


def edited(section: bytes) -> None:
    examination = examine(section)
    decision = Decision(Verdict.NEW, Action.RELAYED)
    settings = EditionSettings("mx", "b.d", repairs=True)
    editions(section, examination, [decision], [None], bytes(16), settings)


def measured_header(content: bytes) -> None:
    """As octets come, a block at a time, remembering how far it has searched."""
    for end in range(0, len(content), 1024):
        header_length(content[: end + 1024][-2048:], 1000)
    header_length(content)


def scanned(content: bytes) -> None:
    scanner, unstuffer = ContentScanner(), Unstuffer()
    for start in range(0, len(content), 50):
        unstuffer.feed(scanner.feed(content[start : start + 50]))


def answered(wire: bytes) -> None:
    whole = b"250-" + wire.replace(b"\n", b"\n250-").replace(b"\0", b"") + b"\r\n250 x\r\n"
    try:
        taken = take_reply(bytearray(whole), len(whole))
    except ValueError:
        return
    if taken is not None:
        parse_ehlo(Reply(250, taken.wire))


def ruled(path: bytes) -> None:
    rule = Rule(recipients=("*a*b*c*@*.example.org", "*(*(*x"))
    policies(Policy(), (rule,), Envelope(b"", (path,), ""))


_UNITS = {
    "opening brackets": b"<",
    "closing brackets": b">",
    "brackets": b"<>",
    "opening parentheses": b"(",
    "parentheses": b"()",
    "parentheses and text": b"(a)b",
    "nested, then blanks": b"( ",
    "quotes": b'"',
    "quotes and text": b'"a',
    "quotes and escapes": b'"\\',
    "backslashes": b"\\",
    "at signs": b"@",
    "blanks": b" ",
    "tabs and blanks": b"\t ",
    "folds": b"\r\n ",
    "line ends": b"\r\n",
    "bare CR": b"\r",
    "dots": b".",
    "dot lines": b"\r\n.",
    "atoms": b"a.",
    "letters": b"a",
    "colons": b":",
    "semicolons and h": b";h ",
    "list tags": b"; h =",
    "digits": b"1",
    "digits and blanks": b"11 ",
    "dates": b"1 jan ",
    "fields": b"a:b\r\n",
    "short ids": b"Message-ID: <a-1@b>\r\n",
    "forged fields": b"X-Mailonce: a\r\n",
    "signatures": b"DKIM-Signature: h=message-id\r\n",
    "mbox lines": b"From a\r\n",
    "resendings": b"Resent-From: a\r\nResent-Message-ID: <a-1@b>\r\n",
    "abc": b"abc",
}
_FUNCTIONS: dict[str, Callable[[bytes], None]] = {
    "examine": examined,
    "examine one Message-ID": identified,
    "read a Date": dated,
    "read a signature": signed,
    "read a path": pathed,
    "make editions": edited,
    "find the end of the header": measured_header,
    "scan content": scanned,
    "read a reply": answered,
    "match rules": ruled,
}


def seconds(function: Callable[[bytes], None], value: bytes) -> float:
    """Return the better of two: whatever else runs on the machine only makes it slower."""
    taken = []
    for _ in range(2):
        start = time.process_time()
        function(value)
        taken.append(time.process_time() - start)
    return min(taken)


def grow(function: Callable[[bytes], None], unit: bytes) -> None:
    small = unit * (_SIZE // len(unit))
    big = small * _FACTOR
    ratio, trials = _MOST, 3
    while ratio >= _MOST and trials:
        ratio = seconds(function, big) / max(seconds(function, small), _LEAST_S)
        trials -= 1
    assert ratio < _MOST, f"{_FACTOR} times the input took {ratio:.1f} times as long"


@pytest.mark.parametrize("unit", _UNITS)
@pytest.mark.parametrize("name", _FUNCTIONS)
def test_growth_is_linear(name: str, unit: str) -> None:
    grow(_FUNCTIONS[name], _UNITS[unit])


def test_a_quadratic_function_would_be_found() -> None:
    def quadratic(value: bytes) -> None:
        for start in range(0, len(value), 10):
            value.count(b"xy", start)

    with pytest.raises(AssertionError, match="times as long"):
        grow(quadratic, b"a")


def test_a_hundred_thousand_fields() -> None:
    """Each is looked at once, wanted or not; removing all of ours is one pass as well."""
    section = b"a:b\r\nX-Mailonce: a\r\nReceived: b\r\nTo: c\r\n" * 25_000
    found, stray = select(section, [b"x-mailonce", b"received"])
    assert (len(found[b"x-mailonce"]), len(found[b"received"]), stray) == (25_000, 25_000, b"")
    left = without(section, found[b"x-mailonce"])
    assert left == b"a:b\r\nReceived: b\r\nTo: c\r\n" * 25_000
    assert prepended(left, b"N: 1\r\n") == b"N: 1\r\n" + left


@pytest.mark.parametrize("octet", [b"(", b"<", b'"', b"\\", b"@", b" ", b"a"])
def test_ten_megabytes_in_one_message_id(octet: bytes) -> None:
    """Far more than any limit lets in; it neither raises nor runs out of stack."""
    body = octet * 10_000_000
    assert message_id_of([body]) == message_id_of([b" " + body + b"\r\n"])
