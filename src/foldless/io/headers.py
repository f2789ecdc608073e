"""Reading image files whose headers may be in trouble: directions, forms, numbers of axes."""

# mypy: untyped-calls-exclude="SimpleITK,nibabel"

from __future__ import annotations

import os
import warnings
import zlib
from math import prod
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
from jaxtyping import Float64

from foldless.errors import InputError
from foldless.io.geometry import Geometry

ORTHONORMAL = 1e-4
"""Direction cosines this far off orthonormal are taken as they are: 0.03 mm across a head."""

REPAIRABLE = 1e-2
"""Direction cosines up to this far off orthonormal are straightened, with a warning; further off, refused."""

FORMS_APART = 0.1
"""Millimetres at a corner beyond which a NIfTI file's two orientations count as different."""

LPS = np.diag([-1.0, -1.0, 1.0])


def open_nifti(path: Path) -> nib.Nifti1Image:
    """A NIfTI file's header, and its voxels when asked for.

    Raises:
        InputError: the file is not NIfTI.
    """
    try:
        file = nib.load(path)
    except (nib.filebasedimages.ImageFileError, OSError, EOFError) as error:
        raise InputError(
            f"{path} cannot be read as NIfTI, which its name promises; write or download it again"
        ) from error
    if not isinstance(file, nib.Nifti1Image):
        raise InputError(f"{path} is no NIfTI file though its name says so; give it its own suffix")
    return file


def is_nifti(path: Path) -> bool:
    """Whether the name ends as a NIfTI file's."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def existing_file(path: Path | str, kind: str) -> Path:
    """The path, if a file is there.

    Raises:
        InputError: nothing is there, or a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(
            f"{path} is a folder, but one {kind} file was expected; name the file itself "
            "(a folder of DICOM slices must be converted first, for example with dcm2niix)"
        )
    if not path.exists():
        raise InputError(f"{path} does not exist; check the name of the {kind} file")
    return path


def read_image(path: Path) -> sitk.Image:
    """A 2-D or 3-D image with an orthonormal direction, in the file's own pixel type.

    Raises:
        InputError: the file cannot be read, has not 2 or 3 axes, or has a direction beyond repair.
    """
    try:
        _check_axes(path)
        image = _one_volume(sitk.ReadImage(str(path)))
    except RuntimeError as error:
        if is_nifti(path) and "orthonormal" in str(error):
            return _read_with_nibabel(path)
        raise InputError(
            f"{path} cannot be read as an image ({_reason(error)}); expected a whole file in a format that SimpleITK "
            "knows, such as .nii.gz, .nrrd, .mha or .png"
        ) from error
    if is_nifti(path):
        _check_voxels(path)
        _compare_forms(path, Geometry.of(image))
    image.SetDirection(straightened(np.array(image.GetDirection()), path).ravel().tolist())
    return image


def header_shape(path: Path) -> tuple[int, ...] | None:
    """The shape (array order) that an image's header tells, its voxels unread; None if the header cannot be read."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    return tuple(reader.GetSize())[::-1]


def straightened(direction: np.ndarray, path: Path) -> Float64[np.ndarray, "dim dim"]:
    """The orthonormal matrix nearest to a direction (dim * dim cosines), if that is near enough.

    Raises:
        InputError: some cosine is more than `REPAIRABLE` away from the orthonormal one.
    """
    dim = round(direction.size**0.5)
    cosines = direction.reshape(dim, dim).astype(np.float64)
    left, _, right = np.linalg.svd(cosines)
    nearest: np.ndarray = left @ right
    off = float(np.abs(nearest - cosines).max())
    if not off <= REPAIRABLE:
        raise InputError(
            f"{path}: the axes of an image must be at right angles, but its header's direction cosines are {off:.2g} "
            f"off (at most {REPAIRABLE:g} can be repaired); resample the image onto an unsheared lattice first"
        )
    if off <= ORTHONORMAL:
        return cosines
    warnings.warn(
        f"{path}: the header's direction cosines are {off:.1g} off orthonormal; straightened them", stacklevel=4
    )
    return nearest


def _check_axes(path: Path) -> None:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size = reader.GetSize()
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


def _read_with_nibabel(path: Path) -> sitk.Image:
    """ITK refuses directions 3e-4 off orthonormal, which resampling tools write; nibabel does not."""
    file = open_nifti(path)
    matrix = LPS @ file.affine[:3, :3]
    spacing = np.linalg.norm(matrix, axis=0)
    if not np.isfinite(file.affine).all() or spacing.min() <= 0:
        raise InputError(f"{path}: the header's affine is singular, so nobody can tell where the image lies; repair it")
    direction = straightened(matrix / spacing, path)
    array: np.ndarray = np.asanyarray(file.dataobj)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise InputError(f"{path} has {array.ndim} axes (shape {array.shape}), but one 3-D volume was expected")
    image: sitk.Image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin((LPS @ file.affine[:3, 3]).tolist())
    image.SetDirection(direction.ravel().tolist())
    return image


def _compare_forms(path: Path, taken: Geometry) -> None:
    """Warn if the file's sform and qform put its corners in different places."""
    header = open_nifti(path).header
    sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    if sform is None or qform is None or taken.dim != 3:
        return
    corners = [_corners(LPS @ form[:3], taken) for form in (sform, qform)]
    apart = _furthest(*corners)
    if apart > FORMS_APART:
        name = "sform" if _furthest(corners[0], taken.corners) < _furthest(corners[1], taken.corners) else "qform"
        warnings.warn(
            f"{path}: the header's sform and qform put a corner {apart:.3g} mm apart; SimpleITK, and so foldless, "
            f"takes the {name} here, while other programs may take the other",
            stacklevel=4,
        )


def _corners(affine: np.ndarray, lattice: Geometry) -> np.ndarray:
    ends = lattice.physical_to_index(lattice.corners)
    corners: np.ndarray = ends @ affine[:, :3].T + affine[:, 3]
    return corners


def _furthest(points: np.ndarray, others: np.ndarray) -> float:
    return float(np.linalg.norm(points - others, axis=1).max())


def _check_voxels(path: Path) -> None:
    """See with nibabel what ITK hides: it reads a NIfTI file that stops early, and turns NaN and infinity into zero."""
    file = open_nifti(path)
    floating = bool(np.issubdtype(file.get_data_dtype(), np.inexact))
    promised = int(file.header["vox_offset"]) + prod(file.header.get_data_shape()) * file.get_data_dtype().itemsize
    if not floating and _length(path) == promised:
        return
    try:
        voxels = np.asanyarray(file.dataobj.get_unscaled())  # type: ignore[attr-defined]
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise InputError(f"{path} stops before its last voxel; copy or download it again") from error
    if floating:
        check_finite(voxels, path)


def check_finite(voxels: np.ndarray, path: Path) -> None:
    """Refuse voxels that are not finite in float32.

    Raises:
        InputError: some are not.
    """
    with np.errstate(over="ignore"):
        bad = voxels.size - int(np.isfinite(voxels.astype(np.float32)).sum()) if voxels.dtype.kind != "c" else 0
    if bad:
        raise InputError(
            f"{path} holds {bad} voxels that are NaN, infinite or beyond float32; expected finite numbers, "
            "replace them (by 0 in the background, for example)"
        )


def _length(path: Path) -> int:
    """Bytes in a file, unpacked; what a gzip file says of itself in its last four bytes."""
    if path.suffix.lower() != ".gz":
        return path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(-4, os.SEEK_END)
        return int.from_bytes(stream.read(4), "little")


def _reason(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("sitk::ERROR: ").rstrip(".") if lines else "no reason given"
