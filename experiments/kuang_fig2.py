"""Kuang and Schmah, Fig. 2: the warped grid of the baseline trained with λ = 1, 2 and 4, at the same place.

python -m experiments.kuang_fig2 --data BRAINS --output RUNS

Trains one network a weight, on the brains that do not judge, and goes on where it was stopped; what
experiments.kuang_sweep has trained in the same output is not trained again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments.brains import Name, UnderWeights, axial_slice, folds, lay_out, mean_over_folds
from experiments.command import begin
from experiments.drawing import draw_lattice, panels, save_all
from experiments.results import command_of, markdown
from foldless.errors import InputError


@dataclass(frozen=True)
class Fig2(UnderWeights):
    """Train the baseline under several weights of its smoothness and draw the maps of one unseen pair."""

    weights: tuple[float, ...] = (1.0, 2.0, 4.0)
    """λ of each."""
    fold: Name = "A"
    """Which brains judge; the pair is of their first two, or --pair."""
    pair: tuple[str, str] | None = None
    """Names of the moving and the fixed brain."""
    at: int | None = None
    """Which axial slice, from below; None: where the first map folds most."""

    def run(self) -> None:
        self.check(["baseline"], self.weights)
        data = lay_out(self.data, self.output / "data")
        moving, fixed = self._pair(data)
        slices, means = [], []
        for weight in self.weights:
            folder, rows = self.under_weight("baseline", weight, self.fold, data)
            at = slices[0].at if slices else self.at
            slices.append(axial_slice(folder / "last.safetensors", data, moving, fixed, at))
            means.append(mean_over_folds({self.fold: rows}))
        figure, [axes] = panels(1, len(slices), width=3.6 * len(slices))
        for place, weight, found in zip(axes, self.weights, slices, strict=True):
            draw_lattice(place, found.nodes, f"λ = {weight:g}: {found.percent:.3g} % folded", every=2)
        save_all(figure, self.picture_folder, "kuang_fig2", self.formats)
        table = [
            (f"{weight:g}", f"{found.percent:.4g}", f"{mean['folds_percent.forward']:.4g}", f"{mean['dice']:.4f}")
            for weight, found, mean in zip(self.weights, slices, means, strict=True)
        ]
        text = (
            f"    {command_of('kuang_fig2', self)}\n\n{self.shown('kuang_fig2', 'Fig. 2')}\n\n"
            f"{markdown(('λ', 'P of this pair, %', 'P, %', 'Dice'), table)}\nBaseline, {self.steps} steps on images "
            f"pooled by {self.pool}; {moving} onto {fixed}, axial slice {slices[0].at}: its nodes where the map takes "
            "them, projected onto the slice. P by forward differences of whole maps; P and Dice are means over "
            f"{len(rows)} pairs of the fold {self.fold}."
        )
        self.write("Kuang, Fig. 2", text)

    def _pair(self, data: Path) -> tuple[str, str]:
        """The pair that is drawn.

        Raises:
            InputError: it is not of the brains that judge.
        """
        judging = folds(data)[self.fold].test
        moving, fixed = self.pair or judging[:2]
        if strange := {moving, fixed} - set(judging):
            raise InputError(f"{min(strange)} is not among the brains of the fold {self.fold}: {', '.join(judging)}")
        return moving, fixed


if __name__ == "__main__":
    begin(Fig2)
