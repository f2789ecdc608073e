"""Reading image files whose headers may be in trouble: directions, forms, numbers of axes."""

# mypy: untyped-calls-exclude="SimpleITK,nibabel"

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813

from foldless.errors import InputError
from foldless.io import nifti
from foldless.io.checks import check_placed, straightened
from foldless.io.claims import check_claim, check_fields
from foldless.io.geometry import Geometry
from foldless.io.quiet import quiet, reason


def read_image(path: Path) -> sitk.Image:
    """A 2-D or 3-D image with an orthonormal direction, in the file's own pixel type.

    Raises:
        InputError: the file cannot be read, has not 2 or 3 axes, or has a direction beyond repair.
    """
    check_fields(path)
    try:
        reader = _header(path)
        _check_axes(path, reader.GetSize())
        check_claim(path, reader)
        with quiet():
            image = _one_volume(sitk.ReadImage(str(path)))
    except RuntimeError as error:
        if nifti.is_nifti(path) and "orthonormal" in str(error):
            return nifti.read_by_nibabel(path)
        raise InputError(
            f"{path} cannot be read as an image ({reason(error)}); expected a whole file in a format that SimpleITK "
            "knows, such as .nii.gz, .nrrd, .mha or .png"
        ) from error
    check_placed(image, path)
    if (file := nifti.header_of(path)) is not None:
        image = _as_nifti_says(path, image, file)
    image.SetDirection(straightened(np.array(image.GetDirection()), path).ravel().tolist())
    return image


def header_shape(path: Path) -> tuple[int, ...] | None:
    """The shape (array order) that an image's header tells, its voxels unread; None if the header cannot be read."""
    reader = header(path)
    return None if reader is None else tuple(reader.GetSize())[::-1]


def header(path: Path) -> sitk.ImageFileReader | None:
    """What has read an image's header, its voxels unread; None if the header cannot be read."""
    try:
        check_fields(path)
        return _header(path)
    except (InputError, RuntimeError, OSError):
        return None


def _header(path: Path) -> sitk.ImageFileReader:
    if nifti.is_nifti(path):
        nifti.check_colours(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with quiet():
        reader.ReadImageInformation()
    return reader


def _as_nifti_says(path: Path, image: sitk.Image, file: nib.Nifti1Pair | nib.AnalyzeImage) -> sitk.Image:
    """What ITK made of a NIfTI file, where it misses what the format says, mended or refused."""
    if isinstance(file, nib.Nifti1Pair):
        if nifti.is_nifti(path):
            nifti.check_offset(path, image)
            nifti.check_voxels(path, file)
        if image.GetDimension() == 2 < len(file.shape) and image.GetNumberOfComponentsPerPixel() == 1:
            image = nifti.read_by_nibabel(path)  # of one slice of vectors ITK makes a picture
        else:
            image = nifti.scale_as_said(path, image, file)
    nifti.note_where_it_lies(path, Geometry.of(image), file)
    return image


def _check_axes(path: Path, size: tuple[int, ...]) -> None:
    if 0 in size:
        raise InputError(f"{path} holds no voxels, its header says {' x '.join(map(str, size))}; expected an image")
    extra = size[3:]
    if len(size) == 4 and extra[0] > 1:
        one = " × ".join(str(n) for n in size[:3])
        raise InputError(
            f"{path} holds {extra[0]} volumes of {one} voxels, but one volume was expected; pick one and save it "
            "by itself, for example with nibabel: image.slicer[..., 0]"
        )
    if len(size) < 2 or len(size) > 4:
        raise InputError(f"{path} has {len(size)} axes (size {size}), but a 2-D or 3-D image was expected")


def _one_volume(image: sitk.Image) -> sitk.Image:
    if image.GetDimension() < 4:
        return image
    volume: sitk.Image = sitk.Extract(image, [*image.GetSize()[:3], 0], [0, 0, 0, 0])
    return volume
