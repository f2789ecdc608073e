"""What is said of a folder of volumes before anything is computed, so that no file is passed over without a word."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np

from foldless.data.prepare import Preparation
from foldless.errors import InputError
from foldless.io import Geometry, Volume, describe_mismatch
from foldless.io.findings import in_mm

MOST_NAMED = 5
LARGER = 30
"""Nodes of a lattice for all, over voxels of the largest image, that only a header gone wrong asks for."""

BESIDE_IMAGES = (".json", ".txt", ".csv", ".tsv", ".md", ".xml", ".raw", ".zraw", ".hdr", ".bval", ".bvec")
"""Suffixes of what may lie beside images and is no image itself."""


def named(names: Sequence[str]) -> str:
    """Some names in a sentence, the rest of many left out."""
    return ", ".join(names[:MOST_NAMED]) + ", …" * (len(names) > MOST_NAMED)


def is_there(path: Path) -> bool:
    """Whether a file is there; a link to nowhere is not nothing.

    Raises:
        InputError: it is a link whose file is missing.
    """
    if path.is_symlink() and not path.exists():
        raise InputError(_broken(path.parent, [path.name]))
    return path.is_file()


def refuse_broken_links(folder: Path, paths: Iterable[Path]) -> None:
    """Make sure that links lead somewhere: those of git-annex and DataLad do only once files are fetched.

    Raises:
        InputError: some do not.
    """
    if broken := [path.name for path in paths if path.is_symlink() and not path.exists()]:
        raise InputError(_broken(folder, broken))


def _broken(folder: Path, names: Sequence[str]) -> str:
    return (
        f"{folder} holds {len(names)} links whose files are missing ({named(names)}); fetch the files (git annex get, "
        "datalad get), or delete the links to go on without them"
    )


def note_left_out(folder: Path, names: Sequence[str]) -> None:
    """Warn about files beside the images that may be meant as images, by whose names nobody can tell."""
    if odd := [name for name in names if not name.lower().endswith(BESIDE_IMAGES)]:
        warnings.warn(
            f"{folder}: {len(odd)} entries are left out, no images by their names ({named(odd)}); convert them to "
            ".nii.gz, for example, if they are cases",
            stacklevel=3,
        )


def note_nameless_labels(folder: Path, labels: Sequence[str]) -> None:
    """Warn that there are label maps, but none that bears the name of an image."""
    if labels:
        warnings.warn(
            f"{folder} holds {len(labels)} label maps ({named(labels)}), but none by the name of an image, so there is "
            "no Dice; name them as their images, or as nnU-Net (case for case_0000) or BIDS (_dseg for _T1w) does",
            stacklevel=3,
        )


def note_missing_labels(folder: Path, bare: Sequence[str], count: int) -> None:
    """Warn where some cases have labels and others have none."""
    if 0 < len(bare) < count:
        warnings.warn(
            f"{folder} lacks {len(bare)} of {count} cases ({named(bare)}): pairs with one of them have no Dice, and "
            "means are of the others",
            stacklevel=3,
        )


def refuse_outsized(volumes: Mapping[str, Volume], preparation: Preparation, padded: Sequence[int]) -> None:
    """Make sure that no image is so much larger than the rest that a lattice for all has no use.

    Args:
        volumes: the images that the lattice was laid for.
        preparation: it.
        padded: the lattice that the most voxels an axis would take.

    Raises:
        InputError: one is; named by its case.
    """
    if prod(preparation.lattice) <= LARGER * prod(padded):
        return
    extents = {name: np.array(v.geometry.size) * v.geometry.spacing for name, v in volumes.items()}
    typical = np.median(list(extents.values()), axis=0)
    name, extent = max(extents.items(), key=lambda item: float((item[1] / typical).max()))
    raise InputError(
        f"the case {name} measures {in_mm(extent)}, the median image {in_mm(typical)}, so that a lattice for all has "
        f"{' x '.join(map(str, preparation.lattice[::-1]))} nodes; repair the voxel size or the origin in the header "
        f"of {volumes[name].path} (micrometres that count as millimetres?), or leave it out"
    )


def refuse_far_off(volumes: Mapping[str, Volume], training: Sequence[str], lattice: Geometry) -> None:
    """Make sure that images which are placed in the world by their headers overlap there.

    Args:
        volumes: all images by case.
        training: the cases among them that the lattice holds.
        lattice: where the network looks.

    Raises:
        InputError: one lies off the others; named by its case.
    """
    known = {name: volumes[name].geometry for name in training}
    middle = np.median([geometry.centre for geometry in known.values()], axis=0)
    typical = min(known.values(), key=lambda geometry: float(np.linalg.norm(geometry.centre - middle)))
    for name, volume in volumes.items():
        if reason := describe_mismatch(volume.geometry, typical if name in known else lattice):
            raise InputError(
                f"the case {name} ({volume.path}) lies off the training images: {reason}; repair its header, leave it "
                "out, or place images by their centres (--placement centre)"
            )
