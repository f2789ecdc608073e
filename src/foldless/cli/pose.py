"""`foldless pose`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from foldless.cli.console import progress, say, shell
from foldless.cli.outputs import results_in
from foldless.errors import InputError

if TYPE_CHECKING:
    from foldless.io import Volume
    from foldless.pose import Found, Scan

UNSURE = 0.8
"""Share of what the found pose says, from which on another one that says as much is told of."""


@dataclass(frozen=True)
class FindPose:
    """Find how MOVING lies to FIXED, rigidly, wherever both are and however they are turned, whatever their contrasts.

    For scans as they come from the scanner: hundreds of turns with all shifts are tried, the best are refined by
    normalised mutual information of what both show. What only one of them shows counts nothing. Some ten seconds. What
    is found opens in ANTs, SimpleITK and 3D Slicer, and `foldless compose` puts it before a warp.
    """

    moving: Annotated[Positional[Path], arg(metavar="MOVING")]
    """The image to lay: NIfTI, NRRD, MHA, PNG, ...; any orientation, spacing and field of view."""
    fixed: Annotated[Positional[Path], arg(metavar="FIXED")]
    """The image to lay it on."""
    output: Path
    """Folder for pose.txt (which pulls MOVING onto FIXED's lattice), inverse_pose.txt, warped.nii.gz, metrics.json and
    run.json and, if rigid, laid.nii.gz: MOVING's own voxels under a header that lays them on FIXED."""
    transform: Literal["rigid", "similarity", "affine"] = "rigid"
    """rigid: turns and shifts, for one body twice; similarity: one scale too; affine: shears too, for two bodies."""
    start: Literal["anywhere", "world", "centre"] = "anywhere"
    """anywhere: all turns and shifts; world: where the headers say; centre: centre on centre, both without a search."""
    moving_mask: Path | None = None
    """What of the moving image counts, above 0; on any lattice in its world."""
    fixed_mask: Path | None = None
    """What of the fixed image counts."""
    overwrite: bool = False
    """Replace an earlier result at --output."""

    def run(self) -> None:
        inputs = [path for path in (self.moving, self.fixed, self.moving_mask, self.fixed_mask) if path is not None]
        with results_in(self.output, "pose", self.overwrite, inputs) as folder:
            metrics = self._into(folder, inputs)
        say(_sentence(metrics))
        if metrics["runner_up"] > UNSURE:
            say("look at warped.nii.gz: another pose is nearly as likely")
        warped = shell("foldless", "apply", self.output / "pose.txt", self.moving, "--reference", self.fixed)
        say(f"Written to {self.output}. To carry other images: {warped} --output CARRIED.nii.gz")

    def _into(self, folder: Path, inputs: list[Path]) -> dict[str, Any]:
        """Fill the folder; the scores."""
        import SimpleITK as sitk  # noqa: N813

        from foldless.io import read_volume, write_volume
        from foldless.io.volumes import check_overlap, through
        from foldless.machine import CPU
        from foldless.pose import Scan, as_itk, laid
        from foldless.record import FILE, file_digest, run_record, write_json

        moving, fixed = read_volume(self.moving), read_volume(self.fixed)
        if moving.dim != fixed.dim:
            raise InputError(f"{moving.path} is {moving.dim}-D and {fixed.path} is {fixed.dim}-D; give two of one kind")
        if self.start == "world":
            check_overlap(moving, fixed)
        found = self._found(Scan(moving, _mask(self.moving_mask, moving)), Scan(fixed, _mask(self.fixed_mask, fixed)))
        for pose, name in ((found.pose, "pose.txt"), (found.pose.inverse, "inverse_pose.txt")):
            sitk.WriteTransform(as_itk(pose), str(folder / name))  # type: ignore[no-untyped-call]
        warped = through(as_itk(found.pose), moving, fixed.geometry, order=1)
        write_volume(warped.array, fixed.geometry, folder / "warped.nii.gz")
        if self.transform == "rigid":
            moved = laid(moving, found.pose)
            write_volume(moved.array, moved.geometry, folder / "laid.nii.gz")
        metrics = {
            "degrees": found.pose.degrees,
            "shift_mm": found.pose.shift,
            "volume": found.pose.volume,
            **{name: getattr(found, name) for name in ("score", "start", "runner_up", "chance")},
        }
        write_json(metrics, folder / "metrics.json")
        digests = {str(path): file_digest(path) for path in inputs}
        write_json(run_record("pose", asdict(self), digests, CPU), folder / FILE)
        return metrics

    def _found(self, moving: Scan, fixed: Scan) -> Found:
        from foldless.pose import Pose, find_pose, parts

        here = fixed.geometry.centre
        starts = {"world": here, "centre": moving.geometry.centre}
        initial = None if self.start == "anywhere" else Pose.laying(starts[self.start], here)
        with progress() as bar:
            task = bar.add_task("pose", total=parts(moving, fixed), news="")
            return find_pose(moving, fixed, self.transform, initial, lambda: bar.advance(task))


def _mask(path: Path | None, image: Volume) -> Volume | None:
    """A mask in the world of its image.

    Raises:
        InputError: it counts nothing, or is of another dimension.
    """
    if path is None:
        return None

    from foldless.io import read_volume, resampled

    mask = read_volume(path, labels=True)
    if mask.dim != image.dim:
        raise InputError(f"the mask {path} is {mask.dim}-D, its image {image.path} {image.dim}-D")
    share = float((resampled(mask, image.geometry, order=0).array > 0).mean())
    if not share:
        raise InputError(f"the mask {path} leaves nothing of {image.path}: none of its voxels lies in it")
    say(f"{path}: {share:.1%} of {image.path} counts")
    return mask


def _sentence(pose: dict[str, Any]) -> str:
    """What was found, and how sure that is."""
    random = f", {pose['chance']:.3f} at poses from all over" if pose["chance"] else ""
    second = f"; of the other poses the best says {pose['runner_up']:.0%} of that" if pose["runner_up"] else ""
    moved = f"turned by {pose['degrees']:.1f}°, FIXED's centre shifted by {pose['shift_mm']:.1f} mm"
    says = f"mutual information {pose['start']:.3f} at the start{random}, {pose['score']:.3f} there{second}"
    return f"{moved}, volumes times {pose['volume']:.3f}; {says}"
