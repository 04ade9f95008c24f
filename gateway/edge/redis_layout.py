"""What stands in Redis: keys, values, and the two scripts that compare before they write.

    mo:{<message>}<recipient>[<variant>]   a claim or a record, 32 or 43 octets
    mo:w:<worker>                          there while the worker lives
    mo:j, mo:j:<number>                    see `redis_journal`

    claim    "C" worker(8) token(8)
    record   "S" first seen(4) copies(4) fingerprint(12) note(0..22)
             "R" the same, and a retry is due
             "P" the same, with the time of the latest provisional sighting(4) before the note

A value of at most 44 octets shares one allocation of 64 octets with its header in Redis; one more
would cost 16 more for every recipient. Digests in keys are base64url without padding: raw octets
could contain braces, and the braces are the cluster's hash tag. No IO here, and nothing fails: a
value that cannot be read is no sighting.
"""

from __future__ import annotations

import struct
from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence

from gateway.core.policy import IN_FLIGHT, Sight, Sighting
from gateway.core.unique_id import MESSAGE_OCTETS, RECIPIENT_OCTETS, UniqueId
from gateway.edge.redis_wire import Command
from gateway.ports import Record

WORKER_OCTETS = 8
VALUE_OCTETS = 44

_CLAIM = b"C"
_CLAIM_OCTETS = 17
_RECORD = struct.Struct(f">cII{MESSAGE_OCTETS}s")
_PROVISIONAL = struct.Struct(f">cII{MESSAGE_OCTETS}sI")
_MAX_COUNT = 2**32 - 1
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_PLAIN = bytes.maketrans(b"-_", b"+/")
_PREFIX_OCTETS = len("mo:{0123456789abcdef}")
_MESSAGE_CHARS = 16
_DIGEST_CHARS = 11

# EVAL with the text, not EVALSHA: the server may forget scripts at any time, and both are rare.
_SWAP = b"""\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1"""
_RELEASE = b"""\
local count = 0
for _, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  if value and value:sub(1, 1) == 'C' and value:sub(10) == ARGV[1] then
    count = count + redis.call('DEL', key)
  end
end
return count"""


def key_of(unique_id: UniqueId) -> bytes:
    """Return the key of a tracked recipient."""
    # Twelve octets are sixteen characters without padding: both digests are encoded in one go.
    text = _base64(unique_id.message + unique_id.recipient)
    if unique_id.variant:
        text += _base64(unique_id.variant)
    text = text.translate(_URL_SAFE, b"=")
    return b"mo:{%b}%b" % (text[:_MESSAGE_CHARS], text[_MESSAGE_CHARS:])


def unique_id_of(key: bytes) -> UniqueId | None:
    """Return what a key stands for; None if it is none of ours."""
    digests = key[_PREFIX_OCTETS:]
    if len(digests) not in (_DIGEST_CHARS, 2 * _DIGEST_CHARS):
        return None
    try:
        return UniqueId(
            _digest(key[4 : _PREFIX_OCTETS - 1], MESSAGE_OCTETS),
            _digest(digests[:_DIGEST_CHARS], RECIPIENT_OCTETS),
            _digest(digests[_DIGEST_CHARS:], RECIPIENT_OCTETS),
        )
    except ValueError:
        return None


def pattern_of(message: bytes, recipient: bytes | None = None) -> bytes:
    """Return the pattern that all keys of a message match, or those of one recipient of it."""
    return key_of(UniqueId(message, recipient or b"")) + b"*"


def worker_key(worker: bytes) -> bytes:
    """Return the key that is there while a worker lives."""
    return b"mo:w:" + worker.hex().encode("ascii")


def claim_value(worker: bytes, token: bytes) -> bytes:
    """Return the value of a claim."""
    return _CLAIM + worker + token


def worker_of(value: bytes) -> bytes | None:
    """Return the worker that made a claim; None if this is no claim."""
    if value[:1] == _CLAIM and len(value) == _CLAIM_OCTETS:
        return value[1 : 1 + WORKER_OCTETS]
    return None


def sighting_of(value: bytes) -> Sighting | None:
    """Return what a value stands for; None if it cannot be read."""
    kind = value[:1]
    if kind in (b"S", b"R") and len(value) >= _RECORD.size:
        _, first_seen_s, copies, fingerprint = _RECORD.unpack_from(value)
        note = value[_RECORD.size :]
        is_retry_due = kind == b"R"
        return Sighting(
            Sight.SEEN, first_seen_s, fingerprint, copies, note, is_retry_due=is_retry_due
        )
    if kind == b"P" and len(value) >= _PROVISIONAL.size:
        _, first_seen_s, copies, fingerprint, at_s = _PROVISIONAL.unpack_from(value)
        note = value[_PROVISIONAL.size :]
        return Sighting(Sight.SEEN, first_seen_s, fingerprint, copies, note, at_s)
    return IN_FLIGHT if worker_of(value) is not None else None


def record_value(record: Record) -> bytes:
    """Return the value of a record; the note is cut off where it has no room."""
    first_seen_s = min(record.first_seen_s, _MAX_COUNT)
    copies = min(record.copies, _MAX_COUNT)
    if record.provisional_at_s:
        at_s = min(record.provisional_at_s, _MAX_COUNT)
        head = _PROVISIONAL.pack(b"P", first_seen_s, copies, record.fingerprint, at_s)
    else:
        kind = b"R" if record.is_retry_due else b"S"
        head = _RECORD.pack(kind, first_seen_s, copies, record.fingerprint)
    return (head + record.note)[:VALUE_OCTETS]


def set_claim(key: bytes, value: bytes, lease_ms: int) -> Command:
    """Write a claim if there is nothing; answers what was there, else nil."""
    return (b"SET", key, value, b"NX", b"GET", b"PX", lease_ms)


def swap_claim(key: bytes, old: bytes, value: bytes, lease_ms: int) -> Command:
    """Write a claim in place of the value ``old``; answers 1 if that was still there."""
    return (b"EVAL", _SWAP, 1, key, old, value, lease_ms)


def delete_claims(keys: Sequence[bytes], token: bytes) -> Command:
    """Delete what is claimed under a token, of keys that share their message; answers how many."""
    return (b"EVAL", _RELEASE, len(keys), *keys, token)


def set_record(key: bytes, value: bytes, left_ms: int) -> Command:
    """Write a record, whatever was there."""
    return (b"SET", key, value, b"PX", left_ms)


def set_beat(worker: bytes, ttl_ms: int) -> Command:
    """Say that a worker lives."""
    return (b"SET", worker_key(worker), b"1", b"PX", ttl_ms)


def _base64(octets: bytes) -> bytes:
    return b2a_base64(octets, newline=False)


def _digest(text: bytes, octets: int) -> bytes:
    raw = a2b_base64(text.translate(_PLAIN) + b"=" * (-len(text) % 4))
    if text and len(raw) != octets:
        raise ValueError(f"{len(raw)} octets")
    return raw
