"""Does the cycle by itself unfold, or is it the smaller displacement? P against Dice, every method under many weights.

python -m experiments.kuang_sweep --data BRAINS --output RUNS --folds A

Trains a network a method and a weight, half-resolution by default: baseline and cycle under five weights in less than
an hour a fold on two cores. The same command goes on where it was stopped, and with more methods, factors or folds adds
to what is there; experiments.kuang_fig2 with the same output draws three of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments.brains import NAMES, Name, UnderWeights, lay_out, mean_over_folds
from experiments.command import begin
from experiments.drawing import panels, save_all
from experiments.results import command_of, markdown
from foldless.methods import Method

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "os^Dv<>P"
LEAST = 1e-6
"""P in % that is drawn where nothing folds: the axis is logarithmic."""


class Point(NamedTuple):
    """A method under one weight, means over folds of means over pairs."""

    weight: float
    dice: float
    percent: float
    ten: float
    spread: float
    inverse: float


@dataclass(frozen=True)
class Sweep(UnderWeights):
    """Train methods under several weights, judge them on the same pairs, and compare their folds at equal Dice."""

    methods: tuple[Method, ...] = ("baseline", "cycle")
    """Any of `foldless train --method`; the first is what the others are compared with."""
    factors: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    """Of every method's own weight: λ = 1 of the baseline and the cycle, 1 and 4 of the refinement, 1000 of ICON."""
    folds: tuple[Name, ...] = NAMES
    """Whose brains judge."""

    def run(self) -> None:
        methods, factors = dict.fromkeys(self.methods), sorted(set(self.factors))
        self.check(methods, factors)
        data = lay_out(self.data, self.output / "data")
        curves: dict[str, list[Point]] = {}
        for factor in factors:
            for method in methods:
                curves.setdefault(method, []).append(self._point(method, factor, data))
        figure, [[axes]] = panels(1, 1, width=8.5, height=5.5)
        draw_curves(axes, curves)
        save_all(figure, self.picture_folder, "kuang_sweep", self.formats)
        self.write("Kuang, the weight against the cycle", self._text(curves))

    def _point(self, method: str, factor: float, data: Path) -> Point:
        """A method under one weight, trained and judged on every fold now or by an earlier call."""
        rows = {fold: self.under_weight(method, factor, fold, data)[1] for fold in self.folds}
        mean = mean_over_folds(rows)
        return Point(
            self.recipe(method, factor).weight,
            mean["dice"],
            mean["folds_percent.forward"],
            mean["folds_percent.ten"],
            mean["sdlogj"],
            mean["inverse_consistency_voxels.mean"],
        )

    def _text(self, curves: dict[str, list[Point]]) -> str:
        header = ("method", "λ", "Dice", "P, %", "folds, % (ten)", "SDlogJ", "inverse, voxels")
        rows = [
            (m, f"{p.weight:g}", f"{p.dice:.4f}", *(f"{v:.3g}" for v in (p.percent, p.ten, p.spread, p.inverse)))
            for m, points in curves.items()
            for p in points
        ]
        return (
            f"    {command_of('kuang_sweep', self)}\n\n{self.shown('kuang_sweep', 'P against Dice')}\n\n"
            f"{markdown(header, rows)}\nAt equal Dice, the first method read between neighbouring λ:\n\n"
            f"{equal_dice(curves)}\nMeans over the folds {' '.join(self.folds)}, {self.pairs} ordered pairs each; "
            f"{self.steps} steps (a phase: three tenths) of {self.batch} on images pooled by {self.pool}, rate "
            f"{self.rate:g}. Where P falls at equal Dice and SDlogJ does not, the method unfolds; where P only follows "
            "Dice along the baseline's curve, its maps move less. In the picture no folds at all are drawn at "
            f"{LEAST:g} %, and the numbers beside the points are λ."
        )


def equal_dice(curves: dict[str, list[Point]]) -> str:
    """For every point of the other methods: P there, and P of the first method at the same Dice."""
    first, *others = curves
    rows = [
        (method, f"{p.weight:g}", f"{p.dice:.4f}", f"{p.percent:.3g}", _number(percent_at(curves[first], p.dice)))
        for method in others
        for p in curves[method]
    ]
    return markdown(("method", "λ", "Dice", "P, %", f"P, % of {first} at this Dice"), rows)


def percent_at(points: Sequence[Point], dice: float) -> float | None:
    """The least P of a curve at a Dice, along straight lines between neighbouring weights; None where it has none.

    A weight that is too small and one that is too large may come to the same Dice.
    """
    found = []
    for one, other in pairwise(sorted(points, key=lambda p: p.weight)):
        low, high = sorted((one, other), key=lambda p: p.dice)
        if low.dice <= dice <= high.dice:
            share = (dice - low.dice) / (high.dice - low.dice) if high.dice > low.dice else 0.0
            found.append(low.percent + share * (high.percent - low.percent))
    return min(found, default=None)


def draw_curves(axes: Axes, curves: dict[str, list[Point]]) -> None:
    """P over Dice: a line a method with its name at its smallest weight, every weight beside its point."""
    for k, (method, points) in enumerate(curves.items()):
        dice, percent = [p.dice for p in points], [max(p.percent, LEAST) for p in points]
        (line,) = axes.plot(dice, percent, marker=MARKERS[k % len(MARKERS)], markersize=4, linewidth=1.2, label=method)
        beside = {"textcoords": "offset points", "color": line.get_color()}
        for p, x, y in zip(points, dice, percent, strict=True):
            above = 4 if p.percent > LEAST else 6 + 7 * k  # many methods may end without folds
            axes.annotate(f"{p.weight:g}", (x, y), xytext=(3, above), fontsize=6, **beside)
        axes.annotate(method, (dice[0], percent[0]), xytext=(-5, 0), ha="right", va="center", fontsize=8, **beside)
    axes.set(xlabel="Dice", ylabel="P, % of voxels (forward)", yscale="log")
    axes.margins(x=0.16)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _number(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    begin(Sweep)
