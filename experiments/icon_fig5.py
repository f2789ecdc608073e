"""ICON's Fig. 5: a circle and a triangle by direct optimisation, with and without noise, and by a trained network.

python -m experiments.icon_fig5 --output runs/fig5
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from experiments.command import begin
from experiments.drawing import draw_lattice, panels, save
from experiments.places import Pictured
from experiments.results import kept, markdown
from foldless.cli.console import progress, say

if TYPE_CHECKING:
    from torch import Tensor

    from foldless.data.images import ImageSet
    from foldless.maps import Map
    from foldless.regularity import ICON

NOISE = 1 / 8
"""Pixels of noise that direct optimisation is given, about the inverse-consistency error of a trained network; §4.3."""
DIRECT: dict[str, tuple[Literal["jittered", "lattice"], float]] = {
    "direct, no noise": ("lattice", 0.0),
    "direct, noise 1/8": ("lattice", NOISE),
    "direct, points between nodes, no noise": ("jittered", 0.0),
    "direct, points between nodes, noise 1/8": ("jittered", NOISE),
}
NETWORK = "U-Net"
DRAWN = ("direct, no noise", "direct, noise 1/8", NETWORK)


@dataclass(frozen=True)
class Fig5(Pictured):
    """Register a circle and a triangle without a network, and with one that was trained on others, and count folds."""

    output: Path
    """Folder for what is found; what is there already is not computed again."""
    size: int = 128
    """Pixels a side."""
    steps: int = 5000
    """Steps of direct optimisation."""
    rate: float = 5e-4
    """Adam's rate of direct optimisation; the paper's is 1e-4 and its number of steps not published."""
    network_size: int = 64
    """Pixels a side of the shapes that the network is trained on; its map serves any lattice."""
    network_steps: int = 1500
    """Training steps of the network, 16 pairs each."""
    network_rate: float = 1e-3
    """Adam's rate of the network, falling to zero along a cosine."""
    weight: float = 2048.0
    """λ of the inverse consistency."""
    seed: int = 0

    def run(self) -> None:
        a, b = self._pair(self.size)
        self.output.mkdir(parents=True, exist_ok=True)
        nodes, scores = {}, {}
        for name in (*DIRECT, NETWORK):
            nodes[name], scores[name] = self._found(name, a, b)
        rows = [
            (
                name,
                f"{s['folds_AB']:.0f} / {s['folds_BA']:.0f}",
                f"{s['dice']:.3f}",
                f"{s['inverse']:.3f}",
                f"{s['spread']:.3f}",
                f"{s['seconds']:.0f}",
            )
            for name, s in scores.items()
        ]
        header = ("map", "forward folds A→B / B→A", "Dice", "inverse error, pixels", "SDlogJ", "seconds")
        error = error_beside_noise(scores[NETWORK]["inverse"])
        self.write("ICON, Fig. 5", self._text(markdown(header, rows), error))
        figure, [axes] = panels(1, 3, width=10)
        for place, name in zip(axes, DRAWN, strict=True):
            draw_lattice(place, nodes[name], f"{name}: {scores[name]['folds_AB']:.0f} folds", every=2)
        save(figure, self.picture_folder / "icon_fig5.svg")
        for row in (header, *rows):
            say("  ".join(row))
        say(error)

    def _pair(self, size: int) -> tuple[Tensor, Tensor]:
        """An unseen circle and an unseen triangle, the same at every size."""
        from foldless.data.shapes import shapes

        images: ImageSet = shapes(size, self.seed + 1, train=2, test=32).test
        kinds = [next(i for i, name in enumerate(images.names) if kind in name) for kind in ("circle", "triangle")]
        return images.images[kinds[:1]], images.images[kinds[1:]]

    def _found(self, name: str, a: Tensor, b: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """The nodes of phi_AB (2, size, size) and its scores, computed now or by an earlier call."""
        from safetensors.torch import load_file, save_file

        from foldless.grid import Grid
        from foldless.io.files import write_whole
        from foldless.record import run_record, write_json

        settings = {"name": name, **{k: v for k, v in asdict(self).items() if isinstance(v, int | float)}}
        stem = self.output / "".join(c if c.isalnum() else "-" for c in name)
        numbers, file = stem.with_suffix(".json"), stem.with_suffix(".safetensors")
        if (scores := kept(numbers, settings)) is not None and file.is_file():
            return load_file(file)["nodes"], scores
        say(name)
        started = perf_counter()
        phi_AB, phi_BA = self._by_network(a, b) if name == NETWORK else self._directly(name, a, b)
        seconds = perf_counter() - started
        nodes = phi_AB.on(Grid.of(b))[0].contiguous()
        scores = {**_scores(phi_AB, phi_BA, a, b), "seconds": seconds}
        write_whole(file, lambda path: save_file({"nodes": nodes}, path))
        write_json({**scores, **run_record("experiments.icon_fig5", asdict(self), {}), "settings": settings}, numbers)
        return nodes, scores

    def _directly(self, name: str, a: Tensor, b: Tensor) -> tuple[Map, Map]:
        import foldless

        at, noise = DIRECT[name]
        regularity: ICON = foldless.ICON(at=at, noise=noise)
        with progress() as bar:
            task = bar.add_task(name, total=self.steps, news="")
            return foldless.optimise_maps(
                a,
                b,
                foldless.MSE(),
                regularity,
                foldless.Constant(self.weight),
                steps=self.steps,
                rate=self.rate,
                seed=self.seed,
                on_step=lambda terms: bar.advance(task),
            )

    def _by_network(self, a: Tensor, b: Tensor) -> tuple[Map, Map]:
        """A network trained on other shapes, shown the pair at its own size."""
        import torch

        from foldless.build import settled
        from foldless.cli.watch import Watch
        from foldless.data.source import open_source
        from foldless.recipe import Recipe, Source
        from foldless.training.checkpoints import CHECKPOINT
        from foldless.training.loop import train

        recipe = settled(
            Recipe(
                regularity="icon",
                weight=self.weight,
                batch=16,
                steps=self.network_steps,
                rate=self.network_rate,
                seed=self.seed,
            )
        )
        split, preparation = open_source(Source(data="shapes", size=self.network_size), self.seed)
        folder = self.output / f"network-{self.network_size}-{self.network_steps}-{self.network_rate:g}"
        folder.mkdir(exist_ok=True)
        resume = (folder / CHECKPOINT).is_file()
        with Watch(recipe.steps) as watch:
            model = train(recipe, split, preparation, folder, resume, watch.on_step, watch.on_scores)
        small = self._pair(self.network_size)
        with torch.no_grad():
            phi = model.registration.eval()(torch.cat(small), torch.cat(small[::-1]))
        return phi[:1], phi[1:]

    def _text(self, table: str, error: str) -> str:
        return (
            f"    python -m experiments.icon_fig5 --output RUNS\n\n{self.shown('icon_fig5', 'Fig. 5')}\n\n"
            f"{table}\nOne circle and one triangle, {self.size}², λ = {self.weight:g}, MSE. Direct optimisation: "
            f"{self.steps} steps of Adam at {self.rate:g} on both displacements. U-Net: {self.network_steps} steps of "
            f"16 pairs of other shapes of {self.network_size}² at {self.network_rate:g} falling to 0; its map is read "
            f"on the {self.size}² lattice. Inverse error: mean of |phi_BA(phi_AB(x)) − x| over the nodes.\n\n{error}\n"
        )


def error_beside_noise(pixels: float) -> str:
    """§4.3's remark by numbers: what keeps a network's maps regular, beside the noise that stands in for it."""
    return (
        f"The trained network's own inverse-consistency error, {pixels:.3f} pixels, is {pixels / NOISE:.2f} times the "
        "1/8 pixel of noise that direct optimisation needs in its place (§4.3)."
    )


def _scores(phi_AB: Map, phi_BA: Map, a: Tensor, b: Tensor) -> dict[str, float]:
    import foldless

    grid = foldless.Grid.of(b)
    forward, backward = (phi.displacement_on(grid) for phi in (phi_AB, phi_BA))
    warped = foldless.warp(a, phi_AB)
    return {
        "folds_AB": foldless.folds(forward, "forward").item(),
        "folds_BA": foldless.folds(backward, "forward").item(),
        "dice": foldless.mean_dice((warped[0, 0] > 0.5).int(), (b[0, 0] > 0.5).int()),
        "inverse": foldless.inverse_consistency_error(phi_AB, phi_BA, grid).mean().item(),
        "spread": foldless.sdlogj(forward).item(),
    }


if __name__ == "__main__":
    begin(Fig5)
