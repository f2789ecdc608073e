"""Which format a transform file has, by what is in it."""

# mypy: untyped-calls-exclude="nibabel"

from __future__ import annotations

from pathlib import Path

from foldless.errors import InputError
from foldless.io.files import suffix
from foldless.io.formats import matrices, nifti_warps
from foldless.io.nifti import open_nifti
from foldless.io.transforms import NIFTYREG

NIFTI = (".nii.gz", ".nii")
AFNI_EXTENSION = 4
STARTS = 4096
"""Bytes of a file by which its format is known."""


def recognised(path: Path) -> str:
    """The name of a file's format, by what is in it.

    Raises:
        InputError: it is no transform's, or several programs write such a file.
    """
    end = suffix(path)
    if end in NIFTI:
        return _nifti(path)
    if end in (".nrrd", ".nhdr", ".mha", ".mhd"):
        return "slicer-field"
    if end in (".mgz", ".mgh"):
        return "mgz"
    if end in (".npz", ".npy"):
        raise InputError(
            f"{path} is an array without a header; say whose, as in dipy:{path.name}, or learn2reg:, voxelmorph:"
        )
    with path.open("rb") as stream:
        start = stream.read(STARTS)
    if start.startswith(b"\x89HDF") or end in (".h5", ".hdf5", ".tfm") or start.startswith(b"#Insight Transform"):
        return "itk"
    if b"(Transform " in start or start.lstrip().startswith(b"("):
        return "elastix"
    if end == ".lta" or b"nxforms" in start:
        return "lta"
    if end == ".mat" and b"\0" in start:
        return "itk"
    return _text(path, end)


def _text(path: Path, end: str) -> str:
    if end not in (".txt", ".mat", ".1d"):
        raise InputError(f"{path} is no transform of a format that is known; see foldless convert --help for a list")
    rows = [len(row) for row in matrices.numbers_in(path)]
    if rows == [12] or end == ".1d":
        return "afni-affine"
    if rows == [4] * 4:
        raise InputError(
            f"{path} is a 4 x 4 matrix, which FSL, NiftyReg and greedy write alike; say whose, as in "
            f"flirt:{path.name}, niftyreg-affine: or greedy-affine:"
        )
    raise InputError(f"{path} holds {len(rows)} lines of numbers, which are no transform that is known")


def _nifti(path: Path) -> str:
    header = open_nifti(path).header
    shape, intent = tuple(header.get_data_shape()), int(header["intent_code"])
    if header.get_intent()[2] == NIFTYREG:
        return "niftyreg-def" if float(header["intent_p1"]) != 1 else "niftyreg-disp"
    if nifti_warps.FSL_FIELD <= intent < 2020:
        return _fsl(path)
    if len(shape) == 5 and intent == 0 and any(one.get_code() == AFNI_EXTENSION for one in header.extensions):
        return "afni-field"
    if len(shape) == 4 and shape[3] == 3 and intent != 1007:
        raise InputError(
            f"{path} holds three numbers a voxel and does not say of what; say whose it is, as in "
            f"learn2reg:{path.name}, voxelmorph:, dipy:, fsl-relative: or fsl-absolute:"
        )
    return "itk-field"  # which explains what else it may be


def _fsl(path: Path) -> str:
    return "fsl-absolute" if nifti_warps.seems_absolute(path) else "fsl-relative"
