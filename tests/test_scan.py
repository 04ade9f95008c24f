"""Scan: what it counts, whom it blames, what it prints; and how much time and memory it takes."""

from __future__ import annotations

import json
import mailbox
import os
import pty
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.core.fingerprint import Fingerprinter
from gateway.core.policy import examine
from gateway.scan.message import MAX_SECTION_OCTETS, Message, messages
from gateway.scan.source import Chunk
from tests.support.client import deliver
from tests.support.gateway import running_gateway, settings_for
from tests.support.letter import DATE, fresh_id, letter
from tests.support.sink import Sink

PROJECT = Path(__file__).parents[1]
LINE = b"From a@example.org Tue Nov 24 12:00:00 2026\n"


def scanned(*paths: Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["scan", "--json", *map(str, paths)])
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def eml(folder: Path, *contents: bytes) -> Path:
    """Write message files, named by their order."""
    folder.mkdir(exist_ok=True)
    for content in contents:
        (folder / f"{len(list(folder.iterdir())):04}.eml").write_bytes(content)
    return folder


def mbox(file: Path, *contents: bytes) -> Path:
    """Write an mbox, in order."""
    file.write_bytes(b"".join(LINE + lf(content).rstrip(b"\n") + b"\n\n" for content in contents))
    return file


def lf(content: bytes) -> bytes:
    return content.replace(b"\r\n", b"\n")


def from_(sender: str, message_id: str | None, body: bytes = b"Hello\r\n") -> bytes:
    return letter(message_id, body).replace(b"A <a@sender.test>", f"<{sender}>".encode())


def test_duplicates_collisions_and_forms_are_counted(tmp_path: Path) -> None:
    box = mbox(
        tmp_path / "box",
        letter("one.1@sender.test"),
        letter("one.1@sender.test"),
        letter("one.1@sender.test", b"other\r\n"),
        letter("one.1@sender.test", b"other\r\n"),
        letter("one.1@SENDER.test"),
        letter(None, b"no id\r\n"),
        letter(None, b"no id\r\n"),
        letter(None, date=None),
        letter(None, date=None),
        letter("x"),
        letter("x", b"poor id, other content\r\n"),
        letter("two.2@sender.test", extra=b"Message-ID: <three.3@sender.test>\r\n"),
    )
    found = scanned(box)
    assert found["messages"] == 12
    assert found["duplicates"] == 4
    assert found["collisions"] == 2
    assert found["untracked"] == 2
    assert found["forms"] == {
        "valid": 5,
        "malformed": 0,
        "weak": 2,
        "multiple": 1,
        "missing": 4,
    }


def test_what_each_match_would_do_is_what_the_gateway_decides(tmp_path: Path) -> None:
    box = mbox(
        tmp_path / "box",
        letter("one.1@sender.test"),
        letter("one.1@sender.test"),
        letter("one.1@sender.test", b"other\r\n"),
        letter("x"),
        letter("x"),
        letter("x", b"other\r\n"),
    )
    assert scanned(box)["choices"] == {
        "content": {
            "dropped": 2,
            "tagged": 2,
            "relayed": 2,
            "unchecked": 0,
            "other_content": 0,
        },
        "message-id": {
            "dropped": 2,
            "tagged": 2,  # a weak id alone is not enough
            "relayed": 2,
            "unchecked": 0,
            "other_content": 1,
        },
    }


@pytest.mark.parametrize("match", ["content", "message-id"])
def test_the_gateway_does_what_was_foretold(tmp_path: Path, match: str) -> None:
    chance = random.Random(match)
    ids = [fresh_id(), fresh_id(), "x", "<broken@host", None]
    contents = [
        letter(
            chance.choice(ids), b"%d\r\n" % chance.randrange(3), date=chance.choice([DATE, None])
        )
        for _ in range(60)
    ]
    foretold = scanned(mbox(tmp_path / "box", *contents))["choices"][match]
    settings = {"dedup.action": "drop", "dedup.match": match}
    with Sink() as sink, running_gateway({**settings_for(sink.port), **settings}) as gateway:
        for content in contents:
            assert deliver(gateway.port, "a@sender.test", ["b@here.test"], content).is_accepted
        for action in ("dropped", "tagged", "relayed"):
            gateway.wait_for_metric(foretold[action], "mailonce_messages_total", action=action)
    assert all(foretold[action] for action in ("dropped", "tagged", "relayed"))


