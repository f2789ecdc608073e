"""What is odd about one image, before anything is computed with it."""

# mypy: untyped-calls-exclude="SimpleITK"

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from foldless.io.dicom import is_series
from foldless.io.files import suffix
from foldless.io.findings import Finding, HeaderWarning, in_mm
from foldless.io.headers import header
from foldless.io.nifti_fields import WARPS, nifti_findings, says_where
from foldless.io.pictures import is_picture, picture_findings, told
from foldless.io.volumes import Volume, read_volume

FEW = 4
"""Slices below which nothing is said of how an image changes across them; no pose is sought there."""
THICK = 3.0
"""Times the smallest spacing from which the largest is called thick."""
LARGEST = 3000.0
"""Millimetres; no scanner shows more of a body."""
NEARLY_ALL = (1.0, 99.0)
"""Percentiles that are equal where an image is nearly all of one value."""


def looked_at(
    path: Path | str, labels: bool = False, spacing: tuple[float, ...] | None = None
) -> tuple[Volume, list[Finding]]:
    """An image as `read_volume` reads it, and what is odd about it instead of warnings.

    Raises:
        InputError: as `read_volume` does.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        volume = read_volume(path, labels, spacing)
    met = [one.message.finding for one in said if isinstance(one.message, HeaderWarning)]
    for one in said:
        if not isinstance(one.message, HeaderWarning):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return volume, [*met, *findings_of(volume)]


def is_image(path: Path) -> bool:
    """Whether it is an image by its header, one volume of one number a voxel or a picture in colour; or DICOM.

    Several programs write fields as volumes of one number a voxel, one for each component.
    """
    if is_series(path):
        return True
    reader = header(path) if path.is_file() else None
    if reader is None or is_picture(path):
        return reader is not None
    intent = int(reader.GetMetaData("intent_code")) if reader.HasMetaDataKey("intent_code") else 0
    return reader.GetNumberOfComponents() == 1 and max(reader.GetSize()[3:], default=1) == 1 and intent not in WARPS


def findings_of(volume: Volume) -> list[Finding]:
    """What is odd about an image, by its header and its voxels; what is met while it is read, warns there."""
    lattice = volume.geometry
    of_fields = list(nifti_findings(volume.path, lattice, volume.holds_labels))
    return [
        *of_fields,
        *(() if any(one.kind == "unit" for one in of_fields) else _large(volume)),
        *picture_findings(volume.path, lattice.size, lattice.spacing),
        *_unsaid(volume),
        *_lost(volume),
        *_thick(volume),
        *_flat(volume),
        *_blank(volume),
    ]


def is_lost(volume: Volume) -> bool:
    """Whether the place is one that programs write for want of any, in a format that could say another."""
    lattice = volume.geometry
    unturned = lattice.cosines.tolist() in (np.eye(lattice.dim).tolist(), _ras(lattice.dim).tolist())
    return (
        not is_picture(volume.path)
        and says_where(volume.path)
        and names_space(volume.path)
        and not any(lattice.origin)
        and set(lattice.spacing) == {1.0}
        and unturned
    )


def names_space(path: Path) -> bool:
    """Whether an NRRD header says in which anatomical space its axes lie; other formats have one of their own."""
    if suffix(path) not in (".nrrd", ".nhdr"):
        return True
    reader = header(path)
    space = reader.GetMetaData("NRRD_space") if reader is not None and reader.HasMetaDataKey("NRRD_space") else ""
    return space.startswith(("left", "right", "scanner"))


def _unsaid(volume: Volume) -> Iterator[Finding]:
    if volume.dim == 3 and not names_space(volume.path):
        yield Finding(
            "place unsaid",
            f"{volume.path}: the header names no anatomical space, so it does not say where its axes lead; taken as "
            "SimpleITK does, to the left, back and up: see that it is not turned round, and write the header anew",
        )


def _ras(dim: int) -> Float64[np.ndarray, "dim dim"]:
    """The axes of NIfTI, as directions in LPS."""
    return np.diag([-1.0, -1.0, 1.0][:dim])


def _lost(volume: Volume) -> Iterator[Finding]:
    if is_lost(volume):
        yield Finding(
            "place lost",
            f"{volume.path}: the header has the origin 0, voxels of 1 mm and unturned axes, as programs write it "
            "where they know nothing of place and size; foldless takes it as it is: if the scan's own header is "
            "to be had, use that, for lengths in mm, volumes and left and right go by it",
        )


def _large(volume: Volume) -> Iterator[Finding]:
    sides = np.array(volume.geometry.size) * volume.geometry.spacing
    if sides.max() > LARGEST and told(volume.path, volume.geometry.spacing):
        yield Finding(
            "unit",
            f"{volume.path} measures {in_mm(sides)} by its header; foldless takes that as it is: if the numbers there "
            "are micrometres, say so in the header or write them in mm",
        )


def _thick(volume: Volume) -> Iterator[Finding]:
    size, spacing = volume.geometry.size, volume.geometry.spacing
    deep = [step for n, step in zip(size, spacing, strict=True) if n > 1]
    if is_picture(volume.path) or volume.dim != 3 or not deep or max(deep) < THICK * min(deep):
        return
    yield Finding(
        "thick slices",
        f"{volume.path}: its slices are {max(deep):.3g} mm thick and voxels within them {min(deep):.3g} mm wide; "
        "between slices foldless interpolates, and how far anything moves across them is less certain than within "
        "them: take a scan of thinner slices if there is one",
    )


def _flat(volume: Volume) -> Iterator[Finding]:
    size = volume.geometry.size
    if volume.dim != 3 or min(size) >= FEW:
        return
    shape = " x ".join(map(str, size))
    if min(size) == 1:
        text = "is a volume of one slice; nothing is moved out of its plane: two slices must show the same plane"
    else:
        text = (
            f"has only {min(size)} slices; no pose is sought across them, and what moves across them is hardly more "
            "than a guess: give more slices if there are"
        )
    yield Finding("few slices", f"{volume.path} ({shape} voxels) {text}")


def _blank(volume: Volume) -> Iterator[Finding]:
    array = volume.array
    low, high = np.percentile(array, NEARLY_ALL)
    if low < high or volume.holds_labels:
        return
    share, least, most = float((array == low).mean()), float(array.min()), float(array.max())
    yield Finding(
        "nearly constant",
        f"{volume.path} has the value {low:g} in {share:.2%} of its voxels; foldless scales it by its least and "
        f"largest value, {least:g} and {most:g}, instead of percentiles: see that it is the right file, and crop it "
        "to what counts",
    )
