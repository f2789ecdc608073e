"""Images pulled through transforms, some slices of the result at a time."""

# mypy: untyped-calls-exclude="SimpleITK"

from __future__ import annotations

from typing import Literal

import numpy as np
import SimpleITK as sitk  # noqa: N813

from foldless.errors import InputError
from foldless.io.geometry import Geometry
from foldless.io.transforms import sitk_transform
from foldless.io.volumes import Volume
from foldless.io.world import Transform, Watch, slabs

Interpolation = Literal["linear", "nearest", "label", "cubic", "sinc"]

INTERPOLATORS: dict[str, int] = {
    "linear": sitk.sitkLinear,
    "nearest": sitk.sitkNearestNeighbor,
    "label": sitk.sitkLabelGaussian,
    "cubic": sitk.sitkBSpline,
    "sinc": sitk.sitkLanczosWindowedSinc,
}
SLAB = 1 << 21
"""Voxels of the result that are made at once."""


def pulled(
    volume: Volume,
    transform: Transform,
    on: Geometry,
    interpolation: Interpolation = "linear",
    fill: float | None = None,
    watch: Watch | None = None,
) -> np.ndarray:
    """The volume at the places to which a transform takes the voxel centres of a lattice, (*on.shape).

    Args:
        volume: the moving image, or labels, which are never mixed.
        transform: fixed to moving; beyond its lattice a field continues by its border value.
        on: the lattice wanted, any.
        interpolation: `linear`, `nearest`, `label` (the label of most weight around, by a Gaussian), `cubic`
            (B-spline), `sinc` (Lanczos).
        fill: what lies outside the volume: 0 (labels) or its minimum (images) where not given.
        watch: told of every slab.

    Raises:
        InputError: volume, transform and lattice differ in dimension, or labels would be mixed.
    """
    if len(dims := {volume.dim, transform.dim, on.dim}) > 1:
        raise InputError(
            f"{volume.path} is {volume.dim}-D, the transform {transform.dim}-D and the reference {on.dim}-D; "
            f"expected one dimension, got {len(dims)}"
        )
    if volume.holds_labels and interpolation not in ("nearest", "label"):
        raise InputError(f"labels are never mixed; expected the interpolation nearest or label, got {interpolation}")
    found = np.empty(on.shape, sitk.GetArrayViewFromImage(volume.image).dtype)
    outside = fill if fill is not None else 0.0 if volume.holds_labels else float(volume.array.min())
    for first, last in slabs(on, SLAB):
        slab = on.slab(first, last)
        lattice = (slab.size, sitk_transform(transform.displacement_on(slab), slab), INTERPOLATORS[interpolation])
        image = sitk.Resample(volume.image, *lattice, slab.origin, slab.spacing, slab.direction, outside)
        found[first:last] = sitk.GetArrayViewFromImage(image)
        if watch is not None:
            watch(last, on.shape[0])
    return found