def test_senders_are_blamed(tmp_path: Path) -> None:
    box = mbox(
        tmp_path / "box",
        *(from_("bad@Shop.example", "same@shop.example", b"%d" % number) for number in range(5)),
        *(from_("good@shop.example", f"{number}.abc@shop.example") for number in range(3)),
        from_("odd@other.example", None),
    )
    found = scanned(box)
    domains = {each["name"]: each["numbers"] for each in found["domains"]}
    assert domains == {
        "shop.example": {"messages": 8, "valid": 8, "collision": 4},
        "other.example": {"messages": 1, "missing": 1},
    }
    senders = [(each["name"], each["numbers"]) for each in found["senders"]]
    assert senders == [
        ("bad@shop.example", {"collision": 4}),
        ("odd@other.example", {"missing": 1}),
    ]
    assert found["examples"][0] == {
        "verdict": "collision",
        "message_id": "same@shop.example",
        "sender": "bad@shop.example",
        "place": f"{box}#2",
        "first_place": f"{box}#1",
    }


def test_other_recipients_and_other_paths_are_other_copies(tmp_path: Path) -> None:
    for_b = letter("one.1@sender.test", extra=b"Delivered-To: b@here.test\r\n")
    for_c = letter("one.1@sender.test", extra=b"delivered-to:c@here.test\r\n")
    assert scanned(mbox(tmp_path / "both", for_b, for_c))["duplicates"] == 0
    assert scanned(mbox(tmp_path / "same", for_b, for_b))["duplicates"] == 1
    plain = letter("one.1@sender.test")
    one, other = mbox(tmp_path / "one", plain), mbox(tmp_path / "other", plain)
    assert scanned(one, other)["duplicates"] == 0
    assert scanned(one, one)["duplicates"] == 1


def test_single_messages_belong_to_their_folder(tmp_path: Path) -> None:
    """A shell makes many paths of *.eml."""
    one, two = letter("same-id-1@a.test"), letter("same-id-1@a.test", b"other\r\n")
    here = sorted(eml(tmp_path / "here", one, one, two).iterdir())
    there = sorted(eml(tmp_path / "there", one).iterdir())
    found = scanned(*here, *there)
    assert (found["messages"], found["duplicates"], found["collisions"]) == (4, 1, 1)


def test_a_list_copy_is_another_message(tmp_path: Path) -> None:
    listed = letter("one.1@sender.test", extra=b"List-Id: <l.lists.test>\r\n")
    found = scanned(mbox(tmp_path / "box", letter("one.1@sender.test"), listed, listed))
    assert (found["duplicates"], found["collisions"]) == (1, 0)


def test_one_message_is_the_same_in_every_kind_of_file(tmp_path: Path) -> None:
    content = letter("one.1@sender.test", b"a\r\n\r\nFrom here at 12:00 on\r\n>From x\r\n.\r\nend")
    folder = tmp_path / "all"
    eml(folder, content, lf(content))
    box = mailbox.mbox(folder / "o.mbox")
    box.add(content)
    box.close()
    maildir = mailbox.Maildir(folder / "Maildir")
    maildir.add(content)
    quoted = lf(content).replace(b"\n>From", b"\n>>From").replace(b"\nFrom", b"\n>From")
    (folder / "rd.mbox").write_bytes(LINE + quoted + b"\n\n")
    found = scanned(folder)
    assert found["messages"] == 5
    assert (found["duplicates"], found["collisions"]) == (4, 0)


