"""What is checked of every file: that it is there, that its axes are at right angles, that its numbers are finite."""

# mypy: untyped-calls-exclude="SimpleITK"

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from jaxtyping import Float64

from foldless.errors import InputError, check_name
from foldless.io.findings import warn

ORTHONORMAL = 1e-4
"""Direction cosines this far off orthonormal are taken as they are: 0.03 mm across a head."""

REPAIRABLE = 1e-2
"""Direction cosines up to this far off orthonormal are straightened, with a warning; further off, refused."""


def existing_file(path: Path | str, kind: str) -> Path:
    """The path, if a file is there.

    Raises:
        InputError: nothing is there, or a folder, or its name is no text.
    """
    path = Path(path)
    check_name(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, but one {kind} file was expected; name the file itself")
    if not path.exists():
        raise InputError(f"{path} does not exist; check the name of the {kind} file")
    return path


def straightened(direction: np.ndarray, path: Path) -> Float64[np.ndarray, "dim dim"]:
    """The orthonormal matrix nearest to a direction (dim * dim cosines), if that is near enough.

    Raises:
        InputError: some cosine is more than `REPAIRABLE` away from the orthonormal one.
    """
    dim = round(direction.size**0.5)
    cosines = direction.reshape(dim, dim).astype(np.float64)
    sane = bool((np.abs(cosines) <= 2).all())  # LAPACK does not come back from some numbers beyond
    left, _, right = np.linalg.svd(cosines if sane else np.zeros_like(cosines))
    nearest: np.ndarray = left @ right
    off = float(np.abs(nearest - cosines).max())
    if not off <= REPAIRABLE:
        raise InputError(
            f"{path}: the axes of an image must be at right angles, but its header's direction cosines are {off:.2g} "
            f"off (at most {REPAIRABLE:g} can be repaired); resample the image onto an unsheared lattice first"
        )
    if off <= ORTHONORMAL:
        return cosines
    warn(
        "sheared axes",
        f"{path}: the header's direction cosines are {off:.1g} off orthonormal; straightened them, which moves what "
        f"lies 100 mm from the first voxel by up to {100 * off:.2g} mm: if that counts, resample the image onto "
        "unsheared axes",
        stacklevel=4,
    )
    return nearest


def check_finite(voxels: np.ndarray, path: Path) -> None:
    """Refuse voxels that are not finite in float32.

    Raises:
        InputError: some are not.
    """
    with np.errstate(over="ignore"):
        bad = voxels.size - int(np.isfinite(voxels.astype(np.float32)).sum()) if voxels.dtype.kind != "c" else 0
    if bad:
        raise InputError(
            f"{path} holds {bad} voxels that are NaN, infinite or beyond float32; expected finite numbers, "
            "replace them (by 0 in the background, for example)"
        )


def check_placed(image: sitk.Image, path: Path) -> None:
    """Refuse an image of which nobody can tell where it lies.

    Raises:
        InputError: its origin, spacing or direction is not finite.
    """
    if not np.isfinite([*image.GetOrigin(), *image.GetSpacing(), *image.GetDirection()]).all():
        raise InputError(
            f"{path}: the header says that the image lies at {image.GetOrigin()} in steps of {image.GetSpacing()} mm; "
            "expected finite numbers, write the header anew"
        )
