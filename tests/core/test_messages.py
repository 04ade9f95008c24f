"""Whole messages and what we make of them: ``NN-name.eml`` beside ``NN-name.expected.json``.

In the JSON, octets are latin-1. ``private/`` may hold real mail that must not be published; it is
not under version control.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dkim
import pytest

from gateway.core.edition import EditionSettings, editions
from gateway.core.fingerprint import Fingerprinter
from gateway.core.header import header_length, without
from gateway.core.policy import Action, Decision, Examination, Sight, Sighting, Verdict, examine

_MESSAGES = sorted((Path(__file__).parent.parent / "messages").rglob("*.eml"))
# RFC 6376 section 5.4: From must be signed. An mbox line cannot follow a signature.
_SIGNABLE = [
    path
    for path in _MESSAGES
    if path.read_bytes()[:5] != b"From " and b"\nFrom:" in b"\n" + path.read_bytes()
]
_SEEN = Sighting(Sight.SEEN, 1_795_453_200, b"f" * 12, 1)
_DECISIONS = (
    Decision(Verdict.NEW, Action.RELAYED),
    Decision(Verdict.DUPLICATE, Action.TAGGED),
    Decision(Verdict.COLLISION, Action.TAGGED),
    Decision(Verdict.DUPLICATE, Action.OBSERVED),
    Decision(Verdict.UNCHECKED, Action.TAGGED),
    Decision(Verdict.BYPASSED, Action.RELAYED),
)


def parts(content: bytes) -> tuple[bytes, bytes]:
    length = header_length(content)
    return (content, b"") if length is None else (content[:length], content[length:])


def fingerprint(examination: Examination, body: bytes) -> bytes:
    fingerprinter = Fingerprinter(examination.identifying)
    fingerprinter.update(examination.stray)
    fingerprinter.update(body)
    return fingerprinter.digest()


def sent(content: bytes, decision: Decision, *, repairs: bool = False) -> bytes:
    section, body = parts(content)
    examination = examine(section)
    settings = EditionSettings("mx.example.com", "id.example.com", repairs=repairs)
    digest = fingerprint(examination, body)
    sighting = None if decision.verdict is Verdict.UNCHECKED else _SEEN
    (edition,) = editions(section, examination, [decision], [sighting], digest, settings)
    return edition.section + body


def described(content: bytes) -> dict[str, Any]:
    section, body = parts(content)
    examination = examine(section)
    left = without(section, examination.forged) + body
    return {
        "form": str(examination.message_id.form),
        "canonical": text(examination.message_id.canonical),
        "list_id": text(examination.list_id),
        "resent": text(examination.resent),
        "hops": examination.hops,
        "is_id_signed": examination.is_id_signed,
        "forged": [text(section[field.start : field.end]) for field in examination.forged],
        "stray": text(examination.stray),
        "fingerprint": fingerprint(examination, body).hex(),
        "new": difference(left, sent(content, _DECISIONS[0])),
        "tagged": difference(left, sent(content, _DECISIONS[1])),
        "repaired": difference(left, sent(content, _DECISIONS[0], repairs=True)),
    }


def text(octets: bytes | None) -> str | None:
    return None if octets is None else octets.decode("latin-1")


def difference(before: bytes, after: bytes) -> dict[str, str | None] | None:
    """Return the lines that came in place of others; None if nothing has changed."""
    if before == after:
        return None
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    while old and new and old[0] == new[0]:
        del old[0], new[0]
    while old and new and old[-1] == new[-1]:
        del old[-1], new[-1]
    return {"removed": text(b"".join(old)), "added": text(b"".join(new))}


@pytest.mark.parametrize("path", _MESSAGES, ids=lambda path: path.stem)
def test_golden_message(path: Path) -> None:
    expected = json.loads(path.with_suffix(".expected.json").read_text("utf-8"))
    assert expected.pop("why")
    assert described(path.read_bytes()) == expected


def test_messages_are_all_described() -> None:
    """A message without expectations, or the reverse, would prove nothing."""
    expectations = sorted(_MESSAGES[0].parent.rglob("*.expected.json"))
    assert [path.with_suffix(".expected.json") for path in _MESSAGES] == expectations
    assert len(_MESSAGES) >= 26


@pytest.fixture(scope="module")
def signing_key() -> bytes:
    made = subprocess.run(["openssl", "genrsa", "2048"], check=True, capture_output=True)
    return made.stdout


@pytest.fixture(scope="module")
def lookup(signing_key: bytes) -> Callable[..., bytes]:
    made = subprocess.run(
        ["openssl", "rsa", "-pubout", "-outform", "PEM"],
        input=signing_key,
        check=True,
        capture_output=True,
    )
    key = b"".join(made.stdout.splitlines()[1:-1])
    return lambda _name, timeout=5: b"v=DKIM1; k=rsa; p=" + key  # noqa: ARG005 - dkimpy names it


@pytest.mark.parametrize("canonicalization", [(b"relaxed", b"relaxed"), (b"simple", b"simple")])
@pytest.mark.parametrize("path", _SIGNABLE, ids=lambda path: path.stem)
def test_valid_signature_stays_valid(
    path: Path,
    canonicalization: tuple[bytes, bytes],
    signing_key: bytes,
    lookup: Callable[..., bytes],
) -> None:
    """P2: whatever is decided, and if repair is on; signed with and without Message-ID."""
    content = path.read_bytes()
    section, body = parts(content)
    examination = examine(section)
    content = without(section, examination.forged) + body
    for names in ([b"from", b"subject", b"message-id"], [b"from", b"subject", b"date"]):
        signature = dkim.sign(
            content,
            b"s2026",
            b"example.org",
            signing_key,
            canonicalize=canonicalization,
            include_headers=names,
        )
        signed = signature + content
        assert dkim.verify(signed, dnsfunc=lookup)
        for decision in _DECISIONS:
            for repairs in (False, True):
                assert dkim.verify(sent(signed, decision, repairs=repairs), dnsfunc=lookup)
