"""Images pulled through transforms, some slices of the result at a time, from as much of the image as these need."""

# mypy: untyped-calls-exclude="SimpleITK"

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import SimpleITK as sitk  # noqa: N813

from foldless.errors import InputError
from foldless.io.geometry import Geometry
from foldless.io.sources import Source
from foldless.io.transforms import sitk_transform
from foldless.io.volumes import to_image
from foldless.io.world import Transform, Watch, slabs

Interpolation = Literal["linear", "nearest", "label", "cubic", "sinc"]

INTERPOLATORS: dict[str, int] = {
    "linear": sitk.sitkLinear,
    "nearest": sitk.sitkNearestNeighbor,
    "label": sitk.sitkLabelGaussian,
    "cubic": sitk.sitkBSpline,
    "sinc": sitk.sitkLanczosWindowedSinc,
}
SLAB = 1 << 20
"""Voxels of the result that are made at once, unless a slice has more."""
PIECE = 1 << 27
"""Bytes of the image that are taken up at once."""
MARGIN = 16
"""Voxels around what points need: the prefilter of cubic B-splines has fallen to 1e-9 there."""


@dataclass(frozen=True)
class Pulling:
    """An image, the transform that it is pulled through, and how.

    Attributes:
        source: the moving image, or labels, which are never mixed.
        transform: fixed to moving; beyond its lattice a field continues by its border value.
        interpolation: `linear`, `nearest`, `label` (the label of most weight around, by a Gaussian), `cubic`
            (B-spline), `sinc` (Lanczos).
        fill: what lies outside the image: 0 (labels) or its minimum (images) where not given.

    Raises:
        InputError: image and transform differ in dimension, or labels would be mixed.
    """

    source: Source
    transform: Transform
    interpolation: Interpolation = "linear"
    fill: float | None = None

    def __post_init__(self) -> None:
        if self.source.geometry.dim != self.transform.dim:
            raise InputError(
                f"{self.source.path} is {self.source.geometry.dim}-D, but the transform is {self.transform.dim}-D; "
                "both must agree"
            )
        if self.source.labels and self.interpolation not in ("nearest", "label"):
            raise InputError(
                f"labels are never mixed; expected the interpolation nearest or label, got {self.interpolation}"
            )

    @property
    def computed(self) -> np.dtype:
        """The type of what is interpolated, before it is rounded to what is stored."""
        own = self.source.voxels.dtype.newbyteorder("=")
        if self.interpolation in ("nearest", "label"):
            return own
        return np.dtype(np.float64 if own.itemsize >= 4 and own != np.float32 else np.float32)

    def slabs(self, on: Geometry, watch: Watch | None = None) -> Iterator[np.ndarray]:
        """The result on a lattice, any, slab by slab: (channels, depth, ...)."""
        if on.dim != self.transform.dim:
            raise InputError(
                f"the reference is {on.dim}-D, but the transform {self.transform.dim}-D; give one that fits"
            )
        outside = self.fill if self.fill is not None else 0.0 if self.source.labels else self.source.least
        for first, last in slabs(on, SLAB):
            slab = on.slab(first, last)
            field = self.transform.displacement_on(slab)
            there = np.moveaxis(slab.voxel_centres, 0, -1) + field
            yield self._block(slab, field, self.source.geometry.physical_to_index(there)[..., ::-1], outside)
            if watch is not None:
                watch(last, on.shape[0])

    def _block(self, on: Geometry, field: np.ndarray, index: np.ndarray, outside: float) -> np.ndarray:
        """The result on a part of the lattice, halved while it needs more of the image than a piece.

        Args:
            on: the part.
            field: how far its points go, (*shape, dim), LPS mm.
            index: where in the image they arrive, (*shape, dim), in array order.
            outside: what lies beyond the image.
        """
        low, high = self._needed(index)
        source = self.source
        if int(np.prod(high - low)) * self.computed.itemsize > PIECE and max(on.shape) > 1:
            axis = int(np.argmax(on.shape))
            middle = on.shape[axis] // 2
            halves = []
            for begin, end in ((0, middle), (middle, on.shape[axis])):
                some = (*[slice(None)] * axis, slice(begin, end))
                halves.append(self._block(on.part(axis, begin, end), field[some], index[some], outside))
            return np.concatenate(halves, axis + 1)
        if (high <= low).any():
            return np.full((len(source.voxels), *on.shape), outside).astype(self.computed)
        lattice = source.geometry
        for axis, (begin, end) in enumerate(zip(low, high, strict=True)):
            lattice = lattice.part(axis, int(begin), int(end))
        box = tuple(slice(begin, end) for begin, end in zip(low.tolist(), high.tolist(), strict=True))
        way = (
            sitk_transform(field, on),
            INTERPOLATORS[self.interpolation],
            on.origin,
            on.spacing,
            on.direction,
            outside,
        )
        found = [self._read(np.asarray(channel[box]), lattice, on, way) for channel in source.voxels]
        source.release()
        return np.stack(found)

    def _read(self, piece: np.ndarray, lattice: Geometry, on: Geometry, way: tuple[object, ...]) -> np.ndarray:
        own = piece.astype(piece.dtype.newbyteorder("="), copy=False)
        image = to_image(own, lattice)
        kind = sitk.GetImageFromArray(np.zeros((1, 1), self.computed)).GetPixelID()
        array: np.ndarray = sitk.GetArrayFromImage(sitk.Resample(image, on.size, *way, kind))
        return array

    def _needed(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and last index, exclusive, of what points read of the image."""
        shape, each = np.array(self.source.geometry.shape), [index[..., axis] for axis in range(index.shape[-1])]
        low = np.array([np.floor(one.min()) - MARGIN for one in each])
        high = np.array([np.ceil(one.max()) + MARGIN + 1 for one in each])
        return np.clip(low, 0, shape).astype(int), np.clip(high, 0, shape).astype(int)


def rounded(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Numbers as a type holds them: to whole ones rounded, beyond its ends cut off."""
    if not np.issubdtype(dtype, np.integer) or not np.issubdtype(array.dtype, np.floating):
        return array.astype(dtype, copy=False)
    ends, largest = np.iinfo(dtype), array.dtype.type(np.iinfo(dtype).max)
    if int(largest) > ends.max:  # float64 has no 2^63 - 1, and would round it to what wraps around
        largest = np.nextafter(largest, array.dtype.type(0))
    whole: np.ndarray = np.rint(array).clip(array.dtype.type(ends.min), largest).astype(dtype)
    return whole
