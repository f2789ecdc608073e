"""One self-contained HTML page about one or several registrations: pictures, numbers and a verdict.

The page opens from disk, needs no network and holds its images itself. Without a script it shows still pictures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
from jaxtyping import Bool, Shaped

from foldless.io.files import write_whole
from foldless.report.arrays import CONSTANTS, Arrays, embed, views_of
from foldless.report.comparison import Table, write_comparison
from foldless.report.curves import draw_curve
from foldless.report.pictures import overview, warped_grid_figure
from foldless.report.rendering import rendered
from foldless.report.verdict import (
    Finding,
    format_dice,
    format_number,
    goodness,
    judge,
    judge_numbers,
    label_rows,
    level_of,
    loses_dice,
    number_rows,
    overall,
    pairs_table,
)

__all__ = ["Finding", "Pair", "Table", "judge", "warped_grid_figure", "write_comparison", "write_report"]

INTERACTIVE_2D = 24
"""So many 2-D pairs get the viewer; each costs tens of kilobytes and a screen of scrolling."""
INTERACTIVE_3D = 4
"""So many 3-D pairs get the viewer; each costs megabytes."""
EMBEDDED_BYTES = 48_000_000
"""No further pair gets the viewer once the embedded arrays are this long; browsers read such a page in a second."""
PICTURED = 48
"""So many pairs get a still picture; the numbers of all pairs are in the table."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A registered pair of images and what was measured on it.

    Args:
        name: shown as the pair's heading.
        moving: (*moving_lattice), image A as it was; its lattice may differ from the fixed image's.
        fixed: (*lattice), image B, two or three axes; in 3-D the axes are (z, y, x) unless `orientation` says else.
        warped: (*lattice), A ∘ phi_AB.
        displacement_voxels: (dim, *lattice), phi_AB(x) - x at the fixed lattice's nodes, in voxels of the fixed
            lattice, components in array-axis order.
        spacing: distance of neighbouring voxels on each array axis of the fixed image, in mm (or any one unit).
        determinant: (*lattice), det Dphi_AB without unit; by default central differences of the displacement.
        folded: (*lattice), where the map folds; by default where the determinant is not positive.
        inverse_error: (*lattice), inverse-consistency error in voxels.
        least_volume: (*lattice), a bound below the determinant in all cells around a voxel.
        moving_labels: (*moving_lattice), integers, 0 is background; so are the next two, on the fixed lattice.
        fixed_labels: (*lattice).
        warped_labels: (*lattice).
        metrics: numbers by name; any may be missing. `dice`, `dice_before`, `dice_per_label`,
            `dice_per_label_before`, `certificate` {proven, failing_cells, least_volume, repaired_cells,
            largest_repair_voxels}, `folds_forward` (a count), `folds_percent` {forward, central, any_of_eight, ten},
            `ndv_percent`, `inverse_consistency_voxels` {mean, p99, max}, `sdlogj`, `sdlogj_learn2reg`,
            `similarity_before`, `similarity_after` (lower is better), `seconds`; other numbers are listed as they are.
        folded_rule: the rule that found `folded`, to be named beside the picture.
        moving_spacing: spacing of the moving image where its lattice differs; by default the fixed image's.
        orientation: the letter towards which the index grows on each array axis, e.g. "SPL" for (z, y, x) arrays in
            LPS order; the letters are then written beside the slices. By default as "SPL", without letters.

    Raises:
        ValueError: shapes that do not fit together.
    """

    name: str
    moving: Shaped[np.ndarray, "*_"]
    fixed: Shaped[np.ndarray, "*_"]
    warped: Shaped[np.ndarray, "*_"]
    displacement_voxels: Shaped[np.ndarray, "*_"]
    spacing: tuple[float, ...]
    determinant: Shaped[np.ndarray, "*_"] | None = None
    folded: Bool[np.ndarray, "*_"] | None = None
    inverse_error: Shaped[np.ndarray, "*_"] | None = None
    least_volume: Shaped[np.ndarray, "*_"] | None = None
    moving_labels: Shaped[np.ndarray, "*_"] | None = None
    fixed_labels: Shaped[np.ndarray, "*_"] | None = None
    warped_labels: Shaped[np.ndarray, "*_"] | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    folded_rule: str = ""
    moving_spacing: tuple[float, ...] | None = None
    orientation: str = ""

    def __post_init__(self) -> None:
        lattice, dim = self.fixed.shape, self.fixed.ndim
        if dim not in (2, 3):
            raise ValueError(f"pair {self.name!r}: the report draws 2-D and 3-D images; fixed has the shape {lattice}")
        wanted: dict[str, tuple[int, ...]] = dict.fromkeys(
            ("warped", "determinant", "folded", "inverse_error", "least_volume", "fixed_labels", "warped_labels"),
            lattice,
        )
        wanted |= {"displacement_voxels": (dim, *lattice), "moving_labels": self.moving.shape}
        for name, shape in wanted.items():
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"pair {self.name!r}: {name} must have the shape {shape}; got {value.shape}")
        if self.moving.ndim != dim:
            raise ValueError(f"pair {self.name!r}: fixed is {dim}-D but moving has the shape {self.moving.shape}")
        for spacing in (self.spacing, self.moving_spacing or self.spacing):
            if len(spacing) != dim or not all(isfinite(s) and s > 0 for s in spacing):
                raise ValueError(f"pair {self.name!r}: spacing must be {dim} positive numbers; got {spacing}")
        views_of(dim, self.orientation)

    @property
    def dim(self) -> int:
        return self.fixed.ndim


def write_report(
    path: Path,
    title: str,
    pairs: Sequence[Pair],
    summary: Mapping[str, SupportsFloat | str],
    history: Mapping[str, Sequence[tuple[int, SupportsFloat]]] | None = None,
    command: str = "",
    record: Mapping[str, Any] | None = None,
    opening_lines: Sequence[str] = (),
    others: Sequence[tuple[str, Mapping[str, Any]]] = (),
    notes: Sequence[str] = (),
) -> None:
    """Write the page to `path`, whole or not at all.

    Args:
        path: the HTML file.
        title: the page's heading.
        pairs: what to show; 2-D and 3-D pairs may mix. The worst few get the viewer, all get their numbers.
        summary: numbers by name, shown at the top.
        history: training curves, (step, value) by name.
        command: the command that made the result.
        record: anything that tells how the result came about; shown folded, as JSON.
        opening_lines: shell lines that open the result in other programs.
        others: name and metrics of pairs that are judged by their numbers and not drawn; they count in all means.
        notes: what was odd about the images before anything was computed.
    """
    every = [*(_Shown.of(pair) for pair in pairs), *(_Shown(*other, judge_numbers(other[1])) for other in others)]
    every.sort(key=lambda one: goodness(one.metrics))
    shown = [one for one in every if one.pair is not None]
    budget = EMBEDDED_BYTES
    places = {2: INTERACTIVE_2D, 3: INTERACTIVE_3D}
    for number, one in enumerate(shown[:PICTURED]):
        assert one.pair is not None
        one.number = number
        arrays = Arrays.of(one.pair)
        one.picture = overview(arrays)
        if places[one.pair.dim] > 0 and budget > 0:
            head, texts = embed(arrays)
            one.head, one.texts = head, texts
            places[one.pair.dim] -= 1
            budget -= sum(map(len, texts.values()))
    curves = [draw_curve(name, [(int(s), float(v)) for s, v in points]) for name, points in (history or {}).items()]
    columns, table = pairs_table([one.metrics for one in every])
    with_dice = [one for one in every if one.metrics.get("dice") is not None]
    page = rendered(
        "page.html.j2",
        title=title,
        columns=columns,
        table=table,
        constants=CONSTANTS,
        volumes=any(pair.dim == 3 for pair in pairs),
        pairs=every,
        with_dice=len(with_dice),
        lost=[one.name for one in with_dice if loses_dice(one.metrics)],
        verdict=overall([one.findings for one in every]),
        summary=[(name, _tile(name, value)) for name, value in summary.items()],
        curves=[curve for curve in curves if curve is not None],
        command=command,
        record=json.dumps(record, indent=2, default=str, ensure_ascii=False) if record else "",
        opening_lines=list(opening_lines),
        notes=list(notes),
        interactive=sum(one.head is not None for one in shown),
        pictured=sum(bool(one.picture) for one in shown),
    )
    path.parent.mkdir(parents=True, exist_ok=True)

    def fill(file: Path) -> None:
        file.write_text(page, encoding="utf-8")

    write_whole(path, fill)


def _tile(name: str, value: SupportsFloat | str) -> str:
    """A number as the tables below the summary show it."""
    return (format_dice(value) if name.startswith("Dice") else None) or format_number(value)


@dataclass(eq=False)
class _Shown:
    """A pair as the template sees it."""

    name: str
    metrics: Mapping[str, Any]
    findings: list[Finding]
    pair: Pair | None = None
    number: int = 0
    picture: str = ""
    head: dict[str, Any] | None = None
    texts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, pair: Pair) -> _Shown:
        return cls(pair.name, pair.metrics, judge(pair), pair)

    @property
    def level(self) -> str:
        return level_of(self.findings)

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        return number_rows(self.metrics)

    @property
    def labels(self) -> list[tuple[str, str, str, float]]:
        return label_rows(self.metrics)
