"""Curves over time as one SVG, each in a strip of its own with its scale from zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _STRIP, _LEFT, _TOP = 760, 90, 190, 34
_STYLE = (
    "text{font:13px sans-serif;fill:#222}.title{font-weight:bold;font-size:15px}"
    ".line{stroke:#1f6f54;stroke-width:1.5;fill:none}.grid{stroke:#ddd}.small{font-size:11px}"
)


def as_svg(title: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Return the picture.

    Args:
        title: on top.
        series: name -> points, seconds and value.
    """
    strips = "".join(
        _strip(name, points, _TOP + index * _STRIP)
        for index, (name, points) in enumerate(series.items())
        if points
    )
    height = _TOP + len(series) * _STRIP + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f'<rect width="100%" height="100%" fill="#fff"/>'
        f'<text class="title" x="8" y="22">{escape(title)}</text>{strips}</svg>\n'
    )


def _strip(name: str, points: Sequence[tuple[float, float]], top: int) -> str:
    last_s = max(at_s for at_s, _ in points) or 1.0
    most = max(value for _, value in points) or 1.0
    height, width = _STRIP - 24, _WIDTH - _LEFT - 16
    line = " ".join(
        f"{_LEFT + at_s / last_s * width:.1f},{top + height - value / most * height:.1f}"
        for at_s, value in points
    )
    bottom = top + height
    return (
        f'<line class="grid" x1="{_LEFT}" y1="{bottom}" x2="{_WIDTH - 16}" y2="{bottom}"/>'
        f'<text x="8" y="{top + 20}">{escape(name.replace("_", " "))}</text>'
        f'<text class="small" x="8" y="{top + 38}">at most {most:,.0f}</text>'
        f'<text class="small" x="{_WIDTH - 16}" y="{bottom + 14}" text-anchor="end">'
        f"{last_s / 60:.0f} min</text>"
        f'<polyline class="line" points="{line}"/>'
    )
