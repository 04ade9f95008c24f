"""Where scan finds messages: mbox as practice has it, Maildirs, folders."""

from __future__ import annotations

import mailbox
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scan import source as source_module
from gateway.scan.source import chunks, sources

LINE = b"From a@example.org Tue Nov 24 12:00:00 2026\n"
ONE = b"Subject: one\n\nfirst\n"
TWO = b"Subject: two\n\nsecond\n"


def test_an_mbox_is_cut_as_practice_has_it(tmp_path: Path) -> None:
    for separator in (
        LINE,
        b"From - Tue Nov 24 12:00:00 2026\n",  # Thunderbird
        b"From a at example.org  Tue Nov 24 12:00:00 2026\n",  # public archives
        b"From \n",  # Thunderbird since 2021
        b"From MAILER-DAEMON Tue Nov 24 12:00 2026\n",  # no seconds
    ):
        content = separator + ONE + b"\n" + separator + TWO
        assert split(tmp_path, content) == [ONE + b"\n", TWO], separator
        crlf = content.replace(b"\n", b"\r\n")
        assert split(tmp_path, crlf) == [(ONE + b"\n").replace(b"\n", b"\r\n"), crlf_of(TWO)]


@pytest.mark.parametrize(
    "text",
    [
        b"From here on it is text at 12:00\n",  # no empty line above it
        b"\nFrom here on it is text\n",  # no time
        b"\n>From a@example.org Tue Nov 24 12:00:00 2026\n",  # quoted
        b"\n From a@example.org Tue Nov 24 12:00:00 2026\n",
        b"\nFrom: a@example.org, 12:00\n",
    ],
)
def test_text_is_no_separator(tmp_path: Path, text: bytes) -> None:
    content = ONE + b"x\n" + text
    assert split(tmp_path, LINE + content) == [content]


def test_what_does_not_begin_as_an_mbox_is_one_message(tmp_path: Path) -> None:
    for content in (ONE, b"\n", ONE + b"\n" + LINE + TWO, b"\0\xff" * 1000):
        assert split(tmp_path, content) == [content]


def test_an_empty_mailbox_holds_no_message(tmp_path: Path) -> None:
    assert split(tmp_path, b"") == []


def test_messages_may_be_empty(tmp_path: Path) -> None:
    assert split(tmp_path, LINE) == [b""]
    assert split(tmp_path, LINE + b"\n" + LINE + ONE) == [b"\n", ONE]


@given(
    st.lists(
        st.lists(
            st.sampled_from(
                [b"\n", b"\r\n", b"text\n", b">From x 1:00\n", b"From x\n", b"\r", b"F", LINE]
            )
        ).map(b"".join)
    ),
    st.integers(len(LINE), 3 * len(LINE)),
)
def test_where_blocks_end_makes_no_difference(bodies: list[bytes], block_octets: int) -> None:
    content = b"".join(LINE + body for body in bodies)
    with TemporaryDirectory() as folder:
        whole = split(Path(folder), content)
        with blocks_of(block_octets):
            assert split(Path(folder), content) == whole


def test_a_line_longer_than_a_block_costs_a_block(tmp_path: Path) -> None:
    with blocks_of(1000):
        long = b"x" * 200_000 + b"\n"
        (found,) = split(tmp_path, LINE + b"\n" + long)
        assert found == b"\n" + long
        (tmp_path / "big").write_bytes(LINE + b"\n" + long)
        (source,) = sources(tmp_path / "big", no_skip)
        assert max(len(chunk.octets) for chunk in chunks(source)) <= 67_000


