"""`docs/metrics.md` says what the code counts, all of it and nothing else."""

import re
from pathlib import Path

from gateway.core.message_id import Form
from gateway.core.policy import Action, Verdict
from gateway.edge.metrics_layout import METRICS, Metric

_ROOT = Path(__file__).parent.parent
_PAGE = (_ROOT / "docs" / "metrics.md").read_text()
_BUILD = (
    "| `mailonce_build_info` | gauge | `version`, `python` | Version of the gateway; always 1. |"
)


def _row(metric: Metric) -> str:
    labels = "; ".join(f"`{name}`: {' '.join(values)}" for name, values in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels or '–'} | {metric.text} |"


def test_table_holds_every_metric_in_order() -> None:
    rows = [line for line in _PAGE.splitlines() if line.startswith("| `mailonce_")]
    assert rows == [*map(_row, METRICS), _BUILD]


def test_words_of_labels_are_explained() -> None:
    explained = _PAGE[_PAGE.index("## What the labels say") :]
    for word in (*Verdict, *Action, *Form):
        assert f"`{word}`" in explained, word


def test_expressions_name_metrics_that_there_are() -> None:
    names = {metric.name for metric in METRICS} | {"mailonce_build_info"}
    for query in re.findall(r"```promql\n(.*?)```", _PAGE, re.DOTALL):
        for name in re.findall(r"mailonce_[a-z_]+", query):
            assert name.removesuffix("_bucket") in names


def test_alerts_are_those_of_the_rules() -> None:
    rules = (_ROOT / "deploy" / "prometheus" / "rules.yml").read_text()
    listed = re.findall(r"^\| `(Mailonce[A-Za-z]+)` \|", _PAGE, re.MULTILINE)
    assert listed == re.findall(r"- alert: (\S+)", rules)
