"""Regularities: penalties on maps. They see maps and points, never images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from foldless.grid import Grid, Points, in_voxels
from foldless.maps import Identity, Map, compose, matrix_product

Score = Float[Tensor, ""]


@runtime_checkable
class Regularity(Protocol):
    """A penalty on both maps of a pair, evaluated on or around a lattice."""

    def __call__(self, phi_AB: Map, phi_BA: Map, grid: Grid) -> Score: ...


def inverse_consistency(phi_AB: Map, phi_BA: Map, points: Points) -> Score:
    """Mean squared |phi_AB(phi_BA(x)) - x| over batch, points and components, both orders added; ICON, Eqs. (13-16).

    In squared unit-cube units. `points` is (batch, dim, *at): `Grid.jittered` as in the paper, or the bare lattice,
    which cannot see two nodes that swap (ICON, Fig. 3).
    """
    there, back = phi_BA(points), phi_AB(points)
    return (phi_AB(there) - points).square().mean() + (phi_BA(back) - points).square().mean()


def gradient_inverse_consistency(phi_AB: Map, phi_BA: Map, points: Points) -> Score:
    """Squared entries of D(phi_AB ∘ phi_BA) - I: summed over directions, mean over points and components (GradICON).

    Analytic, at `points` (batch, dim, *at), averaged over the two orders; without units, so the published weight of
    1.5 holds on every lattice.
    """
    value_AB, slope_AB = phi_AB.with_jacobian(points)
    value_BA, slope_BA = phi_BA.with_jacobian(points)
    one = _product_error(phi_AB.jacobian(value_BA), slope_BA, points)
    other = _product_error(phi_BA.jacobian(value_AB), slope_AB, points)
    return (one + other) / 2


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
    nodes = phi.on(grid)
    displacement = in_voxels(nodes, grid)
    axes = [axis for axis in range(2, displacement.ndim) if displacement.shape[axis] > 1]
    return torch.stack([displacement.diff(dim=axis).square().mean() for axis in axes]).mean()


@dataclass(frozen=True)
class ICON:
    """`inverse_consistency` at points drawn anew every time, or on the lattice for comparison."""

    at: Literal["jittered", "lattice"] = "jittered"

    def __call__(self, phi_AB: Map, phi_BA: Map, grid: Grid) -> Score:
        return inverse_consistency(phi_AB, phi_BA, _points(self.at, phi_AB, phi_BA, grid))


@dataclass(frozen=True)
class GradICON:
    """`gradient_inverse_consistency` at points drawn anew every time, or on the lattice for comparison."""

    at: Literal["jittered", "lattice"] = "jittered"

    def __call__(self, phi_AB: Map, phi_BA: Map, grid: Grid) -> Score:
        return gradient_inverse_consistency(phi_AB, phi_BA, _points(self.at, phi_AB, phi_BA, grid))


@dataclass(frozen=True)
class Diffusion:
    """`diffusion` of both maps, added."""

    def __call__(self, phi_AB: Map, phi_BA: Map, grid: Grid) -> Score:
        return diffusion(phi_AB, grid) + diffusion(phi_BA, grid)


def _points(at: Literal["jittered", "lattice"], phi_AB: Map, phi_BA: Map, grid: Grid) -> Points:
    """Points for every pair: as many samples as the larger batch of the two maps."""
    corner = Grid((1,) * grid.dim)
    like = max((phi_AB.on(corner), phi_BA.on(corner)), key=len).detach()
    return grid.points(like) if at == "lattice" else grid.jittered(len(like), like)


def _product_error(outer: Tensor, inner: Tensor, points: Points) -> Score:
    error = matrix_product(outer, inner) - Identity(points.shape[1]).jacobian(points)
    return error.square().sum(2).mean()
