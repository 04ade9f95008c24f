"""Unique ids: what is kept apart, what is one, and that nothing can be read back (P6)."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.unique_id import (
    MESSAGE_OCTETS,
    RECIPIENT_OCTETS,
    Identity,
    Sealer,
    UniqueId,
)

_SEALER = Sealer(b"secret")
_IDENTITY = Identity(b"id", b"a@b")


def one_id(identity: Identity, path: bytes, sealer: Sealer = _SEALER) -> UniqueId:
    (unique_id,) = sealer.unique_ids(identity, (path,))
    return unique_id


def test_sizes() -> None:
    unique_id = one_id(_IDENTITY, b"x@y")
    assert (len(unique_id.message), len(unique_id.recipient)) == (MESSAGE_OCTETS, RECIPIENT_OCTETS)
    assert unique_id.variant == b""
    listed = one_id(Identity(b"id", b"a@b", list_id=b"l"), b"x@y")
    assert len(listed.variant) == RECIPIENT_OCTETS
    assert len(_SEALER.fingerprint(unique_id, b"f" * 16)) == MESSAGE_OCTETS


APART = [
    (_IDENTITY, b"x@y", "the plain message"),
    (Identity(b"id", b"a@c"), b"x@y", "another id"),
    (Identity(b"derived", b"a@b"), b"x@y", "the same octets derived from content"),
    (_IDENTITY, b"X@y", "local parts are case-sensitive"),
    (_IDENTITY, b"x@z", "another recipient"),
    (Identity(b"id", b"a@b", list_id=b"l"), b"x@y", "a list copy"),
    (Identity(b"id", b"a@b", resent=b"l"), b"x@y", "a resending"),
    (Identity(b"id", b"a@b", list_id=b"l", resent=b"l"), b"x@y", "a resent list copy"),
    (Identity(b"id", b"a@b", list_id=b"ll"), b"x@y", "another list's copy"),
]


def test_all_are_kept_apart() -> None:
    for one, other in combinations(APART, 2):
        assert one_id(*one[:2]) != one_id(*other[:2]), f"{one[2]} and {other[2]}"


def test_domain_in_any_case_is_one_recipient() -> None:
    assert one_id(_IDENTITY, b"x@Y.Example") == one_id(_IDENTITY, b"x@y.eXAMPLE")


def test_all_of_one_message_can_be_found() -> None:
    """`forget` and `trace` know the id and perhaps the recipient, but no variant."""
    message = _SEALER.message(_IDENTITY)
    plain = one_id(_IDENTITY, b"x@y")
    listed = one_id(Identity(b"id", b"a@b", list_id=b"l"), b"x@y")
    collided = _SEALER.collision_id(listed, b"f" * 16)
    assert {plain.message, listed.message, collided.message} == {message}
    recipient = _SEALER.recipient(message, b"x@y")
    assert {plain.recipient, listed.recipient, collided.recipient} == {recipient}
    assert len({plain.variant, listed.variant, collided.variant}) == 3


def test_recipients_of_different_messages_cannot_be_linked() -> None:
    other = one_id(Identity(b"id", b"c@d"), b"x@y")
    assert one_id(_IDENTITY, b"x@y").recipient != other.recipient


def test_collisions_are_told_by_content_and_variant() -> None:
    plain = one_id(_IDENTITY, b"x@y")
    listed = one_id(Identity(b"id", b"a@b", list_id=b"l"), b"x@y")
    keys = {
        _SEALER.collision_id(unique_id, fingerprint)
        for unique_id in (plain, listed)
        for fingerprint in (b"f" * 16, b"g" * 16)
    }
    assert len(keys) == 4
    assert _SEALER.collision_id(plain, b"f" * 16) == _SEALER.collision_id(plain, b"f" * 16)


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (b"a", b"b", "two secrets"),
        (b"", b"a", "none and one"),
        (b"x" * 65, b"x" * 66, "longer than a key may be"),
        (b"x" * 64, b"x" * 65, "as long as a key may be, and one more"),
    ],
)
def test_secrets_give_other_digests(one: bytes, other: bytes, reason: str) -> None:
    first, second = (one_id(_IDENTITY, b"x@y", Sealer(secret)) for secret in (one, other))
    assert first.message != second.message, reason
    assert first.recipient != second.recipient
    assert Sealer(one).fingerprint(first, b"f") != Sealer(other).fingerprint(first, b"f")


def test_sealed_fingerprint_is_bound_to_message_and_recipient() -> None:
    """A record cannot be moved to another key, nor two recipients' contents be compared."""
    one, other = one_id(_IDENTITY, b"x@y"), one_id(_IDENTITY, b"z@y")
    assert _SEALER.fingerprint(one, b"f") != _SEALER.fingerprint(other, b"f")
    assert _SEALER.fingerprint(one, b"f") != _SEALER.fingerprint(one, b"g")


_PART = st.binary(max_size=3)


@given(st.tuples(_PART, _PART, _PART), st.tuples(_PART, _PART, _PART))
def test_no_two_combinations_make_the_same_octets(
    one: tuple[bytes, bytes, bytes], other: tuple[bytes, bytes, bytes]
) -> None:
    first, second = (one_id(Identity(b"id", *parts), b"x@y") for parts in (one, other))
    assert (first == second) == (one == other)


def test_digests_are_fixed() -> None:
    """Records outlive an upgrade and are shared by all nodes."""
    unique_id = one_id(Identity(b"id", b"a@b", b"l", b"r"), b"x@y")
    assert unique_id == UniqueId(
        message=bytes.fromhex("f16128c04d815e0666322d83"),
        recipient=bytes.fromhex("be5840525294673a"),
        variant=bytes.fromhex("449639b4d7d0a6d3"),
    )
    assert _SEALER.fingerprint(unique_id, b"f" * 16).hex() == "856027ae223f4badbdcdd99b"
