"""The figures of a run as one SVG: bars with their lowest and highest, and cost by size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from bench.sample import Sample, Spread, spread, values_of
from bench.scenarios import OURS, PEERS, SCENARIOS, Scenario

_WIDTH = 760
_LABEL_WIDTH = 270
_BAR_HEIGHT = 20
_GAP = 8
_TITLE_HEIGHT = 40
_CURVE_HEIGHT = 260
_BARS = ("open", "reconnect", "twice", "large", "latency", "idle", "tracked")
_STYLE = (
    "text{font:13px sans-serif;fill:#222}.title{font-weight:bold;font-size:15px}"
    ".ours{fill:#1f6f54}.theirs{fill:#9db4c0}.line{stroke:#333;stroke-width:1.5;fill:none}"
    ".grid{stroke:#ddd}.small{font-size:11px}"
)


def as_svg(samples: Sequence[Sample]) -> str:
    """Return the picture."""
    parts: list[str] = []
    top = 0
    for scenario in SCENARIOS:
        if scenario.name in _BARS:
            height, text = _bars(samples, scenario, top)
        elif scenario.name == "size":
            height, text = _curve(samples, top)
        else:
            continue
        parts.append(text)
        top += height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + _GAP}" '
        f'role="img"><title>Measurements of mailonce and its peers</title>'
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}</svg>\n"
    )


def _bars(samples: Sequence[Sample], scenario: Scenario, top: int) -> tuple[int, str]:
    found: list[tuple[str, Spread]] = []
    for subject in dict.fromkeys(s.subject for s in samples if s.scenario == scenario.name):
        values = values_of(samples, scenario.name, subject, scenario.key)
        result = spread(list(values.values()))
        if result:
            found.append((subject, result))
    if not found:
        return 0, ""
    scale = (_WIDTH - _LABEL_WIDTH - 90) / max(result.high for _, result in found)
    parts = [_title(f"{scenario.title} ({scenario.unit})", top)]
    y = top + _TITLE_HEIGHT
    for subject, result in found:
        title = PEERS[subject].title if subject in PEERS else subject
        kind = "theirs" if subject in PEERS and not subject.startswith(OURS) else "ours"
        middle = y + _BAR_HEIGHT / 2
        low, high = (_LABEL_WIDTH + value * scale for value in (result.low, result.high))
        parts.append(
            f'<text x="{_LABEL_WIDTH - 8}" y="{middle + 4}" text-anchor="end">'
            f"{escape(title)}</text>"
            f'<rect x="{_LABEL_WIDTH}" y="{y}" width="{result.middle * scale:.1f}" '
            f'height="{_BAR_HEIGHT}" class="{kind}"/>'
            f'<path class="line" d="M{low:.1f} {middle}H{high:.1f}"/>'
            f'<text x="{high + 6:.1f}" y="{middle + 4}">{result.middle:,.0f}</text>'
        )
        y += _BAR_HEIGHT + _GAP
    return y - top + _GAP, "".join(parts)


def _title(text: str, top: int) -> str:
    return f'<text class="title" x="{_GAP}" y="{top + 26}">{escape(text)}</text>'


def _curve(samples: Sequence[Sample], top: int) -> tuple[int, str]:
    """CPU time of mailonce per message against its size, both logarithmic."""
    points = []
    for subject in dict.fromkeys(s.subject for s in samples if s.scenario == "size"):
        peer, _, label = subject.partition(" ")
        cost = spread(list(values_of(samples, "size", subject, "cpu_us").values()))
        if peer == OURS and cost and cost.middle > 0:
            points.append((int(label.split()[0]), cost.middle))
    if len(points) < 2:  # a line needs two
        return 0, ""
    left, right, bottom = 80, _WIDTH - 40, top + _CURVE_HEIGHT - 30
    upper = top + _TITLE_HEIGHT + 10
    xs = [math.log10(size) for size, _ in points]
    ys = [math.log10(cost) for _, cost in points]
    wide, high = xs[-1] - xs[0], max(ys) - min(ys) or 1.0
    dots = [
        (
            left + (x - xs[0]) / wide * (right - left),
            bottom - (y - min(ys)) / high * (bottom - upper),
        )
        for x, y in zip(xs, ys, strict=True)
    ]
    parts = [_title("CPU time of mailonce per message, by size (µs, logarithmic)", top)]
    parts.append('<path class="line" d="M' + "L".join(f"{x:.1f} {y:.1f}" for x, y in dots) + '"/>')
    for (x, y), (size, cost_us) in zip(dots, points, strict=True):
        parts.append(
            f'<circle class="ours" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
            f'<text class="small" x="{x:.1f}" y="{y - 8:.1f}" text-anchor="middle">'
            f"{cost_us:,.0f}</text>"
            f'<text class="small" x="{x:.1f}" y="{bottom + 22}" text-anchor="middle">'
            f"{size:,} KiB</text>"
        )
    return _CURVE_HEIGHT + _GAP, "".join(parts)
