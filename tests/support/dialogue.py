"""Plays a dialogue: a client and a next hop of ours, the real gateway between them.

`script` reads the files; this takes the steps one after the other. What the next hop answers is
known before the first step; what it has received is compared when its turn comes.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from typing import Any

from tests.support.certificate import make_certificate
from tests.support.client import Client, ClosedError
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.process import temporary_folder, wait_until
from tests.support.recording import Answer, Then
from tests.support.script import Script, Step, matches, octets
from tests.support.sink import EXTENSIONS, Sink

_LIMIT_S = 30.0
# How the gateway introduces itself and takes its leave: shown only where a dialogue is about that.
_MANNERS = frozenset(("EHLO", "LHLO", "HELO", "XCLIENT", "XFORWARD", "STARTTLS", "QUIT"))
# A session of nothing else is only a look whether the next hop is there.
_LOOK = frozenset(("EHLO", "LHLO", "HELO", "STARTTLS", "QUIT"))
_THEN = {"close": Then.CLOSE, "reset": Then.RESET, "silent": Then.SILENCE}


class DialogueError(AssertionError):
    """Something went otherwise than written."""


class Stage:
    """A gateway and a next hop that several dialogues are played on.

    Attributes:
        gateway: the real one.
        sink: the next hop.
    """

    def __init__(self, gateway: Gateway, sink: Sink) -> None:
        self.gateway = gateway
        self.sink = sink

    def play(self, script: Script) -> None:
        """Play a dialogue to its end.

        Raises:
            DialogueError: at the first step that goes otherwise.
        """
        self.sink.forget()
        with _Play(self, script) as play:
            play.run()


@contextmanager
def stage_for(script: Script) -> Iterator[Stage]:
    """Set up what a dialogue, and all others of its kind, are played on."""
    hop = script.hop
    with ExitStack() as stack:
        sink = stack.enter_context(
            Sink(
                extensions=hop.get("extensions", EXTENSIONS),
                is_lmtp=hop.get("lmtp", False),
                expects_proxy=hop.get("proxy", False),
            )
        )
        settings: dict[str, Any] = {
            "store.url": "memory://",
            **settings_for(sink.port, "lmtp" if hop.get("lmtp") else "smtp"),
            **script.settings,
        }
        if settings.get("tls.certificate") == "made":
            pair = make_certificate(stack.enter_context(temporary_folder("tls")), "gateway.test")
            settings |= {"tls.certificate": str(pair.certificate), "tls.key": str(pair.key)}
        yield Stage(stack.enter_context(running_gateway(settings)), sink)


class _Play:
    """One dialogue being played."""

    def __init__(self, stage: Stage, script: Script) -> None:
        self._stage = stage
        self._script = script
        self._clients: dict[int, Client] = {}
        self._gate = threading.Event()
        self._seen = 0
        told = {s.text.split(" ", 1)[0].upper() for s in script.steps if s.who + s.sign == "N:"}
        self._hidden = _MANNERS - told
        self._says_all = any(step.who + step.sign == "N:" for step in script.steps)
        self._before: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def __enter__(self) -> _Play:
        return self

    def __exit__(self, *_: object) -> None:
        self._gate.set()
        for client in self._clients.values():
            client.close()
        self._stage.sink.listen()

    def run(self) -> None:
        """Take all steps, and see that nothing was left unsaid."""
        if any(step.who == "M" for step in self._script.steps):
            self._before = self._stage.gateway.metrics()
        self._instruct()
        steps = list(self._script.steps)
        for _, group in groupby(steps, key=lambda step: (step.who, step.number, step.sign in ":=")):
            self._take(list(group))
        for client in self._clients.values():
            self._expect(client.is_quiet(), steps[-1], "more came from us", client)
        if self._says_all and (rest := self._received()[self._seen :]):
            raise self._error(steps[-1], f"the next hop received more: {rest}")

    def _take(self, steps: Sequence[Step]) -> None:
        """Take steps of the same kind; what a client says without a break is one write."""
        first = steps[0]
        if first.who == "C" and first.sign in ":=":
            end = {":": b"\r\n", "=": b""}
            self._client(first).send(b"".join(octets(s.text) + end[s.sign] for s in steps))
            return
        for step in steps:
            if step.who == "C":
                self._client_does(step)
            elif step.who == "S":
                self._we_say(step)
            elif step.who == "N":
                self._next_hop(step)
            else:
                self._metric(step)

    def _client(self, step: Step) -> Client:
        if step.number not in self._clients:
            self._clients[step.number] = Client(self._stage.gateway.port, limit_s=_LIMIT_S)
        return self._clients[step.number]

    def _client_does(self, step: Step) -> None:
        client = self._client(step)
        if step.text == "half-close":
            client.half_close()
        elif step.text == "starttls":
            client.shake_hands()
        elif step.text == "reset":
            self._clients.pop(step.number).reset()
        else:
            self._clients.pop(step.number).close()

    def _we_say(self, step: Step) -> None:
        client = self._client(step)
        if step.text == "quiet" and step.sign == "!":
            self._expect(client.is_quiet(), step, "something came", client)
            return
        if step.text == "closed" and step.sign == "!":
            self._expect(client.is_closed(), step, "the connection is open, or more came", client)
            self._clients.pop(step.number).close()
            return
        try:
            line = client.line()
        except (ClosedError, TimeoutError) as error:
            raise self._error(step, f"{type(error).__name__}: {error}") from None
        said = line.removesuffix(b"\r\n")
        self._expect(line != said and matches(step.text, said), step, f"we said {line!r}", client)

    def _next_hop(self, step: Step) -> None:
        sink = self._stage.sink
        if step.sign == "!":
            if step.text == "release":
                self._gate.set()
            elif step.text == "down":
                sink.refuse()
            elif step.text == "up":
                sink.listen()
            elif step.text == "cut":
                sink.cut()
            elif step.text == "lost":
                self._next_received(step, "")
            elif step.text == "nothing":
                said = [
                    line for line in self._received() if line[:4] in (b"MAIL", b"RCPT", b"DATA")
                ]
                self._expect(not said, step, f"the next hop received {said}")
        elif step.sign == ":":
            self._next_received(step, step.text)

    def _next_received(self, step: Step, pattern: str) -> None:
        """Compare the next line at the next hop; an empty one is a connection lost in content."""
        try:
            wait_until(lambda: len(self._received()) > self._seen, "a line at the next hop")
        except TimeoutError:
            raise self._error(step, "the next hop received nothing more") from None
        line = self._received()[self._seen]
        is_lost = line is _LOST
        is_good = is_lost if step.sign == "!" else not is_lost and matches(pattern, line)
        self._expect(is_good, step, f"the next hop received {line!r}")
        self._seen += 1

    def _received(self) -> list[bytes]:
        """Return what the next hop was sent, line by line, less the manners."""
        lines: list[bytes] = []
        taken: Counter[int] = Counter()
        sessions = {
            session.number: session
            for session in self._stage.sink.sessions
            if not {line.verb for line in session.lines} <= _LOOK
        }
        for number, line in list(self._stage.sink.journal):
            if number not in sessions:
                continue  # a look, or a session that began before this dialogue
            if line.octets in (b"", b".\r\n"):
                content = sessions[number].transactions[taken[number]].content
                taken[number] += 1
                lines += content.split(b"\r\n")[:-1] if line.octets else [content]
                lines.append(b"." if line.octets else _LOST)
            elif line.verb not in self._hidden:
                lines.append(line.octets.removesuffix(b"\r\n"))
        return lines

    def _instruct(self) -> None:
        """Tell the next hop what it will answer, verb by verb in the order of the file."""
        steps = [step for step in self._script.steps if step.who == "N"]
        is_in_content = False
        for index, step in enumerate(steps):
            if step.sign != ":" and step.text != "lost":
                continue
            verb = step.text.split(" ", 1)[0].upper()
            if is_in_content and step.text != "." and step.sign == ":":
                continue
            is_in_content = verb == "DATA" and self._goes_on_to_content(steps, index)
            for answer in self._answers(steps, index):
                self._stage.sink.answer("content" if verb == "." else verb, answer)

    def _goes_on_to_content(self, steps: Sequence[Step], index: int) -> bool:
        answer = next((s.text for s in steps[index + 1 : index + 2] if s.sign == ">"), "354")
        verbs = {s.text for s in steps[index + 1 : index + 2] if s.sign == "!"}
        return answer.startswith("354") and not verbs & {"close", "reset", "silent"}

    def _answers(self, steps: Sequence[Step], index: int) -> list[Answer]:
        """Return what follows one command in the file; an empty answer is the usual one."""
        said: list[bytes] = []
        then, gate = Then.GO_ON, None
        for step in steps[index + 1 :]:
            if step.sign == ":":
                break
            if step.sign == ">":
                said.append(octets(step.text) + b"\r\n")
            elif step.text in _THEN:
                then = _THEN[step.text]
            elif step.text == "hold":
                gate = self._gate
        if gate is not None and not said:
            raise self._error(steps[index], "N! hold needs an answer to hold")
        if self._script.hop.get("lmtp") and steps[index].text == "." and said:
            return [Answer(line, then=then, gate=gate) for line in said]
        return [Answer(b"".join(said), then=then, gate=gate)]

    def _metric(self, step: Step) -> None:
        """Compare how far a counter has come since the first step."""
        series, _, wanted = step.text.rpartition(" ")

        def grown() -> float:
            now = self._stage.gateway.metrics()
            return sum(
                value - self._before.get(key, 0.0)
                for key, value in now.items()
                if _series(key) == series
            )

        try:
            wait_until(lambda: grown() == float(wanted), series)
        except TimeoutError:
            raise self._error(step, f"it grew by {grown():g}") from None

    def _expect(
        self, is_good: bool, step: Step, message: str, client: Client | None = None
    ) -> None:
        if not is_good:
            raise self._error(step, message, client)

    def _error(self, step: Step, message: str, client: Client | None = None) -> DialogueError:
        name = f"{step.who}{step.number if step.number > 1 else ''}{step.sign}"
        text = f"{self._script.path.name}:{step.at}: {name} {step.text}\n  but {message}"
        if client is not None:
            text += f"\n  we have said so far: {bytes(client.received)!r}"
        return DialogueError(f"{text}\n  the next hop has received: {self._received()}")


_LOST = b"(the connection ended within content)"


def _series(key: tuple[str, tuple[tuple[str, str], ...]]) -> str:
    name, labels = key
    inside = ",".join(f'{label}="{value}"' for label, value in labels)
    return f"{name}{{{inside}}}" if inside else name
