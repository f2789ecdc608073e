"""FreeSurfer's .lta: one matrix that pushes, from the source (moving) to the destination (fixed), and both lattices."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from foldless.errors import InputError
from foldless.io.files import write_whole
from foldless.io.formats.frames import RAS, Spaces, linear_of, matrix_for
from foldless.io.formats.matrices import linear_part, text_of
from foldless.io.geometry import Geometry
from foldless.io.world import Transform

VOXELS, WORLD = 0, 1
LPS = np.diag([-1.0, -1.0, 1.0])


def read_lta(path: Path, spaces: Spaces) -> Transform:
    """A matrix from voxels to voxels or from RAS to RAS mm."""
    text = text_of(path)
    kind, block, infos = _found(text, path)
    matrix = np.array(block.split()[:16], float).reshape(4, 4)
    moving, fixed = (_geometry(info) for info in infos)
    moving, fixed = moving or spaces.moving, fixed or spaces.fixed
    if kind == VOXELS:
        if moving is None or fixed is None:
            raise InputError(
                f"{path} counts in voxels and does not say of which images: foldless convert has --fixed and --moving"
            )
        matrix = _ras(fixed) @ matrix @ np.linalg.inv(_ras(moving))
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        raise InputError(f"{path}: its matrix is singular or not finite; write it again")
    return Transform((linear_of(np.linalg.inv(matrix), RAS, None, None),), fixed, moving)


def write_lta(transform: Transform, on: Geometry | None, path: Path, spaces: Spaces) -> None:
    """RAS to RAS, with the lattices where they are known."""
    linear = linear_part(transform, path)
    if linear.dim != 3:
        raise InputError(f"{path}: .lta holds 3-D matrices; write a 2-D one as .tfm or .h5")
    rows = np.linalg.inv(matrix_for(linear, RAS, None, None))
    lines = [
        "type      = 1 # LINEAR_RAS_TO_RAS",
        "nxforms   = 1",
        "mean      = 0.0000 0.0000 0.0000",
        "sigma     = 1.0000",
    ]
    lines += ["1 4 4", *(" ".join(f"{n:.15e}" for n in row) for row in rows)]
    ends = (("src", spaces.moving or transform.moving), ("dst", spaces.fixed or transform.fixed))
    for name, geometry in ends:
        lines += [f"{name} volume info", *_info(geometry)]
    write_whole(path, lambda beside: _text("\n".join(lines) + "\n", beside))


def _found(text: str, path: Path) -> tuple[int, str, tuple[str, str]]:
    kind = re.search(r"^type\s*=\s*(\d+)", text, re.MULTILINE)
    block = re.search(r"^1 4 4\s*\n((?:[^\n]+\n){4})", text, re.MULTILINE)
    if kind is None or block is None or int(kind[1]) not in (VOXELS, WORLD):
        raise InputError(f"{path} holds no matrix from voxels to voxels or RAS to RAS; expected FreeSurfer's .lta")
    count = re.search(r"^nxforms\s*=\s*(\d+)", text, re.MULTILINE)
    if count and int(count[1]) != 1:
        raise InputError(f"{path} holds {count[1]} transforms; expected one, save the others by themselves")
    try:
        np.array(block[1].split(), float).reshape(16)
    except ValueError as error:
        raise InputError(f"{path} is damaged: no 4 x 4 numbers below `1 4 4`; copy or write it again") from error
    after = text[block.end() :]
    source, _, target = after.partition("dst volume info")
    return int(kind[1]), block[1], (source, target)


def _geometry(info: str) -> Geometry | None:
    """A lattice as FreeSurfer says it: RAS axes, and RAS of the voxel at half the size."""
    values = dict(re.findall(r"^(\w+)\s*=\s*([-+.\deE \t]+)", info, re.MULTILINE))
    if values.get("valid", "1").strip() != "1" or not {"volume", "voxelsize", "xras", "yras", "zras", "cras"} <= set(
        values
    ):
        return None
    try:
        size = np.array(values["volume"].split(), int)
        spacing, x, y, z, centre = (
            np.array(values[key].split(), float) for key in ("voxelsize", "xras", "yras", "zras", "cras")
        )
        return lattice_about(size, spacing, np.column_stack([x, y, z]), centre)
    except ValueError:
        return None


def lattice_about(size: np.ndarray, spacing: np.ndarray, cosines: np.ndarray, centre: np.ndarray) -> Geometry:
    """A lattice by its axes (columns) and the place of the voxel at half its size, both RAS.

    Raises:
        ValueError: these are no lattice.
    """
    if not spacing.min() > 0 or not np.isfinite([*spacing, *centre, *cosines.ravel()]).all():
        raise ValueError(f"voxels of {spacing} mm")
    origin = LPS @ (centre - cosines @ (spacing * size / 2))
    direction = (LPS @ cosines).ravel().tolist()
    return Geometry(tuple(size.tolist()), tuple(spacing.tolist()), tuple(origin.tolist()), tuple(direction))


def axes_and_centre(geometry: Geometry) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, " 3"]]:
    """What `lattice_about` takes of a lattice."""
    return LPS @ geometry.cosines, LPS @ geometry.index_to_physical(np.array(geometry.size) / 2)


def _info(geometry: Geometry | None) -> list[str]:
    if geometry is None:
        return ["valid = 0  # volume info invalid"]
    cosines, centre = axes_and_centre(geometry)
    rows = {"xras": cosines[:, 0], "yras": cosines[:, 1], "zras": cosines[:, 2], "cras": centre}
    lines = [
        "valid = 1  # volume info valid",
        "filename = image.nii.gz",
        "volume = " + " ".join(map(str, geometry.size)),
    ]
    lines += ["voxelsize = " + _line(geometry.spacing)]
    return lines + [f"{key}   = {_line(row)}" for key, row in rows.items()]


def _ras(geometry: Geometry) -> Float64[np.ndarray, "4 4"]:
    square = np.eye(4)
    square[:3, :3], square[:3, 3] = LPS @ geometry.matrix, LPS @ np.array(geometry.origin)
    return square


def _line(numbers: object) -> str:
    return " ".join(f"{n:.15e}" for n in np.asarray(numbers, float))


def _text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
