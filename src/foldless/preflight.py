"""What is odd about two images as a pair, before anything is computed with them."""

# mypy: untyped-calls-exclude="SimpleITK"

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import SimpleITK as sitk  # noqa: N813

from foldless.io import Geometry, Volume
from foldless.io.findings import Finding, in_mm
from foldless.io.pictures import is_picture, told
from foldless.io.preflight import is_lost
from foldless.io.volumes import describe_mismatch

TENFOLD = 10.0
"""Times the longer side of one image must be that of the other to be told of."""
SEEN = 0.5
"""Share of a body within the other's field of view, by the headers, below which it counts as cut.

Crops around an organ, laid corner on corner, see 0.54 and more of each other.
"""
PROBED = 48
"""Points along an axis, at most, by which such a share is found."""
LETTERS = ("RL", "AP", "IS")
"""Where the axes of LPS begin and where they lead."""

Laid = Literal["sought", "headers", "otherwise"]
"""Whether a pose is sought, images lie as their headers say, or as a model, their centres or a file do."""


def pair_findings(moving: Volume, fixed: Volume, laid: Laid = "sought") -> list[Finding]:
    """What is odd about two images of one dimension together, by their headers."""
    return [
        *_sizes_untold(moving, fixed),
        *_tenfold(moving, fixed),
        *_turned(moving, fixed),
        *(_apart(moving, fixed, laid) or _cut(moving, fixed, laid)),
    ]


def orientation(lattice: Geometry) -> str:
    """Where the index axes lead, by the letters of nibabel: RAS, LPS, ..."""
    steps = lattice.cosines
    ways = [lattice.order.index(axis) for axis in range(lattice.dim)]
    return "".join(LETTERS[way][int(steps[way, axis] > 0)] for axis, way in enumerate(ways))


def share_seen(image: Volume, by: Geometry) -> float:
    """The share of an image's body, what is brighter than Otsu's threshold, that lies in another's field of view."""
    array, own = image.array, image.geometry
    steps = tuple(max(1, -(-n // PROBED)) for n in array.shape)
    some = array[tuple(slice(None, None, step) for step in steps)]
    body = sitk.GetArrayFromImage(sitk.OtsuThreshold(sitk.GetImageFromArray(np.ascontiguousarray(some)), 0, 1)) > 0
    places = own.index_to_physical((np.argwhere(body) * steps)[:, ::-1].astype(float))
    index = by.physical_to_index(places)
    inside = (index >= -0.5) & (index <= np.array(by.size) - 0.5)
    return float(inside.all(1).mean()) if len(index) else 1.0


def _sizes_untold(*pair: Volume) -> Iterator[Finding]:
    """A picture without millimetres beside an image that has them."""
    known = [told(one.path, one.geometry.spacing) and not is_lost(one) for one in pair]
    if known[0] != known[1]:
        bare, other = pair if known[1] else pair[::-1]
        role = "moving" if bare is pair[0] else "fixed"
        yield Finding(
            "size untold",
            f"{bare.path} does not say how large its pixels are, and {other.path} does, {in_mm(other.geometry.spacing)}"
            f": foldless takes 1 mm; --{role}-spacing gives register and pose the right size, and other commands have "
            f"it of the {role}.nii.gz that register then writes",
        )


def _tenfold(*pair: Volume) -> Iterator[Finding]:
    sides = [np.array(one.geometry.size) * one.geometry.spacing for one in pair]
    longest = [float(one.max()) for one in sides]
    if max(longest) < TENFOLD * min(longest):
        return
    said = " and ".join(f"{one.path} measures {in_mm(side)}" for one, side in zip(pair, sides, strict=True))
    yield Finding(
        "extents",
        f"{said}, one {max(longest) / min(longest):.3g} times as long as the other; foldless takes both as they are: "
        "where they show the same, one header counts in another unit, or a picture's pixels are not what its tag says "
        "(--moving-spacing and --fixed-spacing give them to register and pose); correct it first",
    )


def _turned(moving: Volume, fixed: Volume) -> Iterator[Finding]:
    ways = orientation(moving.geometry), orientation(fixed.geometry)
    if ways[0] == ways[1]:
        return
    signs = [np.linalg.det(one.geometry.cosines) > 0 for one in (moving, fixed)]
    hands = ", of opposite handedness" if signs[0] != signs[1] else ""
    yield Finding(
        "orientation",
        f"{moving.path} is stored as {ways[0]} and {fixed.path} as {ways[1]}{hands}; foldless turns both to one "
        "orientation by their headers, and writes results as FIXED is stored: where a header is wrong, left and right "
        "or front and back are exchanged, so look at them in the result",
    )


def _apart(moving: Volume, fixed: Volume, laid: Laid) -> list[Finding]:
    reason = describe_mismatch(moving.geometry, fixed.geometry)
    if reason is None:
        return []
    does = {
        "sought": "foldless seeks a pose wherever they lie: see that it is right",
        "headers": "so they cannot be laid by their headers: leave out --placement world, and a pose is sought",
        "otherwise": "foldless does not lay them by their headers: see that they belong together",
    }[laid]
    return [Finding("overlap", f"{moving.path} and {fixed.path}: by their headers {reason}; {does}")]


def _cut(moving: Volume, fixed: Volume, laid: Laid) -> list[Finding]:
    """What one image shows of the other, where headers say and count."""
    if laid == "otherwise" or any(is_picture(one.path) or is_lost(one) for one in (moving, fixed)):
        return []
    seen = [share_seen(moving, fixed.geometry), share_seen(fixed, moving.geometry)]
    if min(seen) >= SEEN:
        return []
    return [
        Finding(
            "field of view",
            f"by the headers {fixed.path} shows {seen[0]:.0%} of what there is in {moving.path}, and the latter "
            f"{seen[1]:.0%} of the former; what only one of them shows counts nothing, and the map there follows what "
            "is near: trust it where both show the same, or take scans that show more of it",
        )
    ]
