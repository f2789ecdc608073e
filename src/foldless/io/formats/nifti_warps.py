"""Fields of FSL, NiftyReg and AFNI: NIfTI files whose numbers each program counts in its own way."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from foldless.errors import InputError
from foldless.io.formats.fields import Numbers, read_nifti_field, write_nifti_field
from foldless.io.formats.frames import FSL, LPS, RAS, Spaces, numbers_for, parts_of, positions
from foldless.io.formats.matrices import check_plumb
from foldless.io.geometry import Geometry
from foldless.io.nifti import open_nifti
from foldless.io.transforms import NIFTYREG
from foldless.io.world import Transform

FSL_FIELD = 2006
SPLINES = range(2007, 2010)
VECTOR = 1007
KINDS: dict[float, str] = {
    0: "a deformation",
    1: "a displacement",
    2: "a spline grid",
    3: "a deformation velocity",
    4: "a displacement velocity",
    5: "a spline velocity grid",
}


def read_fsl(path: Path, spaces: Spaces, absolute: bool = False) -> Transform:
    """FNIRT's or convertwarp's field, displacements or positions."""
    if int(open_nifti(path).header["intent_code"]) in SPLINES:
        raise InputError(f"{path} holds FNIRT's spline coefficients; make a field of them with fnirtfileutils first")
    numbers, lattice = read_nifti_field(path, axes=4)
    _, moving = spaces.of(FSL, f"{path}, a warp of FSL's,")
    if absolute:
        numbers = numbers - positions(FSL, lattice)
    return Transform(parts_of(numbers, FSL, lattice, moving), lattice, moving)


def seems_absolute(path: Path) -> bool:
    """Whether a field of FSL's, which does not say so, holds positions: taken from their places less is left."""
    if int(open_nifti(path).header["intent_code"]) in SPLINES:
        return False
    numbers, lattice = read_nifti_field(path, axes=4)
    return _spread(numbers) > _spread(numbers - positions(FSL, lattice))


def write_fsl(transform: Transform, on: Geometry, path: Path, spaces: Spaces, absolute: bool = False) -> None:
    """FSL's field on the fixed lattice."""
    _, moving = spaces.of(FSL, f"{path}, a warp of FSL's,")
    write_nifti_field(numbers_for(transform, FSL, on, moving, absolute), on, path, axes=4, intent=FSL_FIELD)


read_fsl_relative, read_fsl_absolute = partial(read_fsl, absolute=False), partial(read_fsl, absolute=True)
write_fsl_absolute = partial(write_fsl, absolute=True)


def read_niftyreg(path: Path, spaces: Spaces) -> Transform:
    """NiftyReg's deformation or displacement field, as its header says, RAS mm."""
    header = open_nifti(path).header
    kind = float(header["intent_p1"])
    if kind not in (0, 1):
        raise InputError(
            f"{path} is {KINDS.get(kind, 'something else')} of NiftyReg's; make a field of it with reg_transform -def"
        )
    numbers, lattice = read_nifti_field(path, axes=5)
    if kind == 0:
        numbers = numbers - positions(RAS, lattice)
    return Transform(parts_of(numbers, RAS, lattice, spaces.moving), lattice, spaces.moving)


def write_niftyreg(transform: Transform, on: Geometry, path: Path, spaces: Spaces, absolute: bool = True) -> None:
    """NiftyReg's deformation (absolute) or displacement field."""
    numbers = numbers_for(transform, RAS, on, spaces.moving, absolute)
    write_nifti_field(numbers, on, path, axes=5, intent=VECTOR, name=NIFTYREG, parameter=float(not absolute))


write_niftyreg_displacement = partial(write_niftyreg, absolute=False)


def read_afni(path: Path, spaces: Spaces) -> Transform:
    """3dQwarp's field, DICOM (LPS) mm, on a lattice along the scanner's axes."""
    numbers, lattice = read_nifti_field(path, axes=5)
    check_plumb(path, lattice)
    return Transform(parts_of(numbers, LPS, lattice, spaces.moving), lattice, spaces.moving)


def write_afni(transform: Transform, on: Geometry, path: Path, spaces: Spaces) -> None:
    """The same."""
    check_plumb(path, on)
    write_nifti_field(numbers_for(transform, LPS, on, spaces.moving), on, path, axes=5)


def _spread(numbers: Numbers) -> float:
    return float(numbers.std((0, 1, 2), dtype=np.float64).sum())
