"""In what coordinates a program's numbers are, and how they become maps of LPS millimetres.

A frame takes its coordinates to LPS millimetres, (dim + 1, dim + 1), given the lattice of the image that they count
in. With W_f and W_m of the fixed and the moving image, a file's matrix A is the map W_m · A · W_f⁻¹, and its
displacement d the map W_m · (W_f⁻¹ p + d(p)).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from foldless.errors import InputError
from foldless.io.geometry import Geometry
from foldless.io.world import Linear, Part, Transform, Warped

Square = Float64[np.ndarray, "rows rows"]


@dataclass(frozen=True)
class Spaces:
    """The two images that a transform lies between, as far as they are given."""

    fixed: Geometry | None = None
    moving: Geometry | None = None

    def of(self, frame: Frame, what: str) -> tuple[Geometry | None, Geometry | None]:
        """Both lattices, if the frame counts in them.

        Raises:
            InputError: one is missing.
        """
        if frame.needs and (self.fixed is None or self.moving is None):
            raise InputError(
                f"{what} counts in {frame.name}; give both images: foldless convert has --fixed and --moving"
            )
        return self.fixed, self.moving


@dataclass(frozen=True)
class Frame:
    """What coordinates are called, how they become LPS millimetres, and whether that takes the images' lattices."""

    name: str
    world: Callable[[int, Geometry | None], Square]
    needs: bool = False


def _affine(geometry: Geometry) -> Square:
    square = np.eye(geometry.dim + 1)
    square[:-1, :-1], square[:-1, -1] = geometry.matrix, geometry.origin
    return square


def _ras(dim: int, _: Geometry | None) -> Square:
    return np.diag([-1.0, -1.0, *[1.0] * (dim - 1)])


def _voxels(_: int, geometry: Geometry | None) -> Square:
    assert geometry is not None
    return _affine(geometry)


def _fsl(_: int, geometry: Geometry | None) -> Square:
    """Millimetres from the first voxel, x from the last one where the axes are right-handed by the header's affine."""
    assert geometry is not None
    square = np.diag([*geometry.spacing, 1.0])
    if np.linalg.det(geometry.cosines) > 0:
        square[0, 0], square[0, -1] = -square[0, 0], (geometry.size[0] - 1) * geometry.spacing[0]
    return np.asarray(_affine(geometry) @ np.linalg.inv(square))


LPS = Frame("mm, LPS", lambda dim, _: np.eye(dim + 1))
RAS = Frame("mm, RAS", _ras)
FSL = Frame("FSL's mm from the corners of both images", _fsl, needs=True)
VOXELS = Frame("voxels of both images", _voxels, needs=True)


def linear_of(matrix: Square, frame: Frame, fixed: Geometry | None, moving: Geometry | None) -> Linear:
    """A file's matrix, fixed to moving in the frame's coordinates, in LPS mm."""
    dim = len(matrix) - 1
    return Linear((frame.world(dim, moving) @ matrix @ np.linalg.inv(frame.world(dim, fixed)))[:-1])


def matrix_for(linear: Linear, frame: Frame, fixed: Geometry | None, moving: Geometry | None) -> Square:
    """The matrix that a file of this frame holds."""
    return np.asarray(np.linalg.inv(frame.world(linear.dim, moving)) @ linear.square @ frame.world(linear.dim, fixed))


def parts_of(
    numbers: Float[np.ndarray, "*shape dim"], frame: Frame, on: Geometry, moving: Geometry | None
) -> tuple[Part, ...]:
    """A file's displacements, (*shape, dim) in the frame's coordinates, as parts in LPS mm."""
    from_fixed, from_moving = frame.world(on.dim, on), frame.world(on.dim, moving)
    between = from_moving @ np.linalg.inv(from_fixed)
    field = Warped(numbers.astype(np.float64) @ from_fixed[:-1, :-1].T, on)
    return (field,) if np.allclose(between, np.eye(on.dim + 1), atol=1e-9) else (field, Linear(between[:-1]))


def positions(frame: Frame, on: Geometry) -> Float64[np.ndarray, "*shape dim"]:
    """Where the nodes of a lattice are in the frame's coordinates."""
    back = np.linalg.inv(frame.world(on.dim, on))
    return np.asarray(np.moveaxis(on.voxel_centres, 0, -1) @ back[:-1, :-1].T + back[:-1, -1])


def numbers_for(
    transform: Transform, frame: Frame, on: Geometry, moving: Geometry | None, absolute: bool = False
) -> Float64[np.ndarray, "*shape dim"]:
    """Displacements, or positions, that a file of this frame holds on a lattice, (*shape, dim)."""
    there = np.moveaxis(on.voxel_centres, 0, -1) + transform.displacement_on(on)
    back = np.linalg.inv(frame.world(on.dim, moving))
    found = there @ back[:-1, :-1].T + back[:-1, -1]
    return np.asarray(found if absolute else found - positions(frame, on))
