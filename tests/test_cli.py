"""The command line: what goes to which stream, and with which code a command ends."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway import __version__
from gateway.cli import app
from tests.support.certificate import make_certificate

TESTS = Path(__file__).parent
PROJECT = TESTS.parent
BAD_CONFIGS = sorted((TESTS / "bad_configs").glob("*.toml"))
COMMANDS = [
    [],
    ["serve"],
    ["demo"],
    ["check"],
    ["doctor"],
    ["trace"],
    ["forget"],
    ["scan"],
    ["canonical"],
]
MESSAGE = b"From: a@example.org\r\nMessage-ID:\r\n <Left@Right.EXAMPLE>\r\n\r\nbody\r\n"


def run(*arguments: str | Path, stdin: bytes = b"", **environ: str) -> tuple[int, str, str]:
    """Run the real command; return its exit code, standard output and standard error."""
    inherited = {name: value for name, value in os.environ.items() if "MAILONCE" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        input=stdin,
        capture_output=True,
        check=False,
        cwd=PROJECT,
        env={**inherited, **environ},
        timeout=30,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def invoke(*arguments: str | Path, environ: dict[str, str] | None = None) -> Result:
    """Run a command within this process, where only its text and code matter."""
    return CliRunner().invoke(app, [os.fspath(a) for a in arguments], env=environ)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: "".join(command) or "-")
def test_the_version_is_told(command: list[str]) -> None:
    """Everywhere, whatever else a command would need."""
    assert run(*command, "--version") == (0, f"mailonce {__version__}\n", "")


@pytest.mark.parametrize("arguments", [["--version"], ["canonical", "-"], ["check"], ["--help"]])
def test_a_full_disk_is_told_without_a_traceback(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *arguments],
            input=MESSAGE,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            env={**os.environ, "MAILONCE_CONFIG": str(PROJECT / "config.example.toml")},
            timeout=30,
        )
    assert (done.returncode, done.stderr) == (1, b"mailonce: No space left on device\n")


def test_a_reader_that_has_gone_is_no_news() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "canonical", "-"],
        input=MESSAGE,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
        timeout=30,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_everywhere(command: list[str]) -> None:
    for option in ("--help", "-h"):
        result = invoke(*command, option)
        assert (result.exit_code, result.stderr) == (0, "")
        assert "Usage: " in result.stdout


@pytest.mark.parametrize(
    "arguments", [["no-such-command"], ["check"], ["canonical"], ["check", "--no-such-option"]]
)
def test_wrong_usage_is_told_on_standard_error(arguments: list[str]) -> None:
    code, out, error = run(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: mailonce" in error
    assert "Traceback" not in error


def test_a_good_configuration_is_one_line() -> None:
    path = "config.example.toml"
    assert run("check", "--config", path) == (0, f"{path}: no problems\n", "")
    assert run("check", MAILONCE_CONFIG=path) == (0, f"{path}: no problems\n", "")


def test_a_bad_configuration_is_told_on_standard_error() -> None:
    path = TESTS / "bad_configs" / "words-unknown.toml"
    error = path.with_suffix(".error").read_text(encoding="utf-8")
    assert run("check", "--config", path) == (2, "", error)


def test_the_environment_counts() -> None:
    code, out, error = run("check", "--config", "config.example.toml", MAILONCE_WORKERS="x")
    assert (code, out) == (2, "")
    assert error == 'workers: expected a whole number, got "x" (from MAILONCE_WORKERS)\n'


@pytest.mark.parametrize("path", BAD_CONFIGS, ids=lambda path: path.stem)
def test_each_bad_configuration_ends_with_code_2(path: Path) -> None:
    lines = path.read_text(encoding="latin-1").splitlines()
    environ = dict(line[3:].split("=", 1) for line in lines if line.startswith("#! "))
    result = invoke("check", "--config", path, environ=environ)
    assert (result.exit_code, result.stdout) == (2, "")
    expected = path.with_suffix(".error").read_text(encoding="utf-8")
    assert result.stderr == re.sub(r"(?m)^FILE:", f"{path}:", expected)


def test_a_missing_configuration_is_told(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    expected = f"{path}: cannot be read: No such file or directory\n"
    assert run("check", "--config", path) == (2, "", expected)


def test_missing_files_are_problems_and_remarks_are_none(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[listen]\nhttp = "0.0.0.0:9125"\n', encoding="utf-8")
    result = invoke("check", "--config", path)
    assert (result.exit_code, result.stdout) == (0, f"{path}: no problems\n")
    assert result.stderr.startswith("listen.http_token: note: empty, ")
    path.write_text('[tls]\ncertificate = "/none/a"\nkey = "/none/b"\n', encoding="utf-8")
    result = invoke("check", "--config", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "tls.certificate: the file /none/a does not exist\n"
        "tls.key: the file /none/b does not exist\n"
    )


def test_missing_files_are_told_with_all_other_problems(tmp_path: Path) -> None:
    """Every problem at once: none waits until another is mended."""
    path = tmp_path / "config.toml"
    path.write_text('typo = 1\n[tls]\ncertificate = "/none/a"\n[log]\nlevel = "x"\n')
    result = invoke("check", "--config", path, environ={"MAILONCE_TLS__KEY": "/none/b"})
    assert (result.exit_code, result.stdout) == (2, "")
    assert [line.split(" ", 1)[0] for line in result.stderr.splitlines()] == [
        "typo:", "tls.certificate:", "tls.key:", "log.level:",
    ]  # fmt: skip
    assert "/none/b does not exist (from MAILONCE_TLS__KEY)" in result.stderr


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        # what redis-py knows and does not go here: times are no matter of the URL
        ('[store]\nurl = "redis://h/0?socket_timeout=1"', "store.url: unknown parameter socket_t"),
        ('[store]\nurl = "rediss://h/0?ssl_cert_reqs=perhaps"', "store.url: ssl_cert_reqs is "),
        ('[store]\nurl = "redis://h/0?ssl_ca_certs=CERTIFICATE"', "store.url: ssl_ parameters "),
        # there, readable, and no certificate
        ('[store]\nurl = "rediss://h/0?ssl_ca_certs=KEY"', "store.url: [X509: NO_CERTIFICATE"),
        # a file that is not there is told once, and as that
        ('[store]\nurl = "rediss://h/0?ssl_ca_certs=/none/a"', "store.url: the file /none/a does"),
        ('[tls]\ncertificate = "KEY"\nkey = "KEY"', "tls.certificate: cannot be used with tls."),
        ('[tls]\ncertificate = "CERTIFICATE"\nkey = "OTHER"', "tls.certificate: cannot be used "),
        # else OpenSSL asks on the terminal
        ('[tls]\ncertificate = "CERTIFICATE"\nkey = "LOCKED"', "tls.certificate: cannot be used "),
    ],
)
def test_what_serve_could_not_use_is_a_problem(tmp_path: Path, config: str, problem: str) -> None:
    """What `check` lets pass must not be refused by `serve` a moment later."""
    pair = make_certificate(tmp_path, "mx.example.org")
    other = make_certificate(tmp_path, "other.example.org")
    locked = tmp_path / "locked.pem"
    lock = ["openssl", "pkey", "-aes128", "-passout", "pass:x"]
    lock += ["-in", str(pair.key), "-out", str(locked)]
    subprocess.run(lock, check=True, capture_output=True, timeout=30)
    files = {"CERTIFICATE": pair.certificate, "KEY": pair.key, "OTHER": other.key, "LOCKED": locked}
    for name, file in files.items():
        config = config.replace(name, str(file))
    path = tmp_path / "config.toml"
    path.write_text(config + '\n[listen]\nsmtp = ["127.0.0.1:0"]\nhttp = ""\n', encoding="utf-8")
    result = invoke("check", "--config", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(problem)
    assert len(result.stderr.splitlines()) == 1
    code, _, error = run("serve", "--config", path)
    assert code == 2
    assert "/none/a" in problem or error.splitlines()[-1] == result.stderr.strip()


@pytest.mark.parametrize("command", [["trace"], ["forget"]])
def test_a_list_that_cannot_be_made_is_told_in_a_line(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[store]\nurl = "redis://h/0?timeout=1"\n', encoding="utf-8")
    result = invoke(*command, "a1@b.example", "--config", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "store.url: unknown parameter timeout\n"


@pytest.mark.parametrize("command", [["check", "--config"], ["scan"]])
def test_what_this_user_may_not_read_is_told_in_a_line(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "secret"
    path.write_bytes(MESSAGE)
    path.chmod(0)
    lost = "-dac_override,-dac_read_search"  # by which root reads everything
    poor = ["setpriv", f"--bounding-set={lost}", f"--inh-caps={lost}"] * (os.geteuid() == 0)
    done = subprocess.run(
        [*poor, sys.executable, "-m", "gateway", *command, path],
        capture_output=True,
        check=False,
        cwd=PROJECT,
        timeout=30,
    )
    assert (done.returncode, done.stderr.decode()) == (
        2,
        f"{path}: cannot be read: Permission denied\n",
    )


@pytest.mark.parametrize(
    ("content", "form", "canonical"),
    [
        (MESSAGE, "valid", "Left@right.example"),
        (MESSAGE.replace(b"\r\n", b"\n"), "valid", "Left@right.example"),
        (b"Message-ID: <a@b.example>", "weak", "a@b.example"),  # nothing but the field
        (b"Subject: x\r\n\r\nMessage-ID: <a@b.example>\r\n", "missing", None),  # in the body
        (b"\r\nMessage-ID: <a@b.example>\r\n", "missing", None),  # no header at all
        (b"Message-ID: <>\r\n\r\n", "missing", None),
        (b"Message-ID: <caf\xe9.123@example.org>\n\n", "valid", "caf\xe9.123@example.org"),
        (
            b"X: " + b"x" * 200_000 + b"\r\nMessage-ID: <a1@b.example>\r\n\r\n",
            "valid",
            "a1@b.example",
        ),
        (b"", "missing", None),
    ],
)
def test_canonical_ids_of_files(
    tmp_path: Path, content: bytes, form: str, canonical: str | None
) -> None:
    path = tmp_path / "a.eml"
    path.write_bytes(content)
    result = invoke("canonical", path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {"file": str(path), "form": form, "canonical": canonical}
    assert result.stdout.isascii()


def test_canonical_ids_are_a_line_each_and_bad_files_do_not_stop_it(tmp_path: Path) -> None:
    good = tmp_path / "good.eml"
    good.write_bytes(MESSAGE)
    none = tmp_path / "none.eml"
    code, out, error = run("canonical", good, none, tmp_path, "-", stdin=MESSAGE)
    found = [json.loads(line) for line in out.splitlines()]
    assert [(line["file"], line["canonical"]) for line in found] == [
        (str(good), "Left@right.example"),
        ("-", "Left@right.example"),
    ]
    assert error.splitlines() == [
        f"{none}: cannot be read: No such file or directory",
        f"{tmp_path}: cannot be read: Is a directory",
    ]
    assert code == 2


def _in_shell(command: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command as a shell does, which can close what we cannot."""
    return subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m gateway {command}"],
        capture_output=True,
        check=False,
        cwd=PROJECT,
        timeout=90,
    )


