"""OME-Zarr images: folders of chunks, read and written some at a time by the package zarr, an optional extra."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np

from foldless.errors import InputError, check_name
from foldless.io.geometry import Geometry

Kind = Literal["one", "vectors", "volumes"]
CHUNK = (16, 256, 256)
"""Voxels of a chunk that is written."""
MOST = 1 << 27
"""Bytes of the slices that are held until a layer of chunks is whole."""
MILLIMETRES = {
    "nanometer": 1e-6, "micrometer": 1e-3, "millimeter": 1.0, "centimeter": 10.0, "meter": 1000.0, None: 1.0,
}  # fmt: skip
LPS = {"x": "right-to-left", "y": "anterior-to-posterior", "z": "inferior-to-superior"}
DAMAGED = (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, NotImplementedError)


@dataclass(frozen=True, eq=False)
class Layer:
    """One channel of an array in chunks, (*shape), which is read where it is indexed."""

    array: Any
    before: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        dtype: np.dtype = np.dtype(self.array.dtype)
        return dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape[len(self.before) :])

    @property
    def size(self) -> int:
        return prod(self.shape)

    def __getitem__(self, box: slice | tuple[slice, ...]) -> np.ndarray:
        try:
            return np.asarray(self.array[(*self.before, *(box if isinstance(box, tuple) else (box,)))])
        except DAMAGED as error:
            raise InputError(f"{self.array.store_path}: a chunk is damaged; copy or write it again") from error

    def pieces(self) -> Iterator[np.ndarray]:
        """All of it, a chunk at a time."""
        steps = (self.array.shards or self.array.chunks)[len(self.before) :]
        for first in itertools.product(*(range(0, n, step) for n, step in zip(self.shape, steps, strict=True))):
            yield self[tuple(slice(at, at + step) for at, step in zip(first, steps, strict=True))]


class Layers(tuple[Layer, ...]):
    """Channels, as an array (channels, *shape) would have them."""

    @property
    def dtype(self) -> np.dtype:
        return self[0].dtype


def is_zarr(path: Path) -> bool:
    """Whether the name is of an OME-Zarr image."""
    return path.suffix.lower() == ".zarr"


def read_zarr(path: Path) -> tuple[Layers, Geometry, Kind, float]:
    """The finest image of an OME-Zarr folder: channels, lattice, what the channels are, and seconds between volumes.

    Its axes are x, y(, z) towards left, posterior and superior, as ITK and ngff-zarr take them.

    Raises:
        InputError: zarr is not installed, or this is no such image, or one that is oriented otherwise.
    """
    zarr = _zarr(path)
    check_name(path)
    if not path.is_dir():
        raise InputError(f"{path} does not exist, or is no folder; expected that of an OME-Zarr image")
    try:
        group = zarr.open_group(str(path), mode="r")
        said = group.attrs.asdict()
        image = said.get("ome", said)["multiscales"][0]
        array = group[image["datasets"][0]["path"]]
        return _described(array, image, path)
    except DAMAGED as error:
        raise InputError(f"{path} cannot be read as an OME-Zarr image; expected multiscales in its metadata") from error


def write_zarr(slabs: Iterator[np.ndarray], on: Geometry, path: Path, dtype: np.dtype, kind: Kind, step: float) -> None:
    """Write an image whose slices come slab by slab, (channels, depth, ...), whole or not at all.

    OME-Zarr 0.4 of one resolution; what was there is replaced if it is such an image.

    Raises:
        InputError: zarr is not installed, the lattice is oblique or flipped, or it cannot be written.
    """
    zarr = _zarr(path)
    check_name(path)
    if not np.allclose(on.cosines, np.eye(on.dim), atol=1e-6):
        raise InputError(f"{path}: OME-Zarr knows no directions, and the reference has some; give a name in .nii.gz")
    if path.exists():
        read_zarr(path)
    beside = path.with_name(f".{path.name}.new-{uuid4().hex[:8]}")
    try:
        _fill(zarr.open_group(str(beside), mode="w", zarr_format=2), slabs, on, dtype, kind, step)
        _take_place(beside, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _zarr(path: Path) -> Any:
    try:
        import zarr
    except ImportError as error:
        raise InputError(f"{path} takes the package zarr, which is not here; pip install 'foldless[zarr]'") from error
    return zarr


def _described(array: Any, image: dict[str, Any], path: Path) -> tuple[Layers, Geometry, Kind, float]:
    axes = image["axes"]
    names = "".join(axis["name"] for axis in axes)
    dim = len(names.lstrip("tc"))
    if names[-dim:] not in ("zyx", "yx") or len(array.shape) != len(names):
        raise InputError(f"{path} has the axes {names}; expected z, y, x or y, x, and channels or times before them")
    if any(LPS[axis["name"]] != _towards(axis) for axis in axes[-dim:]):
        raise InputError(f"{path} says that its axes go elsewhere than left, posterior, superior; turn it there")
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "iuf" or dtype == np.float16:
        raise InputError(f"{path} holds {dtype}; expected whole numbers, float32 or float64")
    scale, shift = _placed([*image["datasets"][0]["coordinateTransformations"], *_listed(image)], len(names))
    unit = np.array([MILLIMETRES[axis.get("unit")] for axis in axes[-dim:]])
    spacing, origin = (tuple((one[-dim:] * unit)[::-1].tolist()) for one in (scale, shift))
    lattice = Geometry(tuple(array.shape[::-1][:dim]), spacing, origin, tuple(np.eye(dim).ravel().tolist()))
    long = [name for name, n in zip(names[:-dim], array.shape, strict=False) if n > 1]
    if len(long) > 1:
        raise InputError(f"{path} has several channels and several times; save one of them by itself")
    layers = Layers(Layer(array, at) for at in np.ndindex(*array.shape[:-dim]))
    kind: Kind = "one" if not long else "vectors" if long == ["c"] else "volumes"
    return layers, lattice, kind, float(scale[names.index("t")]) if "t" in names else 1.0


def _towards(axis: dict[str, Any]) -> str:
    return str(axis.get("orientation", {}).get("value", LPS[axis["name"]]))


def _listed(image: dict[str, Any]) -> list[dict[str, Any]]:
    return list(image.get("coordinateTransformations", []))


def _placed(steps: list[dict[str, Any]], axes: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and translation of all axes, of scales and translations that follow each other."""
    scale, shift = np.ones(axes), np.zeros(axes)
    for one in steps:
        if one["type"] == "scale":
            scale, shift = scale * one["scale"], shift * one["scale"]
        else:
            shift = shift + one["translation"]
    return scale, shift


