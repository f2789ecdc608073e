"""NIfTI where ITK falls short of the format: units, forms, slopes, directions, and voxels that are missing."""

# mypy: untyped-calls-exclude="SimpleITK,nibabel"

from __future__ import annotations

import logging
import os
import zlib
from math import prod
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
from jaxtyping import Float64

from foldless.errors import InputError
from foldless.io.checks import check_finite, straightened
from foldless.io.findings import warn
from foldless.io.geometry import Geometry

FORMS_APART = 0.1
"""Millimetres at a corner, or voxels where these are smaller, beyond which two orientations count as different."""

MILLIMETRES = {1: 1000.0, 3: 0.001}
"""Of a header's unit, by its code: metres and micrometres; all else counts as millimetres, as in ITK."""

SINGLE_FILE = 352
"""Bytes before the voxels of a .nii file, at least."""

CANNOT_LOAD = (
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
    ValueError,
    OSError,
    EOFError,
    OverflowError,
    zlib.error,
)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def is_nifti(path: Path) -> bool:
    """Whether the name ends as a NIfTI file's."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def open_nifti(path: Path) -> nib.Nifti1Image:
    """A NIfTI file's header, and its voxels when asked for.

    Raises:
        InputError: the file is not NIfTI.
    """
    try:
        file = _loaded(path)
    except CANNOT_LOAD as error:
        raise InputError(
            f"{path} cannot be read as NIfTI, which its name promises; write or download it again"
        ) from error
    if not isinstance(file, nib.Nifti1Image):
        raise InputError(f"{path} is no NIfTI file though its name says so; give it its own suffix")
    return file


def check_colours(path: Path) -> None:
    """Refuse colours in several components, at which SimpleITK may end the process.

    Raises:
        InputError: the header says so.
    """
    try:
        file = _loaded(path)
    except CANNOT_LOAD:
        return
    if isinstance(file, nib.Nifti1Pair) and len(file.shape) > 4 and file.get_data_dtype().kind == "V":
        raise InputError(
            f"{path} holds vectors of colours, which no program writes; its header is damaged, copy it again"
        )


def header_of(path: Path) -> nib.Nifti1Pair | nib.AnalyzeImage | None:
    """The header of a NIfTI file, of a pair .hdr and .img in NIfTI's or Analyze's form; None of other formats.

    Raises:
        InputError: the name promises NIfTI, but the file is not.
    """
    if is_nifti(path):
        return open_nifti(path)
    if path.suffix.lower() not in (".hdr", ".img"):
        return None
    try:
        file = _loaded(path)
    except CANNOT_LOAD:
        return None
    return file if isinstance(file, nib.Nifti1Pair | nib.AnalyzeImage) else None


def _loaded(path: Path) -> nib.filebasedimages.FileBasedImage:
    """The file by nibabel, whose remarks on how it repairs a header are not for users."""
    logger = nib.imageglobals.logger
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        return nib.load(path)
    finally:
        logger.setLevel(level)


def lps_affine(header: nib.Nifti1Header, affine: np.ndarray) -> Float64[np.ndarray, "4 4"]:
    """Voxel indices to LPS millimetres, of an affine (4, 4) in NIfTI's RAS and the header's unit."""
    unit = MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    with np.errstate(invalid="ignore"):  # who asks looks whether it is finite
        scaled: np.ndarray = LPS @ np.diag([unit, unit, unit, 1.0]) @ affine.astype(np.float64)
    return scaled


def placed(path: Path, file: nib.Nifti1Pair, size: tuple[int, int, int]) -> Geometry:
    """The lattice of a NIfTI file by nibabel, which takes directions that are off orthonormal, straightened.

    Raises:
        InputError: the affine is singular, or beyond repair.
    """
    matrix = lps_affine(file.header, file.affine)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.isfinite(matrix).all() or spacing.min() <= 0:
        raise InputError(f"{path}: the header's affine is singular, so nobody can tell where the image lies; repair it")
    direction = straightened(matrix[:3, :3] / spacing, path)
    return Geometry(size, tuple(spacing.tolist()), tuple(matrix[:3, 3].tolist()), tuple(direction.ravel().tolist()))


def read_by_nibabel(path: Path) -> sitk.Image:
    """A 3-D volume that ITK refuses, or of which it makes something else: 3e-4 off orthonormal, a flat vector.

    Raises:
        InputError: it has not three axes, or nobody can tell where it lies.
    """
    file = open_nifti(path)
    array = voxels_of(path, file)
    array = array.reshape(array.shape[:3]) if array.ndim > 3 and prod(array.shape[3:]) == 1 else array
    if array.ndim != 3:
        raise InputError(f"{path} has {array.ndim} axes (shape {array.shape}), but one 3-D volume was expected")
    lattice = placed(path, file, array.shape)
    image: sitk.Image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(lattice.spacing)
    image.SetOrigin(lattice.origin)
    image.SetDirection(lattice.direction)
    return image


ITK_EPSILON = float(np.finfo(np.float32).eps)
"""Slopes below this, in absolute value, ITK may leave out, as 0; larger ones it takes."""


def voxels_of(path: Path, file: nib.Nifti1Pair, scaled: bool = True) -> np.ndarray:
    """The voxels in NIfTI's order of axes, x first; `scaled` by slope and intercept or as they are stored.

    Raises:
        InputError: the file stops before its last voxel.
    """
    try:
        proxy: Any = file.dataobj
        array: np.ndarray = np.asanyarray(proxy if scaled else proxy.get_unscaled())
    except (EOFError, OSError, ValueError, OverflowError, zlib.error) as error:
        raise InputError(f"{path} stops before its last voxel; copy or download it again") from error
    return array


def scale_as_said(path: Path, image: sitk.Image, file: nib.Nifti1Pair) -> sitk.Image:
    """The image by its slope and intercept, where ITK follows another rule.

    It adds the intercept though the slope is 0, which says that nothing is scaled, and takes a slope below its epsilon
    for none.
    """
    slope, intercept = _scaling(file)
    unscaled_but_shifted = (slope, intercept) == (1, 0) and float(image.GetMetaData("scl_inter")) != 0
    if not unscaled_but_shifted and abs(slope) >= ITK_EPSILON:
        return image
    array = voxels_of(path, file).T
    own: sitk.Image = sitk.GetImageFromArray(np.ascontiguousarray(array).reshape(image.GetSize()[::-1]))
    own.CopyInformation(image)
    return own


def slope_of(path: Path) -> float:
    """What a step of one in the stored numbers of a NIfTI file is worth, 1 without scaling and in other formats."""
    file = header_of(path)
    return abs(_scaling(file)[0]) if isinstance(file, nib.Nifti1Pair) else 1.0


def scales_nothing(image: sitk.Image, file: nib.Nifti1Pair) -> bool:
    """Whether the stored numbers are what is meant, and ITK takes them so: an intercept it adds whatever the slope."""
    added = float(image.GetMetaData("scl_inter"))
    return _scaling(file) == (1, 0) and (added == 0 or not np.isfinite(added))


def _scaling(file: nib.Nifti1Pair) -> tuple[float, float]:
    """Slope and intercept that count: 1 and 0 where the header's slope says that nothing is scaled."""
    proxy: Any = file.dataobj
    return float(proxy.slope), float(proxy.inter)


