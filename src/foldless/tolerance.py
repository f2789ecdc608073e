"""Inverse consistency as a constraint: how far from home a point may come back, held by an augmented Lagrangian."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from foldless.arguments import check_number
from foldless.grid import Grid, Points, per_axis, sample

AIM = 0.95
"""Of the tolerance: what the constraint asks for, so that writing and reading maps may lose the rest."""

LONGEST = 1.0
"""By how many tolerances more than allowed an error raises a multiplier in a step, at most."""


class Tolerance(nn.Module):
    """|phi_BA(phi_AB(x)) - x| <= tolerance for all nodes x of the body, in both orders, as an augmented Lagrangian.

    Nodes that are carried out of the other image's lattice do not count: no file says anything of their way back.

    With g(x) = |phi_BA(phi_AB(x)) - x| / (0.95 tolerance) - 1 <= 0, multipliers λ(x) >= 0 and a penalty μ (Hestenes,
    Powell; for inequalities Rockafellar 1973), what it adds to an objective and what every step does to λ is

        mean over x of (max(0, λ + μ g)² - λ²) / 2μ,        λ <- max(0, λ + share · μ g)

    Pairs that are optimised have a multiplier at every node, which is raised only where the error is too large. What
    learns from ever new pairs has one for all nodes, which follows the largest g of its pairs. Both are buffers.

    Args:
        voxels: the tolerance, in voxels of the images that it is called with.
        penalty: μ; images' similarities are around 1.
        share: of the penalty, that a step adds to the multipliers.
        everywhere: whether every node has a multiplier of its own.
    """

    multiplier: Tensor
    largest: Tensor

    def __init__(self, voxels: float, penalty: float = 10.0, share: float = 0.2, everywhere: bool = False) -> None:
        super().__init__()
        for name, value in (("the tolerance", voxels), ("the penalty", penalty), ("the share", share)):
            check_number(name, value, above=0.0)
        self.voxels, self.penalty, self.share, self.everywhere = float(voxels), penalty, share, everywhere
        self.register_buffer("multiplier", torch.zeros(()))
        self.register_buffer("largest", torch.zeros(()), persistent=False)

    @property
    def reached(self) -> bool:
        """Whether the largest error that was last seen keeps the tolerance."""
        return bool(self.largest <= (1 + AIM) / 2 * self.voxels)

    def forward(self, nodes: Points, fixed: Float[Tensor, "batch channels *lattice"]) -> Float[Tensor, ""]:
        """What the constraint adds to the objective; in training mode the multipliers follow.

        Args:
            nodes: a lattice under phi_AB and then under phi_BA, (2 pairs, dim, *lattice).
            fixed: the images whose lattice it is, B and then A: their bodies count.
        """
        error, inside = inverse_errors(nodes), body(fixed) & ((nodes >= 0) & (nodes <= 1)).all(1)
        self.largest = torch.where(inside, error, 0).detach().amax()
        over = error / (AIM * self.voxels) - 1
        pushed = (self.multiplier + self.penalty * over).clamp_min(0)
        cost = (pushed.square() - self.multiplier.square()) / (2 * self.penalty)
        if self.training:
            seen = over.detach() if self.everywhere else self.largest / (AIM * self.voxels) - 1
            raised = self.multiplier + self.share * self.penalty * seen.clamp_max(LONGEST)
            self.multiplier = raised.clamp_min(0)  # a new tensor: the old one waits for its backward
        return torch.where(inside, cost, 0).mean()


def inverse_errors(nodes: Points) -> Float[Tensor, " batch *lattice"]:
    """How far from home the nodes of a lattice come back, in its voxels: there and back, and back and there.

    Args:
        nodes: the lattice under phi_AB and then under phi_BA, (2 pairs, dim, *lattice); the maps are interpolated
            between them, as fields in files are.
    """
    grid, pairs = Grid.of(nodes), len(nodes) // 2
    moved = nodes - grid.points(nodes)
    home = moved + sample(moved.roll(pairs, 0), nodes)
    squared = (home / per_axis(grid.voxel, home)).square().sum(1)
    return squared.clamp_min(torch.finfo(home.dtype).tiny).sqrt()


def body(image: Float[Tensor, "batch channels *lattice"]) -> Bool[Tensor, " batch *lattice"]:
    """Where an image is brighter than its darkest value, or next to such a voxel: all but an even background."""
    dim = image.ndim - 2
    bright = image.amax(1) > image.flatten(1).amin(1).reshape(-1, *[1] * dim)
    grown = bright[:, None].float()
    for axis in range(dim):
        window = [3 if d == axis else 1 for d in range(dim)]
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dim - 1]
        grown = pool(grown, window, 1, [w // 2 for w in window])
    return grown[:, 0] > 0
