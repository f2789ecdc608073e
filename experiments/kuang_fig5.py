"""Kuang and Schmah, Fig. 5: Dice by region for every method of a cross-validation, SyNQuick beside them if it was run.

python -m experiments.kuang_table1 --data BRAINS --output RUNS --synquick
python -m experiments.kuang_fig5 --output RUNS
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.brains import judged
from experiments.command import begin
from experiments.drawing import Format, panels, save_all
from experiments.places import Pictured
from experiments.results import command_of
from foldless.cli.console import say
from foldless.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Spread = dict[str, dict[str, list[float]]]
"""Method -> region -> Dice, one number a pair."""


@dataclass(frozen=True)
class Fig5(Pictured):
    """Draw each region's Dice over the pairs, method beside method."""

    output: Path
    """Folder of Table 1's runs, or of `foldless crossvalidate` (with --regions)."""
    regions: Path | None = None
    """CSV with the columns label,region; that of Table 1 where it is not given."""
    folds: tuple[str, ...] = ()
    """Whose pairs; none named is all."""
    formats: tuple[Format, ...] = ("svg",)
    """Of the picture, kuang_fig5; "svg pdf" for both."""

    def run(self) -> None:
        spread = self._spread()
        figure, [[axes]] = panels(1, 1, width=11, height=4.5)
        draw_boxes(axes, spread)
        save_all(figure, self.picture_folder, "kuang_fig5", self.formats)
        counts = ", ".join(f"{method} {max(map(len, rows.values()))}" for method, rows in spread.items())
        text = (
            f"    {command_of('kuang_fig5', self)}\n\n{self.shown('kuang_fig5', 'Fig. 5')}\n\nOf every pair the "
            "mean of the Dice of a region's labels, from the runs of Table 1: median, quartiles, and whiskers from the "
            f"least to the greatest. Pairs: {counts}."
        )
        self.write("Kuang, Fig. 5", text)
        say(f"{len(spread)} methods drawn in {self.picture_folder}")

    def _spread(self) -> Spread:
        """What is drawn.

        Raises:
            InputError: nothing was judged, or nothing in these regions.
        """
        from foldless.crossvalidation import read_regions, with_regions

        inner = self.output / "results"
        regions = read_regions(self.regions or self.output / "data" / "regions.csv")
        spread: Spread = {}
        for method, by_fold in judged(inner if inner.is_dir() else self.output).items():
            rows = [row for fold, some in by_fold.items() if not self.folds or fold in self.folds for row in some]
            for row in with_regions(rows, regions):
                for region, score in row.get("dice_region", {}).items():
                    spread.setdefault(method, {}).setdefault(region, []).append(score)
        if not spread:
            raise InputError(f"{self.output} holds no pairs judged by labels of these regions: cross-validate first")
        return spread


def draw_boxes(axes: Axes, spread: Spread) -> None:
    """A group of boxes a region, in it one a method; regions by the first method's median, lowest first."""
    import matplotlib
    import numpy as np

    first = next(iter(spread.values()))
    regions = sorted(
        dict.fromkeys(r for rows in spread.values() for r in rows), key=lambda r: np.median(first.get(r, 0))
    )
    colours = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    width = 0.8 / len(spread)
    for k, (method, rows) in enumerate(spread.items()):
        there = [(place, rows[region]) for place, region in enumerate(regions) if region in rows]
        boxes = axes.boxplot(
            [scores for _, scores in there],
            positions=[place + (k + 0.5) * width - 0.4 for place, _ in there],
            widths=0.9 * width,
            whis=(0, 100),
            patch_artist=True,
            manage_ticks=False,
            medianprops={"color": "black"},
        )
        for box in boxes["boxes"]:
            box.set_facecolor(colours[k % len(colours)])
        boxes["boxes"][0].set_label(method)
    axes.set_xticks(range(len(regions)), [r.replace("_", " ") for r in regions], rotation=40, ha="right")
    axes.set(ylabel="Dice", xlim=(-0.6, len(regions) - 0.4))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(ncols=min(len(spread), 5), fontsize=8, loc="upper left")


if __name__ == "__main__":
    begin(Fig5)
