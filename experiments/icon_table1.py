"""ICON's Table 1: four networks and six weights on two sets of pictures, Dice and folds of unseen pairs.

    python -m experiments.icon_table1 --mnist FOLDER --output runs/table1

A run that was killed goes on where it stopped, and cells that are done are not run again; every call writes the whole
table, cells of other lengths under other headings. The paper trains 18 750 steps at a rate of 1e-4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, get_args

from experiments.command import begin
from experiments.places import Shown
from experiments.results import kept, markdown
from foldless.cli.console import say

if TYPE_CHECKING:
    from foldless.data.images import ImageSet
    from foldless.model import Model

Network = Literal["mlp", "encoder-decoder", "residual-unet", "conv-only"]
Data = Literal["shapes", "mnist"]

PUBLISHED: dict[str, dict[int, tuple[float, ...]]] = {  # Dice and folds of each network in the order above
    "mnist": {
        64: (0.92, 26.61, 0.80, 0.15, 0.93, 3.87, 0.93, 30.20),
        128: (0.92, 9.95, 0.77, 0.08, 0.92, 1.45, 0.90, 16.27),
        256: (0.91, 2.48, 0.72, 0.01, 0.90, 0.41, 0.88, 7.17),
        512: (0.90, 0.72, 0.66, 0.03, 0.89, 0.09, 0.85, 3.12),
        1024: (0.88, 0.34, 0.62, 0.06, 0.86, 0.02, 0.81, 0.54),
        2048: (0.87, 0.16, 0.63, 0.00, 0.73, 0.09, 0.76, 0.07),
    },
    "shapes": {
        64: (0.98, 1.24, 0.94, 3.50, 0.98, 2.74, 0.97, 12.57),
        128: (0.98, 0.73, 0.90, 2.71, 0.98, 1.59, 0.96, 10.15),
        256: (0.98, 0.27, 0.88, 1.11, 0.97, 1.14, 0.96, 8.49),
        512: (0.97, 0.10, 0.87, 0.65, 0.96, 0.70, 0.94, 6.61),
        1024: (0.96, 0.03, 0.86, 0.22, 0.95, 0.25, 0.92, 3.91),
        2048: (0.95, 0.03, 0.85, 0.15, 0.94, 0.09, 0.89, 2.18),
    },
}
PAIRS = 1000
BATCH = 100


@dataclass(frozen=True)
class Table1(Shown):
    """Train the cells that are asked for and write ICON's Table 1, published and measured."""

    output: Path
    """Folder for the runs, a folder a cell."""
    mnist: Path | None = None
    """Folder with MNIST's idx files; without it the table holds the shapes only."""
    data: tuple[Data, ...] = get_args(Data)
    """Which pictures."""
    networks: tuple[Network, ...] = get_args(Network)
    """Which networks."""
    weights: tuple[int, ...] = tuple(PUBLISHED["shapes"])
    """Which weights λ of the inverse consistency."""
    steps: int = 18750
    """Training steps a cell."""
    rate: float = 1e-4
    """Adam's rate at the start; it falls to zero along a cosine, the paper's is constant."""

    def run(self) -> None:
        cells = [c for c in product(self.data, self.networks, self.weights) if c[0] == "shapes" or self.mnist]
        for k, (data, network, weight) in enumerate(cells, 1):
            say(f"cell {k} of {len(cells)}: {data}, {network}, weight {weight}")
            score = self._cell(data, network, weight)
            say(f"  Dice {score['dice']:.3f}, {score['folds']:.2f} forward folds a pair")
            self.write("ICON, Table 1", self._section())

    def _cell(self, data: str, network: Network, weight: int) -> dict[str, Any]:
        """Train and judge one cell, or read what an earlier call found."""
        from foldless.build import settled
        from foldless.data.source import open_source
        from foldless.recipe import Recipe, Source
        from foldless.record import run_record, write_json
        from foldless.training.checkpoints import CHECKPOINT
        from foldless.training.loop import train

        recipe = settled(
            Recipe(
                network=network,
                similarity="mse",
                regularity="icon",
                weight=float(weight),
                batch=128,
                steps=self.steps,
                rate=self.rate,
                validate_every=min(self.steps, 500),
                save_every=min(self.steps, 500),
            )
        )
        source = Source(data="shapes" if data == "shapes" else f"mnist:{self.mnist}")
        folder = self.output / f"{data}-{network}-{weight}-{self.steps}-{self.rate:g}"
        settings = {"data": data, "recipe": recipe.as_dict()}
        if (found := kept(folder / "cell.json", settings)) is not None:
            return found
        folder.mkdir(parents=True, exist_ok=True)
        split, preparation = open_source(source, recipe.seed)
        started = perf_counter()
        train(recipe, split, preparation, folder, resume=(folder / CHECKPOINT).is_file())
        seconds = perf_counter() - started
        scores = judged(_last(folder), split.test, PAIRS)
        digests = {part: getattr(split, part).digest() for part in ("train", "test")}
        record = run_record("experiments.icon_table1", asdict(self), digests)
        found = {**scores, "seconds": seconds, **record, "settings": settings}
        write_json(found, folder / "cell.json")
        return found

    def _section(self) -> str:
        """The whole table: every cell under --output that is done."""
        lengths = sorted({(c["settings"]["recipe"]["steps"], c["settings"]["recipe"]["rate"]) for c in self._done()})
        text = (
            "    python -m experiments.icon_table1 --mnist FOLDER --output RUNS [--steps N --rate R ...]\n\n"
            f"28 x 28, batch 128, MSE, U-Net and others as published; {PAIRS} pairs of unseen pictures, pixels above "
            "0.5 against pixels above 0.5, forward folds a pair. Published value → measured value, Dice / folds; "
            "a dash is a cell that was not run.\n"
        )
        for steps, rate in lengths:
            for data in get_args(Data):
                rows = list(self._rows(data, steps, rate))
                if rows:
                    text += f"\n**{data}, {steps} steps, rate {rate:g} falling to 0** (published: 18750 at 1e-4)\n\n"
                    text += markdown(("λ", *get_args(Network)), rows)
        return text

    def _rows(self, data: str, steps: int, rate: float) -> Iterator[Sequence[str]]:
        cells = {
            (c["settings"]["recipe"]["network"], int(c["settings"]["recipe"]["weight"])): c
            for c in self._done()
            if c["settings"]["data"] == data
            and (c["settings"]["recipe"]["steps"], c["settings"]["recipe"]["rate"]) == (steps, rate)
        }
        for weight, published in PUBLISHED[data].items():
            row = [str(weight)]
            for k, network in enumerate(get_args(Network)):
                cell = cells.get((network, weight))
                measured = "—" if cell is None else f"**{cell['dice']:.2f} / {cell['folds']:.2f}**"
                row.append(f"{published[2 * k]:.2f} / {published[2 * k + 1]:.2f} → {measured}")
            if any(weight == done for _, done in cells):
                yield row

    def _done(self) -> list[dict[str, Any]]:
        import json

        return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(self.output.glob("*/cell.json"))]


