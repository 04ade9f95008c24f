"""Octets drawn by hypothesis: any, words in any order, and words with a slip."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS
from tests.fuzz.words import WORDS


def octets_for(name: str) -> st.SearchStrategy[bytes]:
    """Return what may be fed to a parser."""
    word = st.one_of(st.sampled_from(WORDS[name]), st.binary(max_size=3))
    words = st.lists(st.sampled_from(WORDS[name]), max_size=15)
    return st.one_of(
        st.binary(max_size=300),
        st.lists(word, max_size=25).map(b"".join),
        st.tuples(words, st.integers(0, 10_000), st.integers(0, 255)).map(_slipped),
    )


def run(name: str, examples: int) -> None:
    """Feed a parser."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(octets_for(name))
    def feed(drawn: bytes) -> None:
        TARGETS[name](drawn)

    feed()


def _slipped(drawn: tuple[list[bytes], int, int]) -> bytes:
    words, at, octet = drawn
    octets = bytearray(b"".join(words))
    if octets:
        octets[at % len(octets)] = octet
    return bytes(octets)
