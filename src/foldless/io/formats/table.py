"""The formats of transform files: a row each. To add one, write its reader and its writer, and add its row."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from foldless.errors import InputError
from foldless.io.checks import existing_file
from foldless.io.files import suffix
from foldless.io.formats import arrays, elastix, itk, lta, matrices, mgz, nifti_warps
from foldless.io.formats.bids import names_in
from foldless.io.formats.frames import Spaces
from foldless.io.formats.recognition import NIFTI, recognised
from foldless.io.geometry import Geometry
from foldless.io.world import Spline, Transform, Warped

Reader = Callable[[Path, Spaces], Transform]
FieldWriter = Callable[[Transform, Geometry, Path, Spaces], None]
Writer = Callable[[Transform, Geometry | None, Path, Spaces], None]

SMALLEST, LARGEST = 1e-9, 1e9
"""Millimetres between which voxels of images are, and within which they lie."""
DAMAGED = (ValueError, LookupError, TypeError, ArithmeticError, OSError, EOFError, zlib.error)
"""What readers meet in files that are not what they seem."""


@dataclass(frozen=True)
class Format:
    """How one program keeps transforms.

    Attributes:
        name: the word for it on the command line.
        title: whose it is.
        suffixes: how its files end.
        holds: any map, one as a field on the fixed lattice, or an affine one.
        units: of its numbers, their axes, and which way it maps.
        read: a file, given what is known of the two images.
        write: the other way; fields go on the lattice given.
        dims: of the images.
        needs: whether both images must be given.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    holds: Literal["any", "field", "affine"]
    units: str
    read: Reader
    write: FieldWriter | Writer
    dims: tuple[int, ...] = (3,)
    needs: bool = False


PULLS = "fixed to moving"
PUSHES = "moving to fixed"

FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format(
            "itk-field",
            "ITK, ANTs, greedy",
            NIFTI,
            "field",
            f"mm, LPS, {PULLS}",
            itk.read_field,
            itk.write_field,
            (2, 3),
        ),
        Format(
            "itk",
            "ITK, ANTs, SimpleITK",
            (".h5", ".hdf5", ".tfm", ".txt", ".mat"),
            "any",
            f"mm, LPS, {PULLS}",
            itk.read_itk,
            itk.write_itk,
            (2, 3),
        ),
        Format(
            "slicer-field",
            "3D Slicer",
            (".nrrd", ".mha"),
            "field",
            f"mm, LPS, {PULLS}",
            itk.read_image_field,
            itk.write_image_field,
            (2, 3),
        ),
        Format(
            "fsl-relative",
            "FSL's FNIRT, convertwarp",
            NIFTI,
            "field",
            f"mm, FSL's, {PULLS}",
            nifti_warps.read_fsl_relative,
            nifti_warps.write_fsl,
            needs=True,
        ),
        Format(
            "fsl-absolute",
            "FSL's convertwarp --absout",
            NIFTI,
            "field",
            f"positions in mm, FSL's, {PULLS}",
            nifti_warps.read_fsl_absolute,
            nifti_warps.write_fsl_absolute,
            needs=True,
        ),
        Format(
            "flirt",
            "FSL's FLIRT",
            (".mat", ".txt"),
            "affine",
            f"mm, FSL's, {PUSHES}",
            matrices.read_flirt,
            matrices.write_flirt,
            needs=True,
        ),
        Format(
            "niftyreg-def",
            "NiftyReg's deformation",
            NIFTI,
            "field",
            f"positions in mm, RAS, {PULLS}",
            nifti_warps.read_niftyreg,
            nifti_warps.write_niftyreg,
        ),
        Format(
            "niftyreg-disp",
            "NiftyReg's displacement",
            NIFTI,
            "field",
            f"mm, RAS, {PULLS}",
            nifti_warps.read_niftyreg,
            nifti_warps.write_niftyreg_displacement,
        ),
        Format(
            "niftyreg-affine",
            "NiftyReg's reg_aladin",
            (".txt",),
            "affine",
            f"mm, RAS, {PULLS}",
            matrices.read_ras,
            matrices.write_ras,
        ),
        Format(
            "greedy-affine",
            "greedy, c3d",
            (".mat",),
            "affine",
            f"mm, RAS, {PULLS}",
            matrices.read_ras,
            matrices.write_ras,
        ),
        Format(
            "lta",
            "FreeSurfer, SynthMorph",
            (".lta",),
            "affine",
            f"mm, RAS, or voxels, {PUSHES}",
            lta.read_lta,
            lta.write_lta,
        ),
        Format(
            "mgz",
            "FreeSurfer's and SynthMorph's warps",
            (".mgz", ".mgh"),
            "field",
            f"mm, RAS, or voxels, {PULLS}",
            mgz.read_mgz,
            mgz.write_mgz,
        ),
        Format(
            "afni-field",
            "AFNI's 3dQwarp, not on oblique lattices",
            NIFTI,
            "field",
            f"mm, LPS, {PULLS}",
            nifti_warps.read_afni,
            nifti_warps.write_afni,
        ),
        Format(
            "afni-affine",
            "AFNI's aff12.1D",
            (".1d",),
            "affine",
            f"mm, LPS, {PULLS}",
            matrices.read_afni,
            matrices.write_afni,
        ),
        Format(
            "elastix",
            "elastix' parameters; affine ones are written",
            (".txt",),
            "affine",
            f"mm, LPS, {PULLS}",
            elastix.read_elastix,
            elastix.write_elastix,
            (2, 3),
        ),
        Format(
            "learn2reg",
            "Learn2Reg, components first",
            (".npz", *NIFTI),
            "field",
            f"voxels, i, j, k, {PULLS}",
            arrays.read_voxels,
            arrays.write_voxels_first,
            (2, 3),
        ),
        Format(
            "voxelmorph",
            "VoxelMorph, components last",
            (".npz", ".npy", *NIFTI),
            "field",
            f"voxels, i, j, k, {PULLS}",
            arrays.read_voxels,
            arrays.write_voxels_last,
            (2, 3),
        ),
        Format(
            "dipy",
            "dipy's forward field",
            (".npz", ".npy", *NIFTI),
            "field",
            f"mm, RAS, {PULLS}",
            arrays.read_dipy,
            arrays.write_dipy,
        ),
    )
}

