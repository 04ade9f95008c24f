"""What stands in Redis: keys, values, and the two scripts that compare before they write.

    mo:{<message>}<recipient>   "C" worker(8) token(8)                             a claim
                                "S" version(1) first seen(4) copies(4) fingerprint  a record
    mo:w:<worker>               there while the worker lives

Digests in keys are base64url without padding: raw octets could contain braces, and the braces are
the cluster's hash tag. No IO here, and nothing fails: a value that cannot be read is no sighting.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.core.policy import Sight, Sighting
from gateway.core.unique_id import UniqueId
from gateway.edge.redis_link import Command
from gateway.ports import Record

WORKER_OCTETS = 8
_VERSION = 1
_CLAIM = b"C"
_RECORD = struct.Struct(">cBII")
_MAX_COUNT = 2**32 - 1

# EVAL with the text, not EVALSHA: the server may forget scripts at any time, and both are rare.
_SWAP = """\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1"""
_RELEASE = """\
local count = 0
for _, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  if value and value:sub(1, 1) == 'C' and value:sub(10) == ARGV[1] then
    count = count + redis.call('DEL', key)
  end
end
return count"""


@dataclass(frozen=True, slots=True)
class Claim:
    """Value of a key that somebody claimed."""

    worker: bytes
    token: bytes

    def encoded(self) -> bytes:
        """Return the octets that Redis keeps."""
        return _CLAIM + self.worker + self.token


def key_of(unique_id: UniqueId) -> bytes:
    """Return the key of a tracked recipient."""
    return b"mo:{%b}%b" % (
        urlsafe_b64encode(unique_id.message).rstrip(b"="),
        urlsafe_b64encode(unique_id.recipient).rstrip(b"="),
    )


def worker_key(worker: bytes) -> bytes:
    """Return the key that is there while a worker lives."""
    return b"mo:w:" + worker.hex().encode("ascii")


def decoded(value: bytes) -> Claim | Sighting | None:
    """Return the claim or the sighting that a value stands for; None if it is neither."""
    if value[:1] == _CLAIM and len(value) > 1 + WORKER_OCTETS:
        return Claim(value[1 : 1 + WORKER_OCTETS], value[1 + WORKER_OCTETS :])
    if value[:2] == b"S%c" % _VERSION and len(value) >= _RECORD.size:
        _, _, first_seen_s, copies = _RECORD.unpack_from(value)
        return Sighting(Sight.SEEN, first_seen_s, value[_RECORD.size :], copies)
    return None


def set_claim(unique_id: UniqueId, claim: Claim, lease_ms: int) -> Command:
    """Write a claim if there is nothing; answers what was there, else nil."""
    return ("SET", key_of(unique_id), claim.encoded(), "NX", "GET", "PX", lease_ms)


def swap_claim(unique_id: UniqueId, old: bytes, claim: Claim, lease_ms: int) -> Command:
    """Write a claim in place of the value ``old``; answers 1 if that was still there."""
    return ("EVAL", _SWAP, 1, key_of(unique_id), old, claim.encoded(), lease_ms)


def delete_claims(unique_ids: Sequence[UniqueId], token: bytes) -> Command:
    """Delete what is claimed under a token, of ids that share their message; answers how many."""
    return ("EVAL", _RELEASE, len(unique_ids), *map(key_of, unique_ids), token)


def set_record(record: Record, remaining_ms: int) -> Command:
    """Write a record, whatever was there."""
    head = _RECORD.pack(
        b"S", _VERSION, min(record.first_seen_s, _MAX_COUNT), min(record.copies, _MAX_COUNT)
    )
    return ("SET", key_of(record.unique_id), head + record.fingerprint, "PX", remaining_ms)


def set_beat(worker: bytes, ttl_ms: int) -> Command:
    """Say that a worker lives."""
    return ("SET", worker_key(worker), b"1", "PX", ttl_ms)


def get_beat(worker: bytes) -> Command:
    """Ask whether a worker lives; answers nil if not."""
    return ("GET", worker_key(worker))


def delete_beat(worker: bytes) -> Command:
    """Say that a worker has ended."""
    return ("DEL", worker_key(worker))
