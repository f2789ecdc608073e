"""Inverses of maps that have none in closed form."""

from __future__ import annotations

from foldless.grid import Grid, check_grid, per_axis
from foldless.maps.algebra import Map, check_maps, some_tensor
from foldless.maps.displacement import Displacement
from foldless.maps.solving import solve


class ConvergenceError(RuntimeError):
    """An iteration did not reach its tolerance."""


def invert(phi: Map, grid: Grid, tolerance: float = 0.01) -> Displacement:
    """The numerical inverse of `phi` on a lattice: psi with phi(psi(x)) = x at every node.

    Args:
        phi: any map; its displacement continues outside the unit cube, so that the inverse exists there as well.
        grid: the lattice on which the inverse is wanted.
        tolerance: largest |phi(psi(x)) - x| allowed at a node, in voxels of `grid`.

    Raises:
        ConvergenceError: the tolerance was not reached; the map folds or changes too fast for the lattice.
    """
    check_maps(phi)
    check_grid(grid)
    target = grid.points(some_tensor(phi))
    at, error = solve(phi, target, per_axis(grid.voxel, target), tolerance)
    if bool((error <= tolerance).all()):
        return Displacement(at - target)
    far = (~(error <= tolerance)).sum().item()  # what is no number among them
    raise ConvergenceError(
        f"the inverse did not converge at {far} of {error.numel()} nodes: the largest "
        f"error is {error.max().item():.3g} voxels, wanted {tolerance:g}; the map probably folds there"
    )
