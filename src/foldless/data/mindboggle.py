"""The cohort Mindboggle-101 as Kuang and Schmah prepared it, from the published volumes that a user has.

Three named subsets, already aligned to MNI152: each brain is divided by its maximum and cropped about its centre from
182 x 218 x 182 to 144 x 180 x 144; labels are DKT25, 25 regions a hemisphere. The crop's place is not published; the
centre is ours. What is written is a folder like any other, with groups.csv and regions.csv for cross-validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foldless.errors import InputError
from foldless.io import Volume, on_lattice_of, read_volume, resampled, write_volume
from foldless.io.files import write_whole
from foldless.io.geometry import centred_lattice

SUBSETS = ("NKI-RS-22", "NKI-TRT-20", "OASIS-TRT-20")
IMAGE, LABELS = "t1weighted_brain.MNI152.nii.gz", "labels.DKT25.manual.MNI152.nii.gz"
WHOLE, CROPPED = (182, 218, 182), (144, 180, 144)
"""Voxels on each array axis, before and after."""

REGIONS = {
    "frontal": (3, 12, 14, 17, 18, 24, 28),
    "parietal": (8, 22, 25, 29, 31),
    "occipital": (5, 11, 13, 21),
    "temporal": (6, 7, 9, 15, 16, 30, 34),
    "cingulate": (2, 35),
}
"""DKT25's numbers, to which a hemisphere adds its own; 35 is the insula, which Kuang counts here."""
HEMISPHERES = {"left": 1000, "right": 2000}


def prepare_mindboggle(folder: Path, output: Path) -> list[str]:
    """Write the three subsets found anywhere under `folder` as images/, labels/, groups.csv and regions.csv.

    A subject is a folder SUBSET-NUMBER that holds the T1 brain and the DKT25 labels in MNI152 space, as published.
    What is in `output` already is not written again.

    Returns:
        The names of the subjects.

    Raises:
        InputError: no subject is there, one lacks its labels, or an image has another size.
    """
    subjects = {path.parent.name: path.parent for path in sorted(folder.glob(f"**/{IMAGE}"))}
    groups = {name: name.rpartition("-")[0] for name in subjects if name.rpartition("-")[0] in SUBSETS}
    if not groups:
        raise InputError(f"{folder} holds no {SUBSETS[0]}-1/{IMAGE} or the like; unpack Mindboggle-101's volumes there")
    for part in ("images", "labels"):
        (output / part).mkdir(parents=True, exist_ok=True)
    for name in groups:
        _prepare(subjects[name], output, name)
    rows = [f"{name},{groups[name]}" for subset in SUBSETS for name in groups if groups[name] == subset]
    _write_lines(["case,group", *rows], output / "groups.csv")
    regions = [f"{side + k},{region}" for region, ks in REGIONS.items() for side in HEMISPHERES.values() for k in ks]
    _write_lines(["label,region", *regions], output / "regions.csv")
    return list(groups)


def _write_lines(lines: Sequence[str], path: Path) -> None:
    text = "\n".join(lines) + "\n"

    def fill(file: Path) -> None:
        file.write_text(text, encoding="utf-8")

    write_whole(path, fill)


def _prepare(subject: Path, output: Path, name: str) -> None:
    image_file, label_file = output / "images" / f"{name}.nii.gz", output / "labels" / f"{name}.nii.gz"
    if image_file.is_file() and label_file.is_file():
        return
    if not (subject / LABELS).is_file():
        raise InputError(f"{subject} holds no {LABELS}; unpack the subset's volumes in MNI152 space with their labels")
    whole = read_volume(subject / IMAGE)
    marks = on_lattice_of(whole, read_volume(subject / LABELS, labels=True))
    image, labels = _cropped(whole), _cropped(marks)
    write_volume(image.array / whole.array.max(), image.geometry, image_file, np.float32)
    write_volume(labels.array, labels.geometry, label_file, np.int16)


def _cropped(volume: Volume) -> Volume:
    if volume.geometry.shape != WHOLE:
        raise InputError(
            f"{volume.path} has {volume.geometry.shape} voxels; Mindboggle-101's in MNI152 space have {WHOLE}"
        )
    order = 0 if volume.holds_labels else 1
    return resampled(volume, centred_lattice(volume.geometry, CROPPED), order=order)