@pytest.mark.parametrize("block_octets", [1, 7, 50, 10_000])
def test_the_fingerprint_is_the_gateways(block_octets: int) -> None:
    content = letter("one.1@sender.test", b"a body\r\n" * 100)
    section, _, body = content.partition(b"\r\n\r\n")
    fingerprinter = Fingerprinter(examine(section + b"\r\n").identifying)
    fingerprinter.update(body)
    for each in (content, lf(content)):
        assert read(each, block_octets).fingerprint == fingerprinter.digest()


@pytest.mark.parametrize(
    ("field", "sender"),
    [
        (b"A B <a@B.example>", "a@b.example"),
        (b"a@b.example", "a@b.example"),
        (b'"x@y" <a@b.example>', "a@b.example"),
        (b"a at b.example (A B)", "a@b.example"),  # public archives
        (b"nobody", ""),
        (b"", ""),
        (b"caf\xe9 <caf\xe9@b.example>", "caf\xe9@b.example"),
    ],
)
def test_senders_are_read_as_they_are_written(field: bytes, sender: str) -> None:
    assert read(b"From: %b\r\n\r\nx" % field).sender == sender


def test_what_is_no_message_is_one_without_an_id(tmp_path: Path) -> None:
    found = scanned(eml(tmp_path / "odd", b"", b"\n", b"\0" * 5000, b"text without a header\n"))
    assert (found["files"], found["messages"]) == (4, 3)  # nothing is none
    assert (found["forms"]["missing"], found["untracked"]) == (3, 3)


def test_a_header_section_without_end_passes_unchecked(tmp_path: Path) -> None:
    long = b"X-Filler: " + b"x" * MAX_SECTION_OCTETS + b"\r\n"
    content = letter("one.1@sender.test").replace(b"\r\n\r\n", b"\r\n" + long + b"\r\n")
    found = scanned(mbox(tmp_path / "box", content, content))
    assert (found["messages"], found["duplicates"], found["untracked"]) == (2, 0, 2)
    assert found["choices"]["message-id"]["unchecked"] == 2
    endless = mbox(tmp_path / "endless", b"x" * 3_000_000)
    assert scanned(endless)["octets"] == 3_000_002


def test_nothing_is_changed(tmp_path: Path) -> None:
    maildir = mailbox.Maildir(tmp_path / "Maildir")
    maildir.add(letter("one.1@sender.test"))

    def state() -> list[tuple[str, int]]:
        return sorted((str(path), path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))

    before = state()
    scanned(tmp_path)
    assert state() == before


def test_what_cannot_be_read_ends_with_code_2_and_stops_nothing(tmp_path: Path) -> None:
    box = mbox(tmp_path / "box", letter("one.1@sender.test"))
    none = tmp_path / "none"
    result = CliRunner().invoke(app, ["scan", "--json", str(none), str(box)])
    assert result.exit_code == 2
    assert result.stderr == f"{none}: cannot be read: No such file or directory\n"
    assert json.loads(result.stdout)["messages"] == 1


def test_people_are_told_and_terminals_are_safe(tmp_path: Path) -> None:
    hostile = from_("\x1b[31m@evil.example", "same.1@evil.example\x1b]0;x\x07")
    box = mbox(tmp_path / "box", hostile, hostile, hostile + b"other\r\n")
    result = CliRunner().invoke(app, ["scan", str(box)])
    assert result.exit_code == 0
    assert "3 messages" in result.stdout
    assert "1 exact duplicates (33.33 %), 1 collisions (33.33 %)" in result.stdout
    assert "\\x1b[31m@evil.example" in result.stdout
    assert "\x1b" not in result.stdout
    assert "\x07" not in result.stdout


