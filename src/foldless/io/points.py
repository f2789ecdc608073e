"""Files of points: tables, 3D Slicer's markups, surfaces, TRK and TCK streamlines; in LPS mm once read."""

# mypy: untyped-calls-exclude="nibabel"

from __future__ import annotations

import csv
import io
import json
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import nibabel as nib
import numpy as np
from nibabel.streamlines.array_sequence import ArraySequence
from nibabel.streamlines.tractogram_file import DataError, HeaderError

from foldless.errors import InputError
from foldless.io.checks import existing_file
from foldless.io.files import write_whole
from foldless.io.meshes import LPS, RAS, Array, PointFile, Signs, read_ply, read_vtk

CANNOT_LOAD = (
    ValueError,
    LookupError,
    TypeError,
    OSError,
    EOFError,
    AttributeError,
    OverflowError,
    struct.error,
    csv.Error,
    ExpatError,
    HeaderError,
    DataError,
    nib.filebasedimages.ImageFileError,
)
"""What the libraries raise on damaged files."""
FARTHEST = 1e9
"""Millimetres within which streamlines lie."""
SUFFIXES = (".csv", ".fcsv", ".mrk.json", ".gii", ".vtk", ".ply", ".trk", ".tck")


def read_points(path: Path | str, ras: bool = False) -> PointFile:
    """The points of a file; all else in it is kept where it is written again.

    `.csv`: a header with columns x, y(, z), LPS mm, as ANTs takes them. `.vtk` (legacy) and `.ply` are LPS mm unless
    they say RAS, as 3D Slicer does. `.fcsv` and `.mrk.json` say what they are. `.gii`, `.trk` and `.tck` are RAS mm.

    Args:
        path: the file.
        ras: whether points are RAS where a `.csv`, `.vtk` or `.ply` does not say it.

    Raises:
        InputError: nothing is there, the format is not known, or the file is damaged.
    """
    path = existing_file(path, "point")
    signs = RAS if ras else LPS
    readers: dict[str, Callable[[Path], PointFile]] = {
        ".csv": lambda path: _csv(path, signs), ".vtk": lambda path: read_vtk(path, signs),
        ".ply": lambda path: read_ply(path, signs), ".fcsv": _fcsv, ".mrk.json": _markups, ".gii": _gifti,
        ".trk": _tracts, ".tck": _tracts,
    }  # fmt: skip
    end = end_of(path)
    if end is None:
        raise InputError(f"{path} is no file of points that is known; expected one of {', '.join(SUFFIXES)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # how nibabel guesses what headers lack
            found = readers[end](path)
    except CANNOT_LOAD as error:
        raise InputError(
            f"{path} cannot be read as {end}: its points are damaged or missing; write it again"
        ) from error
    if not len(found.points) or not np.isfinite(found.points).all():
        raise InputError(f"{path} holds no points, or points that are not finite; write it again")
    return found


def end_of(path: Path) -> str | None:
    """Which of `SUFFIXES` a name ends in."""
    return next((end for end in SUFFIXES[::-1] if path.name.lower().endswith(end)), None)


def _table(rows: list[list[str]], columns: list[int], first: int, signs: Signs) -> PointFile:
    """Points that stand in some columns of a table from row `first` on."""
    at = [k for k in range(first, len(rows)) if rows[k] and not rows[k][0].startswith("#")]
    points = np.array([[float(rows[k][column]) for column in columns] for k in at]).reshape(len(at), len(columns))

    def rewrite(others: Array, path: Path) -> None:
        changed = [list(row) for row in rows]
        for k, point in zip(at, others * signs, strict=True):
            for column, number in zip(columns, point, strict=True):
                changed[k][column] = f"{number:.9g}"
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(changed)
        _write(text.getvalue(), path)

    return PointFile(points * signs, rewrite)


def _csv(path: Path, signs: Signs) -> PointFile:
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    names = [name.strip().lower() for name in rows[0]]
    if not {"x", "y"} <= set(names):
        raise InputError(f"{path} has the columns {', '.join(rows[0])}; expected a first line that names x, y(, z)")
    columns = [names.index(name) for name in "xyz" if name in names]
    return _table(rows, columns, 1, signs[: len(columns)])


def _fcsv(path: Path) -> PointFile:
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    said = " ".join(" ".join(row) for row in rows if row and row[0].startswith("#")).lower()
    space = said.partition("coordinatesystem =")[2].split()[:1]
    return _table(rows, [1, 2, 3], 0, LPS if space in (["lps"], ["1"]) else RAS)


def _markups(path: Path) -> PointFile:
    whole = json.loads(path.read_text(encoding="utf-8"))
    where = [
        (point, LPS if str(one.get("coordinateSystem", "LPS")).upper() in ("LPS", "1") else RAS)
        for one in whole["markups"]
        for point in one["controlPoints"]
    ]

    def rewrite(others: Array, path: Path) -> None:
        for (point, signs), other in zip(where, others, strict=True):
            point["position"] = (other * signs).tolist()
        _write(json.dumps(whole, indent=2), path)

    return PointFile(np.array([np.array(p["position"], float) * s for p, s in where]).reshape(-1, 3), rewrite)


def _gifti(path: Path) -> PointFile:
    surface: Any = nib.load(path)
    (array,) = surface.get_arrays_from_intent("NIFTI_INTENT_POINTSET")

    def rewrite(others: Array, path: Path) -> None:
        array.data = (others * RAS).astype(np.float32)
        write_whole(path, lambda beside: nib.save(surface, beside))

    return PointFile(np.array(array.data, float) * RAS, rewrite)


def _tracts(path: Path) -> PointFile:
    file: Any = nib.streamlines.load(io.BytesIO(path.read_bytes()))  # which gives what it has, whatever is asked for
    affine = np.asarray(file.header.get("voxel_to_rasmm", np.eye(4)))
    if not np.allclose(affine[-1], [0, 0, 0, 1]) or not np.abs(affine).max() < FARTHEST:
        raise ValueError(f"an affine that is none: {affine}")
    lines = file.tractogram.streamlines
    ends = np.cumsum([len(line) for line in lines])[:-1]

    def rewrite(others: Array, path: Path) -> None:
        tractogram: Any = file.tractogram.copy()
        tractogram._streamlines = ArraySequence(np.split((others * RAS).astype(np.float32), ends))
        made = type(file)(tractogram, header=file.header)
        write_whole(path, lambda beside: made.save(str(beside)))

    return PointFile(np.concatenate([np.asarray(line, float) for line in lines]) * RAS, rewrite)


def _write(text: str, path: Path) -> None:
    def fill(beside: Path) -> None:
        beside.write_text(text, encoding="utf-8")

    write_whole(path, fill)
