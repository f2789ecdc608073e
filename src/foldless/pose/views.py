"""An image as poses are found on it: on isotropic lattices in millimetres, and what it shows of the world."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from foldless.data.prepare import normalised
from foldless.grid import sample, sample_with_jacobian
from foldless.io import Geometry, Volume, like, resampled
from foldless.io.world import slabs

FLAT = 4
"""Voxels along an axis below which nothing is said of how an image changes along it, so nothing moves there."""
PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True, eq=False)
class View:
    """An image on one isotropic lattice, its field of view being the lattice and half a voxel around it.

    Attributes:
        values: intensities 0 to 1 and, below, how much each voxel counts, (1, 2, *lattice).
        geometry: the lattice.
    """

    values: Float[Tensor, "1 2 *lattice"]
    geometry: Geometry

    @cached_property
    def to_unit(self) -> tuple[Float64[np.ndarray, "dim dim"], Float64[np.ndarray, " dim"]]:
        """Matrix and shift from LPS millimetres, x first, to the unit cube, array order."""
        geometry = self.geometry
        last = np.maximum(np.array(geometry.size) - 1, 1)
        matrix = np.linalg.inv(geometry.matrix) / last[:, None]
        return matrix[::-1], -(matrix @ np.array(geometry.origin))[::-1]

    def read(self, points: Float64[np.ndarray, "count dim"]) -> tuple[Tensor, Tensor, Tensor]:
        """Intensities, what they count and their gradient by millimetres at points (count, dim), LPS.

        Outside the field of view a point counts nothing; across half a voxel at its border ever less.
        """
        matrix, shift = self.to_unit
        unit = torch.from_numpy(np.ascontiguousarray((points @ matrix.T + shift).T)).float()[None]
        value, slope = sample_with_jacobian(self.values[:, :1], unit)
        weight = sample(self.values[:, 1:], unit)[0, 0]
        for axis, n in enumerate(self.geometry.shape):
            at = unit[0, axis] * max(n - 1, 1)
            weight = weight * (torch.minimum(at, max(n - 1, 0) - at) + 1).clamp(0, 1)
        gradient = slope[0, 0].T @ torch.from_numpy(matrix.copy()).float()
        return value[0, 0], weight, gradient

    @property
    def extent(self) -> float:
        """What counts of the field of view, mm³ (in 2-D mm²)."""
        cell: float = abs(np.linalg.det(self.geometry.matrix))
        return float(self.values[:, 1].sum()) * cell

    @cached_property
    def moments(self) -> tuple[Float64[np.ndarray, " dim"], Float64[np.ndarray, "dim dim"]]:
        """The centre of mass, LPS mm, and the principal axes of what it shows, in columns, the longest first."""
        mass = (self.values[0, 0] * self.values[0, 1]).double().numpy().ravel() + 1e-9
        nodes = self.geometry.voxel_centres.reshape(self.geometry.dim, -1)
        centre = nodes @ mass / mass.sum()
        away = nodes - centre[:, None]
        _, axes = np.linalg.eigh((away * mass) @ away.T)
        return centre, axes[:, ::-1]


@dataclass(frozen=True, eq=False)
class Scan:
    """A volume and, on any lattice, what of it counts."""

    volume: Volume
    mask: Volume | None = None

    @property
    def geometry(self) -> Geometry:
        return self.volume.geometry

    @property
    def sides(self) -> Float64[np.ndarray, " dim"]:
        """Of the field of view, mm along its axes."""
        sides: np.ndarray = np.array(self.geometry.size) * np.array(self.geometry.spacing)
        return sides

    @property
    def deep(self) -> np.ndarray:
        """Axes along which it shows anything, as a boolean an axis."""
        enough: np.ndarray = np.array(self.geometry.size) >= FLAT
        return enough

    @property
    def axes(self) -> Float64[np.ndarray, "axes dim"]:
        """The same axes in world space, one a row."""
        axes: np.ndarray = self.geometry.cosines.T[self.deep]
        return axes

    def at(self, spacing: float) -> View:
        """Blurred and read on an isotropic lattice of so many mm, along axes of a voxel or few on its own."""
        own = self.geometry
        deep = self.deep
        counts = np.where(deep, np.maximum(np.rint(self.sides / spacing), 2), own.size).astype(int)
        spacings = self.sides / counts
        first = (np.array(own.size) - 1) / 2 - (counts - 1) / 2 * spacings / np.array(own.spacing)
        lattice = Geometry(
            tuple(counts.tolist()),
            tuple(spacings.tolist()),
            tuple(own.index_to_physical(first).tolist()),
            own.direction,
        )
        wide = np.sqrt(np.maximum(spacings**2 - np.array(own.spacing) ** 2, 0)) / 2 / np.array(own.spacing)
        array = normalised(self.volume.array, self._counted, PERCENTILES)
        from scipy.ndimage import gaussian_filter

        blurred = like(gaussian_filter(array, np.where(deep, wide, 0)[::-1], mode="nearest", truncate=3), self.volume)
        values = resampled(blurred, lattice, extend=True).array
        counted = np.ones_like(values) if self.mask is None else self._let(self.mask, lattice)
        return View(torch.from_numpy(np.stack([values, counted]))[None], lattice)

    def shown(self, on: Geometry) -> Float32[np.ndarray, "*shape"]:
        """How much what it shows at the voxels of a lattice counts, 0 to 1: nothing beyond half a voxel outside."""
        shown, last = np.empty(on.shape, np.float32), np.array(self.geometry.size) - 1.0
        for begin, end in slabs(on):
            index = self.geometry.physical_to_index(np.moveaxis(on.slab(begin, end).voxel_centres, 0, -1))
            shown[begin:end] = (np.minimum(index, last - index) + 1).clip(0, 1).prod(-1)
        return shown if self.mask is None else shown * self._let(self.mask, on)

    @staticmethod
    def _let(mask: Volume, on: Geometry) -> Float32[np.ndarray, "*shape"]:
        """What a mask lets count at the voxels of a lattice, 0 to 1: nothing beyond its own."""
        inside = resampled(like((mask.array > 0).astype(np.float32), mask), on).array
        let: np.ndarray = inside * Scan(mask).shown(on)
        return let

    @cached_property
    def _counted(self) -> np.ndarray:
        """The intensities that count."""
        if self.mask is None:
            return self.volume.array
        inside = resampled(like((self.mask.array > 0).astype(np.int32), self.mask), self.geometry, order=0).array > 0
        return self.volume.array[inside]
