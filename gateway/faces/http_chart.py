"""Charts as SVG: bars of the last hour, and one bar that shows shares. Colours come from the style.

Each has its numbers in words too, for who cannot see it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.core.activity import Interval
from gateway.faces.http_frame import WORDS, count
from gateway.faces.http_html import Html, join, tag

VERDICTS = ("new", "duplicate", "collision", "partial", "in_flight", "unchecked", "bypassed")
"""In the order in which they are stacked."""

_WIDTH, _HEIGHT, _GAP = 720, 132, 2
_MOST_BARS = 60


def hour(intervals: Sequence[Interval]) -> Html:
    """Return messages per minute as stacked bars, now at the right."""
    shown = intervals[-_MOST_BARS:]
    rates = [_per_minute(interval) for interval in shown]
    most = max((sum(rate.values()) for rate in rates), default=0.0)
    top = _round_up(most)
    step = _WIDTH / _MOST_BARS
    bars = [
        _bar(rate, top, _WIDTH - (len(rates) - index) * step, step - _GAP)
        for index, rate in enumerate(rates)
    ]
    lines = [
        tag("line", x1=0, x2=_WIDTH, y1=y, y2=y, class_="grid")
        for y in (0.5, _HEIGHT / 2, _HEIGHT - 0.5)
    ]
    picture = tag(
        "svg",
        tag("title", f"Messages per minute in the last hour, at most {most:.0f}"),
        *lines,
        *bars,
        viewbox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveaspectratio="none",
        role="img",
    )
    scale = tag("div", *[tag("span", _short(top * k)) for k in (1.0, 0.5, 0.0)], class_="scale")
    axis = tag("div", *[tag("span", text) for text in ("60 min ago", "30", "now")], class_="axis")
    return tag("figure", tag("div", scale, picture, class_="plot"), axis, class_="hour")


def shares(numbers: Mapping[str, int], prefix: str, words: Mapping[str, str]) -> Html:
    """Return one bar cut into shares, with a legend of all that is not nothing.

    Args:
        numbers: by name, in the order in which they stand.
        prefix: of the style classes: prefix and name.
        words: names as they are written.
    """
    total = sum(numbers.values())
    pieces, legend, x = [], [], 0.0
    for name, number in numbers.items():
        if not number:
            continue
        width = 100 * number / total
        pieces.append(
            tag("rect", x=f"{x:.3f}", y=0, width=f"{width:.3f}", height=4, class_=f"{prefix}{name}")
        )
        x += width
        legend.append(
            tag(
                "li",
                tag("i", class_=f"{prefix}{name}", aria_hidden="true"),
                tag("span", words.get(name, name)),
                tag("b", count(number)),
                tag("em", f"{width:.1f} %" if width < 10 else f"{width:.0f} %"),
            )
        )
    picture = tag(
        "svg", *pieces, viewbox="0 0 100 4", preserveaspectratio="none", aria_hidden="true"
    )
    return tag("div", picture, tag("ul", *legend, class_="legend"), class_="shares")


def verdict_shares(numbers: Mapping[str, int]) -> Html:
    """Return the shares of verdicts."""
    return shares({verdict: numbers.get(verdict, 0) for verdict in VERDICTS}, "v-", WORDS)


def _per_minute(interval: Interval) -> dict[str, float]:
    # The last sample is of this moment: of a few seconds no rate can be told.
    minutes = max(interval.duration_s, 30.0) / 60
    return {verdict: number / minutes for verdict, number in interval.verdicts.items()}


def _bar(rate: Mapping[str, float], top: float, x: float, width: float) -> Html:
    pieces, y = [], float(_HEIGHT)
    for verdict in VERDICTS:
        height = _HEIGHT * rate.get(verdict, 0.0) / top
        if height <= 0:
            continue
        y -= height
        pieces.append(
            tag(
                "rect",
                x=f"{x:.2f}",
                y=f"{y:.2f}",
                width=f"{width:.2f}",
                height=f"{height:.2f}",
                class_=f"v-{verdict}",
            )
        )
    return join(*pieces)


def _round_up(value: float) -> float:
    """Return the next number with one digit that reads well on an axis."""
    step = 1.0
    while True:
        for digit in (2, 4, 6, 10):
            if value <= digit * step:
                return digit * step
        step *= 10


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
