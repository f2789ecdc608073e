"""One self-contained HTML page about several methods: tables, and their Dice region by region."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Any

from foldless.io.files import write_whole
from foldless.report.rendering import rendered

COLOURS = ("#2f6fb7", "#d9822b", "#3a9a5b", "#c23b4e", "#8a63b5", "#8c6d52", "#d271b0", "#7d838c", "#a8a52c", "#27a5b5")
WIDTH, LEFT, ROW, TOP = 760, 220, 22, 26
"""Of the picture, in pixels: all of it, its column of names, a row, and what is above the first."""


@dataclass(frozen=True)
class Table:
    """A table of the page, its cells as they are to be read."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Dots:
    """A picture ready to draw: a row a region, in it a dot a method.

    Attributes:
        methods: names and colours.
        ticks: places along the axis, in pixels, and what is written there.
        rows: a name, its height in pixels, and dots (x, y, colour, what is shown under the pointer).
        size: width and height, in pixels.
    """

    methods: list[tuple[str, str]]
    ticks: list[tuple[float, str]]
    rows: list[tuple[str, float, list[tuple[float, float, str, str]]]]
    size: tuple[int, int]


def write_comparison(
    path: Path,
    title: str,
    tables: Sequence[Table],
    dice: Mapping[str, Mapping[str, float]],
    record: Mapping[str, Any],
) -> None:
    """Write the page to `path`, whole or not at all.

    Args:
        path: the HTML file.
        title: the page's heading.
        tables: one below the other.
        dice: method -> region -> Dice; drawn where there is any.
        record: tells how the results came about; shown folded, as JSON.
    """
    about = json.dumps(record, indent=2, default=str, ensure_ascii=False)
    page = rendered("comparison.html.j2", title=title, tables=tables, dots=dots_of(dice), left=LEFT, record=about)

    def fill(file: Path) -> None:
        file.write_text(page, encoding="utf-8")

    write_whole(path, fill)


def dots_of(dice: Mapping[str, Mapping[str, float]]) -> Dots | None:
    """The picture of method -> region -> Dice, its axis from tenth to tenth; None where nothing is known."""
    values = [value for regions in dice.values() for value in regions.values()]
    if not values:
        return None
    low, high = floor(10 * min(values)), max(ceil(10 * max(values)), floor(10 * min(values)) + 1)
    scale = (WIDTH - LEFT - 20) / (high - low)
    colours = {method: COLOURS[k % len(COLOURS)] for k, method in enumerate(dice)}
    apart = min(4.0, (ROW - 8) / len(dice))
    rows = []
    for place, region in enumerate(dict.fromkeys(region for regions in dice.values() for region in regions)):
        middle = TOP + (place + 0.5) * ROW
        dots = [
            (
                LEFT + (10 * dice[method][region] - low) * scale,
                middle + (k - (len(dice) - 1) / 2) * apart,
                colours[method],
                f"{region}, {method}: {dice[method][region]:.3f}",
            )
            for k, method in enumerate(dice)
            if region in dice[method]
        ]
        rows.append((region, middle, dots))
    ticks = [(LEFT + (tenth - low) * scale, f"{tenth / 10:.1f}") for tenth in range(low, high + 1)]
    return Dots(list(colours.items()), ticks, rows, (WIDTH, TOP + ROW * len(rows) + 8))
