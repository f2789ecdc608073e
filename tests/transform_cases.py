"""Lattices and maps that transform files are tried with."""

import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy.spatial.transform import Rotation

from foldless.io import Geometry, Linear, Transform, Warped

SIZE, SPACING, ORIGIN = (12, 10, 9), (2.0, 2.5, 3.0), (-11.0, 7.0, 20.0)
TURN = Rotation.from_euler("zyx", [0.4, -0.25, 0.15]).as_matrix()


def geometry(kind: str) -> Geometry:
    """A lattice: axis-aligned, oblique, flipped, anisotropic or 2-D."""
    direction, spacing = np.eye(3), SPACING
    if kind == "oblique":
        direction = TURN
    elif kind == "flipped":
        direction = np.diag([-1.0, 1.0, 1.0])
    elif kind == "anisotropic":
        spacing = (0.7, 0.9, 6.0)
    elif kind == "2-D":
        return Geometry((12, 10), (2.0, 2.5), (-11.0, 7.0), (1.0, 0.0, 0.0, 1.0))
    return Geometry(SIZE, spacing, ORIGIN, tuple(direction.ravel().tolist()))


GEOMETRIES = ("axis-aligned", "oblique", "flipped", "anisotropic", "2-D")


def moving_geometry(fixed: Geometry) -> Geometry:
    """Another lattice nearby, turned, of another size and handedness."""
    dim = fixed.dim
    turn = Rotation.from_euler("z", 0.2).as_matrix()[:dim, :dim] @ np.diag([1.0, -1.0, 1.0][:dim])
    size, spacing = (14, 11, 10)[:dim], (1.8, 2.2, 3.1)[:dim]
    origin = fixed.centre - turn @ (np.array(spacing) * (np.array(size) - 1) / 2) + np.array([3.0, -2.0, 1.0][:dim])
    return Geometry(size, spacing, tuple(origin.tolist()), tuple(turn.ravel().tolist()))


def transform(kind: str, fixed: Geometry) -> Transform:
    """A translation along one axis, a rotation about the centre, or a smooth warp of some millimetres."""
    dim = fixed.dim
    matrix = np.eye(dim, dim + 1)
    if kind == "translation":
        matrix[0, -1] = 3.0
    elif kind == "rotation":
        turn = Rotation.from_euler("zyx", [0.2, 0.1, -0.15]).as_matrix()[:dim, :dim]
        turn = turn if dim == 3 else Rotation.from_euler("z", 0.2).as_matrix()[:2, :2]
        matrix = np.column_stack([turn, fixed.centre - turn @ fixed.centre])
    else:
        return Transform((Warped(wave(fixed), fixed),), fixed, moving_geometry(fixed))
    return Transform((Linear(matrix),), fixed, moving_geometry(fixed))


TRANSFORMS = ("translation", "rotation", "smooth warp")


def wave(on: Geometry, size: float = 2.0) -> np.ndarray:
    """A displacement (*shape, dim) of some millimetres, no two components alike."""
    x = np.indices(on.shape) / (np.array(on.shape).reshape(-1, *[1] * on.dim) - 1)
    return size * np.stack([np.sin(2.5 * x[c] + 1.5 * x[(c + 1) % on.dim] + c) + 0.2 * c for c in range(on.dim)], -1)


def nodes(on: Geometry) -> np.ndarray:
    """The voxel centres of a lattice (count, dim), LPS mm."""
    return np.ascontiguousarray(on.voxel_centres.reshape(on.dim, -1).T)


def itk_of(one: Transform) -> sitk.Transform:
    """A transform of one part as SimpleITK's, by its own classes."""
    (part,) = one.parts
    if isinstance(part, Linear):
        made = sitk.AffineTransform(one.dim)
        made.SetMatrix(part.matrix[:, :-1].ravel().tolist())
        made.SetTranslation(part.matrix[:, -1].tolist())
        return made
    image = sitk.GetImageFromArray(part.displacement.astype(np.float64), isVector=True)
    image.SetSpacing(part.geometry.spacing)
    image.SetOrigin(part.geometry.origin)
    image.SetDirection(part.geometry.direction)
    return sitk.DisplacementFieldTransform(image)
