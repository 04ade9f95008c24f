"""docs/operations.md against the code: every name in the JSON of a command is told there."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from gateway.core.policy import NEW
from gateway.core.report import Entry
from gateway.core.story import Holding, Story, as_json, holding_json
from gateway.doctor.finding import Finding, Level
from gateway.recall import Forgotten
from gateway.scan.ledger import Example
from gateway.scan.report import Choice, Named, Report
from gateway.trace import forgotten_json

PAGE = (Path(__file__).parents[1] / "docs" / "operations.md").read_text(encoding="utf-8")


def told_of(command: str) -> set[str]:
    """Return the names in the part about one command's JSON."""
    part = re.search(rf"\*\*`{command}`\*\*(.*?)(?=\n\*\*`|\Z)", PAGE, re.DOTALL)
    assert part, f"{command} is not in docs/operations.md"
    return set(re.findall(r"`([a-z_]+)`", part[1]))


def names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def test_trace_and_forget() -> None:
    holding = Holding("", "", False, NEW)
    told = told_of("trace")
    assert set(as_json(Story(""))) <= told
    assert set(holding_json(holding)) <= told
    assert names(Entry) <= told
    assert set(re.findall(r'"([a-z_]+)":', forgotten_json(Forgotten("", (), 0)))) <= told_of(
        "forget"
    )


def test_doctor() -> None:
    assert {"is_well", "findings", *names(Finding), *Level} <= told_of("doctor")


def test_scan() -> None:
    told = told_of("scan")
    for kind in (Report, Choice, Named, Example):
        assert names(kind) <= told, kind
