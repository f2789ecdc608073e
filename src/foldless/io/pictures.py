"""Pictures, whose files say little or nothing of millimetres: resolution tags, descriptions, spacings given instead."""

# mypy: untyped-calls-exclude="SimpleITK"

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from math import isfinite
from pathlib import Path

import SimpleITK as sitk  # noqa: N813

from foldless.errors import InputError
from foldless.io.files import suffix
from foldless.io.findings import Finding
from foldless.io.geometry import Geometry
from foldless.io.headers import header

TAGGED = (".tif", ".tiff", ".jpg", ".jpeg")
"""Pictures whose resolution tags SimpleITK takes for a spacing."""
PICTURES = (*TAGGED, ".png", ".bmp", ".gif")
"""Formats that say nothing of where an image lies."""

INCH = 25.4
OME = re.compile(r'PhysicalSize([XYZ])\s*=\s*"([^"]{1,40})"')
OME_UNIT = re.compile(r'PhysicalSizeXUnit\s*=\s*"([^"]{1,20})"')
IMAGEJ_UNIT = re.compile(r"^unit=(\S{1,20})", re.MULTILINE)
GIVE = (
    "give register and pose the right one in mm, by --moving-spacing or --fixed-spacing, apply by --spacing or "
    "--reference-spacing, and other commands the moving.nii.gz and fixed.nii.gz that register then writes"
)


def is_picture(path: Path) -> bool:
    """Whether the name ends as that of a picture, which has no header that says where it lies."""
    return suffix(path).endswith(PICTURES)


def spaced(image: sitk.Image, path: Path, spacing: tuple[float, ...] | None) -> sitk.Image:
    """The image with a spacing that is given for its file, mm along x, y(, z); as it is where None.

    Raises:
        InputError: it is no picture, whose header says it, or there is not one positive number an axis.
    """
    if spacing is None:
        return image
    check_spacing(path, spacing, image.GetDimension())
    image.SetSpacing(spacing)
    return image


def respaced(lattice: Geometry, path: Path, spacing: tuple[float, ...] | None) -> Geometry:
    """A lattice with a spacing that is given for its file; as it is where None.

    Raises:
        InputError: as `spaced` does.
    """
    if spacing is None:
        return lattice
    check_spacing(path, spacing, lattice.dim)
    return replace(lattice, spacing=spacing)


def check_spacing(path: Path, spacing: tuple[float, ...], dim: int) -> None:
    """Refuse a spacing that is given for a file which says its own, or that is none.

    Raises:
        InputError: it is no picture's, or there is not one positive number an axis.
    """
    if not is_picture(path):
        raise InputError(
            f"{path} says itself how large its voxels are; a spacing is given for pictures ({', '.join(PICTURES)}), "
            "whose files do not: leave it out, or write the header anew"
        )
    if len(spacing) != dim or not all(isfinite(step) and step > 0 for step in spacing):
        given = " ".join(f"{step:g}" for step in spacing)
        raise InputError(f"{path} is {dim}-D; its spacing is {dim} numbers above 0, mm along x, y(, z); got {given}")


def told(path: Path, spacing: tuple[float, ...]) -> bool:
    """Whether the size of an image's voxels comes from its file or was given, and is not 1 for want of any."""
    return not is_picture(path) or any(step != 1 for step in spacing)


def picture_findings(path: Path, size: tuple[int, ...], spacing: tuple[float, ...]) -> Iterator[Finding]:
    """What is odd about how a picture's file says the size of its pixels."""
    reader = header(path) if is_picture(path) else None
    if reader is None or spacing != (*reader.GetSpacing()[: len(spacing)],):  # which was given
        return
    across = f"{spacing[0]:.4g} x {spacing[1]:.4g} mm"
    if suffix(path) in TAGGED and spacing[:2] != (1, 1):
        dots, sides = INCH / spacing[0], " x ".join(f"{n * s:.3g}" for n, s in zip(size, spacing, strict=True))
        yield Finding(
            "resolution tag",
            f"{path}: its resolution tag, {dots:.4g} dots per inch, makes pixels of {across} and the picture "
            f"{sides} mm; such tags often are a screen's or a printer's, and foldless takes it as it is: if that is "
            f"not the size of what is shown, {GIVE}",
        )
    elif said := _described(reader):
        yield Finding(
            "size unread",
            f"{path}: its description says that {said}, which SimpleITK and so foldless does not read: pixels count "
            f"as {across}; {GIVE}",
        )
    if len(size) == 3 and spacing[2] == 1 and spacing[:2] != (1, 1):
        yield Finding(
            "slice spacing",
            f"{path}: a stack of pictures does not say how far its slices lie apart; foldless takes 1 mm beside "
            f"pixels of {across}: {GIVE}",
        )


def _described(reader: sitk.ImageFileReader) -> str:
    """What the description in a TIFF says of the size of pixels, as OME and ImageJ write it; empty if nothing."""
    text = reader.GetMetaData("ImageDescription") if reader.HasMetaDataKey("ImageDescription") else ""
    if sizes := dict(OME.findall(text)):
        unit = (OME_UNIT.findall(text) or ["µm"])[0]
        return f"pixels measure {' x '.join(sizes.values())} {unit}"
    unit = (IMAGEJ_UNIT.findall(text) or ["pixel"])[0] if text.startswith("ImageJ=") else "pixel"
    return "" if unit.startswith(("pixel", "inch")) else f"pixels are counted in {unit}"
