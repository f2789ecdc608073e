"""One step of Kuang's cycle on VoxelMorph's network, with foldless and in plain torch with VoxelMorph's dense LNCC.

Run as `python -m benchmarks.cycle_contestants NAME SHAPE BATCH`; `benchmarks.cycle_step` drives them side by side.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from tyro.conf import Positional

import foldless.build
from benchmarks.contestants import serve
from foldless.training.optimiser import Adam

WINDOW, EPSILON, RATE = 9, 1e-5, 1e-4


class DenseLNCC:
    """1 - squared LNCC by convolutions with a cube of ones, zeros outside, as VoxelMorph has it in torch."""

    def __call__(self, warped: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        dim = warped.ndim - 2
        ones = torch.ones(1, 1, *[WINDOW] * dim)
        count = float(WINDOW**dim)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[dim - 1]
        images = (warped, target, warped * warped, target * target, warped * target)
        a, b, aa, bb, ab = (convolve(image, ones, padding=WINDOW // 2) for image in images)
        mean_a, mean_b = a / count, b / count
        cross = ab - mean_b * a - mean_a * b + mean_a * mean_b * count
        variance_a = aa - 2 * mean_a * a + mean_a * mean_a * count
        variance_b = bb - 2 * mean_b * b + mean_b * mean_b * count
        return 1 - (cross * cross / (variance_a * variance_b + EPSILON)).mean()


def plain_cycle(net: nn.Module, x: Tensor, y: Tensor, similarity: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Kuang's Eq. (1) in plain torch; `net` predicts displacements in unit-cube units, as all of foldless' do."""
    there = net(x, y)
    warped = _warped(x, there)
    back = net(warped, x)
    return similarity(warped, y) + similarity(_warped(warped, back), x) + _roughness(there) + _roughness(back)


def _warped(image: Tensor, displacement: Tensor) -> Tensor:
    dim = image.ndim - 2
    lines = [torch.linspace(-1, 1, n) for n in image.shape[2:]]
    nodes = torch.stack(torch.meshgrid(*lines, indexing="ij")) + 2 * displacement
    places = nodes.movedim(1, -1)[..., list(range(dim))[::-1]]
    return F.grid_sample(image, places, align_corners=True, padding_mode="border")


def _roughness(displacement: Tensor) -> Tensor:
    size = displacement.shape[2:]
    voxels = displacement * torch.tensor([n - 1.0 for n in size]).reshape(1, -1, *[1] * len(size))
    return torch.stack([voxels.diff(dim=2 + axis).square().mean() for axis in range(len(size))]).mean()


def contestant(name: str, shape: tuple[int, ...], batch: int) -> Callable[[], None]:
    """The step of `foldless`, `foldless-float32`, `foldless, dense LNCC` or `plain torch, dense LNCC`."""
    objective = objective_of(shape, "float32" if "float32" in name or "torch" in name else "auto")
    x, y = torch.rand(batch, 1, *shape), torch.rand(batch, 1, *shape)
    if "dense" in name:
        objective.similarity = DenseLNCC()
    optimiser = (torch.optim.Adam if "torch" in name else Adam)(objective.parameters(), RATE)

    def loss() -> Tensor:
        if "torch" in name:
            return plain_cycle(objective.registration.net, x, y, objective.similarity)
        return objective(x, y).total

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()

    return step


def objective_of(shape: tuple[int, ...], precision: str) -> foldless.BaseObjective:
    """The cycle's objective on VoxelMorph's network."""
    recipe = foldless.Recipe(
        network="voxelmorph",
        objective="image-cycle",
        similarity="lncc-squared",
        window=WINDOW,
        regularity="diffusion",
        weight=1.0,
        precision=precision,
    )
    torch.manual_seed(0)
    return foldless.build_objective(recipe, shape)


@dataclass(frozen=True)
class CycleContestant:
    """Take a step of the cycle for every line on standard input; print its seconds and its memory in MiB."""

    name: Positional[str]
    """One of `benchmarks.cycle_step`'s names."""
    shape: Positional[str]
    """Voxels an axis, as 80x80x80."""
    batch: Positional[int] = 1


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    options = tyro.cli(CycleContestant)
    serve(lambda: contestant(options.name, tuple(map(int, options.shape.split("x"))), options.batch))
