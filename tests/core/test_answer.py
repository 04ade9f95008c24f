"""Our own replies: complete, well-formed, and those that the contract fixes."""

import re

import pytest

from gateway.core import answer
from gateway.core.reply import Reply, take_reply

_REPLIES = {name: value for name, value in vars(answer).items() if isinstance(value, Reply)} | {
    f"REFUSED_CONTENT {kind}": value for kind, value in answer.REFUSED_CONTENT.items()
}


@pytest.mark.parametrize("name", _REPLIES)
def test_reply_is_well_formed(name: str) -> None:
    said = _REPLIES[name]
    assert take_reply(bytearray(said.wire), 512) == said
    assert len(said.wire) <= 512, "RFC 5321 section 4.5.3.1.5"
    # RFC 2034 section 4: an enhanced code of the same class, but with 354.
    if said.code != 354:
        assert re.match(rb"%d\.\d\.\d " % said.status_class, said.lines[0])


@pytest.mark.parametrize(
    ("said", "beginning"),
    [
        (
            answer.DUPLICATE,
            b"250 2.0.0 Ok: duplicate of an already accepted message, not delivered again\r\n",
        ),
        (answer.IN_FLIGHT, b"451 4.3.0 "),
        (answer.UNREACHABLE, b"451 4.4.1 "),
        (answer.IDENTITY, b"421 4.3.5 "),
        (answer.REFUSED_CONTENT["bare_cr"], b"550 5.5.2 "),
        (answer.REFUSED_CONTENT["bare_lf"], b"550 5.5.2 "),
        (answer.REFUSED_CONTENT["nul"], b"550 5.5.2 "),
        (answer.REFUSED_CONTENT["size"], b"552 5.3.4 "),
        (answer.REFUSED_CONTENT["hops"], b"554 5.4.6 "),
        (answer.BAD_OCTETS, b"500 5.5.2 "),
        (answer.TOO_LARGE, b"552 5.3.4 "),
        (answer.TOO_MANY_RECIPIENTS, b"452 4.5.3 "),
        (answer.TOO_MANY_SESSIONS, b"421 4.7.0 "),
        (answer.TOO_MANY_ERRORS, b"421 4.7.0 "),
        (answer.SILENT, b"421 4.4.2 "),
        (answer.STOPPING, b"421 4.3.2 "),
        (answer.BUG, b"451 4.3.0 "),
    ],
)
def test_promised_reply(said: Reply, beginning: bytes) -> None:
    assert said.wire.startswith(beginning)
