"""What the pages say is so: links lead somewhere, names exist, commands run."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from gateway.cli import app
from tests.support.cli import mailonce
from tests.support.client import Client, deliver_over
from tests.support.need import need
from tests.support.process import temporary_folder, wait_until
from tests.support.recipe import running_site

_ROOT = Path(__file__).parents[2]
_PAGES = sorted(
    [
        *(_ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
        *(_ROOT / "docs").glob("*.md"),
        *(_ROOT / "deploy").rglob("*.md"),
    ]
)
_NAMES = [str(page.relative_to(_ROOT)) for page in _PAGES]
_CONFIG = "/etc/mailonce/config.toml"


def text_of(name: str) -> str:
    return (_ROOT / name).read_text()


def commands(name: str) -> list[str]:
    """Return the commands in the console blocks of a page, without comments."""
    blocks = re.findall(r"^ *```console\n(.*?)^ *```", text_of(name), re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [re.sub(r"\s{2,}# .*", "", line[2:]) for line in lines if line[:2] in ("$ ", "# ")]


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("name", _NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = _ROOT / name
    without_code = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in _anchors(there), target


def test_the_index_has_every_page() -> None:
    index = text_of("docs/README.md")
    pages = {page.name for page in (_ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {page for page in pages if f"({page})" not in index} == set()


@pytest.mark.parametrize("name", _NAMES)
def test_our_own_commands_are_ones_that_exist(name: str) -> None:
    """Sub-command, options and number of arguments, as the program itself reads them."""
    program = get_command(app)
    assert isinstance(program, TyperGroup)
    for line in commands(name):
        for part in line.split(" && "):
            words = shlex.split(part)
            if "mailonce" not in words[:1] and words[:3] != ["runuser", "-u", "mailonce"]:
                continue
            words = words[words.index("mailonce", 3 if words[0] == "runuser" else 0) + 1 :]
            if words[0].startswith("--"):
                assert words[0] in ("--version", "--help", "--install-completion")
                continue
            command = program.commands[words[0]]
            assert isinstance(command, TyperCommand)
            command.make_context(words[0], words[1:])  # raises what a user would be told


def test_keys_metrics_alerts_and_events_exist() -> None:
    keys = {
        f"{table}.{key}"
        for table, values in tomllib.loads(text_of("config.example.toml")).items()
        if isinstance(values, dict)
        for key in values
    }
    tables = {key.partition(".")[0] for key in keys}
    metrics = set(re.findall(r"mailonce_\w+", text_of("docs/metrics.md")))
    alerts = set(re.findall(r"alert: (\w+)", text_of("deploy/prometheus/rules.yml")))
    sources = "".join(path.read_text() for path in (_ROOT / "gateway").rglob("*.py"))
    for name in _NAMES:
        page = text_of(name)
        for table, key in re.findall(r"`([a-z_]+)\.([a-z_]+)\b[^`./]*`", page):
            if table in tables and key not in ("cf", "toml", "py", "md"):
                named = f"{table}.{key}"  # a key, or a check of the doctor
                assert named in keys or f'"{named}"' in sources, (name, named)
        for metric in re.findall(r"`(mailonce_\w+)", page):
            known = metric in metrics or any(m.startswith(metric) for m in metrics)
            assert known or "destination" in metric, (name, metric)
        assert set(re.findall(r"`(Mailonce[A-Z]\w+)`", page)) <= alerts, name
    events = re.findall(r"^\| `(\w+)` \| ", text_of("docs/operations.md"), re.MULTILINE)
    assert "store_unavailable" in events
    known_events = [event for event in events if f'"{event}"' in sources]
    section = text_of("docs/operations.md").partition("| in the log |")[2].partition("\n\n")[0]
    told = re.findall(r"^\| `(\w+)`", section, re.MULTILINE)
    assert told
    assert set(told) <= set(known_events)


@pytest.mark.tool
def test_the_commands_of_the_installation_put_things_where_the_units_look() -> None:
    """Every `install`, `umask` and `ln` runs, with another root; what it puts there is whole."""
    need("openssl", "systemd-sysusers:systemd")
    with temporary_folder("root") as root:
        ran = [line for line in commands("docs/installation.md") if _is_local(line)]
        assert len(ran) == 8, ran
        for line in ran:
            placed = re.sub(r"(?<=\s)/(?=(usr|etc|opt|var)/)", f"{root}/", line)
            placed = placed.replace("-o mailonce -g mailonce ", "")  # who is nobody on this machine
            if line == "systemd-sysusers":
                placed = f"systemd-sysusers --dry-run {root}/usr/lib/sysusers.d/mailonce.conf"
            for folder in ("etc/systemd/system", "usr/local/bin"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            done = subprocess.run(
                ["bash", "-euc", placed], cwd=_ROOT, capture_output=True, timeout=60, check=False
            )
            assert done.returncode == 0, (placed, done.stderr)
        assert (root / "etc/mailonce/secret").stat().st_mode & 0o077 == 0
        assert len((root / "etc/mailonce/secret").read_text().strip()) == 44
        units = {path.name for path in (root / "etc/systemd/system").iterdir()}
        assert units == {"mailonce.service", "mailonce.socket"}
        assert (root / "usr/local/share/man/man1/mailonce.1").exists()
        assert (root / "etc/mailonce/config.toml").exists()
        # `doctor` looks there before the service has ever started, and systemd made it.
        assert (root / "var/lib/mailonce").stat().st_mode & 0o777 == 0o700


def _is_local(line: str) -> bool:
    return line.startswith(("install ", "(umask", "ln ", "systemd-sysusers"))


@pytest.fixture(scope="module")
def worked_example() -> list[tuple[str, str]]:
    """Return the commands of the worked example, each with what the page shows of its output."""
    section = text_of("docs/operations.md").partition("\n## ")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```console\n\$ (.*?)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    return blocks


@pytest.mark.postfix
@pytest.mark.xdist_group("recipe-mx-edge")
def test_from_complaint_to_answer_in_three_commands(worked_example: list[tuple[str, str]]) -> None:
    """P7: the story of the page, lived through with a real Postfix, command by command."""
    message_id, anna = "20261124091200.4711@shop.example", "anna@example.org"
    message = (
        b"From: Shop <billing@shop.example>\r\nDate: Tue, 24 Nov 2026 09:12:00 +0100\r\n"
        b"Subject: Your invoice\r\nMessage-ID: <%b>\r\n\r\nAttached.\r\n" % message_id.encode()
    )
    with running_site("mx-edge") as site:
        site.gateway.write_config({"dedup.action": "drop"})
        site.gateway.restart()
        for _ in range(2):
            with Client(site.port) as client:
                client.greet("mail.shop.example")
                assert deliver_over(client, "billing@shop.example", [anna], message).is_accepted
                client.command("QUIT")  # answered when the journal has it
        site.wait_for(1)
        wait_until(lambda: "status=sent" in site.postfix.log(), "the delivery")
        ((queue_id, line),) = re.findall(r": (\w+): (to=<anna.*status=sent.*)", site.postfix.log())
        assert line
        shown = worked_example[1][0].split()[1]
        trace, grep, forget = (
            command.replace(_CONFIG, str(site.gateway.config_file))
            .replace("/var/log/mail.log", str(site.postfix.folder / "log/mail.log"))
            .replace(shown, queue_id)
            for command, _ in worked_example
        )
        for command, (_, output) in ((trace, worked_example[0]), (forget, worked_example[2])):
            told = mailonce(*shlex.split(command)[1:])
            assert told.code == 0, told
            assert _shape(told.out, queue_id) == _shape(output, shown), told.out
        found = subprocess.run(shlex.split(grep), capture_output=True, text=True, check=True)
        assert f"{queue_id}: to=<{anna}>" in found.stdout
        # What the page promises: the next copy passes.
        with Client(site.port) as client:
            client.greet("mail.shop.example")
            assert deliver_over(client, "billing@shop.example", [anna], message).is_accepted
        assert len(site.wait_for(2)) == 2


def _shape(output: str, queue_id: str) -> str:
    """Return output without what differs from one day to the next."""
    text = output.replace(queue_id, "QUEUE-ID")
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", text)
    text = re.sub(r"client \S+ ", "client ADDRESS ", text)
    # Not even its presence is certain: the list knows whole seconds, and a copy that comes within
    # the first 50 ms of one is not shown as later.
    text = re.sub(r" +\(\+[^)]*\)", "", text)
    text = re.sub(r"\d+ octets", "N octets", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())
