"""The command line: ``mailonce COMMAND``; what each command prints, and with which code it ends.

Every command imports what it needs when it runs, so that a small one starts at once. What a user
can cause ends with one line per problem on standard error and exit code 2, never with a traceback;
a traceback is a bug of ours.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from gateway import __version__
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.config.relation import Relation

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["--help", "-h"]},
)

ConfigFile = Annotated[
    Path,
    typer.Option(
        "--config",
        metavar="FILE",
        envvar="MAILONCE_CONFIG",
        readable=False,  # why it cannot be read is told as everything else is
        help="The configuration, in TOML.",
    ),
]
MessageId = Annotated[
    str, typer.Argument(metavar="MESSAGE-ID", help="With or without its brackets.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"mailonce {__version__}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
]
BAD_INPUT = 2
"""Exit code for what the user can put right; also for wrong options."""

_STDERR = 2
_CHUNK_OCTETS = 64 << 10
_MAX_SECTION_OCTETS = 16 << 20  # the highest `limits.header_size`


def main() -> None:
    """Run the command that the arguments name, and exit."""
    _open_standard_streams()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files can hold any octets
    try:
        try:
            app(prog_name="mailonce")
        finally:
            sys.stdout.flush()
    except OSError as error:
        # A full disk, or a reader of our output that is gone. What is left in the buffer would fail
        # once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno != errno.EPIPE:
            complain(f"mailonce: {error.strerror or error}")
        sys.exit(1)


def _open_standard_streams() -> None:
    """Have the descriptors 0, 1 and 2 lead nowhere, if whoever called us has closed them.

    Else what is opened next would get them: log lines would go into the tracking list, and libuv
    ends the process when it finds a socket there.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name in enumerate(("stdout", "stderr"), 1):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


def load_or_exit(path: Path, further: Sequence[Relation] = ()) -> Config:
    """Return the configuration in a file and the environment, or tell all its problems and exit.

    Args:
        path: of the file.
        further: see `load`.
    """
    from gateway.config import load

    try:
        return load(path, os.environ, further)
    except ConfigError as error:
        complain(*error.problems)
        raise typer.Exit(BAD_INPUT) from error


def complain(*lines: object) -> None:
    """Print lines on standard error."""
    for line in lines:
        print(line, file=sys.stderr)


@app.callback()
def _options(*, _version: Version = False) -> None:
    """Inbound e-mail deduplication gateway: each recipient gets each message once."""


@app.command()
def serve(config: ConfigFile, *, _version: Version = False) -> None:
    """Take mail in and pass it on until SIGTERM or SIGINT; SIGHUP reads the configuration anew.

    Ends with code 0 after what was under way is finished, with 2 if the configuration cannot be
    used, and with 1 if the downstream relays for strangers.
    """
    from gateway.config import load
    from gateway.errors import RelayOpenError
    from gateway.service import serve as run

    loaded = load_or_exit(config)
    try:
        run(loaded, lambda: load(config, os.environ))
    except ConfigError as error:
        complain(*error.problems)
        raise typer.Exit(BAD_INPUT) from error
    except RelayOpenError as error:
        complain(str(error))
        raise typer.Exit(1) from error


@app.command()
def demo(
    *,
    once: Annotated[
        bool, typer.Option("--once", help="End after the table instead of serving on.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir", metavar="DIR", help="Keep everything in this folder, not a temporary one."
        ),
    ] = None,
    _version: Version = False,
) -> None:
    """Send real messages through the whole gateway, show what becomes of each, and keep serving.

    Needs nothing: the tracking list is a file, what is delivered goes to a Maildir. Ends with code
    1 if anything went otherwise than expected.
    """
    from gateway.demo import run

    try:
        is_right = run(folder, is_once=once)
    except ConfigError as error:
        complain(*error.problems)
        raise typer.Exit(BAD_INPUT) from error
    if not is_right:
        raise typer.Exit(1)


@app.command()
def check(config: ConfigFile, *, _version: Version = False) -> None:
    """Validate a configuration, and tell every problem at once.

    Ends with code 0 if there is none, else 2. No server is asked: that is what `doctor` does.
    """
    from gateway import wiring
    from gateway.config.remark import remarks

    loaded = load_or_exit(config, further=[wiring.unusable])
    complain(*(f"{remark.path}: note: {remark.message}" for remark in remarks(loaded)))
    print(f"{config}: no problems")


