"""Which policy holds for which recipient."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.envelope import Envelope
from gateway.core.rule import (
    Collisions,
    Match,
    Mode,
    Policy,
    Rule,
    address_of,
    is_within,
    policies,
)

_DEFAULT = Policy(mode=Mode.TAG, collisions=Collisions.RELAY, window_s=5.0)


def applies(rule: Rule, *, sender: bytes = b"s@t", client: str = "", path: bytes = b"x@y") -> bool:
    envelope = Envelope(sender, (path,), client)
    return rule.applies(envelope, address_of(client), path)


RECIPIENTS = [
    # realistic
    ("*@lists.example.org", b"a@lists.example.org", True, "all of a domain"),
    ("*@lists.example.org", b"a@LISTS.example.ORG", True, "domains have no case"),
    ("*@Lists.Example.org", b"a@lists.example.org", True, "nor in the pattern"),
    ("*@lists.example.org", b"a@example.org", False, "another domain"),
    ("*@lists.example.org", b"a@lists.example.org.evil.test", False, "the end must match"),
    ("*@*.example.org", b"a@b.c.example.org", True, "all below a domain"),
    ("*@*.example.org", b"a@example.org", False, "but not the domain itself"),
    ("joe@example.org", b"joe@example.org", True, "one address"),
    ("joe@example.org", b"Joe@example.org", False, "local parts have a case"),
    ("joe+*@example.org", b"joe+news@example.org", True, "a plus means itself"),
    ("*", b"postmaster", True, "everything"),
    ("postmaster", b"postmaster", True, "no domain"),
    # synthetic
    ("j?e@example.org", b"joe@example.org", True, "one octet"),
    ("j?e@example.org", b"je@example.org", False, "no octet"),
    ("a*b*c@d", b"axxbxxc@d", True, "several stars"),
    ("a*b*c@d", b"axxcxxb@d", False, "in order"),
    ("a*bc*bd@e", b"abcbcbd@e", True, "a middle part that occurs twice"),
    ("**@d", b"x@d", True, "stars in a row"),
    ("a.c@d", b"abc@d", False, "a dot means itself"),
    ("[ab]@d", b"a@d", False, "brackets mean themselves"),
    ("*@d", b"a\nb@d", True, "any octet"),
    ("\u00e9@d", "\u00e9@d".encode(), True, "SMTPUTF8"),
    ("\\?@d", b"\\x@d", True, "a backslash means itself"),
]


@pytest.mark.parametrize(
    ("pattern", "path", "expected", "reason"), RECIPIENTS, ids=[r[3] for r in RECIPIENTS]
)
def test_pattern(pattern: str, path: bytes, expected: bool, reason: str) -> None:
    assert applies(Rule(recipients=(pattern,)), path=path) is expected, reason
    assert applies(Rule(senders=(pattern,)), sender=path) is expected, reason


@given(
    st.text("ab*?", max_size=8),
    st.text("ab", max_size=10),
)
def test_patterns_match_as_a_shell_would(pattern: str, path: str) -> None:
    def matches(pattern: str, path: str) -> bool:
        if not pattern:
            return not path
        if pattern[0] == "*":
            return any(matches(pattern[1:], path[i:]) for i in range(len(path) + 1))
        return bool(path) and pattern[0] in ("?", path[0]) and matches(pattern[1:], path[1:])

    assert applies(Rule(recipients=(pattern,)), path=path.encode()) == matches(pattern, path)


def test_null_reverse_path_is_the_empty_pattern() -> None:
    bounces = Rule(senders=("",))
    assert applies(bounces, sender=b"")
    assert not applies(bounces, sender=b"a@b")


def test_several_patterns_need_one() -> None:
    rule = Rule(recipients=("a@b", "c@d"))
    assert applies(rule, path=b"c@d")
    assert not applies(rule, path=b"a@bc@d")


def test_several_conditions_need_all() -> None:
    rule = Rule(recipients=("x@*",), senders=("s@*",), clients=(ip_network("192.0.2.0/24"),))
    assert applies(rule, client="192.0.2.7")
    assert not applies(rule, client="198.51.100.7")
    assert not applies(rule, client="")
    assert not applies(rule, client="192.0.2.7", sender=b"t@t")
    assert not applies(rule, client="192.0.2.7", path=b"y@y")


def test_a_rule_without_conditions_is_for_all() -> None:
    assert applies(Rule())


def test_first_rule_wins_and_what_it_leaves_unset_is_the_default() -> None:
    rules = (
        Rule(recipients=("a@*",), mode=Mode.DROP),
        Rule(recipients=("a@*", "b@*"), match=Match.MESSAGE_ID, window_s=1.0),
        Rule(recipients=("c@*",), mode=Mode.BYPASS),
    )
    envelope = Envelope(b"s@t", (b"a@x", b"b@x", b"c@x", b"d@x"), "192.0.2.1")
    assert policies(_DEFAULT, rules, envelope) == (
        Policy(Mode.DROP, Match.CONTENT, Collisions.RELAY, 5.0),
        Policy(Mode.TAG, Match.MESSAGE_ID, Collisions.RELAY, 1.0),
        Policy(Mode.BYPASS, Match.CONTENT, Collisions.RELAY, 5.0),
        _DEFAULT,
    )


def test_no_rules() -> None:
    assert policies(_DEFAULT, (), Envelope(b"", (b"a@x", b"b@x"), "")) == (_DEFAULT, _DEFAULT)


@pytest.mark.parametrize(
    ("text", "expected", "reason"),
    [
        ("192.0.2.1", "192.0.2.1", "IPv4"),
        ("2001:db8::1", "2001:db8::1", "IPv6"),
        ("::ffff:192.0.2.1", "192.0.2.1", "IPv4 on an IPv6 socket"),
        ("fe80::1%eth0", "fe80::1", "with a zone"),
    ],
)
def test_address(text: str, expected: str, reason: str) -> None:
    assert address_of(text) == ip_address(expected), reason


@pytest.mark.parametrize("text", ["", "unknown", "192.0.2", "192.0.2.1:25", "::x", "/run/socket"])
def test_no_address(text: str) -> None:
    assert address_of(text) is None


def test_networks_of_both_families() -> None:
    networks = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))
    assert is_within(ip_address("192.0.2.1"), networks)
    assert is_within(ip_address("2001:db8::1"), networks)
    assert not is_within(ip_address("198.51.100.1"), networks)
    assert not is_within(None, networks)
