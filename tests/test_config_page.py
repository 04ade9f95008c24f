"""The example file and the reference are what the model says, at any time."""

import re
import tomllib
from pathlib import Path

import pytest

from gateway.config import config_of, load, page
from gateway.config.key import keys_of, tables
from gateway.config.model import Config
from gateway.core.rule import Match, Mode

PROJECT = Path(__file__).parent.parent
EXAMPLE = PROJECT / "config.example.toml"
REFERENCE = PROJECT / "docs" / "configuration.md"


def test_both_files_are_up_to_date() -> None:
    """If this fails: python -m gateway.config.page."""
    assert EXAMPLE.read_text(encoding="utf-8") == page.example_file()
    assert REFERENCE.read_text(encoding="utf-8") == page.reference_page()


def test_writing_makes_both_files(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    page.write(tmp_path)
    assert load(tmp_path / "config.example.toml") == Config()
    assert (tmp_path / "docs" / "configuration.md").stat().st_size > 5000


def test_the_example_holds_every_key_with_its_default() -> None:
    document = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    for table in tables():
        for key in keys_of(table):
            if table != "policy" and key.path != "policy":
                values = document[table] if table else document
                assert values.pop(key.path.rpartition(".")[2]) == key.default
    assert all(not values for values in document.values())
    assert load(EXAMPLE) == Config()


def test_the_examples_rule_holds_every_key_of_a_rule() -> None:
    _, _, text = EXAMPLE.read_text(encoding="utf-8").partition("#[[policy]]")
    document = tomllib.loads("[[policy]]" + re.sub(r"(?m)^#", "", text))
    assert set(document["policy"][0]) == {key.path.partition(".")[2] for key in keys_of("policy")}
    (rule,) = config_of(document).rules()
    assert (rule.mode, rule.match, rule.window_s) == (Mode.TAG, Match.MESSAGE_ID, 86_400.0)
    assert rule.recipients == ("*@lists.example.org",)


def test_every_key_of_the_example_has_one_comment() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    settings = [line for line in lines if re.match(r"#?[a-z_]+ = ", line)]
    assert len(settings) == sum(len(list(keys_of(table))) for table in tables()) - 1
    for line in settings:
        assert re.search(r"  # \S.*\S$", line), line


@pytest.mark.parametrize("table", tables())
def test_the_reference_has_a_row_for_every_key(table: str) -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    title = {"": "The top of the file", "policy": "`[[policy]]`"}.get(table, f"`[{table}]`")
    _, found, section = text.partition(f"\n## {title}\n")
    assert found
    section = section.partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| `([a-z_]+)` \|.*\| .+ \| .+ \|$", section)
    assert rows == [key.path.rpartition(".")[2] for key in keys_of(table) if key.path != "policy"]