BY_NAME = {
    ".h5": "itk",
    ".hdf5": "itk",
    ".tfm": "itk",
    ".nrrd": "slicer-field",
    ".mha": "slicer-field",
    ".lta": "lta",
    ".mgz": "mgz",
    ".mgh": "mgz",
    ".1d": "afni-affine",
    ".nii": "itk-field",
    ".nii.gz": "itk-field",
}
"""What a name is written as where no format is asked for."""


def named(word: str) -> Format:
    """The format of that name.

    Raises:
        InputError: there is none.
    """
    if word not in FORMATS:
        raise InputError(f"there is no format {word}; the formats are {', '.join(FORMATS)}")
    return FORMATS[word]


def read_transform(path: Path | str, spaces: Spaces | None = None, name: str | None = None) -> Transform:
    """A transform from a file of any format of the table.

    Args:
        path: the file.
        spaces: the two images' lattices, for formats that count in them.
        name: of the format; where none is given, the file is looked at.

    Raises:
        InputError: nothing is there, it cannot be read, or several programs write such a file.
    """
    path = existing_file(path, "transform")
    spaces = spaces or Spaces()
    kind = FORMATS[recognised(path)] if name is None else named(name)
    try:
        found = kind.read(path, spaces)
    except DAMAGED as error:
        raise InputError(f"{path} cannot be read as {kind.name}, it is damaged; copy or write it again") from error
    _check_places(found, path)
    return replace(found, names=names_in(path) or found.names)


def _check_places(transform: Transform, path: Path) -> None:
    """Refuse lattices that no image has."""
    fields = [part.geometry for part in transform.parts if isinstance(part, Warped | Spline)]
    for on in filter(None, (transform.fixed, transform.moving, *fields)):
        if not (min(on.spacing) > SMALLEST and max(on.spacing) < LARGEST and max(map(abs, on.origin)) < LARGEST):
            raise InputError(
                f"{path} says that voxels of {on.spacing} mm begin at {on.origin}; no image does, write the header anew"
            )


def write_transform(
    transform: Transform, path: Path | str, spaces: Spaces | None = None, name: str | None = None
) -> Format:
    """Write a transform, whole or not at all.

    Args:
        transform: any; what a format cannot hold is refused.
        path: the file.
        spaces: the two images' lattices, where the transform does not know them or others are wanted.
        name: of the format; where none is given, the file's name tells.

    Returns:
        The format that was written.

    Raises:
        InputError: the format is not known, or cannot hold the transform.
    """
    path, kind = Path(path), for_name(Path(path), name)
    given = spaces or Spaces()
    spaces = Spaces(given.fixed or transform.fixed, given.moving or transform.moving)
    on = spaces.fixed or transform.lattice
    if transform.dim not in kind.dims:
        raise InputError(f"{path}: {kind.name} holds {kind.dims[0]}-D transforms only; this one is {transform.dim}-D")
    if on is None and kind.holds == "field":
        raise InputError(f"{path}: a field needs the lattice that it lies on; give the fixed image")
    write: Writer = kind.write  # type: ignore[assignment]
    write(transform, on, path, spaces)
    return kind


def for_name(path: Path, name: str | None = None) -> Format:
    """The format that a file is written in.

    Raises:
        InputError: its name ends as no format's, or as those of several and none is given.
    """
    end = suffix(path)
    if name is not None:
        kind = named(name)
        if end not in kind.suffixes:
            raise InputError(f"{path}: {kind.name} files end in {' or '.join(kind.suffixes)}; give such a name")
        return kind
    if end in BY_NAME:
        return FORMATS[BY_NAME[end]]
    several = [kind.name for kind in FORMATS.values() if end in kind.suffixes]
    if not several:
        ends = sorted({one for kind in FORMATS.values() for one in kind.suffixes})
        raise InputError(f"{path}: no transform's name ends in {end or 'nothing'}; expected one of {', '.join(ends)}")
    raise InputError(
        f"{path}: {end} is written by several programs; say whose, as in {several[0]}:{path.name}, of "
        f"{', '.join(several)}"
    )
