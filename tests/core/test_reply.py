"""Replies: kept octet for octet, read whole, byte by byte and with more behind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.reply import Reply, enhanced_of, reply, take_reply

_LIMIT = 1000

REPLIES = [
    # realistic
    (b"250 2.0.0 Ok: queued as 4ABC\r\n", 250, (b"2.0.0 Ok: queued as 4ABC",), "one line"),
    (b"250-mx\r\n250-SIZE 100\r\n250 DSN\r\n", 250, (b"mx", b"SIZE 100", b"DSN"), "several lines"),
    (b"354 go\r\n", 354, (b"go",), "asks for content"),
    (b"550-5.1.1 no\r\n550 5.1.1 user\r\n", 550, (b"5.1.1 no", b"5.1.1 user"), "refused at length"),
    (b"250\r\n", 250, (b"",), "a code alone"),
    (b"250 \r\n", 250, (b"",), "a code and a blank"),
    (b"250-\r\n250 x\r\n", 250, (b"", b"x"), "a line without text"),
    (b"450 gr\xfc\xdfe\r\n", 450, (b"gr\xfc\xdfe",), "8-bit text"),
    # synthetic
    (b"250-a\r\n250\r\n", 250, (b"a", b""), "a code alone ends it"),
]


@pytest.mark.parametrize(("wire", "code", "lines", "reason"), REPLIES, ids=[r[3] for r in REPLIES])
def test_reply_is_taken(wire: bytes, code: int, lines: tuple[bytes, ...], reason: str) -> None:
    whole = bytearray(wire)
    taken = take_reply(whole, _LIMIT)
    assert taken == Reply(code, wire), reason
    assert taken.lines == lines
    assert not whole

    slow = bytearray()
    for octet in wire[:-1]:
        slow.append(octet)
        assert take_reply(slow, _LIMIT) is None
    slow.append(wire[-1])
    assert take_reply(slow, _LIMIT) == Reply(code, wire)

    for behind in (b"2", b"250 next\r\n", b"\xff\x00 nonsense\r\n"):
        more = bytearray(wire + behind)
        assert take_reply(more, _LIMIT) == Reply(code, wire)
        assert bytes(more) == behind


def test_reply_with_lf_alone_is_given_line_ends() -> None:
    """Seen in practice; to our client we speak by the rules."""
    assert take_reply(bytearray(b"250-a\n250 b\n"), _LIMIT) == Reply(250, b"250-a\r\n250 b\r\n")


NOT_REPLIES = [
    (b"hello\r\n", "no code"),
    (b"25 x\r\n", "two digits"),
    (b"2500 x\r\n", "four digits"),
    (b"150 x\r\n", "a class that is not used"),
    (b"650 x\r\n", "no class"),
    (b"250_x\r\n", "neither blank nor hyphen"),
    (b"250-a\r\n550 b\r\n", "the code changes"),
    (b"250-a\r\nb\r\n", "a line without code"),
    (b"250 a\0b\r\n", "NUL"),
    (b"250 a\rb\r\n", "bare CR"),
    (b"\r\n", "an empty line"),
    (b"250 " + b"x" * _LIMIT + b"\r\n", "too long a line"),
    (b"250-x\r\n" * _LIMIT, "too many lines"),
    (b"x" * (_LIMIT + 1), "no line end within the limit"),
]


@pytest.mark.parametrize(("wire", "reason"), NOT_REPLIES, ids=[row[1] for row in NOT_REPLIES])
def test_nonsense_is_refused(wire: bytes, reason: str) -> None:
    """P8: as soon as it is certain, and never later than at the limit."""
    with pytest.raises(ValueError, match="reply"):
        take_reply(bytearray(wire), _LIMIT)
    slow = bytearray()
    with pytest.raises(ValueError, match="reply"):  # noqa: PT012 - the octet that tells is not known
        for octet in wire:
            slow.append(octet)
            assert take_reply(slow, _LIMIT) is None, reason


@given(st.binary(max_size=60))
def test_any_octets_are_a_reply_an_error_or_too_few(wire: bytes) -> None:
    buffer = bytearray(wire)
    try:
        taken = take_reply(buffer, 40)
    except ValueError:
        return
    if taken is None:
        assert buffer == wire
        assert len(wire) <= 40
    else:
        used = wire[: len(wire) - len(buffer)]
        assert wire == used + buffer
        assert taken.wire.splitlines() == used.splitlines()
        assert taken.code == int(used[:3])


def test_reply_of_ours() -> None:
    assert reply(250, "2.0.0", "Ok").wire == b"250 2.0.0 Ok\r\n"
    assert reply(354, "", "Go").wire == b"354 Go\r\n"
    assert reply(550, "5.1.1", "a", "b").wire == b"550-5.1.1 a\r\n550 5.1.1 b\r\n"
    assert reply(250, "", "mx", "SIZE 1").lines == (b"mx", b"SIZE 1")


@pytest.mark.parametrize(
    ("code", "enhanced", "texts"),
    [
        pytest.param(199, "", ("x",), id="below all classes"),
        pytest.param(600, "", ("x",), id="above all classes"),
        pytest.param(250, "2.0.0", (), id="no text"),
        pytest.param(250, "5.0.0", ("x",), id="classes disagree"),
        pytest.param(250, "", ("a\r\nb",), id="a line end in a text"),
        pytest.param(250, "", ("gr\xfcn",), id="no ASCII"),
    ],
)
def test_malformed_reply_of_ours(code: int, enhanced: str, texts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"repl|classes"):
        reply(code, enhanced, *texts)


def test_classes() -> None:
    assert Reply(250, b"250 x\r\n").is_accepted
    assert not Reply(354, b"354 x\r\n").is_accepted
    assert Reply(451, b"451 x\r\n").status_class == 4


def test_text_is_one_line() -> None:
    assert Reply(250, b"250-a\xe9\r\n250 b\r\n").text == "250-a\xe9 / 250 b"


@pytest.mark.parametrize(
    ("wire", "expected", "reason"),
    [
        (b"250 2.1.5 Ok\r\n", "2.1.5", "as it should be"),
        (b"550-5.7.1 a\r\n550 5.1.1 b\r\n", "5.1.1", "the last line counts"),
        (b"250 2.1.5\r\n", "2.1.5", "no text behind it"),
        (b"250 Ok\r\n", "", "none"),
        (b"250 4.0.0 Ok\r\n", "", "another class than the code's"),
        (b"250 2.1.5x Ok\r\n", "", "something like it"),
    ],
)
def test_enhanced_code(wire: bytes, expected: str, reason: str) -> None:
    assert enhanced_of(Reply(250 if wire[:1] == b"2" else 550, wire)) == expected, reason
