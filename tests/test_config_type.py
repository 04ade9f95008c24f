"""How values are written: what is read, and what becomes of everything else."""

from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import type as kind
from gateway.config.key import keys_of, tables
from gateway.config.type import ListNotation, Notation, Tls

NOTATIONS: list[Notation | ListNotation] = [
    key.notation for table in tables() for key in keys_of(table)
]


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [
        ("250ms", 0.25),
        ("0s", 0.0),
        ("10s", 10.0),
        ("90s", 90.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("5d", 432_000.0),
        ("1d2h3m4s5ms", 93_784.005),
        ("007s", 7.0),
    ],
)
def test_durations(text: str, duration_s: float) -> None:
    assert kind.parse_duration(text) == duration_s


@settings(deadline=None)  # machines that test are busy
@given(st.integers(0, 10**12))
def test_a_duration_is_shown_as_it_is_read(milliseconds: int) -> None:
    assert kind.parse_duration(kind.show_duration(milliseconds / 1000)) == milliseconds / 1000


@pytest.mark.parametrize(
    ("value", "octets"),
    [
        ("256KiB", 262_144),
        ("50MiB", 52_428_800),
        ("1GiB", 1_073_741_824),
        ("1000", 1000),
        (1000, 1000),
        ("0", 0),
    ],
)
def test_sizes(value: object, octets: int) -> None:
    assert kind.parse_size(value) == octets


def test_bounds_belong_to_what_is_allowed() -> None:
    duration, size, count = kind.duration("1s", "1m"), kind.size("1KiB", "1MiB"), kind.count(1, 9)
    assert [duration.parse("1s"), duration.parse("60s")] == [1.0, 60.0]
    assert [size.parse("1024"), size.parse("1024KiB")] == [1024, 1_048_576]
    assert [count.parse(1), count.parse(9)] == [1, 9]
    outside: list[tuple[Notation, object, str]] = [
        (duration, "999ms", 'must be at least 1s, got "999ms"'),
        (duration, "61s", 'must be at most 1m, got "61s"'),
        (size, 1023, "must be at least 1KiB, got 1023"),
        (size, 1_048_577, "must be at most 1MiB, got 1048577"),
        (count, 0, "must be at least 1, got 0"),
        (count, 10, "must be at most 9, got 10"),
    ]
    for notation, value, message in outside:
        with pytest.raises(ValueError, match=f"^{message}$"):
            notation.parse(value)


def test_words_are_compared_as_they_are() -> None:
    assert kind.one_of(*Tls).parse("never") is Tls.NEVER
    for value in ("Never", "NEVER", " never", "", None, 0):
        with pytest.raises(ValueError, match=r'^expected "never", "opportunistic" or "required"'):
            kind.one_of(*Tls).parse(value)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::/0", "::/0"),
    ],
)
def test_networks(text: str, network: str) -> None:
    assert kind.parse_network(text) == ip_network(network)


@pytest.mark.parametrize(
    "text", ["mx.example.org", "localhost", "a", "xn--d-x.example", "3com.example"]
)
def test_host_names(text: str) -> None:
    assert kind.parse_host_name(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "192.0.2.1",
        "1.2.3",
        "-a.example",
        "a-.example",
        "a..b",
        ".a",
        "a.",
        "a_b",
        "bücher.example",
        f"{'x' * 64}.example",
        ".".join(["x" * 49] * 6),
        "a.example\n",
        "[::1]",
    ],
)
def test_what_no_host_name_is(text: str) -> None:
    assert not kind.is_host_name(text)


@pytest.mark.parametrize(
    "text",
    ["*@lists.example.org", "a?c@example.org", "*", "", "postmaster", "Postmaster", "*-owner@*"],
)
def test_patterns(text: str) -> None:
    assert kind.parse_pattern(text) == text


def test_an_address_is_one_that_can_stand_in_a_command() -> None:
    assert kind.parse_address("a+b=c@relay-test.invalid") == "a+b=c@relay-test.invalid"
    for value in ("a b@c", "a@b@c", "a<b@c", "a@[192.0.2.1]", "a@b\r\n", "@b", "é@b", 5):
        with pytest.raises(ValueError, match=r"^expected an address"):
            kind.parse_address(value)


def test_a_path_is_absolute_or_none() -> None:
    assert kind.parse_path("") is None
    assert kind.parse_path("/etc/tls.pem") == Path("/etc/tls.pem")
    for value in ("tls.pem", "//etc", "/", "/a\nb", "/\udcff", None):
        with pytest.raises(ValueError, match=r"^expected an absolute path"):
            kind.parse_path(value)


def test_a_secret_can_be_any_text_but_a_token_goes_into_a_header() -> None:
    assert kind.parse_secret("pass wörd\n").get_secret_value() == "pass wörd\n"
    assert kind.parse_token("a~!").get_secret_value() == "a~!"
    for text in ("a b", "a\r\nX: y", "ä"):
        with pytest.raises(ValueError, match=r"^expected visible ASCII"):
            kind.parse_token(text)
    with pytest.raises(ValueError, match=r"^expected UTF-8"):
        kind.parse_secret("\udcff")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a", '"a"'),
        ('a"b', '"a\\"b"'),
        ("\x1b[31m", '"\\u001b[31m"'),  # nothing that a terminal would obey
        ("é", '"é"'),
        ("x" * 81, '"' + "x" * 80 + '…"'),
        (True, "true"),
        (7, "7"),
        (10**18, "a huge number"),
        (1.5, "1.5"),
        ([1], "a list"),
        ({}, "a table"),
        (None, "nothing"),
    ],
)
def test_values_are_shown_as_toml_writes_them(value: object, shown: str) -> None:
    assert kind.show(value) == shown


@settings(deadline=None)  # machines that test are busy
@given(
    st.sampled_from(NOTATIONS),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()),
)
def test_a_value_is_read_or_refused_on_one_line(
    notation: Notation | ListNotation, value: object
) -> None:
    message = "fine"
    try:
        notation.parse(value)
    except ValueError as error:
        message = str(error)
    assert message
    assert "\n" not in message


@settings(deadline=None)  # machines that test are busy
@given(st.sampled_from(NOTATIONS), st.text())
def test_a_variable_is_read_or_refused_on_one_line(
    notation: Notation | ListNotation, text: str
) -> None:
    message = "fine"
    try:
        notation.read(text)
    except ValueError as error:
        message = str(error)
    assert "\n" not in message


def test_lists_in_variables_are_json() -> None:
    notation = ListNotation('["x"]', "")
    assert notation.read(' ["a", "b"] ') == ["a", "b"]
    assert notation.read("[]") == []
    for text in ("", "a", "{}", '"a"', "[", "[" * 100_000, "null"):
        with pytest.raises(ValueError, match=r'^expected a JSON list such as \["x"\]'):
            notation.read(text)