def note_where_it_lies(path: Path, taken: Geometry, file: nib.Nifti1Pair | nib.AnalyzeImage) -> None:
    """Warn if a header does not say how its image lies, or says it twice and differently."""
    if not isinstance(file, nib.Nifti1Pair):
        _note_unsaid(path, "Analyze headers do not say how an image lies")
    elif int(file.header["sform_code"]) <= 0 and int(file.header["qform_code"]) <= 0:
        _note_unsaid(path, "the header does not say how the image lies, its sform_code and qform_code are 0")
    elif taken.dim == 3:
        _compare_forms(path, taken, file.header)


def _note_unsaid(path: Path, unsaid: str) -> None:
    warn(
        "place unsaid",
        f"{path}: {unsaid}; taken as SimpleITK does, with axes to the left, back and up, where nibabel and others turn "
        "the second to the front: see that it is not turned round, and write the header anew",
        stacklevel=5,
    )


def _compare_forms(path: Path, taken: Geometry, header: nib.Nifti1Header) -> None:
    """Warn if sform and qform put the corners in different places."""
    if int(header["sform_code"]) <= 0 or int(header["qform_code"]) <= 0:
        return
    sform, qform = _sform(header), _qform(header)
    if sform is None or qform is None:
        name, other = ("qform", "sform") if sform is None else ("sform", "qform")
        warn(
            "sform and qform",
            f"{path}: the header's {other} holds numbers that place no image; taken as its {name} says, see that it "
            "lies where it should, and write the header anew",
            stacklevel=5,
        )
        return
    corners = [_corners(lps_affine(header, form), taken) for form in (sform, qform)]
    apart = _furthest(*corners)
    if apart > FORMS_APART * min(1.0, *taken.spacing):
        name = "sform" if _furthest(corners[0], taken.corners) < _furthest(corners[1], taken.corners) else "qform"
        warn(
            "sform and qform",
            f"{path}: the header's sform and qform put a corner {apart:.3g} mm apart; SimpleITK, and so foldless, "
            f"takes the {name} here, while other programs may take the other",
            stacklevel=5,
        )


