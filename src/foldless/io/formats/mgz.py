"""FreeSurfer's and SynthMorph's .mgz warps: numbers on the fixed lattice; tags behind them say what they are."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NoReturn

import numpy as np

from foldless.errors import InputError
from foldless.io.checks import straightened
from foldless.io.files import suffix, write_packed
from foldless.io.formats.fields import check_length, checked
from foldless.io.formats.frames import RAS, VOXELS, Frame, Spaces, numbers_for, parts_of, positions
from foldless.io.formats.lta import axes_and_centre, lattice_about
from foldless.io.geometry import Geometry
from foldless.io.world import Transform

PLACE = [("size", ">i4", 3), ("spacing", ">f4", 3), ("axes", ">f4", (3, 3)), ("centre", ">f4", 3)]
HEAD = np.dtype(
    [
        ("version", ">i4"),
        ("size", ">i4", 3),
        ("frames", ">i4"),
        ("type", ">i4"),
        ("freedom", ">i4"),
        ("valid", ">i2"),
        *PLACE[1:],
        ("spare", "V194"),
    ]
)
"""What comes before the numbers; the axes are rows."""
LATTICE = np.dtype([("valid", ">i4"), *PLACE, ("name", "S512")])
META = np.dtype([("kind", ">i4"), ("step", ">i4"), ("k", ">f4")])
SCAN = 20
"""Bytes between numbers and tags."""
TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
FLOAT = 3
WARP = 3
"""The intent, which stands above the version."""
LATTICES_TAG, META_TAG = 10, 13
WITHOUT_LENGTH = (1, 2, 10, 11, 12, 20)
MOST_TAGS = 1 << 20
KINDS: dict[int, tuple[Frame, bool]] = {0: (VOXELS, True), 1: (VOXELS, False), 2: (RAS, True), 3: (RAS, False)}
"""Where the numbers count, and whether they are positions."""


def read_mgz(path: Path, spaces: Spaces) -> Transform:
    """Displacements or positions in voxels or RAS mm, as the file says."""
    numbers, fixed, moving, kind = _read(path)
    moving = moving or spaces.moving
    frame, absolute = KINDS[kind]
    if frame.needs and moving is None:
        raise InputError(f"{path} counts in voxels of an image that it does not describe; give it with --moving")
    shifts = checked(numbers, path).astype(np.float64) - (positions(frame, fixed) if absolute else 0.0)
    return Transform(parts_of(shifts, frame, fixed, moving), fixed, moving)


def write_mgz(transform: Transform, on: Geometry, path: Path, spaces: Spaces) -> None:
    """Displacements in RAS mm."""
    if spaces.moving is None:
        raise InputError(f"{path}: FreeSurfer's warps describe both images; give the moving one too")
    numbers = numbers_for(transform, RAS, on, spaces.moving)
    head = np.zeros((), HEAD)
    head["version"], head["frames"], head["type"] = WARP << 8 | 1, 3, FLOAT
    _place(head, on)
    both = np.zeros(2, LATTICE)
    for one, geometry in zip(both, (spaces.moving, on), strict=True):
        _place(one, geometry)
    tags = (_tag(LATTICES_TAG), both.tobytes(), _tag(META_TAG, META.itemsize), np.array((3, 1, 0), META).tobytes())
    voxels = np.ascontiguousarray(np.moveaxis(numbers, -1, 0), ">f4")
    write_packed(path, lambda plain: _write(plain, head.tobytes(), voxels.tobytes(), bytes(SCAN), *tags))


def _read(path: Path) -> tuple[np.ndarray, Geometry, Geometry | None, int]:
    """Numbers (*shape, 3), the two lattices, and the kind of numbers."""
    with gzip.open(path) if suffix(path) == ".mgz" else path.open("rb") as file:
        head = np.frombuffer(file.read(HEAD.itemsize), HEAD, 1)[0]
        intent = int(head["version"]) >> 8
        if intent != WARP or head["frames"] != 3:
            _refuse(path, f"has {head['frames']} frames and the intent {intent}")
        kind = np.dtype(TYPES[int(head["type"])]) if int(head["type"]) in TYPES else _refuse(path, "is of another type")
        size = tuple(int(n) for n in head["size"])
        if min(size) < 1:
            _refuse(path, f"has the size {size}")
        count = 3 * int(np.prod(size, dtype=object))
        check_length(path, count * kind.itemsize)
        numbers = np.frombuffer(file.read(count * kind.itemsize), kind, count).reshape(3, *size[::-1])
        file.read(SCAN)
        lattices, meta = _tags(file.read(MOST_TAGS))
    if lattices is None or meta is None or int(meta["kind"]) not in KINDS or not head["valid"]:
        _refuse(path, "does not say what its numbers mean, or where they lie")
    if lattices[1]["valid"] and tuple(lattices[1]["size"]) != size:
        _refuse(path, f"lies on a part of its lattice only, {size} of {tuple(lattices[1]['size'].tolist())}")
    moving = _lattice(lattices[0], path) if lattices[0]["valid"] else None
    return np.moveaxis(numbers, 0, -1), _lattice(head, path), moving, int(meta["kind"])


def _refuse(path: Path, why: str) -> NoReturn:
    raise InputError(f"{path} {why}; expected a warp of FreeSurfer's, three frames with the intent {WARP}")


def _tags(data: bytes) -> tuple[np.ndarray | None, np.void | None]:
    """The two lattices and the meaning of the numbers, of tags that follow each other."""
    lattices, meta, at = None, None, 0
    while at + 12 <= len(data) and meta is None:
        tag = int.from_bytes(data[at : at + 4], "big")
        bare = tag in WITHOUT_LENGTH
        length = 0 if bare else int.from_bytes(data[at + 4 : at + 12], "big")
        at += 4 if bare else 12
        if tag == LATTICES_TAG:
            lattices, length = np.frombuffer(data, LATTICE, 2, at), 2 * LATTICE.itemsize
        elif tag == META_TAG:
            meta = np.frombuffer(data, META, 1, at)[0]
        at += length
    return lattices, meta


def _lattice(said: np.void, path: Path) -> Geometry:
    cosines = straightened(said["axes"].T.astype(np.float64), path)
    return lattice_about(said["size"], said["spacing"].astype(float), cosines, said["centre"].astype(float))


def _place(said: np.ndarray | np.void, geometry: Geometry) -> None:
    axes, centre = axes_and_centre(geometry)
    for name, value in (("valid", 1), ("size", geometry.size), ("spacing", geometry.spacing), ("axes", axes.T)):
        said[name] = value
    said["centre"] = centre


def _tag(number: int, length: int | None = None) -> bytes:
    return number.to_bytes(4, "big") + (b"" if length is None else length.to_bytes(8, "big"))


def _write(path: Path, *pieces: bytes) -> None:
    path.write_bytes(b"".join(pieces))
