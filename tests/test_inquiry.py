"""A list in memory is the worker's own; the console knows it all the same (P7)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from gateway.control import Asked, Told, receive
from gateway.errors import TrackingListError
from gateway.inquiry import Inquiry
from tests.support.client import deliver
from tests.support.gateway import Gateway, running_gateway
from tests.support.letter import fresh_id, letter
from tests.support.process import wait_until


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    settings = {"downstream.servers": [f"maildir://{tmp_path}/mail"], "store.url": "memory://"}
    with running_gateway(settings) as running:
        yield running


def story(gateway: Gateway, message_id: str) -> tuple[int, dict[str, list[object]]]:
    status, body = gateway.http(f"/api/messages?message_id={quote(message_id)}")
    return status, json.loads(body)


def test_p7_api_and_console_know_what_is_in_the_workers_memory(gateway: Gateway) -> None:
    message_id = fresh_id()
    assert story(gateway, message_id)[0] == 404
    for _ in range(2):
        assert deliver(gateway.port, "a@sender.test", ["b@here.test"], letter(message_id)).final
    status, found = story(gateway, message_id)
    assert (status, len(found["copies"]), len(found["tracked"])) == (200, 1, 1)
    decisions = json.loads(gateway.http("/api/decisions")[1])["decisions"]
    assert [entry["message_id"] for entry in decisions] == [message_id]
    assert message_id in gateway.http("/")[1]


def test_another_worker_is_asked_when_the_first_has_died(gateway: Gateway) -> None:
    message_id = fresh_id()
    assert deliver(gateway.port, "a@sender.test", ["b@here.test"], letter(message_id)).final
    assert story(gateway, message_id)[0] == 200
    (first,) = gateway.worker_pids
    os.kill(first, signal.SIGKILL)
    # Its memory is gone with it; meanwhile nobody can be asked.
    wait_until(lambda: story(gateway, message_id)[0] == 404, "the next one answers", 45.0)
    assert gateway.worker_pids != [first]


async def test_who_waits_for_a_worker_that_dies_is_told() -> None:
    inquiry = Inquiry()
    with pytest.raises(TrackingListError, match="no worker"):
        await inquiry.latest(1)
    questions: asyncio.Queue[Asked] = asyncio.Queue()
    done = asyncio.Event()

    async def worker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while isinstance(message := await receive(reader), Asked):
            await questions.put(message)
        writer.close()
        done.set()

    server = await asyncio.start_server(worker, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    inquiry.attach(writer)
    first, second = (asyncio.create_task(inquiry.forget(b"m", None)) for _ in range(2))
    asked = [await questions.get(), await questions.get()]
    assert (asked[0].method, asked[0].arguments) == ("forget", (b"m", None))
    inquiry.take(Told(asked[1].number, 2))
    assert await second == 2
    inquiry.take(Told(99, "nobody asked"))
    inquiry.detach(writer)
    with pytest.raises(TrackingListError, match="is gone"):
        await first
    with pytest.raises(TrackingListError, match="no worker"):
        await inquiry.known(b"m")
    writer.close()
    await done.wait()
    server.close()
