"""Transforms of the world: what a transform file of any program comes to, as maps of LPS millimetres.

A transform takes points of the fixed image's space to points of the moving image's, as all programs do that pull
images. It is made of parts, each a map of LPS millimetres, components x, y(, z), float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Float64

from foldless.errors import InputError
from foldless.io.geometry import Geometry
from foldless.maps import Affine, CubicSpline, Displacement, Map, compose, solve

CHUNK = 1 << 19
"""Points that a map is asked for at once: about 100 MB of intermediate arrays."""

CLOSE = 1e-5
"""Voxels of a field, else millimetres: how near to where it should arrive a point is brought by an inverse."""
FAR = 0.01
"""The same: misses beyond which there is said to be no inverse."""

Points = Float[np.ndarray, "count dim"]
Watch = Callable[[int, int], None]
"""Told how much of how much is done."""


@dataclass(frozen=True, eq=False)
class Linear:
    """p → matrix · (p, 1); the matrix is (dim, dim + 1)."""

    matrix: Float64[np.ndarray, "dim columns"]

    @property
    def dim(self) -> int:
        return len(self.matrix)

    @property
    def map(self) -> Map:
        return Affine.from_matrix(torch.from_numpy(np.ascontiguousarray(self.matrix, np.float64))[None])

    @property
    def square(self) -> Float64[np.ndarray, "rows rows"]:
        """The matrix with its last row, (dim + 1, dim + 1)."""
        return np.vstack([self.matrix, [*[0.0] * self.dim, 1.0]])

    @property
    def inverse(self) -> Linear:
        """The other way.

        Raises:
            InputError: the matrix is singular.
        """
        if abs(np.linalg.det(self.matrix[:, :-1])) < 1e-12:
            raise InputError(f"the matrix {self.matrix[:, :-1].round(4).tolist()} is singular and has no inverse")
        return Linear(np.linalg.inv(self.square)[:-1])


@dataclass(frozen=True, eq=False)
class Warped:
    """p → p + u(p), u (*shape, dim) linear between the nodes of `geometry` and continued outside by its border."""

    displacement: Float[np.ndarray, "*shape dim"]
    geometry: Geometry

    @property
    def dim(self) -> int:
        return self.geometry.dim

    @property
    def map(self) -> Map:
        return _between(self.geometry, Displacement(_in_unit_cube(self.displacement, self.geometry)))


@dataclass(frozen=True, eq=False)
class Spline:
    """p → p + Σ c β³(p), coefficients c (*shape, dim) on the control points of `geometry`."""

    coefficients: Float[np.ndarray, "*shape dim"]
    geometry: Geometry

    @property
    def dim(self) -> int:
        return self.geometry.dim

    @property
    def map(self) -> Map:
        return _between(self.geometry, CubicSpline(_in_unit_cube(self.coefficients, self.geometry)))


@dataclass(frozen=True, eq=False)
class Foreign:
    """What only another library can evaluate, by its own name."""

    map: Map
    name: str

    @property
    def dim(self) -> int:
        return self.map.dim


@dataclass(frozen=True, eq=False)
class Inverse:
    """A part the other way, found at every point that is asked for; where it is not, refused if strict."""

    part: Warped | Spline | Foreign
    strict: bool = True

    @property
    def dim(self) -> int:
        return self.part.dim

    @property
    def map(self) -> Map:
        unit = 1.0 if isinstance(self.part, Foreign) else min(self.part.geometry.spacing)
        return Undone(self.part.map, unit, self.strict)


Part = Linear | Warped | Spline | Foreign | Inverse


@dataclass(frozen=True, eq=False)
class Undone(Map):
    """The inverse of a map of LPS millimetres to within `CLOSE` units of so many millimetres.

    Where that is not found, the nearest point that was; if it misses by `FAR` and is asked to be strict, an InputError.
    """

    of: Map
    unit: float = 1.0
    strict: bool = True

    @property
    def dim(self) -> int:
        return self.of.dim

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        at, error = solve(self.of, points, points.new_tensor(self.unit), CLOSE)
        far = ~(error <= FAR)
        if self.strict and bool(far.any()):
            raise InputError(
                f"no inverse was found at {int(far.sum())} of {far.numel()} points: there and back misses by up to "
                f"{float(error.max()) * self.unit:.3g} mm, as where a transform folds; foldless certify shows folds, "
                "foldless repair opens them"
            )
        return at

    def with_jacobian(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        at = self(points)
        slope = self.of.jacobian(at).movedim((1, 2), (-2, -1))
        return at, torch.linalg.inv(slope).movedim((-2, -1), (1, 2))


@dataclass(frozen=True, eq=False)
class Transform:
    """A map of the world, and the two images that it lies between.

    Attributes:
        parts: what it is made of, in the order in which points meet it.
        fixed: the lattice of the image whose points it takes, where that is known.
        moving: the lattice of the image where it takes them, where that is known.
        names: what these two are called.
        notes: what its file does not say and was taken so.
    """

    parts: tuple[Part, ...]
    fixed: Geometry | None = None
    moving: Geometry | None = None
    names: tuple[str, str] = ("the fixed image", "the moving image")
    notes: tuple[str, ...] = field(default=())

    @property
    def dim(self) -> int:
        return self.parts[0].dim

    @property
    def sentence(self) -> str:
        """The direction in words."""
        return f"takes points of {self.names[0]} to {self.names[1]}, so it pulls images of {self.names[1]}"

    @property
    def map(self) -> Map:
        """The whole of it, a map on LPS millimetres, (batch, dim, *at), float64."""
        return compose(*(part.map for part in reversed(self.parts)))

    @property
    def linear(self) -> Linear | None:
        """The transform as one matrix, None where it bends."""
        whole = np.eye(self.dim + 1)
        for part in self.parts:
            if not isinstance(part, Linear):
                return None
            whole = part.square @ whole
        return Linear(whole[:-1])

    @property
    def lattice(self) -> Geometry | None:
        """Where a field of it lies by itself: the fixed image's lattice, or its first field's."""
        fields = [part.geometry for part in self.parts if isinstance(part, Warped)]
        return self.fixed or (fields[0] if fields else None)

    def __call__(self, points: Points) -> Float64[np.ndarray, "count dim"]:
        """Points of the fixed image's space (count, dim), LPS mm, in the moving image's."""
        phi, found = self.map, np.empty(points.shape)
        with torch.no_grad():
            for first in range(0, len(points), CHUNK):
                some = points[first : first + CHUNK]
                found[first : first + CHUNK] = _array(phi(_tensor(some)))
        return found

    def back(self, points: Points) -> tuple[Float64[np.ndarray, "count dim"], Float64[np.ndarray, " count"]]:
        """Points of the moving image's space (count, dim) in the fixed image's, and how far each misses, mm.

        Each part is undone by itself, matrices in closed form, fields by Newton steps and walks.
        """
        found = self._flipped(strict=False)(points)
        return found, np.linalg.norm(self(found) - points, axis=1)

    @property
    def flipped(self) -> Transform:
        """The transform back, part by part: matrices in closed form, the others at every point anew.

        Asked for a point that it finds no way back from, it raises InputError.
        """
        return self._flipped(strict=True)

    def _flipped(self, strict: bool) -> Transform:
        parts = tuple(_inverted(part, strict) for part in reversed(self.parts))
        return replace(self, parts=parts, fixed=self.moving, moving=self.fixed, names=self.names[::-1])

    def then(self, other: Transform) -> Transform:
        """This transform, and after it another."""
        if self.dim != other.dim:
            raise InputError(f"transforms of one dimension compose; got a {self.dim}-D and a {other.dim}-D one")
        notes = tuple(dict.fromkeys((*self.notes, *other.notes)))
        names = (self.names[0], other.names[1])
        return Transform((*self.parts, *other.parts), self.fixed, other.moving, names, notes)

    def displacement_on(self, on: Geometry, watch: Watch | None = None) -> Float64[np.ndarray, "*shape dim"]:
        """What it adds to every voxel centre of a lattice, (*on.shape, dim), LPS mm."""
        return on_lattice(self, on, lambda points: self(points) - points, watch)

    def inverse(self, on: Geometry | None, watch: Watch | None = None) -> tuple[Transform, float]:
        """The transform back, and how far it misses at most, mm, at the nodes of `on`.

        Matrices alone have their inverse in closed form; else it becomes a field on the lattice `on`.

        Raises:
            InputError: it bends and there is no lattice, a matrix is singular, or somewhere no inverse was found.
        """
        back = self.flipped
        if back.linear is not None:
            return replace(back, parts=(back.linear,), fixed=on or back.fixed), 0.0
        if on is None:
            raise InputError(
                "the inverse of a warp lies on the moving image's lattice; give that image, as --moving does"
            )
        worst = 0.0

        def step(points: Points) -> Float64[np.ndarray, "count dim"]:
            nonlocal worst
            found = back(points)
            worst = max(worst, float(np.linalg.norm(self(found) - points, axis=1).max()))
            return np.asarray(found - points)

        parts = (Warped(on_lattice(self, on, step, watch), on),)
        return replace(back, parts=parts, fixed=on), worst


def on_lattice(
    transform: Transform, on: Geometry, of: Callable[[Points], np.ndarray], watch: Watch | None = None
) -> Float64[np.ndarray, "*shape dim"]:
    """A function of points at every voxel centre of a lattice, some slices at a time.

    Raises:
        InputError: the transform has another dimension than the lattice.
    """
    if transform.dim != on.dim:
        raise InputError(f"the transform is {transform.dim}-D, but the lattice is {on.dim}-D; give one that fits")
    found = np.empty((*on.shape, on.dim))
    for first, last in slabs(on):
        slab = on.slab(first, last)
        points = slab.voxel_centres.reshape(on.dim, -1).T
        found[first:last] = of(np.ascontiguousarray(points)).reshape(*slab.shape, on.dim)
        if watch is not None:
            watch(last, on.shape[0])
    return found


def slabs(on: Geometry, points: int = CHUNK) -> Iterator[tuple[int, int]]:
    """Slices along array axis 0, first and last, exclusive, that hold about so many points."""
    depth = max(1, points // max(1, int(np.prod(on.shape[1:]))))
    for first in range(0, on.shape[0], depth):
        yield first, min(first + depth, on.shape[0])


def _inverted(part: Part, strict: bool) -> Part:
    if isinstance(part, Inverse):
        return part.part
    if not isinstance(part, Linear):
        return Inverse(part, strict)
    return part.inverse


def _between(geometry: Geometry, inner: Map) -> Map:
    """A map of a lattice's unit cube as one of LPS millimetres."""
    dim = geometry.dim
    origin = geometry.unit_to_physical(np.zeros((dim, 1)))
    steps = geometry.unit_to_physical(np.eye(dim)) - origin
    flat = [axis for axis, n in enumerate(geometry.shape) if n == 1]
    for axis in flat:  # one node: a step of the cube is a voxel
        steps[:, axis] = geometry.matrix[:, dim - 1 - axis]
    out = Linear(np.hstack([steps, origin])).map
    return compose(out, inner, out.inverse)


def _in_unit_cube(field_mm: np.ndarray, geometry: Geometry) -> torch.Tensor:
    last = np.maximum(np.array(geometry.size, float) - 1, 1)
    steps = np.linalg.inv(geometry.matrix) / last[:, None]
    unit = np.moveaxis(field_mm.astype(np.float64) @ steps.T, -1, 0)[::-1]
    return torch.from_numpy(np.ascontiguousarray(unit))[None]


def _tensor(points: Points) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(points.T, np.float64))[None]


def _array(points: torch.Tensor) -> Float64[np.ndarray, "count dim"]:
    found: np.ndarray = points[0].numpy().T
    return found
