"""ICON's Figs. 3 and 4: two nodes that swap are invisible on the lattice, and a network learns to use that.

python -m experiments.icon_fig3 --output runs/fig3
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from experiments.command import begin
from experiments.drawing import draw_lattice, panels, save
from experiments.places import Pictured
from experiments.results import kept, markdown
from foldless.cli.console import progress, say

if TYPE_CHECKING:
    from foldless.data.images import ImageSet
    from foldless.maps import Map
    from foldless.registration import Registration

Where = Literal["lattice", "jittered"]
NODES = 8


@dataclass(frozen=True)
class Fig3(Pictured):
    """Train the same network twice, inverse consistency seen on the lattice and between its nodes, and compare."""

    output: Path
    """Folder for both networks' weights and numbers."""
    steps: int = 2000
    """Training steps of each."""
    weight: float = 2048.0
    """λ of the inverse consistency."""
    rate: float = 1e-3
    """Adam's rate at the start; it falls to zero along a cosine."""
    size: int = 28
    """Pixels a side of the shapes."""
    pairs: int = 500
    """Unseen pairs to count on."""
    seed: int = 0

    def run(self) -> None:
        from foldless.data.shapes import shapes

        split = shapes(self.size, self.seed)
        found = {where: self._trained(where, split.train, split.test) for where in get_args(Where)}
        rows = [("two nodes swapped, Fig. 4", *(f"{x:.2e}" for x in swap_errors()), "", "")]
        for where, (_, scores) in found.items():
            rows.append(
                (
                    f"network, loss {'on the lattice' if where == 'lattice' else 'between the nodes'}",
                    f"{scores['on']:.2e}",
                    f"{scores['off']:.2e}",
                    f"{scores['folds']:.2f}",
                    f"{scores['dice']:.3f}",
                )
            )
        header = ("map", "inverse consistency on the lattice", "between nodes", "forward folds a pair", "Dice")
        self.write("ICON, Figs. 3 and 4", self._text(markdown(header, rows)))
        self._draw({where: registration for where, (registration, _) in found.items()}, split.test)
        for row in rows:
            say("  ".join(row))

    def _trained(self, where: Where, images: ImageSet, unseen: ImageSet) -> tuple[Registration, dict[str, Any]]:
        """A network and its scores, trained now or by an earlier call with the same settings."""
        from safetensors.torch import load_file, save_file

        from foldless.build import build_registration
        from foldless.io.files import write_whole
        from foldless.recipe import Recipe, recipe_for
        from foldless.record import run_record, write_json

        settings = {"where": where, **{k: v for k, v in asdict(self).items() if isinstance(v, int | float)}}
        self.output.mkdir(parents=True, exist_ok=True)
        numbers, weights = self.output / f"{where}.json", self.output / f"{where}.safetensors"
        widths: Recipe = recipe_for(None)
        registration = build_registration(widths, images.lattice)
        if (scores := kept(numbers, settings)) is not None and weights.is_file():
            registration.load_state_dict(load_file(weights))
            return registration.eval(), scores
        say(f"inverse consistency {'on the lattice' if where == 'lattice' else 'between the nodes'}")
        registration = self._learn(where, images)
        scores = self._scores(registration, unseen)
        tensors = {name: tensor.contiguous() for name, tensor in registration.state_dict().items()}
        write_whole(weights, lambda file: save_file(tensors, file))
        record = run_record("experiments.icon_fig3", asdict(self), {"train": images.digest()})
        write_json({**scores, **record, "settings": settings}, numbers)
        return registration, scores

    def _learn(self, where: Where, images: ImageSet) -> Registration:
        from math import cos, pi

        import torch

        import foldless
        from foldless.build import build_registration
        from foldless.data.images import RandomPairs
        from foldless.recipe import recipe_for

        torch.manual_seed(self.seed)
        registration = build_registration(recipe_for(None), images.lattice)
        objective = foldless.Objective(
            registration, foldless.MSE(), foldless.ICON(at=where), foldless.Constant(self.weight)
        )
        optimiser = torch.optim.Adam(registration.parameters(), self.rate)
        pairs = RandomPairs(images, 64)
        with progress() as bar:
            for step in bar.track(range(self.steps), description="training"):
                for group in optimiser.param_groups:
                    group["lr"] = self.rate * (1 + cos(pi * step / self.steps)) / 2
                optimiser.zero_grad()
                objective(*pairs.draw()).total.backward()
                optimiser.step()
        return registration.eval()

    def _scores(self, registration: Registration, images: ImageSet) -> dict[str, float]:
        import torch

        from foldless import Grid, inverse_consistency
        from foldless.overlap import mean_overlap
        from foldless.training.validation import forward_folds

        grid = Grid(images.lattice)
        folds, overlaps, on, off = [], [], [], []
        torch.manual_seed(self.seed)
        for chosen, phi_AB, phi_BA in _maps(registration, images, self.pairs):
            folds.append(forward_folds(phi_AB, grid))
            overlaps += [mean_overlap(phi_AB[k : k + 1], images, i, j) for k, (i, j) in enumerate(chosen)]
            on.append(inverse_consistency(phi_AB, phi_BA, grid.points()).item())
            off.append(inverse_consistency(phi_AB, phi_BA, grid.jittered(len(chosen), images.images)).item())
        means = {"on": on, "off": off, "dice": overlaps, "folds": torch.cat(folds).tolist()}
        return {name: sum(values) / len(values) for name, values in means.items()}

    def _draw(self, registrations: dict[Where, Registration], images: ImageSet) -> None:
        """The pair on which the first network folds most, by both networks."""
        import torch

        from foldless import Grid
        from foldless.training.validation import forward_folds

        grid = Grid(images.lattice)
        drawn = {
            where: torch.cat([phi.on(grid) for _, phi, _ in _maps(registration, images, self.pairs)])
            for where, registration in registrations.items()
        }
        counts = torch.cat(
            [forward_folds(phi, grid) for _, phi, _ in _maps(registrations["lattice"], images, self.pairs)]
        )
        worst = int(counts.argmax())
        figure, [axes] = panels(1, 2, width=8)
        for place, (where, nodes) in zip(axes, drawn.items(), strict=True):
            seen = "on the lattice" if where == "lattice" else "between its nodes"
            draw_lattice(place, nodes[worst], f"loss {seen}")
        save(figure, self.picture_folder / "icon_fig3.svg")

    def _text(self, table: str) -> str:
        return (
            f"    python -m experiments.icon_fig3 --output RUNS\n\n{self.shown('icon_fig3', 'Fig. 3')}\n\n"
            f"{table}\nTriangles and circles of {self.size}², U-Net, λ = {self.weight:g}, {self.steps} steps of 64 "
            f"pairs at rate {self.rate:g} falling to 0, {self.pairs} unseen pairs; inverse consistency in squared "
            "unit-cube units. The picture shows the pair on which the network judged on the lattice folds most.\n"
        )


