"""Kuang and Schmah, Fig. 6: where maps fold, by method: the Jacobian determinant above the warped grid, one slice.

python -m experiments.kuang_table1 --data BRAINS --output RUNS
python -m experiments.kuang_fig6 --output RUNS
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from experiments.brains import Slice, axial_slice, draw_determinant
from experiments.command import begin
from experiments.drawing import Format, draw_lattice, panels, save_all
from experiments.places import Pictured
from experiments.results import command_of
from foldless.cli.console import say
from foldless.errors import InputError
from foldless.methods import Method


@dataclass(frozen=True)
class Fig6(Pictured):
    """Draw determinant and grid of one unseen pair, a column a method."""

    output: Path
    """Folder of Table 1's runs, or of `foldless crossvalidate` (with --data)."""
    data: Path | None = None
    """The folder that was cross-validated; that of Table 1 where it is not given."""
    methods: tuple[Method, ...] = ("baseline", "cycle", "refinement")
    """The columns; a method that was not run is left out."""
    fold: str = "A"
    """Whose models, and whose brains."""
    pair: tuple[str, str] | None = None
    """Names of the moving and the fixed brain; None: the first pair that was judged."""
    at: int | None = None
    """Which axial slice, from below; None: where the first method's map folds most."""
    formats: tuple[Format, ...] = ("svg",)
    """Of the picture, kuang_fig6; "svg pdf" for both."""

    def run(self) -> None:
        folder = self.output / "results" if (self.output / "results").is_dir() else self.output
        done = {m: folder / self.fold / m for m in self.methods if (folder / self.fold / m / "pairs.json").is_file()}
        if not done:
            raise InputError(f"{folder / self.fold} holds none of {', '.join(self.methods)}: cross-validate them first")
        moving, fixed = self.pair or first_pair(next(iter(done.values())))
        slices: dict[str, Slice] = {}
        for method, run in done.items():
            at = next(iter(slices.values())).at if slices else self.at
            data = self.data or self.output / "data"
            slices[method] = axial_slice(run / "last.safetensors", data, moving, fixed, at)
        figure, [above, below] = panels(2, len(slices), width=3.6 * len(slices), height=8.4)
        for top, bottom, (method, found) in zip(above, below, slices.items(), strict=True):
            draw_determinant(top, found.determinant, f"{method}: {found.percent:.3g} % folded")
            draw_lattice(bottom, found.nodes, "", every=2)
        save_all(figure, self.picture_folder, "kuang_fig6", self.formats)
        text = (
            f"    {command_of('kuang_fig6', self)}\n\n{self.shown('kuang_fig6', 'Fig. 6')}\n\n{moving} onto "
            f"{fixed}, axial slice {next(iter(slices.values())).at}, by the runs of Table 1. Above: determinant of the "
            "3-D map by forward differences, blue 0, white 1, brown 2 and more, red below zero. Below: where the map "
            "takes the slice's nodes, projected onto it. Percentages are of the whole map of this one pair."
        )
        self.write("Kuang, Fig. 6", text)
        say(f"{len(slices)} methods drawn in {self.picture_folder}")


def first_pair(run: Path) -> tuple[str, str]:
    """The first pair that a run was judged on."""
    row = json.loads((run / "pairs.json").read_text(encoding="utf-8"))["pairs"][0]
    return row["moving"], row["fixed"]


if __name__ == "__main__":
    begin(Fig6)
