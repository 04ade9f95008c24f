"""Every reply that is ours and not the downstream's, in one place.

Codes by RFC 5321 section 4.2.3 and RFC 3463 section 3; the texts say what a postmaster at the other
end can do and nothing of what goes on inside.
"""

from __future__ import annotations

from types import MappingProxyType

from gateway.core.reply import reply

OK = reply(250, "2.0.0", "Ok")
GOODBYE = reply(221, "2.0.0", "Bye")
SEND_CONTENT = reply(354, "", "End data with <CR><LF>.<CR><LF>")
CANNOT_VERIFY = reply(252, "2.5.0", "Cannot VRFY user, but will take the message and try")
HELP = reply(214, "2.0.0", "This is a relay in front of another server; see RFC 5321 section 4.1")

DUPLICATE = reply(250, "2.0.0", "Ok: duplicate of an already accepted message, not delivered again")
IN_FLIGHT = reply(451, "4.3.0", "Another copy of this message is being delivered, try again later")
UNCHECKED = reply(451, "4.3.0", "Duplicates cannot be checked for now, try again later")
UNREACHABLE = reply(451, "4.4.1", "The next server cannot be reached, try again later")
LOST = reply(451, "4.4.2", "The connection to the next server was lost, try again later")
IDENTITY = reply(421, "4.3.5", "The next server is not set up for this relay, try again later")
NO_ROOM = reply(452, "4.3.1", "Insufficient system storage, try again later")
BUG = reply(451, "4.3.0", "Local error in processing, try again later")

SILENT = reply(421, "4.4.2", "Time-out, closing connection")
STOPPING = reply(421, "4.3.2", "Service is stopping, try again later")
TOO_MANY_SESSIONS = reply(421, "4.7.0", "Too many sessions, try again later")
TOO_MANY_ERRORS = reply(421, "4.7.0", "Too many errors, closing connection")
NOT_PROVEN = reply(421, "4.3.5", "The next server is not proven safe behind this relay")
BAD_PROXY = reply(421, "4.3.5", "No valid PROXY header")
NO_PROXY = reply(421, "4.3.5", "No PROXY header is expected from your address")
NOT_ALLOWED = reply(554, "5.7.1", "Your address may not use this service")
OUT_OF_STEP = reply(554, "5.5.0", "Commands were sent before their turn, closing connection")

SYNTAX = reply(500, "5.5.2", "Syntax error, command not recognized")
LINE_TOO_LONG = reply(500, "5.5.2", "Command line too long")
BAD_OCTETS = reply(500, "5.5.2", "Bare CR, bare LF or NUL in a command")
BAD_PATH = reply(501, "5.1.7", "Syntax error in address")
BAD_ARGUMENT = reply(501, "5.5.4", "Syntax error in parameters")
NESTED_MAIL = reply(503, "5.5.1", "A transaction has begun already")
NO_ARGUMENT = reply(501, "5.5.4", "This command takes no parameter")
NOT_IMPLEMENTED = reply(502, "5.5.1", "Command not implemented")
NEED_HELO = reply(503, "5.5.1", "Send HELO or EHLO first")
NEED_MAIL = reply(503, "5.5.1", "Send MAIL first")
NO_TLS = reply(454, "4.7.0", "TLS is not available")
START_TLS = reply(220, "2.0.0", "Ready to start TLS")
NEED_TLS = reply(530, "5.7.0", "Send STARTTLS first")
NO_VALID_RECIPIENTS = reply(554, "5.5.1", "No valid recipients")
TOO_MANY_RECIPIENTS = reply(452, "4.5.3", "Too many recipients")
TOO_LARGE = reply(552, "5.3.4", "Message too large")

REFUSED_CONTENT = MappingProxyType(
    {
        "bare_cr": reply(550, "5.5.2", "Bare CR in content, lines must end in CRLF"),
        "bare_lf": reply(550, "5.5.2", "Bare LF in content, lines must end in CRLF"),
        "nul": reply(550, "5.5.2", "NUL in content"),
        "size": TOO_LARGE,
        "hops": reply(554, "5.4.6", "Too many hops, this message is in a loop"),
    }
)
"""Reply to each kind of `ContentRefusedError`."""
