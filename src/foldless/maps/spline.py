"""Maps that add a cubic B-spline of coefficients on a lattice."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foldless.arguments import check_tensor
from foldless.grid import Points, per_axis
from foldless.maps.algebra import Identity, Map, check_dim
from foldless.maps.matrices import Jacobian


@dataclass(frozen=True, eq=False)
class CubicSpline(Map):
    """phi(x) = x + Σ c_k β³(x / voxel - k), uniform cubic B-splines; Rueckert et al. 1999, as ITK and elastix apply it.

    `field` is (batch, dim, *lattice), the coefficients c, in unit-cube units of their own lattice. Where a point does
    not have two nodes on each side of every axis, the displacement is zero.
    """

    field: Float[Tensor, "batch dim *lattice"]

    def __post_init__(self) -> None:
        check_tensor("spline coefficients", self.field, "(batch, dim, *lattice)")
        if self.field.shape[1] != self.field.ndim - 2 or min(self.field.shape[2:]) < 4:
            raise ValueError(
                "a cubic spline has (batch, dim, *lattice) coefficients, one component and four nodes or more an axis; "
                f"got {tuple(self.field.shape)}"
            )

    @property
    def dim(self) -> int:
        return self.field.shape[1]

    def __call__(self, points: Points) -> Points:
        return self.with_jacobian(points)[0]

    def with_jacobian(self, points: Points) -> tuple[Points, Jacobian]:
        check_dim(self, points)
        shape, batch = self.field.shape[2:], max(len(self.field), len(points))
        scale = per_axis([float(n - 1) for n in shape], points)
        index = points * scale
        first = index.floor()
        inside = ((index >= 1) & (first <= scale - 2)).all(1, keepdim=True)
        rest = torch.where(inside, index - first, 0.5)
        corner = torch.where(inside, first - 1, 0).long()
        weights, slopes = _weights(rest)
        value = points.new_zeros(batch, self.dim, *points.shape[2:])
        slope = points.new_zeros(batch, self.dim, self.dim, *points.shape[2:])
        for offsets in itertools.product(range(4), repeat=self.dim):
            here = self._at(corner, offsets).to(points.dtype)
            factors = [weights[offset][:, axis] for axis, offset in enumerate(offsets)]
            value += here * _product(factors)[:, None]
            for axis, offset in enumerate(offsets):
                turned = [*factors[:axis], slopes[offset][:, axis], *factors[axis + 1 :]]
                slope[:, :, axis] += here * _product(turned)[:, None]
        slope = slope * scale[:, None]
        eye = Identity(self.dim).jacobian(points)
        return points + torch.where(inside, value, 0), eye + torch.where(inside[:, :, None], slope, 0)

    def _at(self, corner: Tensor, offsets: tuple[int, ...]) -> Tensor:
        """The coefficients (batch, dim, *at) of the nodes `corner + offsets`."""
        flat = torch.zeros_like(corner[:, 0])
        for axis, (offset, n) in enumerate(zip(offsets, self.field.shape[2:], strict=True)):
            flat = flat * n + corner[:, axis] + offset
        fields = self.field.flatten(2).expand(max(len(self.field), len(flat)), -1, -1)
        index = flat.flatten(1)[:, None].expand(len(fields), self.dim, -1)
        return fields.gather(2, index).reshape(*index.shape[:2], *corner.shape[2:])


def _weights(t: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The four B-splines that are not zero `t` past a node, and their derivatives."""
    values = [(1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6]
    slopes = [-((1 - t) ** 2) / 2, (3 * t**2 - 4 * t) / 2, (-3 * t**2 + 2 * t + 1) / 2, t**2 / 2]
    return values, slopes


def _product(factors: list[Tensor]) -> Tensor:
    product = factors[0]
    for factor in factors[1:]:
        product = product * factor
    return product
