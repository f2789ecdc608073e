"""A folder of volumes: `images/`, optional `labels/` under the same names, optional `split.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from foldless.data.checks import (
    is_there,
    note_left_out,
    note_missing_labels,
    note_nameless_labels,
    refuse_broken_links,
    refuse_far_off,
    refuse_outsized,
)
from foldless.data.images import ImageSet, Split
from foldless.data.prepare import Placement, Preparation
from foldless.errors import InputError, check_name
from foldless.io import Geometry, Volume, on_lattice_of, read_volume, reoriented
from foldless.io.headers import header_shape

VALIDATION_SHARE, TEST_SHARE = 0.05, 0.15
FEWEST_TO_SPLIT = 6
MULTIPLE = 16
SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".img", ".png", ".jpg", ".jpeg", ".tif", ".tiff")


def case_names(folder: Path) -> dict[str, Path]:
    """Case name -> image file, in natural order (case_2 before case_10).

    Raises:
        InputError: there is no `images/` in the folder, nothing in it that can be read, or a link to nowhere.
    """
    if not folder.is_dir():
        raise InputError(f"the data folder {folder} does not exist")
    images = folder / "images"
    if not images.is_dir():
        raise InputError(f"{folder} has no folder images/; put the volumes there, labels of the same names in labels/")
    entries = [path for path in sorted(images.iterdir()) if not path.name.startswith(".")]
    refuse_broken_links(images, entries)
    for path in entries:
        check_name(path)
    files: dict[str, Path] = {}
    for path in entries:
        if not _is_image(path):
            continue
        if (name := _stem(path)) in files:
            raise InputError(f"{images} holds {files[name].name} and {path.name}, two images of one name; keep one")
        files[name] = path
    note_left_out(images, [path.name for path in entries if not _is_image(path)])
    if not files:
        raise InputError(f"{images} holds no image ({', '.join(SUFFIXES)})")
    labels = folder / "labels"
    if labels.is_dir() and not any(label_file(folder, path) for path in files.values()):
        note_nameless_labels(labels, [path.name for path in sorted(labels.iterdir()) if _is_image(path)])
    return dict(sorted(files.items(), key=lambda item: _natural(item[0])))


def largest_lattice(folder: Path) -> tuple[int, ...] | None:
    """The most voxels an axis among the images, array order, from their headers alone; None if they tell nothing."""
    shapes = {shape for path in case_names(folder).values() if (shape := header_shape(path)) is not None}
    return tuple(map(max, zip(*shapes, strict=True))) if len({len(shape) for shape in shapes}) == 1 else None


def split_names(folder: Path, names: Iterable[str]) -> dict[str, list[str]]:
    """The cases of `train`, `val` and `test`: as split.json says, else by blocks of the natural order.

    Neighbours in that order are often two scans of one subject, so the last 15 % are for testing and the 5 % before
    them for validation, two at least, never a random draw. Fewer than six cases serve as all three parts.

    Raises:
        InputError: split.json is malformed or names a case that is not there; a single image.
    """
    names = list(names)
    if len(names) < 2:
        raise InputError(f"{folder / 'images'} holds one image only; registration learns from pairs, so add more")
    file = folder / "split.json"
    if is_there(file):
        return _read_split(file, set(names))
    if len(names) < FEWEST_TO_SPLIT:
        return {"train": names, "val": names, "test": names}
    val, test = (max(2, round(share * len(names))) for share in (VALIDATION_SHARE, TEST_SHARE))
    train = len(names) - test - val
    return {"train": names[:train], "val": names[train : train + val], "test": names[train + val :]}


def fitting_preparation(geometries: Iterable[Geometry], percentiles: tuple[float, float] = (1.0, 99.0)) -> Preparation:
    """A lattice that holds every training image at their median spacing, each axis a multiple of 16.

    Images are laid centre on centre, so those on one and the same grid keep their place relative to each other.
    """
    known = list(geometries)
    first = known[0]
    spacing = tuple(float(np.median([g.spacing[axis] for g in known])) for axis in range(first.dim))[::-1]
    extent = [
        max(round((g.shape[axis] - 1) * g.spacing[::-1][axis] / spacing[axis]) + 1 for g in known)
        for axis in range(first.dim)
    ]
    return Preparation(padded(extent), spacing, "centre", percentiles=percentiles)


def padded(lattice: Iterable[int]) -> tuple[int, ...]:
    """The next lattice that networks halve without a rest, each axis a multiple of 16."""
    return tuple(-(-n // MULTIPLE) * MULTIPLE for n in lattice)


def world_preparation(geometries: Iterable[Geometry], percentiles: tuple[float, float] = (1.0, 99.0)) -> Preparation:
    """A lattice in scanner space that holds every training image, for cohorts whose headers agree."""
    known = list(geometries)
    fitting = fitting_preparation(known, percentiles)
    corners = np.array([g.corners for g in known])
    low, high = corners.min((0, 1)), corners.max((0, 1))
    lattice = padded(
        int(np.ceil(length / s - 1e-6)) + 1 for length, s in zip((high - low)[::-1], fitting.spacing, strict=True)
    )
    middle = (low + high) / 2
    half = np.array([(n - 1) * s / 2 for n, s in zip(lattice, fitting.spacing, strict=True)])[::-1]
    return replace(fitting, lattice=lattice, placement="world", origin=tuple((middle - half).tolist()))


def read_images(folder: Path, files: dict[str, Path]) -> dict[str, Volume]:
    """The image of every case, in the common orientation.

    Raises:
        InputError: an image is unusable, or of another dimension than the rest.
    """
    volumes = {name: reoriented(read_volume(path)) for name, path in files.items()}
    dims = {volume.dim for volume in volumes.values()}
    if len(dims) > 1:
        odd = next(name for name, volume in volumes.items() if volume.dim == min(dims))
        raise InputError(f"{folder} mixes {sorted(dims)}-dimensional images ({odd} has {min(dims)}); use one kind")
    return volumes


def image_set(folder: Path, volumes: dict[str, Volume], preparation: Preparation) -> ImageSet:
    """The cases prepared for a network, with the labels that are there; without its own, a case is background alone."""
    images = torch.stack([torch.from_numpy(preparation.image(v)[0])[None] for v in volumes.values()])
    return ImageSet(images, tuple(volumes), preparation.spacing, _read_labels(folder, volumes, preparation))


def folder_split(
    folder: Path,
    placement: Placement = "centre",
    percentiles: tuple[float, float] = (1.0, 99.0),
    parts: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Split, Preparation]:
    """Everything `foldless train` needs of a folder: the prepared images in their three parts, and how it was done.

    `parts` names the cases of train, val and test; otherwise `split_names` does. Parts of the same cases share them.
    """
    files = case_names(folder)
    parts = parts or split_names(folder, files)
    used = {name for names in parts.values() for name in names}
    volumes = read_images(folder, {name: path for name, path in files.items() if name in used})
    lay = {"centre": fitting_preparation, "world": world_preparation}[placement]
    training = {name: volumes[name] for name in parts["train"]}
    preparation = lay((volume.geometry for volume in training.values()), percentiles)
    if placement == "world":
        refuse_far_off(volumes, parts["train"], preparation.geometry(next(iter(volumes.values())).geometry))
    shapes = [volume.geometry.shape for volume in training.values()]
    refuse_outsized(training, preparation, padded(map(max, zip(*shapes, strict=True))))
    bare = [name for name, volume in volumes.items() if label_file(folder, volume.path) is None]
    note_missing_labels(folder / "labels", bare, len(volumes))
    chosen = {part: tuple(parts[part]) for part in ("train", "val", "test")}
    sets = {
        names: image_set(folder, {name: volumes[name] for name in names}, preparation)
        for names in dict.fromkeys(chosen.values())
    }
    return Split(**{part: sets[names] for part, names in chosen.items()}), preparation


def label_file(folder: Path, image: Path) -> Path | None:
    """The label map of an image under `labels/`: of the same case name, or of the one that nnU-Net or BIDS gives it.

    nnU-Net's labels of case_0000 are case, BIDS' of sub-1_T1w are sub-1_dseg.

    Raises:
        InputError: it is a link to nowhere.
    """
    folder, name = folder / "labels", _stem(image)
    names = [name, re.sub(r"_\d{4}$", "", name), f"{name}_dseg"]
    if name.startswith("sub-"):
        names.append(re.sub(r"_[A-Za-z0-9]+$", "_dseg", name))
    files = (folder / (some + suffix) for some in dict.fromkeys(names) for suffix in SUFFIXES)
    return next((path for path in (folder / image.name, *files) if is_there(path)), None)


def _read_labels(folder: Path, volumes: dict[str, Volume], preparation: Preparation) -> torch.Tensor | None:
    files = [label_file(folder, volume.path) for volume in volumes.values()]
    if not any(files):
        return None
    arrays = [
        np.zeros(preparation.lattice, np.int32)
        if file is None
        else preparation.labels(on_lattice_of(volume, read_volume(file, labels=True)))
        for file, volume in zip(files, volumes.values(), strict=True)
    ]
    return torch.from_numpy(np.stack(arrays))


def _read_split(file: Path, names: set[str]) -> dict[str, list[str]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        split = {part: [str(name) for name in _list_of(content, part)] for part in ("train", "val", "test")}
    except (ValueError, OSError) as error:
        raise InputError(f'{file} must hold {{"train": [], "val": [], "test": []}} with case names; {error}') from error
    for part, cases in split.items():
        if missing := [name for name in cases if name not in names]:
            raise InputError(f"{file} names {missing[0]} under {part}, but images/ has no such case")
        if len(set(cases)) < len(cases):
            raise InputError(f"{file} names a case under {part} twice; name every case once")
    for part in ("val", "test"):
        if both := sorted(set(split["train"]) & set(split[part])):
            raise InputError(f"{file} names {both[0]} under train and under {part}; what judges must be unseen")
    if len(split["train"]) < 2:
        raise InputError(
            f"{file} names {len(split['train'])} under train; registration learns from pairs, so two at least"
        )
    for part in ("val", "test"):
        if len(split[part]) == 1:
            raise InputError(f"{file} names one case under {part}; pairs are judged, so name two at least, or none")
    return {**split, "val": split["val"] or split["train"], "test": split["test"] or split["val"] or split["train"]}


def _list_of(content: object, part: str) -> list[object]:
    names = content.get(part, []) if isinstance(content, dict) else None
    if not isinstance(names, list):
        raise ValueError(f"{part} is not a list of names")
    return names


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def _stem(path: Path) -> str:
    name = path.name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]
