"""Paths and envelopes (RFC 5321 sections 2.3.1, 4.1.1.2, 4.1.1.3 and 4.1.2).

The octets of a MAIL or RCPT command go downstream as they came; this module reads a copy of them.
It accepts what mail servers accept rather than what the grammar allows, because refusing is the
downstream's right.
"""

from __future__ import annotations

import re

from gateway.core.value import value

# "FROM:" / "TO:", blanks seen in practice, then a bracketed path with quoted parts, or a bare one.
# A backslash outside quotes is no grammar, but servers honour it: ``<a\>b@c>`` is one path.
_ARGUMENT = re.compile(
    rb"(?i:FROM|TO):[ \t]*"
    rb"(?:<((?:\"(?:[^\"\\]|\\.)*\"|\\.|[^\"\\>])*)>|([^ \t<>]+))",
    re.DOTALL,
)
# RFC 5321 section 4.1.2: each of Mail-parameters begins with a letter or digit, behind a blank.
_PARAMETERS = re.compile(rb"(?:[ \t]++[A-Za-z0-9][^ \t]*+)*+[ \t]*+")
_SOURCE_ROUTE = re.compile(rb"@[^:]*:")
_SIZE = re.compile(rb"(?i)(?:^|[ \t])SIZE=(\d{1,20})(?=[ \t]|$)")


@value
class PathArgument:
    """What follows MAIL or RCPT.

    Attributes:
        path: address octets without brackets and source route; ``b""`` is the null reverse-path.
        parameters: ESMTP parameters, as given.
    """

    path: bytes
    parameters: bytes

    @property
    def size_octets(self) -> int | None:
        """Declared size (RFC 1870 section 6), or None."""
        match = _SIZE.search(self.parameters)
        return int(match[1]) if match else None


@value
class Envelope:
    """Sender and recipients of one transaction.

    Attributes:
        reverse_path: ``b""`` for the null reverse-path.
        forward_paths: accepted recipients, each once, in the order given.
        client_address: IP address of the client as text, ``""`` if it has none (unix socket).
    """

    reverse_path: bytes
    forward_paths: tuple[bytes, ...]
    client_address: str


def parse_path(argument: bytes) -> PathArgument | None:
    """Read the argument of MAIL or RCPT.

    Args:
        argument: octets after the verb, such as ``b"FROM:<a@example.org> SIZE=3"``.

    Returns:
        The path and parameters, or None if there is no path in it. Where something else than
        parameters is left over, all of it is the path: servers take an address out of it that need
        not be the first one. Postfix delivers ``TO:a@x<b@x>`` to b; taken for a, it would be the
        copy that costs a the real one.
    """
    match = _ARGUMENT.match(argument)
    if match is None:
        return None
    rest = argument[match.end() :]
    if not _PARAMETERS.fullmatch(rest):
        return PathArgument(argument.partition(b":")[2].strip(b" \t"), b"")
    path = match[1] if match[1] is not None else match[2]
    # RFC 5321 section 4.1.1.3: servers ignore source routes.
    route = _SOURCE_ROUTE.match(path)
    return PathArgument(path[route.end() :] if route else path, rest.lstrip(b" \t"))


def normalized(path: bytes) -> bytes:
    """Return a path for comparison: domain in ASCII lower case, local part as given.

    RFC 5321 section 2.4: local parts are case-sensitive, domains are not.
    """
    local_part, at, domain = path.rpartition(b"@")
    # An @ inside quotes belongs to the local part: <"a@B"> has no domain.
    has_domain = at and b'"' not in domain
    return local_part + at + domain.lower() if has_domain else path