@app.command()
def doctor(config: ConfigFile, *, json: AsJson = False, _version: Version = False) -> None:
    """Look at everything that can be wrong in a deployment, and name the remedy.

    Asks downstream, tracking list and listeners; sends no mail. Ends with code 1 if anything fails;
    warnings do not count.
    """
    from gateway import doctor as command

    findings = command.examine(load_or_exit(config))
    if json:
        print(command.as_json(findings))
    else:
        command.tell(findings)
    if not command.is_well(findings):
        raise typer.Exit(1)


@app.command()
def trace(
    message_id: MessageId,
    config: ConfigFile,
    *,
    json: AsJson = False,
    _version: Version = False,
) -> None:
    """Tell everything known of a message: each copy, for whom, what became of it and why.

    Ends with code 1 if nothing is known, and with 2 if the tracking list cannot be asked.
    """
    from gateway import trace as command
    from gateway.errors import TrackingListError

    loaded = load_or_exit(config)
    try:
        story = command.trace(loaded, os.fsencode(message_id))
        why_empty = command.absence(loaded)
    except (ValueError, ConfigError, TrackingListError) as error:
        complain(error)
        raise typer.Exit(BAD_INPUT) from error
    if json:
        print(command.story_json(story))
    else:
        command.tell(story)
    if story.is_empty:
        complain(*filter(None, [why_empty]))
        raise typer.Exit(1)


@app.command()
def forget(
    message_id: MessageId,
    config: ConfigFile,
    *,
    recipient: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Only for this recipient, not for all.")
    ] = None,
    json: AsJson = False,
    _version: Version = False,
) -> None:
    """Have a message forgotten, so that a wanted re-send passes at once; the journal stays.

    Ends with code 1 if there was nothing, and with 2 if the tracking list cannot be asked.
    """
    from gateway import trace as command
    from gateway.errors import TrackingListError

    loaded = load_or_exit(config)
    whose = None if recipient is None else os.fsencode(recipient)
    try:
        forgotten = command.forget(loaded, os.fsencode(message_id), whose)
        why_empty = command.absence(loaded)
    except (ValueError, ConfigError, TrackingListError) as error:
        complain(error)
        raise typer.Exit(BAD_INPUT) from error
    if json:
        print(command.forgotten_json(forgotten))
    else:
        command.tell_forgotten(forgotten)
    if not forgotten.number:
        complain(*filter(None, [why_empty]))
        raise typer.Exit(1)


@app.command()
def scan(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...", readable=False, help="mbox files, Maildirs, .eml files, folders."
        ),
    ],
    *,
    json: AsJson = False,
    _version: Version = False,
) -> None:
    """Tell what the gateway would have done with mail that lies in files; nothing is changed.

    Exact duplicates, collisions, forms of Message-IDs, and who sends what stands out. Copies are
    looked for within each PATH, and by recipient where messages have Delivered-To. Ends with code 2
    if something cannot be read.
    """
    from gateway.scan import report
    from gateway.scan import scan as run

    found = run(paths, complain)
    if json:
        print(report.as_json(found))
    else:
        report.tell(found)
    if found.unreadable:
        raise typer.Exit(BAD_INPUT)


@app.command()
def canonical(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help='Messages; "-" is standard input.')
    ],
    *,
    _version: Version = False,
) -> None:
    """Print the canonical Message-ID of message files, a line of JSON each.

    `form` is valid, malformed, weak, multiple or missing; `canonical` holds octets as latin-1, and
    is null if there is none. Ends with code 2 if a file cannot be read.
    """
    from gateway.core.policy import examine

    are_all_read = True
    for name in files:
        try:
            message_id = examine(_header_section(name)).message_id
        except OSError as error:
            complain(f"{name}: cannot be read: {error.strerror or error}")
            are_all_read = False
            continue
        octets = message_id.canonical
        text = None if octets is None else octets.decode("latin-1")
        print(json.dumps({"file": name, "form": message_id.form, "canonical": text}))
    if not are_all_read:
        raise typer.Exit(BAD_INPUT)


def _header_section(name: str) -> bytes:
    """Read the header section of a message file; the whole file if no empty line ends it.

    Raises:
        OSError: the file cannot be read, or begins with too much of a header.
    """
    if name == "-":
        if sys.stdin is None:  # closed by who called us
            raise OSError("there is no standard input")
        return _section_of(sys.stdin.buffer)
    with Path(name).open("rb") as file:
        return _section_of(file)


def _section_of(file: BinaryIO) -> bytes:
    from gateway.core.header import header_length

    content = bytearray()
    while chunk := file.read(_CHUNK_OCTETS):
        searched = len(content)
        content += chunk
        length = header_length(content, searched)
        if length is not None:
            return bytes(content[:length])
        if len(content) > _MAX_SECTION_OCTETS:
            raise OSError("no header section ends within its first 16MiB")
    return bytes(content)