def _fill(group: Any, slabs: Iterator[np.ndarray], on: Geometry, dtype: np.dtype, kind: Kind, step: float) -> None:
    several = kind != "one"
    chunk = CHUNK[-on.dim :]
    depth = max(1, min(chunk[0], MOST // (prod(on.shape[1:]) * dtype.itemsize)))
    array, first = None, 0
    for block in _in_steps(slabs, depth):
        if array is None:
            before = (len(block),) if several else ()
            array = group.create_array(
                "0",
                shape=(*before, *on.shape),
                chunks=(*(1,) * len(before), *np.minimum((depth, *chunk[1:]), on.shape).tolist()),
                dtype=dtype,
                chunk_key_encoding={"name": "v2", "separator": "/"},
            )
        last = first + block.shape[1]
        if several:
            array[:, first:last] = block
        else:
            array[first:last] = block[0]
        first = last
    group.attrs["multiscales"] = [_said(on, kind, step)]


def _said(on: Geometry, kind: Kind, step: float) -> dict[str, Any]:
    axes: list[dict[str, str]] = [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"[-on.dim :]]
    before: list[float] = []
    if kind == "vectors":
        axes, before = [{"name": "c", "type": "channel"}, *axes], [1.0]
    if kind == "volumes":
        axes, before = [{"name": "t", "type": "time", "unit": "second"}, *axes], [step]
    moves = [
        {"type": "scale", "scale": [*before, *on.spacing[::-1]]},
        {"type": "translation", "translation": [*[0.0] * len(before), *on.origin[::-1]]},
    ]
    return {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": moves}]}


def _in_steps(slabs: Iterator[np.ndarray], depth: int) -> Iterator[np.ndarray]:
    """The same slices, so many at a time."""
    held: list[np.ndarray] = []
    for slab in slabs:
        held.append(slab)
        while sum(one.shape[1] for one in held) >= depth:
            whole = np.concatenate(held, 1)
            yield whole[:, :depth]
            held = [whole[:, depth:]]
    if sum(one.shape[1] for one in held):
        yield np.concatenate(held, 1)


def _take_place(beside: Path, path: Path) -> None:
    aside = path.with_name(f"{beside.name}-old")
    if path.exists():
        path.rename(aside)
    beside.rename(path)
    shutil.rmtree(aside, ignore_errors=True)
