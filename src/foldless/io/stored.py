"""What image files are beyond their intensities: the lattice alone, the numbers stored, what a format can hold."""

# mypy: untyped-calls-exclude="SimpleITK,nibabel"

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk  # noqa: N813

from foldless.errors import InputError
from foldless.io.checks import existing_file, straightened
from foldless.io.dicom import is_series, read_series, series_dtype
from foldless.io.files import suffix
from foldless.io.geometry import Geometry
from foldless.io.headers import header, read_image
from foldless.io.plain import mapped
from foldless.io.quiet import quiet
from foldless.io.zarrs import is_zarr, read_zarr

PICTURES: dict[str, tuple[type[np.generic], ...]] = {
    ".png": (np.uint8, np.uint16),
    ".jpg": (np.uint8,),
    ".jpeg": (np.uint8,),
    ".bmp": (np.uint8,),
}
"""Formats of 2-D pictures, and the numbers that they hold."""

BLURRING = (".jpg", ".jpeg", ".bmp")
"""Formats that give other numbers back than were stored, or colours."""
ANY_NUMBERS = ".nii.gz, .nrrd, .mha or .tif"


def read_geometry(path: Path | str) -> Geometry:
    """The lattice of any image: of one without contrast, of voxels that are not finite, of the first of many volumes.

    Raises:
        InputError: no file is there, or nothing in it tells of a lattice.
    """
    if is_zarr(Path(path)):
        return read_zarr(Path(path))[1]
    if is_series(Path(path)):
        return Geometry.of(read_series(Path(path)))
    path = existing_file(path, "reference image")
    if (found := mapped(path, stored_dtype(path))) is not None:  # its voxels need not be read
        return found[1]
    try:
        return Geometry.of(read_image(path))
    except InputError as error:
        reader = header(path)
        if reader is None or reader.GetDimension() not in (2, 3, 4):
            raise
        dim = min(reader.GetDimension(), 3)
        cosines = np.array(reader.GetDirection()).reshape(reader.GetDimension(), -1)[:dim, :dim]
        where = (reader.GetSize()[:dim], reader.GetSpacing()[:dim], reader.GetOrigin()[:dim])
        try:
            return Geometry(*where, tuple(straightened(cosines, path).ravel().tolist()))
        except ValueError:
            raise error from None


def stored_dtype(path: Path | str) -> np.dtype:
    """The type of the numbers that an image file stores, of one component; float32 where its header tells none.

    Raises:
        InputError: it is a folder without one DICOM series.
    """
    if is_series(Path(path)):
        return series_dtype(Path(path))
    reader = header(Path(path))
    if reader is None:
        return np.dtype(np.float32)
    one = sitk.Image([1, 1], reader.GetPixelID(), reader.GetNumberOfComponents())
    dtype: np.dtype = sitk.GetArrayViewFromImage(one).dtype
    return dtype


def check_format(path: Path, dtype: np.dtype, dim: int, labels: bool = False) -> None:
    """Make sure before any computing that a format can hold a result.

    Raises:
        InputError: it is not known, or is a picture's and cannot: the numbers are others, the image is 3-D, or it
            would blur labels.
    """
    check_suffix(path)
    kinds = PICTURES.get(suffix(path))
    if kinds is None:
        return
    if dim != 2:
        raise InputError(f"{path}: a {suffix(path)} is a 2-D picture, but the result is {dim}-D; give {ANY_NUMBERS}")
    if labels and suffix(path) in BLURRING:
        raise InputError(f"{path}: a {suffix(path)} does not give labels back as they are stored; give .png")
    if dtype not in kinds:
        held = " or ".join(np.dtype(kind).name for kind in kinds)
        raise InputError(f"{path}: a {suffix(path)} holds {held}, but the image is of {dtype.name}; give {ANY_NUMBERS}")


def check_suffix(path: Path) -> None:
    """Make sure before any computing that images are written in the format that a name ends in.

    Raises:
        InputError: no format of images has such names.
    """
    if is_zarr(path):
        return
    with TemporaryDirectory() as folder, quiet():
        try:
            sitk.WriteImage(sitk.Image([1, 1], sitk.sitkUInt8), f"{folder}/image{suffix(path).removesuffix('.gz')}")
        except RuntimeError as error:
            if "ImageIO" not in str(error):  # it is known, but holds no such image
                return
            end = suffix(path) or "nothing"
            raise InputError(f"{path}: no image's name ends in {end}; give {ANY_NUMBERS}") from error