def test_standard_input_that_is_closed_cannot_be_read() -> None:
    done = _in_shell("canonical - <&-")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"-: cannot be read: there is no standard input\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_do_no_harm(closed: str) -> None:
    """What is opened first would else be taken for one of them: libuv ends such a process."""
    done = _in_shell(f"demo --once {closed}")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (b"All of it is as it should be." in done.stdout) == (">&-" not in closed.split())


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    code, out, error = run("canonical", "/dev/zero")
    assert (code, out) == (2, "")
    assert error == "/dev/zero: cannot be read: no header section ends within its first 16MiB\n"


def test_names_of_files_can_be_any_octets(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.eml"))
    path.write_bytes(MESSAGE)
    code, out, error = run("canonical", path, PYTHONIOENCODING="utf-8:strict")
    assert (code, error) == (0, "")
    assert json.loads(out)["file"] == str(path)
    config = path.with_suffix(".toml")
    config.touch()
    code, out, error = run("check", "--config", config, PYTHONIOENCODING="utf-8:strict")
    assert (code, error) == (0, "")
    assert out.endswith("\\udcff.toml: no problems\n")


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "a.eml"
    path.write_bytes(MESSAGE)
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "canonical", *[path] * 50],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
        cwd=PROJECT,
        timeout=30,
    )
    os.close(write)
    assert done.stderr == b""


def test_a_small_command_imports_little() -> None:
    script = (
        "import sys\n"
        "from gateway.cli import app\n"
        "app(['canonical', '/dev/null'], standalone_mode=False)\n"
        "heavy = {'aiohttp', 'aiosmtpd', 'asyncio', 'redis', 'gateway.config'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, cwd=PROJECT, timeout=30
    )
    assert done.stdout.splitlines()[-1] == b"[]"
