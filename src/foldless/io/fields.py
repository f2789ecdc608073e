"""What displacement files say, measured on the numbers that were written: voxels, folds, volumes, there and back again.

Fields are (*shape, dim) with components x, y(, z) in LPS millimetres, as in `foldless.io.transforms`.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64

from foldless.grid import sample
from foldless.io.geometry import Geometry
from foldless.io.world import Linear
from foldless.maps import determinant

Field = Float[np.ndarray, "*shape dim"]


def voxel_displacement(field: Field, geometry: Geometry) -> Float64[np.ndarray, " dim *shape"]:
    """The displacement in voxels of its lattice, (dim, *shape), in array order: what folds are counted from."""
    return np.moveaxis(field.astype(np.float64) @ np.linalg.inv(geometry.matrix).T, -1, 0)[::-1]


def physical_jacobian(field: Field, geometry: Geometry) -> Float64[np.ndarray, "*shape"]:
    """How volumes change under p → p + u(p), (*shape): the determinant of its derivative in physical space.

    Central differences of two neighbours an axis, one-sided at the border, turned by the direction cosines. ANTs'
    CreateJacobianDeterminantImage agrees away from the border, up to the four neighbours that it takes and the
    negative values that it sets to zero. ITK's DisplacementFieldJacobianDeterminantFilter leaves the direction out
    and is wrong on oblique images.
    """
    steps = np.empty((geometry.dim, geometry.dim, *geometry.shape))
    for component in range(geometry.dim):
        for axis, n in enumerate(geometry.size):
            u = field[..., component].astype(np.float64)
            steps[component, axis] = np.gradient(u, axis=geometry.dim - 1 - axis) if n > 1 else 0.0
    slope = np.einsum("ca...,ab->cb...", steps, np.linalg.inv(geometry.matrix))
    for axis in range(geometry.dim):
        slope[axis, axis] += 1
    return determinant(torch.from_numpy(slope)[None])[0].numpy()


def inverse_consistency_of_files(
    forward: Field,
    fixed: Geometry,
    inverse: Float[np.ndarray, "*elsewhere dim"],
    moving: Geometry,
    back: Linear | None = None,
) -> Float64[np.ndarray, "*shape"]:
    """How far from home every fixed voxel comes back, (*fixed.shape), in voxels of the fixed lattice.

    Args:
        forward: the warp from fixed to moving space, on the `fixed` lattice.
        fixed: the forward warp's lattice.
        inverse: the warp back, on the `moving` lattice. It is read between its voxels linearly, and outside its
            lattice its border value continues (ITK would take zero there).
        moving: the inverse warp's lattice.
        back: the affine map that the inverse warp ends in: beyond its lattice, what comes before that map continues.

    Raises:
        ValueError: the lattices differ in dimension.
    """
    if fixed.dim != moving.dim:
        raise ValueError(f"both warps must have one dimension; got {fixed.dim} and {moving.dim}")
    affine = np.eye(fixed.dim + 1)[:-1] if back is None else back.matrix
    nodes = np.moveaxis(moving.voxel_centres, 0, -1)
    added = torch.from_numpy(np.moveaxis(nodes + inverse - _carried(affine, nodes), -1, 0).copy())[None]
    error, extent = np.empty(fixed.shape), np.maximum(np.array(moving.shape) - 1, 1)
    for row in range(fixed.shape[0]):
        here = np.moveaxis(fixed.slab(row, row + 1).voxel_centres, 0, -1)
        there = here + forward[row : row + 1]
        places = np.moveaxis(moving.physical_to_index(there)[..., ::-1] / extent, -1, 0)
        home = sample(added, torch.from_numpy(places.copy())[None])[0].numpy()
        off = _carried(affine, there) + np.moveaxis(home, 0, -1) - here
        error[row] = np.linalg.norm(off @ np.linalg.inv(fixed.matrix).T, axis=-1)[0]
    return error


def _carried(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., dim) by an affine map (dim, dim + 1)."""
    carried: np.ndarray = points @ matrix[:, :-1].T + matrix[:, -1]
    return carried
