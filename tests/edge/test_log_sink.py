"""Log lines never hold anybody up, and whole lines arrive."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.edge import log_sink
from gateway.edge.log_sink import LogSink
from tests.support.process import wait_until

PIPE_BUF = 4096
# Nothing shall be lost because somebody else keeps the machine busy for a moment.
PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_sink, "_CLOSE_S", PATIENCE_S)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        for descriptor in (reader, writer):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def test_lines_arrive_in_order_before_close_returns(tmp_path: Path) -> None:
    lost: list[int] = []
    with (tmp_path / "log").open("wb") as file:
        sink = LogSink(file.fileno(), lost.append)
        for number in range(5_000):
            sink.write(f"line {number}")
        sink.close()
    expected = "".join(f"line {number}\n" for number in range(5_000))
    assert (tmp_path / "log").read_text() == expected
    assert not lost


def test_lines_arrive_soon_without_close() -> None:
    with _pipe() as (reader, writer):
        sink = LogSink(writer, lambda _: None)
        waits_s = []
        for number in range(5):
            sink.write(f"line {number}")
            begun = time.monotonic()
            assert os.read(reader, 100) == b"line %d\n" % number
            waits_s.append(time.monotonic() - begun)
        sink.close()
    assert min(waits_s) < 1.0


def test_what_is_written_to_a_pipe_is_whole_lines() -> None:
    """Several workers write to one pipe: a write beyond PIPE_BUF could be cut by another's."""
    with _pipe() as (reader, writer):
        sink = LogSink(writer, lambda _: None)
        for number in range(300):
            sink.write(f"{number:04} {'x' * 80}")
        sink.close()
        os.close(writer)
        with os.fdopen(os.dup(reader), "rb", buffering=0) as file:
            data = file.read()
        pieces, rest = [], data
        while rest:
            end = rest.rfind(b"\n", 0, PIPE_BUF) + 1
            pieces.append(rest[:end])
            rest = rest[end:]
    assert len(data.splitlines()) == 300
    assert all(piece.endswith(b"\n") for piece in pieces)


def test_writes_of_two_processes_do_not_mix() -> None:
    script = (
        "import sys; from gateway.edge import log_sink\n"
        f"log_sink._CLOSE_S = {PATIENCE_S}\n"
        "sink = log_sink.LogSink(1, lambda n: sys.exit(f'lost {n}'))\n"
        "for i in range(4000): sink.write(sys.argv[1] * 150)\n"
        "sink.close()\n"
    )
    with _pipe() as (reader, writer):
        children = [
            subprocess.Popen([sys.executable, "-c", script, letter], stdout=writer)
            for letter in "ab"
        ]
        os.close(writer)
        with os.fdopen(os.dup(reader), "rb") as file:
            lines = file.read().splitlines()
        assert [child.wait(60) for child in children] == [0, 0]
    assert sorted(set(lines)) == [b"a" * 150, b"b" * 150]
    assert len(lines) == 8000


def test_stuck_pipe_holds_nobody_up_and_loss_is_counted() -> None:
    """P8: memory stays bounded however long nobody reads."""
    lost: list[int] = []
    with _pipe() as (reader, writer):
        sink = LogSink(writer, lost.append, max_lines=1_000)
        for _ in range(20_000):
            sink.write("x" * 200)  # for ever, if it waited for the pipe
        wait_until(lambda: sum(lost) > 10_000, "lines to be thrown away", 30.0)
        os.set_blocking(reader, False)
        got = 0
        while got + sum(lost) < 20_000:
            with contextlib.suppress(BlockingIOError):
                got += os.read(reader, 1 << 16).count(b"\n")
        sink.close()
    assert got >= 1_000


def test_close_gives_up_on_who_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_sink, "_CLOSE_S", 0.5)
    lost: list[int] = []
    with _pipe() as (reader, writer):
        sink = LogSink(writer, lost.append)
        for _ in range(2_000):
            sink.write("x" * 200)
        begun = time.monotonic()
        sink.close()
        assert 0.5 <= time.monotonic() - begun < PATIENCE_S
        # What is still to be written must not go to whoever is given this descriptor next.
        os.close(reader)
        sink._thread.join(PATIENCE_S)
        assert lost


def test_reader_that_is_gone_is_no_failure() -> None:
    lost: list[int] = []
    with _pipe() as (reader, writer):
        os.close(reader)
        sink = LogSink(writer, lost.append)
        sink.write("nobody reads")
        wait_until(lambda: lost, "the loss to be told", 30.0)
        sink.close()
    assert lost == [1]


def test_descriptor_made_non_blocking_by_another_is_waited_for() -> None:
    with _pipe() as (reader, writer):
        os.set_blocking(writer, False)
        sink = LogSink(writer, lambda n: pytest.fail(f"lost {n}"))
        for _ in range(1_000):
            sink.write("x" * 200)
        read = 0
        while read < 201_000:
            read += len(os.read(reader, 1 << 16))
        sink.close()
    assert read == 201_000


def test_lines_of_many_threads_all_arrive(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        sink = LogSink(file.fileno(), lambda n: pytest.fail(f"lost {n}"))

        def write() -> None:
            for _ in range(500):
                sink.write("x")

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sink.close()
    assert (tmp_path / "log").read_text() == "x\n" * 2_000


def test_what_is_said_while_the_thread_is_done_with_the_rest_is_written(tmp_path: Path) -> None:
    """It has found nothing left, and does not know yet that it is the end."""
    has_looked, has_been_told = threading.Event(), threading.Event()

    class Paused(LogSink):
        def _pieces(self) -> Iterator[tuple[bytes, int]]:
            yield from super()._pieces()
            has_looked.set()
            has_been_told.wait(PATIENCE_S)

    with (tmp_path / "log").open("wb") as file:
        sink = Paused(file.fileno(), lambda n: pytest.fail(f"lost {n}"))
        sink.write("first")
        assert has_looked.wait(PATIENCE_S)
        sink.write("last words")
        closing = threading.Thread(target=sink.close)
        closing.start()
        wait_until(sink._closing.is_set, "it is told", PATIENCE_S)
        has_been_told.set()
        closing.join()
    assert (tmp_path / "log").read_text() == "first\nlast words\n"


def test_normal_exit_writes_what_is_left(tmp_path: Path) -> None:
    script = (
        "from gateway.edge.log_sink import LogSink\n"
        "LogSink(1, lambda n: None).write('last words')\n"
    )
    with (tmp_path / "log").open("wb") as file:
        subprocess.run([sys.executable, "-c", script], stdout=file, check=True, timeout=60)
    assert (tmp_path / "log").read_text() == "last words\n"


def test_descriptor_that_is_none_loses_lines_only() -> None:
    lost: list[int] = []
    sink = LogSink(10_000, lost.append)
    sink.write("x")
    sink.close()
    assert lost == [1]
