"""Two lattices that share a unit cube: one among the fixed image, and where a pose takes it among the moving one."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from foldless.data.folder import padded
from foldless.io import Geometry, Volume, reoriented
from foldless.pose.rigid import Pose

AROUND = 4
"""Nodes that are kept around what both images show."""


def shared_lattices(moving: Volume, fixed: Volume, pose: Pose) -> tuple[Geometry, Geometry]:
    """A lattice in moving and one in fixed space, node on node by the pose; it holds what both images show.

    It lies along the axes of the fixed image, turned to the orientation nearest to LPS. Its spacing along an axis is
    the mean of both images' there; where that is the fixed image's own, nodes are its voxels. Each axis has a multiple
    of 16 nodes, or one where the fixed image has one.
    """
    own = reoriented(fixed).geometry
    fine = np.array(own.spacing)
    spacing = (fine + _voxel_along(moving.geometry, pose.linear @ own.cosines)) / 2
    low, high = _common(moving.geometry, own, pose)
    first, last = np.floor(low / spacing + 1e-6) - AROUND, np.ceil(high / spacing - 1e-6) + AROUND
    ends = np.ceil(fine * (np.array(own.size) - 1) / spacing - 1e-6)
    first, last = np.maximum(first, 0), np.maximum(np.minimum(last, ends), 0)
    count = (last - first + 1).astype(int)
    size = np.where(np.array(own.size) == 1, 1, padded(count.tolist()))
    first -= (size - count) // 2
    corner = own.index_to_physical(first * spacing / fine)
    lattice = Geometry(tuple(size.tolist()), tuple(spacing.tolist()), tuple(corner.tolist()), own.direction)
    return carried(lattice, pose), lattice


def carried(lattice: Geometry, pose: Pose) -> Geometry:
    """The lattice where a pose takes it; its axes need not be at right angles there."""
    steps = pose.linear @ lattice.matrix
    sides = np.linalg.norm(steps, axis=0)
    corner = pose(np.array(lattice.origin))
    return Geometry(
        lattice.size, tuple(sides.tolist()), tuple(corner.tolist()), tuple((steps / sides).ravel().tolist())
    )


def _voxel_along(geometry: Geometry, ways: Float64[np.ndarray, "dim dim"]) -> Float64[np.ndarray, " dim"]:
    """How far one goes along each way, in columns, to cross a voxel."""
    voxels: np.ndarray = np.linalg.norm(np.linalg.solve(geometry.matrix, ways), axis=0)
    return 1 / voxels


def _common(
    moving: Geometry, own: Geometry, pose: Pose
) -> tuple[Float64[np.ndarray, " dim"], Float64[np.ndarray, " dim"]]:
    """The box along the fixed image's axes, mm from its first voxel, around what both show; all of it if nothing."""
    ends = (np.array(own.size) - 1) * np.array(own.spacing)
    there = (pose.inverse(moving.corners) - np.array(own.origin)) @ np.linalg.inv(own.cosines).T
    low, high = np.maximum(there.min(0), 0), np.minimum(there.max(0), ends)
    return (low, high) if (low <= high).all() else (np.zeros_like(ends), ends)
