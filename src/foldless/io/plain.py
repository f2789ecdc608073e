"""Voxels of large uncompressed files where they lie: read piece by piece, and written slab by slab."""

# mypy: untyped-calls-exclude="SimpleITK,nibabel"

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import nibabel as nib
import numpy as np

from foldless.errors import InputError
from foldless.io.checks import straightened
from foldless.io.files import suffix, write_packed
from foldless.io.geometry import Geometry
from foldless.io.headers import header
from foldless.io.nifti import LPS, open_nifti

LARGE = 1 << 28
"""Bytes of voxels from which on a file is read and written by parts."""
LONGEST = 1 << 16
"""Bytes of a header that is text."""
ELEMENTS = {"u1": "UCHAR", "i1": "CHAR", "u2": "USHORT", "i2": "SHORT", "u4": "UINT", "i4": "INT", "u8": "ULONG_LONG"}
ELEMENTS |= {"i8": "LONG_LONG", "f4": "FLOAT", "f8": "DOUBLE"}
Order = Literal["<", ">"]
TEXTS = {
    ".nrrd": (
        re.compile(rb"\r?\n\r?\n"),
        re.compile(rb"^(encoding:(?! *raw)|data ?file:|byte ?skip:|line ?skip:)", re.M | re.I),
        re.compile(rb"^endian: *big", re.M),
    ),
    ".mha": (
        re.compile(rb"^ElementDataFile *= *LOCAL\r?\n", re.M),
        re.compile(rb"^(CompressedData *= *True|HeaderSize *=|BinaryData *= *False)", re.M),
        re.compile(rb"^(BinaryDataByteOrderMSB|ElementByteOrderMSB) *= *True", re.M),
    ),
}
"""Where a header of text ends, what says that voxels do not follow as they are, and that large bytes come first."""
BY_SLABS = (".nii", ".nii.gz", ".nrrd", ".mha")
"""How names end of files that are written by slabs."""


def mapped(path: Path, dtype: np.dtype) -> tuple[np.ndarray, Geometry] | None:
    """The voxels (*shape) of a large 3-D file in the memory map of it, and its lattice.

    None where it is small, compressed, scaled, or has another number of axes or of components.
    """
    reader = header(path)
    if reader is None or reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        return None
    size = tuple(int(n) for n in reader.GetSize())
    length = int(np.prod(size)) * dtype.itemsize
    begin = None if length < LARGE else _begin(path)
    if begin is None or begin[0] + length > path.stat().st_size:
        return None
    voxels: np.ndarray = np.memmap(path, dtype.newbyteorder(begin[1]), "r", begin[0], size[::-1])
    direction = straightened(np.array(reader.GetDirection()), path).ravel().tolist()
    return voxels, Geometry(size, reader.GetSpacing(), reader.GetOrigin(), tuple(direction))


def _begin(path: Path) -> tuple[int, Order] | None:
    """At which byte the voxels of an uncompressed file begin, and the order of their bytes."""
    end = suffix(path)
    if end == ".nii":
        file = open_nifti(path)
        proxy: Any = file.dataobj
        return None if (proxy.slope, proxy.inter) != (1, 0) else (int(proxy.offset), file.header.endianness)
    if end not in TEXTS:
        return None
    ends, packed, big = TEXTS[end]
    with path.open("rb") as stream:
        text = stream.read(LONGEST)
    found = ends.search(text)
    if found is None or packed.search(text[: found.end()]):
        return None
    return found.end(), ">" if big.search(text[: found.end()]) else "<"


def write_slabs(slabs: Iterator[np.ndarray], on: Geometry, path: Path, dtype: np.dtype) -> None:
    """Write a 3-D image of which the slices come one after the other, (depth, y, x), whole or not at all.

    Raises:
        InputError: its name ends otherwise than `BY_SLABS`, or it cannot be written.
    """
    if suffix(path) not in BY_SLABS:
        raise InputError(f"{path}: an image of this size is written by slabs; give a name in {', '.join(BY_SLABS)}")

    def fill(path: Path) -> None:
        with path.open("wb") as file:
            HEADS[suffix(path)](file, on, dtype)
            for slab in slabs:
                file.write(np.ascontiguousarray(slab, dtype.newbyteorder("<")).data)

    write_packed(path, fill)


def _nifti_head(file: BinaryIO, on: Geometry, dtype: np.dtype) -> None:
    affine = LPS @ np.vstack([np.column_stack([on.matrix, on.origin]), [0, 0, 0, 1]])
    head = nib.Nifti1Header(endianness="<")
    head.set_data_shape(on.size)
    head.set_data_dtype(dtype)
    head.set_xyzt_units("mm")
    head.set_sform(affine, 1)
    head.set_qform(affine, 1)
    head["pixdim"][1:4] = on.spacing
    head["magic"], head["vox_offset"], head["scl_slope"], head["scl_inter"] = b"n+1", 352, 1, 0
    file.write(head.binaryblock + bytes(4))


def _nrrd_head(file: BinaryIO, on: Geometry, dtype: np.dtype) -> None:
    axes = " ".join(_listed(column) for column in on.matrix.T)
    kind = {"f4": "float", "f8": "double"}.get(dtype.str[1:], dtype.name)
    file.write(
        f"NRRD0004\ntype: {kind}\ndimension: 3\nspace: left-posterior-superior\n"
        f"sizes: {' '.join(map(str, on.size))}\nspace directions: {axes}\nkinds: domain domain domain\n"
        f"endian: little\nencoding: raw\nspace origin: {_listed(on.origin)}\n\n".encode()
    )


def _meta_head(file: BinaryIO, on: Geometry, dtype: np.dtype) -> None:
    file.write(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
        f"TransformMatrix = {' '.join(map(repr, on.cosines.T.ravel().tolist()))}\n"
        f"Offset = {' '.join(map(repr, on.origin))}\nCenterOfRotation = 0 0 0\n"
        f"ElementSpacing = {' '.join(map(repr, on.spacing))}\nDimSize = {' '.join(map(str, on.size))}\n"
        f"ElementType = MET_{ELEMENTS[dtype.str[1:]]}\nElementDataFile = LOCAL\n".encode()
    )


def _listed(numbers: np.ndarray | tuple[float, ...]) -> str:
    return "(" + ",".join(repr(float(number)) for number in numbers) + ")"


HEADS: dict[str, Callable[[BinaryIO, Geometry, np.dtype], None]] = {
    ".nii": _nifti_head,
    ".nrrd": _nrrd_head,
    ".mha": _meta_head,
}
