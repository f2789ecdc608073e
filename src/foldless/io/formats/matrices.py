"""Affine maps as text: FLIRT's, NiftyReg's, greedy's, AFNI's and FreeSurfer's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float64

from foldless.errors import InputError
from foldless.io.files import write_whole
from foldless.io.formats.frames import FSL, LPS, RAS, Spaces, linear_of, matrix_for
from foldless.io.geometry import Geometry
from foldless.io.world import Linear, Transform

LONGEST = 1 << 20
"""Bytes of a text file that is read."""


OBLIQUE = (
    "AFNI's matrices hold for images along the scanner's axes; on oblique ones it counts in coordinates of its own"
)
PLUMB = 1e-4
"""How far off the axes of the scanner a direction may point that counts as one of them."""


def check_plumb(path: Path, lattice: Geometry) -> None:
    """Refuse an oblique lattice, where AFNI's numbers are not those of the world.

    Raises:
        InputError: it is one.
    """
    if np.abs(np.abs(lattice.cosines).round() - np.abs(lattice.cosines)).max() > PLUMB:
        raise InputError(
            f"{path}: AFNI counts on oblique lattices in coordinates of its own, which no file keeps; resample the "
            "image along the scanner's axes first (3dWarp -deoblique)"
        )


def text_of(path: Path) -> str:
    """The text of a small file.

    Raises:
        InputError: it is too long, or no text.
    """
    if path.stat().st_size > LONGEST:
        raise InputError(
            f"{path} holds {path.stat().st_size:,} bytes; expected the text of a transform, which is short"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text; expected a transform as text") from error


def numbers_in(path: Path) -> list[list[float]]:
    """The lines of numbers in a text, comments and blank lines left out.

    Raises:
        InputError: other words stand there.
    """
    lines = [line.split("#")[0].split() for line in text_of(path).splitlines()]
    try:
        rows = [[float(word) for word in line] for line in lines if line]
    except ValueError as error:
        raise InputError(f"{path} holds more than numbers; expected the numbers of a matrix") from error
    if not np.isfinite([number for row in rows for number in row]).all():
        raise InputError(f"{path} holds numbers that are not finite; write it again")
    return rows


def square_in(path: Path) -> Float64[np.ndarray, "4 4"]:
    """A matrix of four rows of four numbers, the last 0 0 0 1.

    Raises:
        InputError: it is none.
    """
    rows = numbers_in(path)
    if [len(row) for row in rows] != [4] * 4 or rows[3] != [0, 0, 0, 1]:
        raise InputError(f"{path} holds {[len(row) for row in rows]} numbers a line; expected 4 x 4, the last 0 0 0 1")
    return np.array(rows)


def linear_part(transform: Transform, path: Path) -> Linear:
    """The transform as one matrix.

    Raises:
        InputError: it bends.
    """
    if (linear := transform.linear) is None:
        raise InputError(f"{path}: this format holds an affine map only, but the transform bends; give .nii.gz or .h5")
    return linear


def read_flirt(path: Path, spaces: Spaces) -> Transform:
    """FLIRT's matrix, which pushes: moving to fixed, in FSL's mm of both images."""
    fixed, moving = spaces.of(FSL, f"{path}, a matrix of FLIRT's,")
    matrix = _inverse(square_in(path), path)
    return Transform((linear_of(matrix, FSL, fixed, moving),), fixed, moving)


def write_flirt(transform: Transform, on: Geometry | None, path: Path, spaces: Spaces) -> None:
    """The same."""
    fixed, moving = spaces.of(FSL, f"{path}, a matrix of FLIRT's,")
    _write(_inverse(matrix_for(_three(transform, path), FSL, fixed, moving), path), path)


def read_ras(path: Path, spaces: Spaces) -> Transform:
    """NiftyReg's and greedy's matrix: fixed to moving, RAS mm."""
    return Transform((linear_of(square_in(path), RAS, None, None),), spaces.fixed, spaces.moving)


def write_ras(transform: Transform, on: Geometry | None, path: Path, spaces: Spaces) -> None:
    """The same."""
    _write(matrix_for(_three(transform, path), RAS, None, None), path)


def read_afni(path: Path, spaces: Spaces) -> Transform:
    """AFNI's aff12.1D: one line of twelve numbers, or three of four; base to source, DICOM (LPS) mm."""
    rows = numbers_in(path)
    if [len(row) for row in rows] not in ([12], [4, 4, 4]):
        what = f"{len(rows)} matrices, one a volume" if {len(row) for row in rows} == {12} else "something else"
        raise InputError(f"{path} holds {what}; expected one of AFNI's matrices, twelve numbers")
    _check_plumb_lattices(path, spaces)
    return Transform((Linear(np.array(rows).reshape(3, 4)),), spaces.fixed, spaces.moving, notes=(OBLIQUE,))


def write_afni(transform: Transform, on: Geometry | None, path: Path, spaces: Spaces) -> None:
    """The same, in one line."""
    _check_plumb_lattices(path, spaces)
    matrix = matrix_for(_three(transform, path), LPS, None, None)[:3]
    line = "# 3dvolreg matrices (DICOM-to-DICOM, row-by-row):\n" + " ".join(f"{n:.12g}" for n in matrix.ravel()) + "\n"
    write_whole(path, lambda beside: _text(line, beside))


def _check_plumb_lattices(path: Path, spaces: Spaces) -> None:
    for lattice in (spaces.fixed, spaces.moving):
        if lattice is not None:
            check_plumb(path, lattice)


def _three(transform: Transform, path: Path) -> Linear:
    linear = linear_part(transform, path)
    if linear.dim != 3:
        raise InputError(f"{path}: this format holds 3-D matrices; write a 2-D one as .tfm or .h5")
    return linear


def _inverse(matrix: Float64[np.ndarray, "4 4"], path: Path) -> Float64[np.ndarray, "4 4"]:
    if abs(np.linalg.det(matrix)) < 1e-12:
        raise InputError(f"{path}: the matrix is singular and has no inverse; write it again")
    return np.asarray(np.linalg.inv(matrix))


def _write(matrix: Float64[np.ndarray, "4 4"], path: Path) -> None:
    lines = "".join("  ".join(f"{n:.12g}" for n in row) + "\n" for row in matrix)
    write_whole(path, lambda beside: _text(lines, beside))


def _text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
