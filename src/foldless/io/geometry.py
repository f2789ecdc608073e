"""Where a lattice lies in the world: size, spacing, origin and direction, as SimpleITK spells them.

Sizes, spacings and physical points are in SimpleITK's order (x, y, z), millimetres, LPS. Arrays, shapes and
unit-cube points are in array order, the reverse: axis 0 of an array is z in 3-D and y in 2-D.
"""

# mypy: untyped-calls-exclude="SimpleITK,nibabel"

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813
from jaxtyping import Float, Float64

SAME_LATTICE = 0.01
"""How far apart, in voxels, two lattices' corners may lie; NIfTI's float32 headers lose far less."""


@dataclass(frozen=True)
class Geometry:
    """A lattice in physical space: p = origin + direction · diag(spacing) · index.

    Attributes:
        size: voxels along x, y(, z).
        spacing: millimetres along x, y(, z).
        origin: LPS millimetres of the first voxel's centre.
        direction: dim × dim direction cosines, row by row; column a is where index axis a points.

    Raises:
        ValueError: the four do not describe one lattice, are not finite, or the direction is singular.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    def __post_init__(self) -> None:
        lengths = (len(self.size), len(self.spacing), len(self.origin), len(self.direction))
        if lengths != (self.dim, self.dim, self.dim, self.dim**2):
            raise ValueError(
                "a geometry has dim sizes, spacings and origins and dim * dim direction cosines; "
                f"got {lengths[0]}, {lengths[1]}, {lengths[2]} and {lengths[3]}"
            )
        if not np.isfinite([*self.spacing, *self.origin, *self.direction]).all():
            raise ValueError(f"a lattice lies somewhere; got the spacing {self.spacing}, the origin {self.origin}")
        if min(self.size) < 1 or min(self.spacing) <= 0:
            raise ValueError(f"sizes and spacings must be positive; got {self.size} and {self.spacing}")
        if abs(np.linalg.det(self.cosines)) < 1e-6:
            raise ValueError(f"the direction {self.direction} is singular; its columns must be independent")

    @classmethod
    def of(cls, image: sitk.Image) -> Geometry:
        """The lattice of a SimpleITK image."""
        return cls(
            tuple(int(n) for n in image.GetSize()),
            tuple(float(s) for s in image.GetSpacing()),
            tuple(float(o) for o in image.GetOrigin()),
            tuple(float(d) for d in image.GetDirection()),
        )

    @property
    def dim(self) -> int:
        return len(self.size)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an array on this lattice: the size reversed."""
        return self.size[::-1]

    @property
    def cosines(self) -> Float64[np.ndarray, "dim dim"]:
        """The direction as a matrix."""
        return np.array(self.direction, dtype=np.float64).reshape(self.dim, self.dim)

    @property
    def order(self) -> tuple[int, ...]:
        """The index axis that leads along each of x, y(, z), or against it: the order nearest to the direction."""
        steps = np.abs(self.cosines)
        return max(
            itertools.permutations(range(self.dim)),
            key=lambda axes: sum(steps[row, axis] for row, axis in enumerate(axes)),
        )

    @property
    def matrix(self) -> Float64[np.ndarray, "dim dim"]:
        """Direction · diag(spacing): the step in millimetres along each index axis, in columns."""
        steps: np.ndarray = self.cosines * np.array(self.spacing)
        return steps

    @property
    def centre(self) -> Float64[np.ndarray, " dim"]:
        """The middle of the lattice, LPS millimetres."""
        return self.index_to_physical((np.array(self.size, dtype=np.float64) - 1) / 2)

    @property
    def corners(self) -> Float64[np.ndarray, "corners dim"]:
        """Centres of the 2^dim corner voxels, LPS millimetres."""
        ends = itertools.product(*((0.0, n - 1.0) for n in self.size))
        return self.index_to_physical(np.array(list(ends), dtype=np.float64))

    @property
    def voxel_centres(self) -> Float64[np.ndarray, " dim *shape"]:
        """Centres of all voxels, (dim, *shape): components x, y(, z), LPS millimetres."""
        centres = np.empty((self.dim, *self.shape))
        for component, (origin, steps) in enumerate(zip(self.origin, self.matrix, strict=True)):
            along = np.ogrid[tuple(slice(n) for n in self.shape)][::-1]
            centres[component] = sum((step * at for step, at in zip(steps, along, strict=True)), np.array(origin))
        return centres

    def index_to_physical(self, points: Float[np.ndarray, "*at dim"]) -> Float64[np.ndarray, "*at dim"]:
        """LPS millimetres of continuous indices (..., dim), both x, y(, z) last."""
        physical: np.ndarray = points.astype(np.float64) @ self.matrix.T + np.array(self.origin)
        return physical

    def physical_to_index(self, points: Float[np.ndarray, "*at dim"]) -> Float64[np.ndarray, "*at dim"]:
        """Continuous indices of points in LPS millimetres (..., dim), both x, y(, z) last."""
        index: np.ndarray = (points.astype(np.float64) - np.array(self.origin)) @ np.linalg.inv(self.matrix).T
        return index

    def unit_to_physical(self, points: Float[np.ndarray, " dim *at"]) -> Float64[np.ndarray, " dim *at"]:
        """Unit cube, components in array order, to LPS millimetres, components x, y(, z); both (dim, *at)."""
        index = points[::-1].reshape(self.dim, -1).astype(np.float64) * self._last[:, None]
        physical: np.ndarray = self.matrix @ index + np.array(self.origin)[:, None]
        return physical.reshape(points.shape)

    def physical_to_unit(self, points: Float[np.ndarray, " dim *at"]) -> Float64[np.ndarray, " dim *at"]:
        """LPS millimetres, components x, y(, z), to the unit cube, components in array order; both (dim, *at)."""
        away = points.reshape(self.dim, -1).astype(np.float64) - np.array(self.origin)[:, None]
        index: np.ndarray = np.linalg.inv(self.matrix) @ away / self._last[:, None]
        return index[::-1].reshape(points.shape)

    def fits(self, other: Geometry, tolerance: float = SAME_LATTICE) -> bool:
        """Whether both are one lattice: equal sizes, and no corner further than `tolerance` voxels from its twin."""
        if self.size != other.size:
            return False
        apart = (self.corners - other.corners) @ np.linalg.inv(self.matrix).T
        return bool(np.abs(apart).max() <= tolerance)

    def slab(self, first: int, last: int) -> Geometry:
        """Slices `first` to `last`, exclusive, along array axis 0: the part of the lattice they lie on."""
        return self.part(0, first, last)

    def part(self, axis: int, first: int, last: int) -> Geometry:
        """Slices `first` to `last`, exclusive, along an array axis: the part of the lattice they lie on."""
        corner, size = np.zeros(self.dim), list(self.size)
        corner[-1 - axis], size[-1 - axis] = first, last - first
        origin = tuple(float(o) for o in self.index_to_physical(corner))
        return Geometry(tuple(size), self.spacing, origin, self.direction)

    @property
    def _last(self) -> Float64[np.ndarray, " dim"]:
        return np.maximum(np.array(self.size, dtype=np.float64) - 1, 1)


