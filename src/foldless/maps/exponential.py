"""Flows of stationary velocities, by scaling and squaring."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

import torch
from jaxtyping import Float
from torch import Tensor

from foldless.arguments import check_tensor
from foldless.errors import NotFiniteError
from foldless.grid import Grid, Points, sample
from foldless.kernels.squaring import can_square, squared, steepest
from foldless.maps.algebra import Map
from foldless.maps.displacement import Displacement
from foldless.maps.matrices import Jacobian

CONTRACTION = 0.125
"""Largest Lipschitz constant of a factor's displacement in scaling and squaring.

Below 1 every factor is invertible; at 1/8 a factor, taken by the midpoint rule, is off by a quarter of a
percent of its displacement.
"""


@dataclass(frozen=True, eq=False)
class Exponential(Map):
    """phi = exp(v): the flow at time 1 of a stationary velocity (batch, dim, *lattice), in unit-cube units.

    Scaling and squaring: exp(v) = exp(v / 2^K)^(2^K), each square read off the velocity's own lattice. Every sample's
    K is the smallest that makes v / 2^K a contraction of `CONTRACTION`; its exponential is one midpoint step.
    `inverse` is exp(-v), exact for the flow and exact up to interpolation for its samples.
    """

    velocity: Float[Tensor, "batch dim *lattice"]

    def __post_init__(self) -> None:
        check_tensor("a velocity", self.velocity, "(batch, dim, *lattice)")
        object.__setattr__(self, "_displacement", None)

    @property
    def dim(self) -> int:
        return self.velocity.shape[1]

    @property
    def displacement(self) -> Displacement:
        """The flow as a displacement on the velocity's lattice, computed once."""
        known: Displacement | None = self._displacement  # type: ignore[attr-defined]
        wants_gradient = torch.is_grad_enabled() and self.velocity.requires_grad
        if known is None or (wants_gradient and not known.field.requires_grad):
            known = Displacement(exponentiate(self.velocity))
            object.__setattr__(self, "_displacement", known)
        return known

    def __call__(self, points: Points) -> Points:
        return self.displacement(points)

    def with_jacobian(self, points: Points) -> tuple[Points, Jacobian]:
        return self.displacement.with_jacobian(points)

    def on(self, grid: Grid) -> Points:
        return self.displacement.on(grid)

    def __getitem__(self, batch: slice) -> Map:
        some = super().__getitem__(batch)
        if self._displacement is not None:  # type: ignore[attr-defined]
            object.__setattr__(some, "_displacement", self._displacement[batch])  # type: ignore[attr-defined]
        return some

    @property
    def inverse(self) -> Map:
        return Exponential(-self.velocity)


def exponentiate(
    velocity: Float[Tensor, "batch dim *lattice"], contraction: float = CONTRACTION
) -> Float[Tensor, "batch dim *lattice"]:
    """The displacement of exp(velocity) on the same lattice, by scaling and squaring; unit-cube units.

    A larger `contraction` takes fewer squarings and is less exact.

    Raises:
        NotFiniteError: the velocity is not finite, or so steep that its differences are not.
        ValueError: it has not one component an axis.
    """
    squarings = _squarings(velocity, contraction)
    parts = 2.0 ** squarings.to(velocity.dtype).reshape(_column(velocity))
    displacement = _carried(velocity / parts, keep=0.0, reach=0.5)
    least, most = torch.stack(torch.aminmax(squarings)).tolist()
    for left in range(most, 0, -1):
        twice = _carried(displacement, keep=1.0, reach=1.0)
        if left > least or not can_square(displacement):  # what is compiled must not depend on the least
            twice = torch.where((squarings < left).reshape(_column(velocity)), displacement, twice)
        displacement = twice
    return displacement


def _carried(u: Tensor, keep: float, reach: float) -> Tensor:
    """keep · u(x) + u(x + reach · u(x)) at u's own nodes x."""
    if can_square(u):
        return squared(u, keep, reach)
    carried = sample(u, Displacement(reach * u).on(Grid.of(u)))
    return carried + keep * u if keep else carried


def _column(like: Tensor) -> list[int]:
    return [-1, *[1] * (like.ndim - 1)]


def _squarings(velocity: Tensor, contraction: float = CONTRACTION) -> Tensor:
    """Squarings each sample needs; the row-sum norm of the largest differences bounds the interpolant's slope."""
    with torch.no_grad():
        last = velocity.new_tensor([n - 1.0 for n in velocity.shape[2:]])
        steep = steepest(velocity) if can_square(velocity) else _steepest(velocity)
        bound = (steep * last).sum(2).amax(1).clamp_min(1e-30)
        if not bool(torch.isfinite(bound).all()):
            raise NotFiniteError("the velocity holds values that are not finite; exp(velocity) does not exist")
        return (torch.log2(bound) - log2(contraction)).ceil().clamp_min(0).long()


def _steepest(velocity: Tensor) -> Tensor:
    """As `kernels.squaring.steepest`."""
    wrong = (velocity - velocity).flatten(2).sum(2)
    axes = range(2, velocity.ndim)
    most = [
        velocity.diff(dim=axis).abs().flatten(2).amax(2) if velocity.shape[axis] > 1 else torch.zeros_like(wrong)
        for axis in axes
    ]
    return torch.stack(most, 2) + wrong[..., None]
