"""Whether a damaged file was read as what it is, or refused in one sentence; everything else is a fault."""

from __future__ import annotations

import gzip
import json
import logging
import re
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from tests.fuzz.valid import CASES

LONGEST_SENTENCE = 1500
CLOSE = 1e-5
"""Of the largest number: images are float32, and slopes are applied in float32 here and in float64 there."""

INSIDES = re.compile(r"0x[0-9a-f]{8,}|SimpleITK-build|Traceback")
"""What only a library's authors can read."""


class FaultError(Exception):
    """What came was neither right nor a refusal."""


def judged(kind: str, path: Path) -> str:
    """`read`, or `refused`.

    Raises:
        FaultError: something wrong came, or was said.
        Exception: what the reader let through.
    """
    from foldless.errors import InputError
    from foldless.io.findings import HeaderWarning

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            READERS[kind](path)
            outcome = "read"
        except InputError as error:
            _one_sentence(str(error))
            outcome = "refused"
    for one in said:
        if one.category not in (UserWarning, HeaderWarning):
            raise FaultError(f"{one.category.__name__}: {one.message}")
        _one_sentence(str(one.message))
    if outcome == "read" and kind in ("nifti", "nrrd", "mha", "png"):
        _looked_at(path)
    return outcome


def _looked_at(path: Path) -> None:
    """What is said of an image before anything is computed with it, if it is one."""
    from foldless.errors import InputError
    from foldless.io.preflight import looked_at

    try:
        findings = looked_at(path)[1]
    except InputError:  # it was read as labels
        return
    for finding in findings:
        _one_sentence(finding.text)


def _one_sentence(text: str) -> None:
    if not text.strip() or "\n" in text or len(text) > LONGEST_SENTENCE or INSIDES.search(text):
        raise FaultError(f"this is no sentence: {text[:400]!r}")


def _image(path: Path) -> None:
    """As an image and as labels; refused if both are."""
    from foldless.errors import InputError
    from foldless.io import read_volume
    from foldless.io.headers import header_shape

    shape = header_shape(path)
    refusals: list[InputError] = []
    for labels in (False, True):
        try:
            volume = read_volume(path, labels)
        except InputError as error:
            _one_sentence(str(error))
            refusals.append(error)
            continue
        array = volume.array
        if array.dtype != (np.int32 if labels else np.float32) or array.ndim not in (2, 3):
            raise FaultError(f"an array of {array.dtype} with {array.ndim} axes")
        if not np.isfinite(array).all() or array.shape != volume.geometry.shape:
            raise FaultError(f"numbers that are not finite, or the shape {array.shape} on {volume.geometry.shape}")
        if shape is None or [n for n in array.shape if n > 1] != [n for n in shape if n > 1]:
            raise FaultError(f"the header promised {shape}, and {array.shape} came")
        numbers = np.array([*volume.geometry.spacing, *volume.geometry.origin, *volume.geometry.direction])
        if not np.isfinite(numbers).all():
            raise FaultError(f"a place that is not finite: {volume.geometry}")
        _compare(path, array, labels)
    if len(refusals) == 2:
        raise refusals[0]


def _compare(path: Path, array: np.ndarray, labels: bool) -> None:
    """Beside nibabel, where it reads the file too and as many axes."""
    if ".nii" not in path.name:
        return
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            expected = np.asarray(_silently(path).dataobj).squeeze().T
    except (ValueError, OSError, EOFError, zlib.error, nib.filebasedimages.ImageFileError):
        return
    found = array.squeeze()
    if found.shape != expected.shape or expected.dtype.kind not in "iuf":
        return
    apart = float(np.abs(found - expected).max(initial=0))
    allowed = 0.5 if labels else CLOSE * max(float(np.abs(expected).max(initial=0)), 1e-30)
    if not apart <= allowed:
        raise FaultError(f"numbers that are {apart} off nibabel's")


def _silently(path: Path) -> Any:
    """By nibabel, which logs what it repairs."""
    logger = nib.imageglobals.logger
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        return nib.load(path)
    finally:
        logger.setLevel(level)


def _nifti(path: Path) -> None:
    if "warp" in path.name:
        _warp(path)
    else:
        _image(path)


