"""Pairs of scans with a known rigid truth, of one real volume: pose, slices, field of view and contrast change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from foldless.io import Geometry, Volume, like
from foldless.io.volumes import through
from foldless.pose import Pose

SLICES = ((1.0, 1.0, 1.0), (1.0, 1.0, 2.0), (1.0, 1.0, 1.5), (1.0, 1.5, 2.5))
"""Voxel sides of a scan, times the volume's own spacing."""
CONTRASTS = ("same", "gamma", "inverted")
KEPT = (1.0, 0.7, 0.5)
"""Shares of the body that a scan shows along one axis."""


@dataclass(frozen=True, eq=False)
class Planted:
    """Two scans, and the pose that carries the fixed one's points to the moving one's.

    Attributes:
        moving: a scan.
        fixed: another, of the same body.
        truth: from fixed to moving world.
        body: voxel centres of the body, in the fixed image's world, LPS mm (points, 3).
        tolerance: half the diagonal of the coarser image's voxel, mm.
        kind: what was done.
    """

    moving: Volume
    fixed: Volume
    truth: Pose
    body: np.ndarray
    tolerance: float
    kind: str

    def error(self, pose: Pose) -> float:
        """How far points of the body end from where they belong, mm on average."""
        return float(np.linalg.norm(pose(self.body) - self.truth(self.body), axis=1).mean())


def planted(volume: Volume, seed: int) -> Planted:
    """Two scans of one volume: turned by 5 to 180°, shifted by up to 100 mm, sliced, cut, of other contrast."""
    random = np.random.default_rng(seed)
    angle, shift = np.deg2rad(random.uniform(5, 180)), random.uniform(0, 100)
    axis, way = (vector / np.linalg.norm(vector) for vector in random.normal(size=(2, 3)))
    contrast, kept = CONTRASTS[seed % 3], KEPT[seed // 3 % 3]
    sides = [np.array(SLICES[k]) * min(volume.geometry.spacing) for k in random.integers(len(SLICES), size=2)]
    turn = Rotation.from_rotvec(angle * axis).as_matrix()
    middle = volume.geometry.centre
    truth = Pose.laying(middle + shift * way, middle, turn)
    oblique = [Rotation.from_rotvec(np.deg2rad(random.uniform(0, 25)) * _unit(random)).as_matrix() for _ in range(2)]
    inside = volume.array > np.percentile(volume.array, 99) * 0.1
    body = volume.geometry.voxel_centres.reshape(3, -1).T[inside.ravel()]
    fixed = _scan(volume, Pose.laying(middle, middle), body, oblique[0], sides[0], 1.0, "same", random)
    moving = _scan(volume, truth, body, oblique[1], sides[1], kept, contrast, random)
    half = max(float(np.linalg.norm(side)) / 2 for side in sides)
    kind = f"{np.rad2deg(angle):.0f}°, {shift:.0f} mm, {contrast}, {kept:.0%}"
    return Planted(moving, fixed, truth, body[:: max(1, len(body) // 5000)], half, kind)


def _unit(random: np.random.Generator) -> np.ndarray:
    vector: np.ndarray = random.normal(size=3)
    return vector / np.linalg.norm(vector)


def _scan(
    volume: Volume,
    pose: Pose,
    body: np.ndarray,
    oblique: np.ndarray,
    sides: np.ndarray,
    kept: float,
    contrast: str,
    random: np.random.Generator,
) -> Volume:
    """The volume where `pose` lays it, on a lattice of its own around the share of the body that is kept."""
    axes = pose.linear @ oblique
    along = pose(body) @ axes
    low, high = along.min(0) - 8, along.max(0) + 8
    cut = random.integers(3)
    length = (high - low)[cut] * (1 - kept)
    part = random.uniform(0.0, length)
    low[cut], high[cut] = low[cut] + part, high[cut] - (length - part)
    size = np.ceil((high - low) / sides).astype(int)
    lattice = Geometry(tuple(size.tolist()), tuple(sides.tolist()), tuple((axes @ low).tolist()), tuple(axes.ravel()))
    back = sitk.AffineTransform(pose.inverse.linear.ravel().tolist(), pose.here.tolist(), pose.there.tolist())
    back.SetCenter(pose.there.tolist())
    back.SetTranslation((pose.here - pose.there).tolist())
    spread = np.sqrt(np.maximum(sides**2 - np.array(volume.geometry.spacing) ** 2, 0)) / 2
    blurred = like(gaussian_filter(volume.array, (spread / volume.geometry.spacing)[::-1]), volume)
    seen = through(back, blurred, lattice, order=1)
    return replace(seen, image=like(_contrast(seen.array, contrast, random), seen).image)


def _contrast(array: np.ndarray, contrast: str, random: np.random.Generator) -> np.ndarray:
    top = float(np.percentile(array, 99.5))
    scaled = np.clip(array / top, 0, 1.2)
    if contrast == "gamma":
        scaled = scaled ** random.uniform(0.4, 0.7)
    if contrast == "inverted":
        scaled = np.where(scaled > 0.1, 1.3 - scaled, scaled)
    return (scaled * 500 + random.normal(0, 8, array.shape)).astype(np.float32)


def volumes(data: Path) -> list[Path]:
    """The whole brains of a data folder that pairs are made from."""
    return [*sorted((data / "brains/native2mm").glob("*_t1.nii.gz")), *sorted((data / "brains_fullsize").glob("*_t1*"))]