def test_an_independent_reader_finds_the_same(tmp_path: Path) -> None:
    bodies = ["plain\n", "From here\n", "\nFrom here at 12:00\n", ">From there\n", "", "\n\n\n"]
    with_mailbox = mailbox.mbox(tmp_path / "mbox")
    maildir = mailbox.Maildir(tmp_path / "Maildir")
    mh = mailbox.MH(tmp_path / "mh")
    for number, body in enumerate(bodies):
        text = f"Subject: {number}\n\n{body}"
        for box in (with_mailbox, maildir, mh):
            box.add(text)
    with_mailbox.close()
    for name in ("mbox", "Maildir", "mh"):
        found = [each for source in found_in(tmp_path / name) for each in read(source)]
        assert len(found) == len(bodies), name
        subjects = sorted(content.partition(b"\n")[0] for content in found)
        assert subjects == [b"Subject: %d" % number for number in range(len(bodies))]


def test_folders_are_read_for_what_looks_like_mail(tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    box = mailbox.Maildir(tmp_path / "user" / "Maildir")
    box.add(ONE)
    box.add_folder("Sent").add(TWO)
    for name, content in (
        ("user/Maildir/dovecot.index.log", b"\0"),
        ("user/Maildir/tmp/half", ONE),
        ("user/Maildir/new/1.2.host", ONE),
        ("archive/a.EML", ONE),
        ("archive/2026-11", LINE + ONE),
        ("archive/notes.txt", b"Dear diary"),
        ("archive/7", ONE),
    ):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    (tmp_path / "archive" / "up").symlink_to(tmp_path)
    skipped: list[str] = []
    found = sorted(
        str(source.path.relative_to(tmp_path))
        for source in sources(tmp_path, lambda path, _: skipped.append(path.name))
    )
    assert [name for name in found if not name.startswith("user")] == [
        "archive/2026-11",
        "archive/7",
        "archive/a.EML",
    ]
    assert len([name for name in found if name.startswith("user/Maildir/new/")]) == 2
    assert len([name for name in found if "/.Sent/new/" in name]) == 1
    assert sorted(skipped) == ["dovecot.index.log", "maildirfolder", "notes.txt", "up"]


def test_a_maildir_without_its_tmp_is_one_all_the_same(tmp_path: Path) -> None:
    """Left out by who copied it, since nothing was in it; then nothing was found at all."""
    for name in ("Maildir/cur/1.2.host:2,S", "Maildir/new/3.4.host", "Maildir/.Sent/cur/5.6.host"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(ONE)
    (tmp_path / "Maildir/.Sent/new").mkdir()
    assert len(list(sources(tmp_path, lambda *_: None))) == 3


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "loop.eml").symlink_to("loop.eml")
    told: list[tuple[str, str]] = []
    found = list(sources(tmp_path, lambda path, reason: told.append((path.name, reason))))
    assert found == []
    assert told == [("loop.eml", "Too many levels of symbolic links")]
    with pytest.raises(FileNotFoundError):
        list(sources(tmp_path / "none", no_skip))


def test_places_name_file_and_number(tmp_path: Path) -> None:
    file = tmp_path / "box"
    file.write_bytes(LINE + ONE + b"\n" + LINE + TWO)
    (source,) = sources(file, no_skip)
    assert [chunk.place for chunk in chunks(source) if chunk.place] == [f"{file}#1", f"{file}#2"]


def split(folder: Path, content: bytes) -> list[bytes]:
    """Return the messages of a file with this content."""
    file = folder / "file"
    file.write_bytes(content)
    (source,) = sources(file, no_skip)
    return read(source)


def read(source: source_module.Source) -> list[bytes]:
    found: list[bytes] = []
    for chunk in chunks(source):
        if chunk.place:
            found.append(b"")
        found[-1] += chunk.octets
    return found


def found_in(path: Path) -> list[source_module.Source]:
    return list(sources(path, lambda *_: None))


def no_skip(path: Path, reason: str) -> None:
    raise AssertionError(f"{path} was passed over: {reason}")


def crlf_of(content: bytes) -> bytes:
    return content.replace(b"\n", b"\r\n")


@contextmanager
def blocks_of(octets: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_module, "_BLOCK_OCTETS", octets)
        yield
