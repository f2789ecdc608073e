"""ICON's Fig. 6: what maps look like over weights and networks, from the runs of Table 1.

python -m experiments.icon_table1 --weights 0 64 256 1024 --output runs/table1
python -m experiments.icon_fig6 --output runs/table1
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from experiments.command import begin
from experiments.drawing import draw_lattice, panels, save
from experiments.icon_table1 import Data, Network
from experiments.places import Pictured
from experiments.results import markdown
from foldless.cli.console import say
from foldless.errors import InputError


@dataclass(frozen=True)
class Fig6(Pictured):
    """Draw the map of one unseen pair by every network and weight that Table 1's runs hold."""

    output: Path
    """Folder of Table 1's runs."""
    data: Data = "shapes"
    """Which pictures."""
    pair: tuple[int, int] = (0, 1)
    """Which two of the unseen shapes."""

    def run(self) -> None:
        import torch

        from foldless.data.shapes import shapes
        from foldless.grid import Grid
        from foldless.model import Model
        from foldless.registering import predict

        cells = self._cells()
        weights = sorted({weight for _, weight in cells})
        networks = [name for name in get_args(Network) if any(name == network for network, _ in cells)]
        images = shapes().test.images
        a, b = (images[i : i + 1] for i in self.pair)
        figure, axes = panels(len(networks), len(weights), width=2.2 * len(weights), height=2.4 * len(networks))
        for row, network in zip(axes, networks, strict=True):
            for place, weight in zip(row, weights, strict=True):
                folder = cells.get((network, weight))
                if folder is None:
                    place.set_axis_off()
                    continue
                phi, _ = predict(Model.load(folder / "last.safetensors"), a, b)
                with torch.no_grad():
                    draw_lattice(place, phi.on(Grid.of(b))[0], f"{network}, λ = {weight:g}")
        save(figure, self.picture_folder / "icon_fig6.svg")
        header = ("network", "λ", "steps", "rate", "Dice", "forward folds a pair")
        text = (
            f"    python -m experiments.icon_fig6 --output RUNS\n\n{self.shown('icon_fig6', 'Fig. 6')}\n\n"
            "Maps of one unseen pair by the runs of Table 1; what is empty was not run. Their means over all unseen "
            f"pairs:\n\n{markdown(header, [_row(cells[key]) for key in sorted(cells)])}"
        )
        self.write("ICON, Fig. 6", text)
        say(f"{len(cells)} maps drawn in {self.picture_folder / 'icon_fig6.svg'}")

    def _cells(self) -> dict[tuple[str, float], Path]:
        """The folder of every network and weight; of several the longest, and among those the best Dice.

        Raises:
            InputError: there is none.
        """
        found: dict[tuple[str, float], tuple[int, float, Path]] = {}
        for file in self.output.glob("*/cell.json"):
            cell: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            recipe = cell["settings"]["recipe"]
            key = recipe["network"], recipe["weight"]
            if cell["settings"]["data"] == self.data:
                this = recipe["steps"], cell["dice"], file.parent
                found[key] = max(this, found.get(key, this))
        if not found:
            raise InputError(f"{self.output} holds no finished cell of {self.data}: run experiments.icon_table1 first")
        return {key: folder for key, (*_, folder) in found.items()}


def _row(folder: Path) -> tuple[str, ...]:
    cell = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    recipe = cell["settings"]["recipe"]
    numbers = (f"{recipe[name]:g}" for name in ("weight", "steps", "rate"))
    return recipe["network"], *numbers, f"{cell['dice']:.2f}", f"{cell['folds']:.2f}"


if __name__ == "__main__":
    begin(Fig6)
