"""Load: Postfix's smtp-source where it can make it, our own generator where it cannot.

smtp-source speaks lock-step SMTP with HELO and gives each message a Message-ID of its own
(process.session.count@host); a host name that differs in each run keeps them apart between runs. It
cannot send a message twice, speak TLS or measure the time of one message: `generator` can.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from bench.process import take_precedence

SENDER = "sender@example.org"
RECIPIENT = "recipient@example.com"
_run_numbers = itertools.count(1)
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent.

    Attributes:
        sessions: at the same time.
        size_octets: of the content, without its header section.
        recipients: of each message.
        keeps_open: whether a session sends more than one message.
        copies: how often each message is sent, one after the other in its session.
        tls: whether sessions start TLS.
        own: use our generator even where smtp-source would do; it keeps its sessions open.
        least: messages of each session, however long it takes; opening it is to weigh little.
    """

    sessions: int = 20
    size_octets: int = 4096
    recipients: int = 1
    keeps_open: bool = True
    copies: int = 1
    tls: bool = False
    own: bool = False
    least: int = 1


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of it.

    Attributes:
        messages: accepted.
        seconds: from the first to the last.
        cpu_s: user and system time of the generator.
        latencies_us: time of each message from MAIL to the final reply; empty from smtp-source.
        complaint: what the generator said; empty if all was accepted.
    """

    messages: int
    seconds: float
    cpu_s: float
    latencies_us: tuple[float, ...] = ()
    complaint: str = ""


def send(port: int, load: Load, messages: int, *, timeout_s: float = 300.0) -> Sent:
    """Send messages to a loopback port and wait for all replies."""
    load = replace(load, sessions=min(load.sessions, max(1, messages // load.copies)))
    if load.own or load.tls or load.copies > 1:
        return _generated(port, load, messages, timeout_s)
    host = f"r{os.getpid()}-{next(_run_numbers)}.example.net"
    args = ["smtp-source", "-M", host, "-f", SENDER, "-t", RECIPIENT]
    args += ["-s", str(load.sessions), "-m", str(messages), "-l", str(load.size_octets)]
    args += ["-r", str(load.recipients)] if load.recipients > 1 else []
    args += ["-d"] if load.keeps_open else []
    seconds, cpu_s, status, output = _run([*args, f"127.0.0.1:{port}"], timeout_s)
    return Sent(messages, seconds, cpu_s, complaint="" if status == 0 else output)


def _generated(port: int, load: Load, messages: int, timeout_s: float) -> Sent:
    args = [sys.executable, "-m", "bench.generator", f"--port={port}", f"--messages={messages}"]
    args += [f"--sessions={load.sessions}", f"--size={load.size_octets}"]
    args += [f"--recipients={load.recipients}", f"--copies={load.copies}"]
    args += ["--tls"] if load.tls else []
    _, cpu_s, status, output = _run(args, timeout_s)
    if status != 0:
        return Sent(0, 1.0, cpu_s, complaint=output)
    answer = json.loads(output)
    latencies = tuple(answer["latencies_us"])
    return Sent(answer["accepted"], answer["seconds"], cpu_s, latencies, answer["complaint"])


def _run(args: list[str], timeout_s: float) -> tuple[float, float, int, str]:
    begin = time.perf_counter()
    with subprocess.Popen(
        args,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=_ROOT,
        start_new_session=True,
    ) as process:
        take_precedence(process.pid)
        before = os.times()
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            output += b" (not done in time)"
        seconds = time.perf_counter() - begin
    after = os.times()
    cpu_s = (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )
    return seconds, cpu_s, process.returncode, output.decode("utf-8", "replace")
