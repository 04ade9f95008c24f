"""The two fields we may prepend: ``X-Mailonce`` and a Message-ID where there is none.

Each field is one line of ASCII with its line end, shorter than 998 octets. Nothing a client sent
gets into them but the digits of a Date, and, where it is repaired, a Message-ID that is valid.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from gateway.core.message_id import Form, is_valid
from gateway.core.policy import Action, Decision, Examination, Sighting, Verdict

ALLOWANCE_OCTETS = 2048
"""How much longer a message may get: what SIZE is reduced by (RFC 1870 section 4)."""

# RFC 5322 section 2.1.1: 998 octets a line, without its end.
_MAX_ID_OCTETS = 998 - len("Message-ID: <>")
_MONTHS = (
    b"jan",
    b"feb",
    b"mar",
    b"apr",
    b"may",
    b"jun",
    b"jul",
    b"aug",
    b"sep",
    b"oct",
    b"nov",
    b"dec",
)
# RFC 5322 section 3.3: date-time, with the obsolete two-digit year and missing seconds.
_DATE = re.compile(
    rb"(\d{1,2})[ \t-]+([A-Za-z]{3})[a-z]*[ \t-]+(\d{2,4})[ \t]+(\d{1,2}):(\d{2})(?::(\d{2}))?"
)


def mark(decision: Decision, sighting: Sighting | None, *, hostname: str) -> bytes:
    """Return the X-Mailonce field of a copy, or ``b""`` if it goes out as it came.

    Args:
        decision: for the recipients of this copy.
        sighting: the earlier copy; None if the list could not be asked.
        hostname: our name.
    """
    if decision.action is not Action.TAGGED:
        return b""
    if sighting is None or decision.verdict is Verdict.UNCHECKED:
        return f"X-Mailonce: unchecked; by={hostname}\r\n".encode("ascii")
    first_seen = datetime.fromtimestamp(sighting.first_seen_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    copies = sighting.copies + 1 if decision.verdict is Verdict.DUPLICATE else 1
    told = f"{decision.verdict}; first-seen={first_seen}; copies={copies}; by={hostname}"
    return f"X-Mailonce: {told}\r\n".encode("ascii")


def modest(sightings: Sequence[Sighting | None]) -> Sighting | None:
    """Return one sighting that says no more than what is true for several recipients.

    Args:
        sightings: at least one, all of the same verdict.

    Returns:
        The latest first copy and the fewest copies; None if the list could not be asked.
    """
    known = [sighting for sighting in sightings if sighting is not None]
    if len(known) < len(sightings):
        return None
    latest = max(known, key=lambda sighting: sighting.first_seen_s)
    return replace(latest, copies=min(sighting.copies for sighting in known))


def generated_id(examination: Examination, digest: bytes, domain: str) -> bytes:
    """Return a Message-ID, without brackets, for a message that has none.

    It begins with the digits of the Date as the sender wrote them, in the sender's zone: two copies
    share them, and zones are not always ones that can be converted ("EST", "+9999").

    Args:
        examination: of its header section.
        digest: its fingerprint if it has a Date, so that each copy gets the same id on every node;
            random octets otherwise.
        domain: right of the @.
    """
    text = base64.b32encode(digest).rstrip(b"=").lower()
    return b"%b.%b@%b" % (_stamp(examination.date or b""), text, domain.encode("ascii"))


def message_id_field(identity: bytes) -> bytes:
    """Return a Message-ID field."""
    return b"Message-ID: <%b>\r\n" % identity


def lacks_id(examination: Examination) -> bool:
    """Say whether a Message-ID may be added: none is there, and no signature says there is none.

    RFC 6376 section 5.4: a name in h= without such a field asserts its absence. Where only a part
    of the section was examined, a Message-ID or a signature may stand in the rest.
    """
    is_missing = not examination.message_id_fields and examination.message_id.canonical is None
    return examination.is_whole and is_missing and not examination.is_id_signed


def repaired_id(examination: Examination, generated: bytes) -> bytes | None:
    """Return the id that should replace a malformed or empty one, or None to leave the field alone.

    Args:
        examination: of the header section.
        generated: what to put in place of an empty one.
    """
    is_alone = examination.is_whole and len(examination.message_id_fields) == 1
    if not is_alone or examination.is_id_signed:
        return None
    match examination.message_id.form:
        case Form.MISSING:
            return generated or None
        case Form.MALFORMED:
            canonical = examination.message_id.canonical or b""
            fits = canonical.isascii() and len(canonical) <= _MAX_ID_OCTETS
            return canonical if fits and is_valid(canonical) else None
        case _:
            return None


def _stamp(date: bytes) -> bytes:
    """Return the digits of a Date as YYYYMMDDhhmmss, zeros if it cannot be read."""
    match = _DATE.search(date)
    if match is None or match[2].lower() not in _MONTHS:
        return b"0" * 14
    year = int(match[3])
    if len(match[3]) < 4:  # RFC 5322 section 4.3: obs-year
        year += 2000 if year < 50 and len(match[3]) == 2 else 1900
    month = _MONTHS.index(match[2].lower()) + 1
    second = int(match[6] or 0)
    return b"%04d%02d%02d%02d%02d%02d" % (
        year,
        month,
        int(match[1]),
        int(match[4]),
        int(match[5]),
        second,
    )