def test_names_of_files_can_be_any_octets(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mbox"))
    mbox(path, letter("one.1@sender.test"), letter("one.1@sender.test"))
    for arguments in ([], ["--json"]):
        done = command(*arguments, tmp_path)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"one.1@sender.test" in done.stdout


def test_a_terminal_shows_how_far_it_is(tmp_path: Path) -> None:
    box = mbox(tmp_path / "box", *(letter(f"{n}.1@sender.test", b"x" * 60_000) for n in range(200)))
    terminal, end = pty.openpty()
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        with (tmp_path / "output").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "scan", "--json", str(box)],
                stdout=output,
                stderr=end,
                cwd=PROJECT,
                env={**os.environ, "TERM": "xterm"},
            )
        os.close(end)
        shown = b""
        try:
            # Meanwhile: a terminal that nobody reads takes no more than fits into it.
            while part := screen.read(65_536):
                shown += part
        except OSError:
            pass  # the other end is closed: that is how a terminal ends
        assert process.wait(60) == 0
    assert json.loads((tmp_path / "output").read_text())["messages"] == 200
    assert b"scanning" in shown
    assert b"MiB" in shown


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_p8_time_is_bounded_and_memory_constant(tmp_path: Path) -> None:
    """A hundred thousand messages of 4 KiB take less than a minute of one core."""
    small, large = tmp_path / "small", tmp_path / "large"
    write_corpus(small, 5_000)
    write_corpus(large, 20_000)
    _, of_small = usage(small)
    cpu_s, of_large = usage(large)
    assert cpu_s < 60 * 20_000 / 100_000
    # SQLite's cache may fill, and nothing else may grow.
    assert of_large < of_small + 40 * 1024
    assert of_large < 120 * 1024


def usage(path: Path) -> tuple[float, int]:
    """Return what a run takes: seconds of a processor, and KiB at most."""
    script = (
        "import re, resource, sys\n"
        "from pathlib import Path\n"
        "from gateway.cli import app\n"
        "app(['scan', '--json', sys.argv[1]], standalone_mode=False)\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        # Not ru_maxrss: a child starts with the peak of its parent, which is pytest's.
        "most = re.search('VmHWM:\\\\s+(\\\\d+)', Path('/proc/self/status').read_text())[1]\n"
        "print(used.ru_utime + used.ru_stime, most, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, check=True, cwd=PROJECT
    )
    assert json.loads(done.stdout)["duplicates"] > 0
    cpu_s, most = done.stderr.split()
    return float(cpu_s), int(most)


def write_corpus(file: Path, number: int) -> None:
    """Write an mbox of messages of 4 KiB, one in twenty of them a copy."""
    chance = random.Random(4)
    bodies = [chance.randbytes(1700).hex(" ", 32).replace(" ", "\n").encode() for _ in range(50)]
    earlier: list[bytes] = []
    with file.open("wb") as box:
        for index in range(number):
            if earlier and chance.random() < 0.05:
                content = chance.choice(earlier)
            else:
                sender = f"s{index % 5000}@d{index % 1000}.example"
                body = bodies[index % 50] + b"\n%d\n" % index
                content = lf(from_(sender, f"{index}.{chance.getrandbits(64):x}@a.example", body))
                received = (
                    b"Received: from a (b [192.0.2.1])\n\tby c; Tue, 24 Nov 2026 12:00:00 Z\n"
                )
                content = received * 4 + content
                earlier = [*earlier[-200:], content]
            box.write(LINE + content + b"\n")
    assert 3500 < file.stat().st_size / number < 4500


def command(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", "scan", *arguments],
        capture_output=True,
        check=False,
        cwd=PROJECT,
        timeout=120,
    )


def read(content: bytes, block_octets: int = 1 << 20) -> Message:
    """Read one message that comes in blocks."""

    def parts() -> Iterator[Chunk]:
        yield Chunk(content[:block_octets], "here")
        for start in range(block_octets, len(content), block_octets):
            yield Chunk(content[start : start + block_octets])

    found: Sequence[Message] = list(messages(parts()))
    assert len(found) == 1
    return found[0]
