"""Maps that add what is interpolated from a lattice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foldless.arguments import check_tensor
from foldless.grid import Grid, Points, per_axis, sample, sample_with_jacobian
from foldless.maps.algebra import Identity, Map
from foldless.maps.matrices import Jacobian


@dataclass(frozen=True, eq=False)
class Displacement(Map):
    """phi(x) = x + u(x), with u interpolated from a lattice and continued outside by its border; ICON, Eq. (11).

    `field` is (batch, dim, *lattice), in unit-cube units.
    """

    field: Float[Tensor, "batch dim *lattice"]

    def __post_init__(self) -> None:
        check_tensor("a displacement field", self.field, "(batch, dim, *lattice)")
        if self.field.shape[1] != self.field.ndim - 2:
            raise ValueError(
                f"a displacement field is (batch, dim, *lattice) with one component an axis; "
                f"got {tuple(self.field.shape)}"
            )

    @classmethod
    def from_voxels(cls, field: Float[Tensor, "batch dim *lattice"]) -> Displacement:
        """A displacement given in voxels of its own lattice."""
        grid = cls(field).grid  # refuses what is no displacement
        return cls(field * per_axis(grid.voxel, field))

    @property
    def voxels(self) -> Float[Tensor, "batch dim *lattice"]:
        """The field in voxels of its own lattice."""
        return self.field / per_axis(self.grid.voxel, self.field)

    @property
    def dim(self) -> int:
        return self.field.shape[1]

    @property
    def grid(self) -> Grid:
        """The lattice that the displacement is stored on."""
        return Grid.of(self.field)

    def parted(self, count: int) -> tuple[Map, Map]:
        if len(self.field) == 1:
            return self, self
        first, others = torch.split(self.field, [count, len(self.field) - count])  # one gradient, not two with zeros
        return Displacement(first), Displacement(others)

    def __call__(self, points: Points) -> Points:
        return points + sample(self.field, points)

    def with_jacobian(self, points: Points) -> tuple[Points, Jacobian]:
        value, slope = sample_with_jacobian(self.field, points)
        return points + value, slope + Identity(self.dim).jacobian(points)

    def on(self, grid: Grid) -> Points:
        return grid.points(self.field) + self.field if grid == self.grid else super().on(grid)
