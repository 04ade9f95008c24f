"""Tables and picture can be made of any run, whole or not."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

from bench.plot import as_svg
from bench.report import Run, as_json, as_markdown
from bench.sample import Sample

_SAMPLES = [
    Sample("open", "mailonce", 0, {"rate": 5000.0, "cpu_us": 150.0, "chain_us": 200.0}),
    Sample("open", "postfix", 0, {"rate": 2000.0, "cpu_us": 400.0, "chain_us": 600.0}),
    Sample("size", "mailonce 1 KiB", 0, {"rate": 6000.0, "cpu_us": 100.0}),
    Sample("size", "mailonce 4 KiB", 0, {"rate": 5000.0, "cpu_us": 150.0}),
]


def test_the_table_says_what_was_met_and_what_is_missing() -> None:
    text = as_markdown(Run(_SAMPLES, {"haraka": "npm is\nnot installed"}, ["x: lost"], {"a": "b"}))
    assert "| open | mailonce, rate | postfix | ≥ 2 × | 2.5 | 3 | met |" in text
    assert "`haraka`: npm is not installed" in text
    assert "* x: lost" in text


def test_json_holds_every_round() -> None:
    run = json.loads(as_json(Run(_SAMPLES, {}, [], {})))
    assert run["samples"][1]["values"]["rate"] == 2000.0


def test_the_picture_is_well_formed() -> None:
    picture = ET.fromstring(as_svg(_SAMPLES))  # noqa: S314  # our own
    words = [element.text for element in picture.iter() if element.text]
    assert "Postfix smtpd_proxy_filter" in words
    assert "4 KiB" in words
    ET.fromstring(as_svg([]))  # noqa: S314  # our own
