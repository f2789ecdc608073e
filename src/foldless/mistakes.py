"""What may be wrong with a displacement file: other readings of its numbers, tried on the two images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

import numpy as np
from jaxtyping import Float

from foldless.io import Geometry, Transform, Volume, Warped, voxel_displacement

Field = Float[np.ndarray, "*shape dim"]

MOST = 30_000
"""Points at which images are compared."""
BINS = 32
CLEAR = 0.01
"""How much more alike, of a mutual information of 1, images must be by another reading before it is named."""
STEP = 0.1
"""Voxels that greedy rounds its warps to by default."""


@dataclass(frozen=True)
class Finding:
    """How alike two images are, by normalised mutual information in [0, 1]: before, by the warp, by its inverse.

    `likely` names the reading of the file that brings them nearest, if that is clearly not the file's own.
    """

    before: float
    warped: float
    inverse: float
    likely: str | None


def readings(field: Field, on: Geometry, fixed: Geometry) -> dict[str, Callable[[], Warped]]:
    """By what may have been mistaken: the warp that is then meant."""
    steps, signs = on.matrix.T, np.array([-1.0, -1.0, 1.0][: on.dim])
    half = (np.array(on.size) - 1) / 2
    here = np.moveaxis(on.voxel_centres, 0, -1)
    turned = {
        "its numbers are voxels, not mm": lambda: field @ steps,
        "its components stand in the order z, y, x": lambda: field[..., ::-1],
        "its numbers are voxels in the order z, y, x": lambda: field[..., ::-1] @ steps,
        "its numbers are RAS, not LPS": lambda: field * signs,
        "its numbers are positions, not displacements": lambda: field - here,
        "its numbers are positions in RAS": lambda: field * signs - here,
        "its numbers are metres, not mm": lambda: field * 1000,
        "its numbers are normalised to -1 ... 1": lambda: (field * half) @ steps,
        "its numbers are normalised to -1 ... 1, in the order z, y, x": lambda: (field[..., ::-1] * half) @ steps,
        "its sign is wrong: it is subtracted": lambda: -field,
    }
    found: dict[str, Callable[[], Warped]] = {
        name: (lambda make=make: Warped(make(), on))  # type: ignore[misc]
        for name, make in turned.items()
    }
    if on.size == fixed.size and not on.fits(fixed):
        found["its header has lost where the fixed image lies"] = lambda: Warped(field, fixed)
    if field.shape[:-1] == field.shape[:-1][::-1]:
        order = (*range(on.dim - 1, -1, -1), on.dim)
        found["its axes stand in the order z, y, x"] = lambda: Warped(field.transpose(order), on)
    return found


def judged(transform: Transform, moving: Volume, fixed: Volume) -> Finding:
    """Which way, and by which reading, a warp brings two images together.

    Raises:
        InputError: transform and images differ in dimension.
    """
    points, values = _some_of(fixed)

    def alike(there: np.ndarray) -> float:
        return _mutual(values, _read(moving, there))

    warped, inverse = alike(transform(points)), alike(transform.back(points)[0])
    best, likely = max(warped + CLEAR, 0.0), None
    if inverse > best:
        best, likely = inverse, "it goes the other way, from the moving to the fixed image"
    if len(transform.parts) == 1 and isinstance(part := transform.parts[0], Warped):
        for name, make in readings(part.displacement, part.geometry, fixed.geometry).items():
            score = alike(Transform((make(),))(points))
            if isfinite(score) and score > best + (0.001 if likely else 0.0):
                best, likely = score, name
    return Finding(alike(points), warped, inverse, likely)


def rounded(part: Warped) -> bool:
    """Whether displacements are whole tenths of voxels, as greedy writes them by default."""
    voxels = voxel_displacement(part.displacement, part.geometry) / STEP
    off = np.abs(voxels - np.rint(voxels))
    return bool((off < 0.01).mean() > 0.99 and np.abs(voxels).max() >= 1)


def _some_of(fixed: Volume) -> tuple[np.ndarray, np.ndarray]:
    stride = max(1, int(np.ceil((np.prod(fixed.geometry.shape) / MOST) ** (1 / fixed.dim))))
    every = (slice(None, None, stride),) * fixed.dim
    points = fixed.geometry.voxel_centres[(slice(None), *every)].reshape(fixed.dim, -1).T
    return np.ascontiguousarray(points), fixed.array[every].ravel()


def _read(moving: Volume, there: np.ndarray) -> np.ndarray:
    index = moving.geometry.physical_to_index(there).T[::-1]
    array = moving.array
    from scipy.ndimage import map_coordinates

    return np.asarray(map_coordinates(array, np.clip(index, -9, 1e6), order=1, cval=float(array.min())))


def _mutual(one: np.ndarray, other: np.ndarray) -> float:
    """Normalised mutual information, 2 I / (H + H), of two images' values at the same points."""
    joint = np.histogram2d(_ranked(one), _ranked(other), bins=BINS)[0] / len(one)
    p, q = joint.sum(1), joint.sum(0)
    entropies = [-(d[d > 0] * np.log(d[d > 0])).sum() for d in (p, q, joint.ravel())]
    both = entropies[0] + entropies[1]
    return float(2 * (both - entropies[2]) / both) if both > 0 else 0.0


def _ranked(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values, (1, 99))
    return np.asarray(((values - low) / max(high - low, 1e-30)).clip(0, 1))
