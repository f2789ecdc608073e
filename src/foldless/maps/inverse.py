"""Inverses of maps that have none in closed form."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from foldless.grid import Grid, Points, check_grid, per_axis
from foldless.maps.algebra import Identity, Map, check_maps, some_tensor
from foldless.maps.displacement import Displacement
from foldless.maps.matrices import Jacobian, determinant


class ConvergenceError(RuntimeError):
    """An iteration did not reach its tolerance."""


def invert(phi: Map, grid: Grid, tolerance: float = 0.01, iterations: int = 50) -> Displacement:
    """The numerical inverse of `phi` on a lattice: psi with phi(psi(x)) = x at every node, by damped Newton steps.

    Args:
        phi: any map; its displacement continues outside the unit cube, so that the inverse exists there as well.
        grid: the lattice on which the inverse is wanted.
        tolerance: largest |phi(psi(x)) - x| allowed at a node, in voxels of `grid`.
        iterations: how many steps to try.

    Raises:
        ConvergenceError: the tolerance was not reached; the map folds or changes too fast for the lattice.
    """
    check_maps(phi)
    check_grid(grid)
    target = grid.points(some_tensor(phi))
    at, error = solve(phi, target, per_axis(grid.voxel, target), tolerance, iterations)
    if bool((error <= tolerance).all()):
        return Displacement(at - target)
    far = (~(error <= tolerance)).sum().item()  # what is no number among them
    raise ConvergenceError(
        f"the inverse did not converge at {far} of {error.numel()} nodes after {iterations} steps: the largest "
        f"error is {error.max().item():.3g} voxels, wanted {tolerance:g}; the map probably folds there"
    )


@torch.no_grad()
def solve(
    phi: Map, target: Points, unit: Tensor, tolerance: float, iterations: int = 50
) -> tuple[Points, Float[Tensor, "#batch one *at"]]:
    """Points that `phi` takes to `target`, (batch, dim, *at), and how far off each ends, in units: damped Newton steps.

    Args:
        phi: any map.
        target: where the points are to be taken.
        unit: in what an error is measured, one number an axis, shaped to divide `target`.
        tolerance: the largest error at which the steps end.
        iterations: how many steps to try.
    """
    at = target
    step = torch.ones_like(target[:, :1])
    image, slope = phi.with_jacobian(at)
    error = _length((image - target) / unit)
    for _ in range(iterations):
        if bool((error <= tolerance).all()):
            break
        trial = at - step * _solve(slope, image - target)
        trial_image, trial_slope = phi.with_jacobian(trial)
        trial_error = _length((trial_image - target) / unit)
        better = trial_error < error
        at, image, error = (
            torch.where(better, new, old) for new, old in ((trial, at), (trial_image, image), (trial_error, error))
        )
        slope = torch.where(better[:, :, None], trial_slope, slope)
        step = torch.where(better, (step * 2).clamp_max(1.0), step / 2)
    return at, error


def _solve(matrix: Jacobian, vector: Points) -> Points:
    """matrix⁻¹ · vector at every point; where the matrix is nearly singular, the vector itself."""
    eye = Identity(vector.shape[1]).jacobian(vector)
    safe = determinant(matrix).abs() > 0.05
    matrix = torch.where(safe[:, None, None], matrix, eye)
    rows = matrix.movedim((1, 2), (-2, -1))
    solution: Tensor = torch.linalg.solve(rows, vector.movedim(1, -1))
    return solution.movedim(-1, 1)


def _length(vector: Points) -> Tensor:
    return vector.square().sum(1, keepdim=True).sqrt()
