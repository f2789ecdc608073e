"""Regularities: penalties on maps. They see maps and points, never images.

The two inverse consistencies also take bare displacements (batch, dim, *lattice) in unit-cube units, of any network;
`Displacement.from_voxels` converts those in voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from foldless.arguments import check_choice, check_number
from foldless.grid import Grid, Points, check_grid, per_axis, sample
from foldless.kernels import Jittered, new_seed
from foldless.kernels.bernstein import shortage
from foldless.kernels.consistency import can_compose, consistency, gradient_consistency
from foldless.kernels.product import can_multiply, product_error
from foldless.maps import Displacement, Identity, Map, check_maps, compose, matrix_product

Score = Float[Tensor, ""]
AT = ("jittered", "lattice")
Field = Float[Tensor, "#batch dim ..."]


@runtime_checkable
class Regularity(Protocol):
    """A penalty on both maps of a pair, evaluated on or around a lattice."""

    def __call__(self, phi_AB: Map, phi_BA: Map, grid: Grid) -> Score: ...


def inverse_consistency(phi_AB: Map | Field, phi_BA: Map | Field, points: Points | Jittered) -> Score:
    """Mean squared |phi_AB(phi_BA(x)) - x| over batch, points and components, both orders added; ICON, Eqs. (13-16).

    In squared unit-cube units. `points` is (batch, dim, *at): `Grid.jittered` as in the paper, or the bare lattice,
    which cannot see two nodes that swap (ICON, Fig. 3). `Jittered` is jittered nodes that need no memory.
    """
    phi_AB, phi_BA = _as_map(phi_AB), _as_map(phi_BA)
    if chains := _chains(phi_AB, phi_BA, points):
        return consistency(*chains, points)
    return _both_orders(phi_AB, phi_BA, _in_memory(points, phi_AB, phi_BA))


def noisy_inverse_consistency(
    phi_AB: Map | Field, phi_BA: Map | Field, points: Points, epsilon: Sequence[float]
) -> Score:
    """`inverse_consistency` of phi + epsilon · n, with white noise n of its own on either map; ICON, Eq. (5).

    Every evaluated point has noise of its own. `epsilon` is its standard deviation on each axis, in unit-cube units.
    """

    def noisy(phi: Map) -> Callable[[Points], Points]:
        return lambda x: _shaken(phi(x), epsilon)

    return _both_orders(noisy(_as_map(phi_AB)), noisy(_as_map(phi_BA)), points)


def gradient_inverse_consistency(phi_AB: Map | Field, phi_BA: Map | Field, points: Points | Jittered) -> Score:
    """Squared entries of D(phi_AB ∘ phi_BA) - I: summed over directions, mean over points and components (GradICON).

    Analytic, at `points` (batch, dim, *at) or `Jittered` nodes, averaged over the two orders; without units, so the
    published weight of 1.5 holds on every lattice.
    """
    phi_AB, phi_BA = _as_map(phi_AB), _as_map(phi_BA)
    if chains := _chains(phi_AB, phi_BA, points):
        return gradient_consistency(*chains, points)
    return _product_errors(phi_AB, phi_BA, _in_memory(points, phi_AB, phi_BA))


def cycle_consistency(maps: Sequence[Map], points: Points) -> Score:
    """Mean squared |phi_1(phi_2(... phi_n(x))) - x| over batch, points and components; squared unit-cube units.

    For maps that lead around a cycle, such as phi_12, phi_23, phi_31 between three images: around, all stay in place.
    """
    return (compose(*maps)(points) - points).square().mean()


def gradient_cycle_consistency(maps: Sequence[Map], points: Points) -> Score:
    """Squared entries of D(phi_1 ∘ phi_2 ∘ ... ∘ phi_n) - I, summed over directions, mean over points and components.

    For maps that lead around a cycle, as GradICON; analytic, without units.
    """
    error = compose(*maps).jacobian(points) - Identity(points.shape[1]).jacobian(points)
    return error.square().sum(2).mean()


def diffusion(phi: Map, grid: Grid) -> Score:
    """Squared forward differences of the displacement in voxels, mean over voxels and components, averaged over axes.

    The smoothness of VoxelMorph and of Kuang, Eq. (1).
    """
    check_maps(phi)
    return _mean_square_differences(phi.displacement_on(grid))


def roughness(field: Field) -> Score:
    """The same of a displacement or a velocity (batch, dim, *lattice) in unit-cube units, in voxels of its lattice."""
    return _mean_square_differences(field / per_axis(Grid.of(field).voxel, field))


def unproven(phi: Map, grid: Grid, margin: float) -> Score:
    """What phi's cells lack of being proven fold-free with a margin: 0 where all are, and `certify` proves phi then.

    phi is read at the nodes of the lattice and interpolated between them, as it would be written. Of every cell, those
    just outside of the lattice included, the shortages of all 27 Bernstein coefficients of det Dphi are added,
    max(0, margin - c); the mean over batch and cells. Determinants are in cells' volumes: no unit, 1 at the identity.
    """
    check_maps(phi)
    return shortage(phi.displacement_on(grid), margin).mean()


@dataclass(frozen=True, kw_only=True)
class ICON:
    """`inverse_consistency` at points drawn anew every time, or on the lattice for comparison.

    How much it counts is no part of it: that is the objective's weight, `Constant(500.0)`.

    Args:
        at: where it is evaluated.
        noise: standard deviation of the white noise added to both maps, in voxels of the grid; ICON, Eq. (5). Maps
            that are optimised themselves need it (1/8 in Fig. 5), the error of a network does the same unasked.
        noise_at: whether every evaluated point has noise of its own, or both displacements have it on the lattice.

    Raises:
        TypeError: an argument of another kind.
        ValueError: another word, or noise that is negative or not finite.
    """

    at: Literal["jittered", "lattice"] = "jittered"
    noise: float = 0.0
    noise_at: Literal["points", "lattice"] = "points"

    def __post_init__(self) -> None:
        check_choice("at", self.at, AT)
        check_number("noise", self.noise, least=0.0)
        check_choice("noise_at", self.noise_at, ("points", "lattice"))

    def __call__(self, phi_AB: Map, phi_BA: Map, grid: Grid) -> Score:
        points = _points(self.at, grid, phi_AB, phi_BA)
        if self.noise == 0:
            return inverse_consistency(phi_AB, phi_BA, points)
        points = _in_memory(points, phi_AB, phi_BA)
        epsilon = [self.noise * side for side in grid.voxel]
        if self.noise_at == "points":
            return noisy_inverse_consistency(phi_AB, phi_BA, points, epsilon)
        still = torch.zeros_like(grid.points(points)).expand(len(points), -1, *grid.shape)
        fields = [_shaken(still, epsilon) for _ in range(2)]
        return _both_orders(_moved(phi_AB, fields[0]), _moved(phi_BA, fields[1]), points)


@dataclass(frozen=True, kw_only=True)
class GradICON:
    """`gradient_inverse_consistency` at points drawn anew every time, or on the lattice for comparison.

    How much it counts is no part of it: that is the objective's weight, `Constant(1.5)`.

    Raises:
        TypeError: `at` is no word.
        ValueError: it is another one.
    """

    at: Literal["jittered", "lattice"] = "jittered"

    def __post_init__(self) -> None:
        check_choice("at", self.at, AT)

    def __call__(self, phi_AB: Map, phi_BA: Map, grid: Grid) -> Score:
        return gradient_inverse_consistency(phi_AB, phi_BA, _points(self.at, grid, phi_AB, phi_BA))


@dataclass(frozen=True)
class Diffusion:
    """`diffusion` of both maps, added."""

    def __call__(self, phi_AB: Map, phi_BA: Map, grid: Grid) -> Score:
        return diffusion(phi_AB, grid) + diffusion(phi_BA, grid)


@dataclass(frozen=True, kw_only=True)
class Certified:
    """`unproven` of both maps, added: no cell may fold, anywhere between the nodes, and nothing else is asked.

    Args:
        margin: what every Bernstein coefficient reaches, as a share of a cell's volume. Above 0 what costs nothing is
            proven in spite of rounding, and pairs that training has not seen have something to spare.

    Raises:
        TypeError: a margin that is no number.
        ValueError: one that is not above 0 and below 1.
    """

    margin: float = 0.1

    def __post_init__(self) -> None:
        check_number("margin", self.margin, above=0.0)
        if self.margin >= 1:
            raise ValueError(f"the margin is a share of a cell's volume, below 1; got {self.margin}")

    def __call__(self, phi_AB: Map, phi_BA: Map, grid: Grid) -> Score:
        return unproven(phi_AB, grid, self.margin) + unproven(phi_BA, grid, self.margin)


def _mean_square_differences(field: Field) -> Score:
    axes = [axis for axis in range(2, field.ndim) if field.shape[axis] > 1]
    return torch.stack([field.diff(dim=axis).square().mean() for axis in axes]).mean()


def _points(at: Literal["jittered", "lattice"], grid: Grid, phi_AB: Map, phi_BA: Map) -> Points | Jittered:
    check_maps(phi_AB, phi_BA)
    check_grid(grid)
    if grid.dim != phi_AB.dim:
        raise ValueError(f"maps of {phi_AB.dim} dimensions cannot be judged on a grid of {grid.dim}: {grid.shape}")
    return grid.points(_largest(phi_AB, phi_BA)) if at == "lattice" else Jittered(grid.shape, new_seed())


def _in_memory(points: Points | Jittered, phi_AB: Map, phi_BA: Map) -> Points:
    """Points for every pair: as many samples as the larger batch of the two maps."""
    return points.on(_largest(phi_AB, phi_BA)) if isinstance(points, Jittered) else points


def _largest(phi_AB: Map, phi_BA: Map) -> Tensor:
    """A point under the map of more samples."""
    corner = Grid((1,) * phi_AB.dim)
    return max((phi_AB.on(corner), phi_BA.on(corner)), key=len).detach()


def _both_orders(phi_AB: Callable[[Points], Points], phi_BA: Callable[[Points], Points], points: Points) -> Score:
    there, back = phi_BA(points), phi_AB(points)
    return (phi_AB(there) - points).square().mean() + (phi_BA(back) - points).square().mean()


def _product_errors(phi_AB: Map, phi_BA: Map, points: Points) -> Score:
    value_AB, slope_AB = phi_AB.with_jacobian(points)
    value_BA, slope_BA = phi_BA.with_jacobian(points)
    one = _product_error(phi_AB.jacobian(value_BA), slope_BA, points)
    other = _product_error(phi_BA.jacobian(value_AB), slope_AB, points)
    return (one + other) / 2


def _chains(phi_AB: Map, phi_BA: Map, points: Points | Jittered) -> tuple[list[Tensor], list[Tensor]] | None:
    """The displacements that both maps are made of, the first to see the points first, where one pass can do."""
    both = (phi_AB.parts, phi_BA.parts)
    fields = [[part.field for part in reversed(parts) if isinstance(part, Displacement)] for parts in both]
    whole = all(len(found) == len(parts) for found, parts in zip(fields, both, strict=True))
    return (fields[0], fields[1]) if whole and can_compose(fields[0], fields[1], points) else None


def _shaken(points: Points, epsilon: Sequence[float]) -> Points:
    return points + per_axis(epsilon, points) * torch.randn_like(points)


def _moved(phi: Map, field: Field) -> Callable[[Points], Points]:
    """phi with one more displacement added to its own."""
    return lambda x: phi(x) + sample(field, x)


def _as_map(phi: Map | Field) -> Map:
    return phi if isinstance(phi, Map) else Displacement(phi)


def _product_error(outer: Tensor, inner: Tensor, points: Points) -> Score:
    if can_multiply(outer, inner):
        return product_error(outer, inner)
    return _plain_product_error(outer, inner, points)


def _plain_product_error(outer: Tensor, inner: Tensor, points: Points) -> Score:
    """In torch: where there is no kernel, and as the kernel's referee."""
    error = matrix_product(outer, inner) - Identity(points.shape[1]).jacobian(points)
    return error.square().sum(2).mean()
