"""Poses as others read them: ITK's transforms, and headers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import SimpleITK as sitk  # noqa: N813
from jaxtyping import Float32

from foldless.io import Geometry, Linear, Transform, Volume
from foldless.pose.rigid import Pose, Vector


def as_itk(pose: Pose) -> sitk.AffineTransform:
    """The pose as ITK has it, about its own centre: from fixed to moving world, LPS mm."""
    parts = (pose.linear.ravel(), pose.there - pose.here, pose.here)
    transform: sitk.AffineTransform = sitk.AffineTransform(*[x.tolist() for x in parts])  # type: ignore[no-untyped-call]
    return transform


def as_linear(pose: Pose) -> Linear:
    """The pose as one matrix, from fixed to moving world, LPS mm."""
    return Linear(np.column_stack([pose.linear, pose.there - pose.linear @ pose.here]))


def pose_of(linear: Linear, here: Vector) -> Pose:
    """An affine map of the world as a pose about a point."""
    matrix = linear.matrix
    return Pose(matrix[:, :-1], here, matrix[:, :-1] @ here + matrix[:, -1])


def displacement_of(pose: Pose, on: Geometry) -> Float32[np.ndarray, "*shape dim"]:
    """What it adds to every voxel centre of a lattice, (*on.shape, dim), LPS mm."""
    return Transform((as_linear(pose),)).displacement_on(on).astype(np.float32)


def laid(volume: Volume, pose: Pose) -> Volume:
    """The moving volume where a rigid pose lays it in fixed space: its header moves, its voxels stay.

    Raises:
        ValueError: the pose is not rigid, which no header holds.
    """
    back = pose.inverse
    if not np.allclose(back.linear @ back.linear.T, np.eye(pose.dim), atol=1e-9):
        raise ValueError("a header holds turns and shifts only; got a pose that scales or shears")
    image = volume.image[:]
    image.SetOrigin(back(np.array(volume.geometry.origin)).tolist())
    image.SetDirection((back.linear @ volume.geometry.cosines).ravel().tolist())
    return replace(volume, image=image)
