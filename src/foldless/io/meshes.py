"""VTK's legacy files and PLY, text or binary: their points are rows of numbers; every other byte stays as it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from foldless.errors import InputError
from foldless.io.files import write_whole

Array = Float64[np.ndarray, "count dim"]
Signs = Float64[np.ndarray, " dim"]

LPS, RAS = np.ones(3), np.array([-1.0, -1.0, 1.0])
SPACE = re.compile(rb"SPACE=(LPS|RAS)")
"""How 3D Slicer says in a header what points are."""
VTK_POINTS = re.compile(rb"^POINTS[ \t]+(\d+)[ \t]+(float|double)[ \t]*\r?\n", re.MULTILINE)
PLY_HEAD = re.compile(rb"ply\r?\nformat +(\w+) .*?^end_header\r?\n", re.MULTILINE | re.DOTALL)
PLY_VERTICES = re.compile(rb"^element +(\w+) +(\d+)\r?\n((?:(?:property|comment) .*\n)*)", re.MULTILINE)
NUMBERS = {
    b"char": "i1", b"uchar": "u1", b"short": "i2", b"ushort": "u2", b"int": "i4", b"uint": "u4", b"float": "f4",
    b"double": "f8", b"int8": "i1", b"uint8": "u1", b"int16": "i2", b"uint16": "u2", b"int32": "i4", b"uint32": "u4",
    b"float32": "f4", b"float64": "f8",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class PointFile:
    """Points (count, dim), LPS mm, and how the same file is written with others in their place."""

    points: Array
    rewrite: Callable[[Array, Path], None]


def read_vtk(path: Path, signs: Signs) -> PointFile:
    """The points of any legacy VTK file that lists them.

    Raises:
        InputError: it lists none as float or double.
        ValueError: it is damaged.
    """
    data = path.read_bytes()
    found = VTK_POINTS.search(data)
    if not data.startswith(b"# vtk DataFile") or found is None:
        raise InputError(f"{path} lists no POINTS of float or double; expected VTK's legacy format, save it as that")
    kind = ">f4" if found[2] == b"float" else ">f8"
    text = b"BINARY" not in data.split(b"\n", 3)[2].upper()
    return _rows(data, found.end(), int(found[1]), np.dtype([(name, kind) for name in "xyz"]), text, signs)


def read_ply(path: Path, signs: Signs) -> PointFile:
    """The vertices of a PLY file, which must come first in it.

    Raises:
        InputError: another element comes first, or x, y and z are whole numbers.
        ValueError: it is damaged.
    """
    data = path.read_bytes()
    head = PLY_HEAD.match(data)
    first = PLY_VERTICES.search(data, 0, head.end()) if head else None
    if head is None or first is None or first[1] != b"vertex":
        raise InputError(f"{path}: its vertices do not come first; expected PLY as most programs write it, save it so")
    lines = [line.split() for line in first[3].splitlines() if line.startswith(b"property")]
    order = ">" if head[1] == b"binary_big_endian" else "<"
    columns = np.dtype([(name.decode("latin-1"), order + NUMBERS[kind]) for _, kind, name in lines])
    if any(columns[name].kind != "f" for name in "xyz"):
        raise InputError(f"{path} has whole numbers for x, y and z; expected float or double, save it so")
    return _rows(data, head.end(), int(first[2]), columns, head[1] == b"ascii", signs)


def _rows(data: bytes, at: int, count: int, columns: np.dtype, text: bool, signs: Signs) -> PointFile:
    """Points in the columns x, y and z of rows that begin at a byte."""
    said = SPACE.search(data, 0, at)
    signs = signs if said is None else RAS if said[1] == b"RAS" else LPS
    return (_text_rows if text else _binary_rows)(data, at, count, columns, signs)


def _binary_rows(data: bytes, at: int, count: int, columns: np.dtype, signs: Signs) -> PointFile:
    rows = np.frombuffer(data, columns, count, at).copy() if count else np.empty(0, columns)
    points = np.stack([rows[name].astype(float) for name in "xyz"], -1)

    def rewrite(others: Array, path: Path) -> None:
        for name, column in zip("xyz", (others * signs).T, strict=True):
            rows[name] = column
        _write(data[:at] + rows.tobytes() + data[at + rows.nbytes :], path)

    return PointFile(points * signs, rewrite)


def _text_rows(data: bytes, at: int, count: int, columns: np.dtype, signs: Signs) -> PointFile:
    names = columns.names or ()
    total, places = count * len(names), [names.index(name) for name in "xyz"]
    words = data[at:].split(None, total)
    cells = np.array(words[:total], object).reshape(count, len(names))

    def rewrite(others: Array, path: Path) -> None:
        cells[:, places] = np.vectorize(lambda number: b"%.9g" % number, otypes=[object])(others * signs)
        _write(data[:at] + b"\n".join([*map(b" ".join, cells), *words[total:]]), path)

    return PointFile(cells[:, places].astype(float) * signs, rewrite)


def _write(data: bytes, path: Path) -> None:
    def fill(beside: Path) -> None:
        beside.write_bytes(data)

    write_whole(path, fill)
