"""The cohort of OAI knees as ICON prepared and judged it, from the images and cartilage labels that a user has.

A folder of

    images/CASE.nii.gz     DESS volumes of 160 slices of 384 x 384 voxels, whichever axis the slices lie along
    labels/CASE.nii.gz     on the same voxels: 0 background, 1 femoral cartilage, 2 tibial cartilage
    sides.csv              CASE,SIDE a row under the head case,side; SIDE is left or right

becomes a folder like any other: images/ and labels/ pooled by two to 80 x 192 x 192 voxels, left knees mirrored across
their slices so that all are right ones, intensities from the percentiles 1 and 99 to 0 and 1, clamped. Labels are
judged on all the voxels, so full_labels/ keeps them, mirrored alike. Percentiles are those of the pooled image.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from foldless.data.folder import case_names, label_file
from foldless.data.prepare import normalised
from foldless.data.tables import read_table
from foldless.errors import InputError
from foldless.io import Geometry, Volume, on_lattice_of, read_volume, write_volume

SLICES, SIDE = 160, 384
"""Voxels across the knee's slices and along either side of one."""
CARTILAGES = (1, 2)
"""Femoral and tibial; judged as one foreground."""
FULL = "full_labels"


def prepare_oai_knees(folder: Path, output: Path) -> list[str]:
    """Write the knees of `folder` as images/, labels/ and full_labels/; what is in `output` is not written again.

    Returns:
        The names of the cases.

    Raises:
        InputError: a case lacks its labels or its side, or an image has another size or other labels.
    """
    files, sides = case_names(folder), _read_sides(folder / "sides.csv")
    for name, file in files.items():
        if name not in sides:
            raise InputError(f"{folder / 'sides.csv'} does not name the case {name}; add {name},left or {name},right")
        if label_file(folder, file) is None:
            raise InputError(f"{folder / 'labels'} has no labels of {file.name}; expected a file of the same name")
    for part in ("images", "labels", FULL):
        (output / part).mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
        _prepare(folder, file, output, name, mirrored=sides[name] == "left")
    return list(files)


def full_labels(folder: Path, image: Path) -> Volume:
    """A prepared case's labels on all its voxels.

    Raises:
        InputError: there are none.
    """
    file = folder / FULL / image.name
    if not file.is_file():
        raise InputError(f"{file} does not exist; make the folder by `foldless prepare oai-knees`")
    return read_volume(file, labels=True)


def _prepare(folder: Path, file: Path, output: Path, name: str, mirrored: bool) -> None:
    written = [output / part / f"{name}.nii.gz" for part in ("images", "labels", FULL)]
    if all(path.is_file() for path in written):
        return
    image = read_volume(file)
    axis = _slice_axis(image)
    labels = on_lattice_of(image, read_volume(_labels_of(folder, file), labels=True))
    if strange := set(np.unique(labels.array).tolist()) - {0, *CARTILAGES}:
        raise InputError(
            f"{labels.path} holds the labels {sorted(strange)}; expected 1 for femoral, 2 for tibial cartilage"
        )
    intensities, marks = (np.flip(v.array, axis) if mirrored else v.array for v in (image, labels))
    small, coarse = pooled(intensities), _pooled_geometry(image.geometry)
    shares = np.stack([pooled((marks == k).astype(np.float32)) for k in CARTILAGES])
    pooled_marks = np.where(shares.sum(0) >= 0.5, np.array(CARTILAGES)[shares.argmax(0)], 0)
    write_volume(normalised(small, small, (1.0, 99.0)), coarse, written[0])
    write_volume(pooled_marks, coarse, written[1], np.uint8)
    write_volume(np.ascontiguousarray(marks), image.geometry, written[2], np.uint8)


def pooled(array: np.ndarray) -> np.ndarray:
    """Means of blocks of two voxels on every axis; all axes are even."""
    pairs = [side for n in array.shape for side in (n // 2, 2)]
    means: np.ndarray = array.reshape(pairs).mean(tuple(range(1, 2 * array.ndim, 2)), dtype=np.float32)
    return means


def _pooled_geometry(geometry: Geometry) -> Geometry:
    first = geometry.index_to_physical(np.full(geometry.dim, 0.5))
    size, spacing = (tuple(n // 2 for n in geometry.size), tuple(2 * s for s in geometry.spacing))
    return replace(geometry, size=size, spacing=spacing, origin=tuple(first.tolist()))


def _slice_axis(image: Volume) -> int:
    shape = image.geometry.shape
    if sorted(shape) != [SLICES, SIDE, SIDE]:
        raise InputError(f"{image.path} has {shape} voxels; OAI's DESS knees have {SLICES} slices of {SIDE} x {SIDE}")
    return shape.index(SLICES)


def _labels_of(folder: Path, file: Path) -> Path:
    labels = label_file(folder, file)
    assert labels is not None
    return labels


def _read_sides(file: Path) -> dict[str, str]:
    sides: dict[str, str] = {}
    for row in read_table(file, ("case", "side")):
        if row["side"] not in ("left", "right"):
            raise InputError(f"{file}: the side of {row['case']} is {row['side']!r}; expected left or right")
        if sides.setdefault(row["case"], row["side"]) != row["side"]:
            raise InputError(f"{file} gives {row['case']} both sides; a knee is a left or a right one")
    return sides