def _warp(path: Path) -> None:
    from foldless.io import Geometry, read_warp

    on = Geometry((4, 3, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    field, geometry = read_warp(path, on)
    if field.shape != (*geometry.shape, geometry.dim) or not np.isfinite(field).all():
        raise FaultError(f"a field of shape {field.shape} on {geometry.shape}")
    _compare_warp(path, field)


def _compare_warp(path: Path, field: np.ndarray) -> None:
    """Beside nibabel, but for the signs, which an intent turns; ITK hides voxels that are missing or not finite."""
    if ".nii" not in path.name:
        return
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            stored = np.asarray(_silently(path).dataobj)
    except (ValueError, OSError, EOFError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        raise FaultError(f"a warp that nibabel cannot read: {error}") from error
    expected = np.moveaxis(stored, -1, 0).squeeze().T.reshape(field.shape)
    apart = float(np.abs(np.abs(field) - np.abs(expected)).max(initial=0))
    if not apart <= CLOSE * max(float(np.abs(expected).max(initial=0)), 1e-30):
        raise FaultError(f"displacements that are {apart} off nibabel's")


def _array(path: Path) -> None:
    from foldless.io import read_voxel_displacement

    field = read_voxel_displacement(path)
    if field.shape[0] != field.ndim - 1 or not field.size or not np.isfinite(field).all():
        raise FaultError(f"a displacement of shape {field.shape}")


def _model(path: Path) -> None:
    import torch

    from foldless.model import Model

    model = Model.load(path)
    dim, lattice = model.preparation.dim, model.preparation.lattice
    if dim == 2 and max(lattice) <= 16:  # what loads also runs
        image = torch.rand(1, 1, *lattice)
        with torch.no_grad():
            model.registration(image, image)


def _table(path: Path) -> None:
    from foldless.crossvalidation import read_groups, read_regions
    from foldless.data.oai import _read_sides

    readers: dict[str, Callable[[], dict[Any, Any]]] = {
        "groups.csv": lambda: read_groups(path, CASES),
        "regions.csv": lambda: read_regions(path),
        "sides.csv": lambda: _read_sides(path),
    }
    found = readers[path.name]()
    if any(not isinstance(value, str) or not value for value in found.values()):
        raise FaultError(f"cells that are no words: {found}")


def _record(path: Path) -> None:
    from foldless.cli.train import with_defaults_for_the_data
    from foldless.data.folder import split_names

    if path.name == "split.json":
        parts = split_names(path.parent, CASES)
        if set(parts) != {"train", "val", "test"} or not all(set(part) <= set(CASES) for part in parts.values()):
            raise FaultError(f"parts of a split that are none: {parts}")
        return
    settings = with_defaults_for_the_data(["train", "--config", str(path)])
    json.dumps(settings.recipe.as_dict())


def _transform(path: Path) -> None:
    """Of the format that the name begins with; what it does to points is finite, or refused."""
    from foldless.errors import InputError
    from foldless.io import read_transform, recognised
    from tests.fuzz.valid import spaces

    both, form = spaces(), path.name.partition(".")[0]
    found = read_transform(path, both, form)
    there = found(both.fixed.index_to_physical(np.array([[0.0, 0, 0], [2, 3, 1]])[:, : found.dim]))
    if found.dim != 3 or there.shape != (2, 3) or not np.isfinite(there).all():
        raise FaultError(f"points that go to {there}")
    for lattice in filter(None, (found.fixed, found.moving)):
        if not np.isfinite(lattice.corners).all() or min(lattice.size) < 1:
            raise FaultError(f"a lattice at {lattice}")
    try:
        recognised(path)
    except InputError as error:
        _one_sentence(str(error))


def _points(path: Path) -> None:
    """Read, written with the same points, and read again."""
    from foldless.io.points import read_points

    found = read_points(path)
    if found.points.shape[1] not in (2, 3) or not np.isfinite(found.points).all():
        raise FaultError(f"points of the shape {found.points.shape}")
    again = path.with_name(f"again-{path.name}")
    found.rewrite(found.points, again)
    if not np.allclose(read_points(again).points, found.points, rtol=1e-5):
        raise FaultError("other points when they are written and read again")


READERS: dict[str, Callable[[Path], None]] = {
    "nifti": _nifti,
    "nrrd": _image,
    "mha": _image,
    "png": _image,
    "h5": _warp,
    "npz": _array,
    "safetensors": _model,
    "csv": _table,
    "json": _record,
    "texts": _transform,
    "fields": _transform,
    "mgz": _transform,
    "arrays": _transform,
    "points": _points,
}


def unpacked(name: str, content: bytes) -> int:
    """Bytes that a file truly holds; those of a gzip stream once unpacked."""
    if not name.endswith("gz"):
        return len(content)
    try:
        return len(gzip.decompress(content))
    except (OSError, EOFError, zlib.error):
        return len(content)
