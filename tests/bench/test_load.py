"""What the generators send arrives, all of it, at the real sink, each copy counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.load import Load, send
from bench.sink import Sink, start_sink


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    running = start_sink(tmp_path)
    yield running
    running.child.stop()


@pytest.mark.parametrize(
    "load",
    [
        Load(sessions=4),  # smtp-source, sessions kept open
        Load(sessions=4, keeps_open=False),  # a connection per message
        Load(sessions=4, own=True),  # our generator
        Load(sessions=4, recipients=3, own=True),  # more than one recipient
        Load(sessions=2, size_octets=300_000, own=True),  # more than the buffers of a socket
        Load(sessions=4, copies=2),  # each message twice
    ],
    ids=str,
)
def test_every_message_arrives(sink: Sink, load: Load) -> None:
    sent = send(sink.port, load, 40)
    assert (sent.complaint, sent.messages) == ("", 40)
    assert sink.count_of(40) == 40
    assert len(sent.latencies_us) in (0, 40)


def test_a_server_that_is_not_there_is_a_complaint(sink: Sink) -> None:
    sink.child.stop()
    assert send(sink.port, Load(sessions=1), 1).complaint
    assert send(sink.port, Load(sessions=1, own=True), 1).complaint