def _last(folder: Path) -> Model:
    """The last checkpoint: as in the paper nothing is chosen."""
    from foldless.model import Model

    return Model.load(folder / "last.safetensors")


def judged(model: Model, images: ImageSet, pairs: int) -> dict[str, float]:
    """Mean Dice and forward folds of random pairs of a set of pictures, and the inverse-consistency error in pixels."""
    import torch

    from foldless.data.images import ordered_pairs
    from foldless.grid import Grid
    from foldless.metrics import inverse_consistency_error
    from foldless.overlap import mean_overlap
    from foldless.registering import predict
    from foldless.training.validation import forward_folds

    overlaps, folds, errors = [], [], []
    chosen = ordered_pairs(len(images), pairs)
    grid = Grid(images.lattice)
    for start in range(0, len(chosen), BATCH):
        some = chosen[start : start + BATCH]
        moving, fixed = (images.images[list(which)] for which in zip(*some, strict=True))
        phi_AB, phi_BA = predict(model, moving, fixed)
        folds.append(forward_folds(phi_AB, grid))
        errors.append(inverse_consistency_error(phi_AB, phi_BA, grid).flatten())
        overlaps += [mean_overlap(phi_AB[k : k + 1], images, i, j) for k, (i, j) in enumerate(some)]
    return {
        "dice": sum(overlaps) / len(overlaps),
        "folds": torch.cat(folds).mean().item(),
        "inverse_consistency_pixels": torch.cat(errors).mean().item(),
    }


if __name__ == "__main__":
    begin(Table1)
