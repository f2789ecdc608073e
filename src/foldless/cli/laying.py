"""How two images are laid on each other: what `pose` and `register` share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from foldless.cli.console import progress, say
from foldless.errors import InputError

if TYPE_CHECKING:
    from foldless.io import Volume
    from foldless.pose import Found, Freedom, Pose, Scan

Placement = Literal["anywhere", "world", "centre"]

POSES = ("pose.txt", "inverse_pose.txt")
EVIDENCE = ("score", "start", "runner_up", "chance", "clear", "mirrored", "overlap")
UNSURE = 0.8
"""Share of what the found pose says, from which on another one that says as much is told of."""


def check_kinds(moving: Volume, fixed: Volume) -> None:
    """Refuse two images of other dimensions.

    Raises:
        InputError: they are.
    """
    if moving.dim != fixed.dim:
        raise InputError(f"{moving.path} is {moving.dim}-D and {fixed.path} is {fixed.dim}-D; give two of one kind")


def scan_of(image: Volume, mask: Path | None) -> Scan:
    """An image, and of a mask on any lattice in its world what counts of it.

    Raises:
        InputError: the mask leaves nothing of it, or is of another dimension.
    """
    from foldless.pose import Scan

    return Scan(image, None if mask is None else _mask(mask, image))


def found_pose(
    moving: Scan, fixed: Scan, freedom: Freedom, placement: Placement = "anywhere", initial: str | None = None
) -> Found:
    """The pose of two scans: sought, or refined from where a placement or a file lays them.

    Raises:
        InputError: in the world they lie apart, or the file holds no affine map of their dimension.
    """
    from foldless.io.volumes import check_overlap
    from foldless.pose import Pose, find_pose, parts

    here = fixed.geometry.centre
    starts = {"world": here, "centre": moving.geometry.centre}
    start = None if placement == "anywhere" else Pose.laying(starts[placement], here)
    if placement == "world":
        check_overlap(moving.volume, fixed.volume)
    if initial is not None:
        start = initial_pose(initial, moving.volume, fixed.volume)
    with progress() as bar:
        task = bar.add_task("pose", total=parts(moving, fixed), news="")
        return find_pose(moving, fixed, freedom, start, lambda: bar.advance(task))


def initial_pose(word: str, moving: Volume, fixed: Volume) -> Pose:
    """The affine map in a file of any format, from fixed to moving world.

    Raises:
        InputError: it bends, mirrors, or is of another dimension.
    """
    from foldless.cli.transforms import affine_of
    from foldless.pose import pose_of

    return pose_of(affine_of(word, fixed.geometry, moving.geometry), fixed.geometry.centre)


def write_poses(pose: Pose, folder: Path) -> None:
    """The pose and its inverse as ITK reads them."""
    import SimpleITK as sitk  # noqa: N813

    from foldless.pose import as_itk

    for one, name in zip((pose, pose.inverse), POSES, strict=True):
        sitk.WriteTransform(as_itk(one), str(folder / name))  # type: ignore[no-untyped-call]


def pose_scores(found: Found) -> dict[str, float]:
    """What was found, as numbers."""
    pose = found.pose
    moved = {"degrees": pose.degrees, "shift_mm": pose.shift, "volume": pose.volume}
    return {**moved, **{name: getattr(found, name) for name in EVIDENCE}}


def pose_sentence(pose: Mapping[str, Any]) -> str:
    """What was found, and how sure that is."""
    random = f", {pose['chance']:.3f} at poses from all over" if pose["chance"] else ""
    second = f"; of the other poses the best says {pose['runner_up']:.0%} of that" if pose["runner_up"] else ""
    moved = f"turned by {pose['degrees']:.1f}°, FIXED's centre shifted by {pose['shift_mm']:.1f} mm"
    says = f"mutual information {pose['start']:.3f} at the start{random}, {pose['score']:.3f} there{second}"
    return f"{moved}, volumes times {pose['volume']:.3f}; {says}"


def _mask(path: Path, image: Volume) -> Volume:
    from foldless.io import read_beside, resampled

    mask = read_beside(path, image)
    if mask.dim != image.dim:
        raise InputError(f"the mask {path} is {mask.dim}-D, its image {image.path} {image.dim}-D")
    share = float((resampled(mask, image.geometry, order=0).array > 0).mean())
    if not share:
        raise InputError(f"the mask {path} leaves nothing of {image.path}: none of its voxels lies in it")
    say(f"{path}: {share:.1%} of {image.path} counts")
    return mask
