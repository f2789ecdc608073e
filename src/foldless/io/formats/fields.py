"""Fields in NIfTI files and in plain arrays, whatever their numbers mean."""

# mypy: untyped-calls-exclude="nibabel"

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float

from foldless.errors import InputError
from foldless.io.claims import DEFLATED
from foldless.io.files import suffix, write_packed, write_whole
from foldless.io.geometry import Geometry
from foldless.io.learn2reg import CANNOT_LOAD
from foldless.io.learn2reg import read_array as read_npz
from foldless.io.nifti import LPS, open_nifti, placed, voxels_of

Numbers = Float[np.ndarray, "*shape dim"]


def read_nifti_field(path: Path, axes: int) -> tuple[Numbers, Geometry]:
    """The numbers of a NIfTI field with 4 axes (X, Y, Z, 3) or 5 (X, Y, Z, 1, 3), (*shape, 3), and its lattice.

    Raises:
        InputError: it has another shape, stops early or holds what is not finite.
    """
    file = open_nifti(path)
    shape = tuple(file.header.get_data_shape())
    if len(shape) != axes or shape[-1] != 3 or (axes == 5 and shape[3] != 1):
        wanted = "(X, Y, Z, 1, 3)" if axes == 5 else "(X, Y, Z, 3)"
        raise InputError(f"{path} has the shape {shape}; this format holds a field of shape {wanted}, in 3-D")
    check_length(path, int(np.prod(shape)) * file.get_data_dtype().itemsize)
    numbers = voxels_of(path, file).reshape(*shape[:3], 3)
    return checked(np.ascontiguousarray(numbers.transpose(2, 1, 0, 3)), path), placed(path, file, shape[:3])


def write_nifti_field(
    numbers: Numbers, geometry: Geometry, path: Path, axes: int, intent: int = 0, name: str = "", parameter: float = 0
) -> None:
    """Write (*shape, 3) as float32 NIfTI with 4 or 5 axes, whole or not at all.

    Raises:
        InputError: the field is not 3-D, or it cannot be written.
    """
    if geometry.dim != 3:
        raise InputError(f"{path}: this format holds 3-D fields; write a 2-D one as .nii.gz in ITK's form, .h5 or .mha")
    array = numbers.transpose(2, 1, 0, 3).astype(np.float32)
    affine = LPS @ np.vstack([np.column_stack([geometry.matrix, geometry.origin]), [0, 0, 0, 1]])
    file = nib.Nifti1Image(array[:, :, :, None] if axes == 5 else array, affine)
    file.header.set_xyzt_units("mm")
    file.header.set_intent(intent, (), name, allow_unknown=True)
    file.header["intent_p1"] = parameter
    file.set_sform(affine, 1)
    file.set_qform(affine, 1)
    write_packed(path, lambda beside: nib.save(file, beside))


def read_array(path: Path) -> Float[np.ndarray, ...]:
    """The one array of an .npz or .npy, with no more memory than the file allows.

    Raises:
        InputError: it is no such file, or holds what is not finite.
    """
    if suffix(path) == ".npz":
        return read_npz(path)
    try:
        return checked(np.array(np.load(path, mmap_mode="r", allow_pickle=False)), path)
    except CANNOT_LOAD as error:
        raise InputError(f"{path} cannot be read as .npy; save one array of displacements with numpy.save") from error


def write_array(array: np.ndarray, path: Path) -> None:
    """Write an array as .npz or .npy, float32, whole or not at all."""

    def fill(beside: Path) -> None:
        with beside.open("wb") as file:
            if suffix(path) == ".npz":
                np.savez_compressed(file, array.astype(np.float32))
            else:
                np.save(file, array.astype(np.float32))

    write_whole(path, fill)


def check_length(path: Path, promised: int) -> None:
    """Refuse a file whose header promises more than it can hold.

    Raises:
        InputError: it does.
    """
    most = path.stat().st_size * (DEFLATED if path.name.lower().endswith("gz") else 1)
    if promised > most + DEFLATED:
        raise InputError(f"{path} stops before its last voxel: its header promises {promised:,} bytes; copy it again")


def checked(numbers: np.ndarray, path: Path) -> np.ndarray:
    """The numbers, if they are finite real ones.

    Raises:
        InputError: they are not.
    """
    if numbers.dtype.kind not in "fiu":
        raise InputError(f"{path} holds {numbers.dtype}; expected real numbers, one a component")
    if not np.isfinite(numbers).all():
        raise InputError(f"{path} holds displacements that are not finite; write it again")
    return numbers
