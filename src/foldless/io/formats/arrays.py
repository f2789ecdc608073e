"""Plain arrays of displacements, whose meaning is a convention: Learn2Reg's, VoxelMorph's, dipy's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from foldless.errors import InputError
from foldless.io.files import suffix
from foldless.io.formats.fields import Numbers, read_array, read_nifti_field, write_array, write_nifti_field
from foldless.io.formats.frames import RAS, VOXELS, Frame, Spaces, numbers_for, parts_of
from foldless.io.geometry import Geometry
from foldless.io.world import Transform


def read_voxels(path: Path, spaces: Spaces) -> Transform:
    """Displacements in voxels (i, j, k) of one lattice that both images share; components first or last."""
    return _read(path, spaces, VOXELS)


def write_voxels_first(transform: Transform, on: Geometry, path: Path, spaces: Spaces) -> None:
    """The same, components first as Learn2Reg's .npz; last in NIfTI."""
    _write(transform, on, path, spaces, VOXELS, last=False)


def write_voxels_last(transform: Transform, on: Geometry, path: Path, spaces: Spaces) -> None:
    """The same, components last as VoxelMorph's."""
    _write(transform, on, path, spaces, VOXELS, last=True)


def read_dipy(path: Path, spaces: Spaces) -> Transform:
    """dipy's forward field on the static lattice, mm in RAS, (X, Y, Z, 3)."""
    return _read(path, spaces, RAS)


def write_dipy(transform: Transform, on: Geometry, path: Path, spaces: Spaces) -> None:
    """The same."""
    _write(transform, on, path, spaces, RAS, last=True)


def _read(path: Path, spaces: Spaces, frame: Frame) -> Transform:
    fixed, moving = spaces.fixed, spaces.moving
    notes: tuple[str, ...] = ()
    if suffix(path) in (".npz", ".npy"):
        if fixed is None:
            raise InputError(
                f"{path} is an array without a header; give the image that it lies on: foldless convert has --fixed"
            )
        numbers = _components_last(read_array(path), fixed, path)
    else:
        numbers, fixed = read_nifti_field(path, axes=4)
    if frame.needs and moving is None:
        moving, notes = fixed, (f"{path} names no moving image; it is taken to lie on the fixed image's lattice",)
    return Transform(parts_of(numbers, frame, fixed, moving), fixed, moving, notes=notes)


def _write(transform: Transform, on: Geometry, path: Path, spaces: Spaces, frame: Frame, last: bool) -> None:
    moving = (spaces.moving or transform.moving or on) if frame.needs else None
    numbers = numbers_for(transform, frame, on, moving)
    if suffix(path) not in (".npz", ".npy"):
        write_nifti_field(numbers, on, path, axes=4)
        return
    array = np.moveaxis(numbers, -1, 0).transpose(0, *range(on.dim, 0, -1))
    write_array(np.ascontiguousarray(np.moveaxis(array, 0, -1) if last else array), path)


def _components_last(array: np.ndarray, on: Geometry, path: Path) -> Numbers:
    """An array in the order (X, Y, Z) with its components anywhere, as (*shape, dim)."""
    if array.shape == (*on.size, on.dim):
        array = np.moveaxis(array, -1, 0)
    elif array.shape != (on.dim, *on.size):
        hint = ""
        if sorted(array.shape) == sorted((*on.size, on.dim)):
            hint = ", its axes in another order"
        raise InputError(
            f"{path} holds an array of the shape {array.shape}{hint}; on this fixed image it must be "
            f"{(on.dim, *on.size)} or {(*on.size, on.dim)}, axes as nibabel has them, x first"
        )
    return np.moveaxis(array.transpose(0, *range(on.dim, 0, -1)), 0, -1)
