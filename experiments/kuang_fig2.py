"""Kuang and Schmah, Fig. 2: the warped grid of the baseline trained with λ = 1, 2 and 4, at the same place.

python -m experiments.kuang_fig2 --data BRAINS --output RUNS

Trains one network a weight, on the brains that do not judge, and goes on where it was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.brains import PERCENTILES, Slice, axial_slice, folds, lay_out, weighted
from experiments.drawing import DOCS, Format, draw_lattice, panels, save_all
from experiments.results import RESULTS, command_of, markdown, write_section
from foldless.cli.console import say
from foldless.cli.watch import Watch


@dataclass(frozen=True)
class Fig2:
    """Train the baseline under several weights of its smoothness and draw the maps of one unseen pair."""

    data: Path
    """The folder of the brains: affine2mm/ID_t1.nii.gz with ID_seg.nii.gz, and labels.csv."""
    output: Path
    """Folder for the trainings; what is there already is not trained again."""
    weights: tuple[float, ...] = (1.0, 2.0, 4.0)
    """λ of each."""
    fold: str = "A"
    """Which brains judge, A, B or C; the pair is of their first two, or --pair."""
    pair: tuple[str, str] | None = None
    """Names of the moving and the fixed brain."""
    at: int | None = None
    """Which axial slice, from below; None: where the first map folds most."""
    steps: int = 3000
    """Training steps a weight."""
    batch: int = 1
    """Pairs a step."""
    rate: float = 5e-4
    """Adam's."""
    pool: int = 2
    """What images are pooled by for training."""
    formats: tuple[Format, ...] = ("svg",)
    """Of the picture, kuang_fig2; "svg pdf" for both."""
    pictures: Path = DOCS
    """Folder for it."""
    results: Path = RESULTS
    """Where it is shown."""

    def run(self) -> None:
        data = lay_out(self.data, self.output / "data")
        moving, fixed = self.pair or folds(data)[self.fold].test[:2]
        slices: list[Slice] = []
        for weight in self.weights:
            at = slices[0].at if slices else self.at
            slices.append(axial_slice(self._trained(weight, data), data, moving, fixed, at))
        figure, [axes] = panels(1, len(slices), width=3.6 * len(slices))
        for place, weight, found in zip(axes, self.weights, slices, strict=True):
            draw_lattice(place, found.nodes, f"λ = {weight:g}: {found.percent:.3g} % folded")
        save_all(figure, self.pictures, "kuang_fig2", self.formats)
        rows = [(f"{w:g}", f"{found.percent:.4g}") for w, found in zip(self.weights, slices, strict=True)]
        text = (
            f"    {command_of('kuang_fig2', self)}\n\n![Fig. 2](../docs/pictures/kuang_fig2.svg)\n\n"
            f"{markdown(('λ', 'P, %'), rows)}\nBaseline, {self.steps} steps on images pooled by {self.pool}; {moving} "
            f"onto {fixed}, axial slice {slices[0].at}, the nodes of the whole lattice where the map takes them, "
            "projected onto the slice. P is of the whole map of this one pair, by forward differences."
        )
        write_section("Kuang, Fig. 2", text, self.results)

    def _trained(self, weight: float, data: Path) -> Path:
        """The weights file of the baseline under λ, trained now or by an earlier call."""
        from foldless.data.folder import folder_split
        from foldless.training.checkpoints import FILE as CHECKPOINT
        from foldless.training.loop import train

        recipe = weighted("baseline", weight, self.steps, self.pool, batch=self.batch, rate=self.rate)
        name = f"{self.fold}-baseline-{weight:g}-{self.steps}x{self.batch}-{self.rate:g}-pool{self.pool}"
        folder, fold = self.output / name, folds(data)[self.fold]
        say(f"baseline, λ = {weight:g}")
        parts = {"train": list(fold.train), "val": list(fold.train), "test": list(fold.test)}
        split, preparation = folder_split(data, "centre", PERCENTILES, parts)
        folder.mkdir(parents=True, exist_ok=True)
        with Watch(recipe.steps) as watch:
            train(recipe, split, preparation, folder, (folder / CHECKPOINT).is_file(), watch.on_step)
        return folder / "last.safetensors"


if __name__ == "__main__":
    tyro.cli(Fig2).run()