def _sform(header: nib.Nifti1Header) -> np.ndarray | None:
    """The header's affine (4, 4), None if its numbers are none."""
    sform: np.ndarray = header.get_sform()
    return sform if np.isfinite(sform).all() else None


def _qform(header: nib.Nifti1Header) -> np.ndarray | None:
    """The header's affine (4, 4) by quaternion, None if its numbers make none."""
    try:
        with np.errstate(all="ignore"):
            qform: np.ndarray = header.get_qform()
    except (ValueError, nib.spatialimages.HeaderDataError):
        return None
    return qform if np.isfinite(qform).all() else None


def _corners(affine: np.ndarray, lattice: Geometry) -> np.ndarray:
    ends = lattice.physical_to_index(lattice.corners)
    corners: np.ndarray = ends @ affine[:3, :3].T + affine[:3, 3]
    return corners


def _furthest(points: np.ndarray, others: np.ndarray) -> float:
    return float(np.linalg.norm(points - others, axis=1).max())


def check_voxels(path: Path, file: nib.Nifti1Pair) -> None:
    """See with nibabel what ITK hides: it reads a NIfTI file that stops early, and turns NaN and infinity into zero.

    Raises:
        InputError: voxels are missing or not finite.
    """
    floating = bool(np.issubdtype(file.get_data_dtype(), np.inexact))
    if not floating and _length(path) == _promised(file):
        return
    voxels = voxels_of(path, file, scaled=False)
    if floating:
        check_finite(voxels, path)


def check_offset(path: Path, image: sitk.Image) -> None:
    """Refuse voxels that begin within the header of one and the same file: readers disagree on where they are.

    Raises:
        InputError: they do.
    """
    begin = float(image.GetMetaData("vox_offset"))
    if not begin >= SINGLE_FILE:
        raise InputError(
            f"{path}: the voxels begin at byte {begin:g} by the header, within the header itself; expected "
            f"{SINGLE_FILE} or more, set its vox_offset"
        )


def _promised(file: nib.Nifti1Pair) -> int:
    """Bytes of the whole file, unpacked, by its header."""
    voxels = prod(map(int, file.header.get_data_shape()))
    proxy: Any = file.dataobj
    return int(proxy.offset) + voxels * int(file.get_data_dtype().itemsize)


def _length(path: Path) -> int:
    """Bytes in a file, unpacked; what a gzip file says of itself in its last four bytes."""
    if path.suffix.lower() != ".gz":
        return path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(-4, os.SEEK_END)
        return int.from_bytes(stream.read(4), "little")
