"""What `scan` has seen so far, in a temporary SQLite file, so that memory does not grow with it.

Only digests and places are kept, and counts. The file has no name and is gone with the process. A
verdict is what the gateway's own `decide` says, as if each message had come to it in this order and
all within the window. Fails with `sqlite3.Error` if there is no room for temporary files.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.core.message_id import Form
from gateway.core.policy import (
    NEW,
    Action,
    Decision,
    Sight,
    Sighting,
    Verdict,
    decide,
    identity_of,
)
from gateway.core.rule import Match, Mode, Policy
from gateway.core.unique_id import Sealer
from gateway.scan.message import Message

_CACHE_KIB = 32_768
_MAX_NAMES = 20_000
_EXAMPLES = 20
_POLICIES = {match: Policy(mode=Mode.DROP, match=match) for match in Match}
_SEEN = Sighting(Sight.SEEN)
_SCHEMA = """
CREATE TABLE seen (
  key BLOB NOT NULL, fingerprint BLOB NOT NULL, number INTEGER NOT NULL, place TEXT NOT NULL,
  PRIMARY KEY (key, fingerprint)
) WITHOUT ROWID;
CREATE TABLE tally (
  kind TEXT NOT NULL, name TEXT NOT NULL, what TEXT NOT NULL, number INTEGER NOT NULL,
  PRIMARY KEY (kind, name, what)
) WITHOUT ROWID;
"""
_SAME = "SELECT 1 FROM seen WHERE key = ? AND fingerprint = ?"
_KNOWN = "SELECT 1 FROM seen WHERE key = ? LIMIT 1"
_NOTE = "INSERT INTO seen VALUES (?, ?, ?, ?)"
_FIRST = "SELECT place FROM seen WHERE key = ? ORDER BY number LIMIT 1"
_COUNT = """
INSERT INTO tally VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET number = number + excluded.number"""
_TOP = """
SELECT name FROM tally WHERE kind = ? AND what IN ({})
GROUP BY name ORDER BY sum(number) DESC, name LIMIT ?"""


@dataclass(frozen=True, slots=True)
class Example:
    """One message that was seen before.

    Attributes:
        verdict: duplicate or collision.
        message_id: canonical, octets as latin-1; ``""`` if it has none.
        sender: address.
        place: of this one.
        first_place: of the first with this id.
    """

    verdict: str
    message_id: str
    sender: str
    place: str
    first_place: str


class Ledger:
    """Takes messages in, one after another.

    Attributes:
        counts: how many messages there were by ``messages``, ``octets``, form, and ``untracked``:
            without anything to tell copies by.
        decisions: how many there were by how much must agree, and what that came to.
        lost: how many would be dropped by how much must agree, although their content differs.
        examples: the first of those seen before, by verdict.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.decisions: Counter[tuple[Match, Verdict, Action]] = Counter()
        self.lost: Counter[Match] = Counter()
        self.examples: dict[str, list[Example]] = {"duplicate": [], "collision": []}
        self._names: Counter[tuple[str, str, str]] = Counter()
        self._sealer = Sealer(secrets.token_bytes(16))
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def record(self, message: Message, path: str) -> None:
        """Take one message in.

        Args:
            message: of a file.
            path: named by the user, that the file belongs to; within it copies are looked for.
        """
        form = message.examination.message_id.form
        self.counts.update(messages=1, octets=message.octets)
        self.counts[form] += 1
        sighting, is_same, key = self._sighted(message, path)
        for match, policy in _POLICIES.items():
            made = self._decision(message, policy, form, sighting, is_same=is_same)
            self.decisions[match, made.verdict, made.action] += 1
            if made.action is Action.DROPPED and not is_same:
                self.lost[match] += 1
        verdict = "new"
        if sighting.sight is Sight.SEEN:
            verdict = "duplicate" if is_same else "collision"
            self._remember(message, verdict, key)
        self._blame(message, form, verdict)

    def top(self, kind: str, whats: Sequence[str], limit: int) -> list[str]:
        """Return the names that stand out most.

        Args:
            kind: ``domain`` or ``sender``.
            whats: that are added up: forms, verdicts, ``messages``.
            limit: of names.
        """
        self._flush()
        marks = ", ".join("?" * len(whats))
        rows = self._db.execute(_TOP.format(marks), (kind, *whats, limit))
        return [name for (name,) in rows]

    def of(self, kind: str, name: str) -> dict[str, int]:
        """Return all numbers of a name."""
        self._flush()
        rows = self._db.execute(
            "SELECT what, number FROM tally WHERE kind = ? AND name = ?", (kind, name)
        )
        return dict(rows.fetchall())

    def _sighted(self, message: Message, path: str) -> tuple[Sighting, bool, bytes]:
        """Say whether a message was seen before, and with this content, and under which key."""
        examination, fingerprint = message.examination, message.fingerprint
        identity = identity_of(examination, fingerprint, lists_distinct=True)
        if identity is None or not examination.is_whole:
            self.counts["untracked"] += 1
            return NEW, False, b""
        recipient = message.recipient or path.encode("utf-8", "surrogateescape")
        (unique_id,) = self._sealer.unique_ids(identity, [recipient])
        key = unique_id.message + unique_id.recipient + unique_id.variant
        if self._db.execute(_SAME, (key, fingerprint)).fetchone():
            return _SEEN, True, key
        is_known = self._db.execute(_KNOWN, (key,)).fetchone() is not None
        place = _text(message.place)
        self._db.execute(_NOTE, (key, fingerprint, self.counts["messages"], place))
        return (_SEEN if is_known else NEW), False, key

    @staticmethod
    def _decision(
        message: Message, policy: Policy, form: Form, sighting: Sighting, *, is_same: bool
    ) -> Decision:
        # One whose header section is too long is not looked up: the gateway knows nothing of it.
        known = sighting if message.examination.is_whole else None
        return decide(policy, form, known, is_same_content=is_same)

    def _remember(self, message: Message, verdict: str, key: bytes) -> None:
        examples = self.examples[verdict]
        if len(examples) < _EXAMPLES:
            (first_place,) = self._db.execute(_FIRST, (key,)).fetchone()
            canonical = message.examination.message_id.canonical or b""
            text, place = canonical.decode("latin-1"), _text(message.place)
            examples.append(Example(verdict, text, message.sender, place, first_place))

    def _blame(self, message: Message, form: Form, verdict: str) -> None:
        """Count for the sender and its domain."""
        names = self._names
        names["domain", message.domain, "messages"] += 1
        names["domain", message.domain, form] += 1
        if verdict != "new":
            names["domain", message.domain, verdict] += 1
            names["sender", message.sender, verdict] += 1
        if form is not Form.VALID:
            names["sender", message.sender, form] += 1
        if len(names) > _MAX_NAMES:
            self._flush()

    def _flush(self) -> None:
        """Have the file count on, so that memory does not grow with the number of senders."""
        rows = [(*key, number) for key, number in self._names.items()]
        self._db.executemany(_COUNT, rows)
        self._names.clear()


def _text(path: str) -> str:
    """Return a path as SQLite and JSON can hold it: names of files can hold any octets."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
