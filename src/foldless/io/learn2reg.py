"""Displacements as the Learn2Reg challenges hand them in: arrays of voxels, without a header."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from foldless.errors import InputError
from foldless.io.checks import existing_file
from foldless.io.claims import DEFLATED, HEADER

CANNOT_LOAD = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
    RuntimeError,
)
"""What NumPy and zipfile raise on damaged, packed or encrypted archives and headers."""

WANTED = "expected one array of displacements in voxels, (3, X, Y, Z) or (X, Y, Z, 3), as Learn2Reg takes them"

WRITTEN_BY_NUMPY = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_voxel_displacement(path: Path | str) -> Float[np.ndarray, " dim *shape"]:
    """The one array of an `.npz`: displacements in voxels, components first, in the order of the array's axes.

    It may hold the components first or last, (3, X, Y, Z) or (X, Y, Z, 3).

    Raises:
        InputError: the file is missing or unreadable, holds several arrays, or no displacement.
    """
    path = existing_file(path, "warp")
    field = read_array(path)
    dim = field.ndim - 1
    if dim not in (2, 3) or dim not in (field.shape[0], field.shape[-1]) or not field.size:
        raise InputError(f"{path} holds an array of the shape {field.shape}; {WANTED}")
    if field.shape[0] != dim:
        field = np.moveaxis(field, -1, 0)
    return np.ascontiguousarray(field)


def read_array(path: Path) -> Float[np.ndarray, ...]:
    """The one array of an `.npz`, float32 or float64.

    Raises:
        InputError: the file is unreadable, holds several arrays, no real numbers or some that are not finite.
    """
    try:
        _check_claims(path)
        with np.load(path, allow_pickle=False) as arrays:
            found = [arrays[name] for name in arrays.files]
    except CANNOT_LOAD as error:
        raise InputError(f"{path} cannot be read as .npz; {WANTED}") from error
    if len(found) != 1 or not np.issubdtype(found[0].dtype, np.floating):
        raise InputError(f"{path} holds arrays of the shapes {[array.shape for array in found]}; {WANTED}")
    field: np.ndarray = found[0].astype(np.float32 if found[0].dtype.itemsize <= 4 else np.float64)
    if not np.isfinite(field).all():
        raise InputError(f"{path} holds displacements that are not finite; write it again")
    return field


def _check_claims(path: Path) -> None:
    """Refuse arrays whose headers promise more than the archive holds, before they have their memory.

    Raises:
        ValueError: one does, or is no array.
    """
    arrays: Any = np.lib.format
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type not in WRITTEN_BY_NUMPY:
                raise ValueError(f"{member.filename} is packed as NumPy packs nothing")
            with archive.open(member) as file:
                first = arrays.read_magic(file) == (1, 0)
                read = arrays.read_array_header_1_0 if first else arrays.read_array_header_2_0
                shape, _, dtype = read(file)
            if prod(shape) * dtype.itemsize > min(member.file_size, DEFLATED * (member.compress_size + HEADER)):
                raise ValueError(f"{member.filename} stops before its last number")
