"""What is odd about the fields of a NIfTI header: units, sizes of voxels, intent, scaling."""

# mypy: untyped-calls-exclude="SimpleITK,nibabel"

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from pathlib import Path

import nibabel as nib
import numpy as np

from foldless.io.findings import Finding, in_mm
from foldless.io.geometry import Geometry
from foldless.io.headers import header
from foldless.io.nifti import FORMS_APART, ITK_EPSILON, header_of, lps_affine

UNITS = {1: "metres", 3: "micrometres"}
UNITLESS = (0, 2)
"""Codes of nothing and of millimetres."""
LABELS, STATISTICS, SEVERAL = 1002, range(2, 25), range(1003, 1010)
"""Codes of intents: labels, p values and the like, several numbers a voxel."""
WARPS = range(2006, 2020)
"""Codes of intents that FSL gives its warps."""


def nifti_findings(path: Path, lattice: Geometry, labels: bool) -> Iterator[Finding]:
    """What is odd about a NIfTI header's fields, those beside that warn when they are read.

    Args:
        path: any image file; of other formats nothing is said.
        lattice: as it was read.
        labels: whether its voxels were read as labels.
    """
    file = header_of(path)
    if isinstance(file, nib.Nifti1Pair):
        yield from _units(path, lattice, file.header)
        yield from _sizes(path, lattice, file.header)
        yield from _intent(path, file.header, labels)
        yield from _scaling(path)


def says_where(path: Path) -> bool:
    """Whether a header says how its image lies, as far as its format can."""
    file = header_of(path)
    return file is None or (
        isinstance(file, nib.Nifti1Pair) and (int(file.header["sform_code"]) > 0 or int(file.header["qform_code"]) > 0)
    )


def _units(path: Path, lattice: Geometry, fields: nib.Nifti1Header) -> Iterator[Finding]:
    code = int(fields["xyzt_units"]) & 7
    if code in UNITS:
        yield Finding(
            "unit",
            f"{path}: the header counts in {UNITS[code]}; foldless, as SimpleITK does, makes voxels of "
            f"{in_mm(lattice.spacing)} of it: if they are not of that size, correct xyzt_units",
        )
    elif code not in UNITLESS:
        yield Finding(
            "unit",
            f"{path}: the header's xyzt_units has code {code}, which is no unit of length; foldless takes "
            f"millimetres, voxels of {in_mm(lattice.spacing)}: correct xyzt_units",
        )


def _sizes(path: Path, lattice: Geometry, fields: nib.Nifti1Header) -> Iterator[Finding]:
    """Sizes of voxels by sform and by pixdim, where no qform is compared with the sform as it is read."""
    if int(fields["sform_code"]) <= 0 or int(fields["qform_code"]) > 0 or lattice.dim != 3:
        return
    by_sform = np.linalg.norm(lps_affine(fields, fields.get_sform())[:3, :3], axis=0)
    taken = np.array(lattice.spacing)
    apart = np.abs(by_sform - taken) * (np.array(lattice.size) - 1)
    if (apart > FORMS_APART * np.minimum(1, taken)).any():
        yield Finding(
            "sform and pixdim",
            f"{path}: voxels measure {in_mm(by_sform)} by the header's sform and {in_mm(taken)} by its pixdim; "
            "SimpleITK, and so foldless, takes pixdim, nibabel and others the sform: see which is right, and write "
            "the header anew",
        )


def _intent(path: Path, fields: nib.Nifti1Header, labels: bool) -> Iterator[Finding]:
    code = int(fields["intent_code"])
    if code == LABELS and not labels:
        kind, what = "labels", "its voxels are labels"
        does = "foldless takes them for intensities and mixes neighbours; give the image here, and label maps as labels"
    elif code in STATISTICS:
        kind, what = "statistic", f"its voxels are a statistic ({fields.get_intent()[0]})"
        does = "foldless takes them for intensities; give the image that the statistic was computed on, if there is one"
    elif code in SEVERAL:
        kind, what = "intent", f"it holds several numbers a voxel ({fields.get_intent()[0]})"
        does = "it holds one, which foldless takes for an intensity; see that it is the image that you mean"
    else:
        return
    yield Finding(kind, f"{path}: by the header's intent, {code}, {what}; {does}")


def _scaling(path: Path) -> Iterator[Finding]:
    """Slopes and intercepts that programs take differently."""
    reader = header(path)
    if reader is None or not reader.HasMetaDataKey("scl_slope"):
        return
    slope, intercept = float(reader.GetMetaData("scl_slope")), float(reader.GetMetaData("scl_inter"))
    if not isfinite(slope) or not slope:
        if intercept and isfinite(intercept):
            yield Finding(
                "scaling",
                f"{path}: the header's scl_slope is {slope:g}, which says that nothing is scaled, and its scl_inter "
                f"{intercept:g}; foldless takes the numbers as they are stored, SimpleITK adds {intercept:g}: set both "
                "to 0, or scl_slope to 1",
            )
    elif abs(slope) < ITK_EPSILON:
        yield Finding(
            "scaling",
            f"{path}: the header's scl_slope is {slope:g}; foldless scales by it, SimpleITK may take it for none and "
            "show other numbers: store the image in other units",
        )