def swap_errors(nodes: int = NODES) -> tuple[float, float]:
    """Fig. 4: a map of the line that swaps two neighbouring nodes, against itself: on the lattice and between nodes."""
    import torch

    from foldless import Displacement, Grid, inverse_consistency

    field = torch.zeros(1, 1, nodes, dtype=torch.float64)
    middle = nodes // 2
    field[0, 0, middle - 1], field[0, 0, middle] = 1 / (nodes - 1), -1 / (nodes - 1)
    swap = Displacement(field)
    fine = torch.linspace(0, 1, 100 * nodes + 1, dtype=torch.float64)[None, None]
    on = inverse_consistency(swap, swap, Grid((nodes,)).points(field))
    return on.item(), inverse_consistency(swap, swap, fine).item()


def _maps(registration: Registration, images: ImageSet, count: int) -> list[tuple[list[tuple[int, int]], Map, Map]]:
    """Random pairs of a set in batches, with both maps of each."""
    import torch

    from foldless.data.images import ordered_pairs

    chosen = ordered_pairs(len(images), count)
    found = []
    with torch.no_grad():
        for start in range(0, count, 100):
            some = chosen[start : start + 100]
            moving, fixed = (images.images[list(which)] for which in zip(*some, strict=True))
            phi: Map = registration(torch.cat([moving, fixed]), torch.cat([fixed, moving]))
            found.append((some, phi[: len(some)], phi[len(some) :]))
    return found


if __name__ == "__main__":
    begin(Fig3)
