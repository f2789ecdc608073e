"""Points that are the same place in both images: how far a map misses them, and how they pull at it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Float
from torch import Tensor

from foldless.grid import sample


@dataclass(frozen=True)
class Landmarks:
    """Points of A and of B that belong together.

    They add to the score weight / (2 n) · Σ |misfit|², n voxels of the level: one that is a voxel off pulls as `weight`
    voxels do whose score falls by one a voxel.

    Attributes:
        moving: of A, (count, dim), unit-cube coordinates on the lattice of the images.
        fixed: the same places in B.
        weight: how much a landmark counts, beside one voxel.

    Raises:
        ValueError: not as many points in A as in B, none, or a weight that is negative or not finite.
    """

    moving: Float[Tensor, "count dim"]
    fixed: Float[Tensor, "others dim"]
    weight: float = 100.0

    def __post_init__(self) -> None:
        if self.moving.shape != self.fixed.shape or not len(self.moving) or not 0 <= self.weight < inf:
            shapes = f"{tuple(self.moving.shape)} and {tuple(self.fixed.shape)}, the weight {self.weight:g}"
            raise ValueError(f"as many points in A as in B, (count, dim), and a weight of 0 or more; got {shapes}")

    def halfway(self, matrices: Float[Tensor, "2 dim columns"]) -> Float[Tensor, "2 dim count"]:
        """B's points through the first affine map, A's through the second: where a flow takes one from and to."""
        points = torch.stack([self.fixed, self.moving]).to(matrices).mT
        return matrices[..., :-1] @ points + matrices[..., -1:]

    def score(self, misfit: Float[Tensor, "*any dim count"], extent: list[float], voxels: int) -> Tensor:
        """What misfits in unit-cube coordinates add, on a lattice of that extent in voxels."""
        axes = misfit.new_tensor(extent)[:, None]
        return self.weight / (2 * voxels) * (misfit * axes).square().sum()

    def pull(
        self, flow: Float[Tensor, "2 dim *lattice"], matrices: Tensor, extent: list[float], voxels: int
    ) -> Float[Tensor, "1 dim *lattice"]:
        """The score's derivative by a velocity whose flow and the flow back these are, as image forces have it.

        Args:
            flow: displacements of exp(w) and exp(-w), unit cube, at the velocity's nodes.
            matrices: h and h⁻¹, (2, dim, dim + 1).
            extent: of the lattice's axes, in voxels.
            voxels: of the level.
        """
        start = self.halfway(matrices)
        with torch.enable_grad():
            moved = flow.detach().requires_grad_()
            misfit = start + sample(moved, start) - start.flip(0)
            (by_flow,) = torch.autograd.grad(self.score(misfit, extent, voxels) / 2, moved)
        return by_flow[:1] - by_flow[1:]

    def by_matrices(
        self, matrices: Float[Tensor, "2 dim columns"], extent: list[float], voxels: int
    ) -> Float[Tensor, "2 dim columns"]:
        """The score's derivative by h and h⁻¹ where there is no flow yet."""
        with torch.enable_grad():
            halves = matrices.detach().requires_grad_()
            b, a = self.halfway(halves)
            (slope,) = torch.autograd.grad(self.score(b - a, extent, voxels), halves)
        return slope
