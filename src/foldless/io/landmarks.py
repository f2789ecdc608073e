"""Landmarks: places that are the same in two images, a file of points for each."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Float64

from foldless.errors import InputError
from foldless.io.geometry import Geometry
from foldless.io.points import end_of, read_points
from foldless.io.world import Transform, Warped

Space = Literal["lps", "ras", "voxels"]
"""What the numbers of a file are that does not say it: mm towards left, posterior, superior; towards right, anterior,
superior; or indices x, y(, z) of its image's voxels, from 0."""
Places = Float64[np.ndarray, "count dim"]
UNSAID = (".csv", ".vtk", ".ply")
"""Files that need not say what their numbers are."""
NEAR = 0.5
"""Share of an image's extent around it, beyond which a landmark is none of its."""


@dataclass(frozen=True, eq=False)
class LandmarkPairs:
    """Points (count, dim), LPS mm; row by row the same place.

    Attributes:
        moving: in the moving image's world.
        fixed: in the fixed image's.
    """

    moving: Places
    fixed: Places

    def errors(self, field: Float[np.ndarray, "*shape dim"], geometry: Geometry) -> Float64[np.ndarray, " count"]:
        """Target registration error, mm: how far from the moving landmark a field on a lattice takes its fixed one.

        It is read between its voxels linearly; outside its border continues.
        """
        carried = Transform((Warped(field, geometry),))(self.fixed)
        missed: np.ndarray = np.linalg.norm(carried - self.moving, axis=1)
        return missed


def read_landmarks(
    moving_file: Path | str, fixed_file: Path | str, moving: Geometry, fixed: Geometry, space: Space | None = None
) -> LandmarkPairs:
    """Landmarks of two images on these lattices, from any files that `read_points` knows.

    Without a `space` the numbers of files that do not say theirs are LPS mm.

    Raises:
        InputError: the files cannot be read, do not hold as many points each, or these lie far from their image.
    """
    there, here = (_places(file, geometry, space) for file, geometry in ((moving_file, moving), (fixed_file, fixed)))
    if len(there) != len(here):
        raise InputError(
            f"{moving_file} holds {len(there)} points and {fixed_file} {len(here)}; expected as many in both, row by "
            "row the same place"
        )
    return LandmarkPairs(there, here)


def _places(file: Path | str, geometry: Geometry, space: Space | None) -> Places:
    if space not in (None, *get_args(Space)):
        raise InputError(f"landmarks are in {', '.join(get_args(Space))}; got {space}")
    if space == "voxels" and end_of(Path(file)) != ".csv":
        raise InputError(f"{file} is in mm; only points of a .csv are taken as voxels")
    if space is not None and end_of(Path(file)) not in UNSAID:
        raise InputError(f"{file} says itself what its points are; only of {', '.join(UNSAID)} it is said")
    points = read_points(file, ras=space == "ras").points
    if points.shape[1] != geometry.dim:
        raise InputError(f"{file} holds {points.shape[1]}-D points, its image is {geometry.dim}-D; both must agree")
    if space == "voxels":
        points = geometry.index_to_physical(points)
    _check_near(file, points, geometry)
    return points


def _check_near(file: Path | str, points: Places, geometry: Geometry) -> None:
    size = np.array(geometry.size)
    away = np.abs(geometry.physical_to_index(points) - (size - 1) / 2)
    beyond = away > (0.5 + NEAR) * size
    if (outside := int((away > size / 2).any(1).sum())) and not beyond.any():
        warnings.warn(
            f"{file}: {outside} of {len(points)} points lie outside their image, where no map is found: the one at its "
            "border goes on there, and errors of such points say little",
            stacklevel=4,
        )
    if far := int(beyond.any(1).sum()):
        raise InputError(
            f"{file}: {far} of {len(points)} points lie farther from their image than half its extent; say what the "
            f"numbers are, {', '.join(get_args(Space))}"
        )
