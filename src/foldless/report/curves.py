"""Training curves as plain SVG paths; the page gives them their colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log10

from foldless.report.verdict import format_number

WIDTH, HEIGHT = 320, 120
MOST_POINTS = 600
"""A longer curve is drawn through the smallest and the largest value of each of half as many stretches."""


@dataclass(frozen=True)
class Curve:
    """A curve ready to draw in a box of WIDTH × HEIGHT: its SVG path and the numbers written at the box's edges."""

    name: str
    path: str
    low: str
    high: str
    first_step: str
    last_step: str
    last: str
    logarithmic: bool
    width: int = WIDTH
    height: int = HEIGHT


def draw_curve(name: str, points: Sequence[tuple[int, float]]) -> Curve | None:
    """The curve through (step, value); logarithmic where positive values span more than two decades.

    Values that are not finite leave a gap. None where nothing is finite.
    """
    finite = [value for _, value in points if isfinite(value)]
    if not finite:
        return None
    logarithmic = min(finite) > 0 and max(finite) / min(finite) > 100
    low, high = min(finite), max(finite)
    steps = [step for step, _ in points]
    start, stop = min(steps), max(steps)

    def at(step: int, value: float) -> str:
        scaled = (log10(value / low) / log10(high / low)) if logarithmic else (value - low) / ((high - low) or 1.0)
        return f"{(step - start) / ((stop - start) or 1) * WIDTH:.1f} {(1 - scaled) * HEIGHT:.1f}"

    pieces, pen = [], "M"
    for step, value in _thinned(points):
        if isfinite(value):
            pieces.append(f"{pen}{at(step, value)}")
            pen = "L"
        else:
            pen = "M"
    return Curve(
        name,
        "".join(pieces),
        _short(low),
        _short(high),
        format_number(start),
        format_number(stop),
        _short(finite[-1]),
        logarithmic,
    )


def _short(value: float) -> str:
    """Three digits, in a space for seven characters."""
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.1e}".replace("-", "−")
    return format_number(float(f"{value:.3g}"))


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    if len(points) <= MOST_POINTS:
        return list(points)
    length = -(-len(points) // (MOST_POINTS // 2))
    kept: list[tuple[int, float]] = []
    for start in range(0, len(points), length):
        stretch = [p for p in points[start : start + length] if isfinite(p[1])]
        if stretch:
            kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return kept