def centred_lattice(geometry: Geometry, shape: tuple[int, ...], spacing: Sequence[float] | None = None) -> Geometry:
    """A lattice of `shape` around the same centre and with the same direction, for padding and cropping.

    Args:
        geometry: the image's own lattice.
        shape: nodes wanted, array order.
        spacing: millimetres along x, y(, z); the image's own where None. Along axes where it is the image's own,
            nodes coincide with voxel centres: (wanted - present) // 2 are added before the first, the rest after
            the last, and negative numbers crop. Along the others the centres agree exactly.

    Raises:
        ValueError: shape or spacing has not one number an axis.
    """
    _check_axes(geometry, shape)
    wanted = geometry.spacing if spacing is None else tuple(float(s) for s in spacing)
    first = np.zeros(geometry.dim)
    for axis, (n, m) in enumerate(zip(geometry.size, shape[::-1], strict=True)):
        ratio = wanted[axis] / geometry.spacing[axis]
        same = abs(ratio - 1) * max(n, m) < SAME_LATTICE
        first[axis] = -((m - n) // 2) if same else (n - 1) / 2 - (m - 1) / 2 * ratio
    origin = tuple(float(o) for o in geometry.index_to_physical(first))
    return Geometry(shape[::-1], wanted, origin, geometry.direction)


def spanning_lattice(geometry: Geometry, shape: tuple[int, ...]) -> Geometry:
    """A lattice of `shape` (array order) that reaches from the image's first corner node to its last.

    Both have one unit cube, so that a point has the same unit-cube coordinates on either.

    Raises:
        ValueError: shape has not one number an axis.
    """
    _check_axes(geometry, shape)
    spacing = tuple(
        s * max(n - 1, 1) / max(m - 1, 1) for s, n, m in zip(geometry.spacing, geometry.size, shape[::-1], strict=True)
    )
    return Geometry(shape[::-1], spacing, geometry.origin, geometry.direction)


def _check_axes(geometry: Geometry, shape: tuple[int, ...]) -> None:
    if len(shape) != geometry.dim:
        raise ValueError(f"a {geometry.dim}-D lattice needs {geometry.dim} numbers of nodes; got {shape}")
