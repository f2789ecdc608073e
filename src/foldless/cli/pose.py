"""`foldless pose`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from foldless.cli.console import say, shell
from foldless.cli.laying import (
    UNSURE,
    Placement,
    found_pose,
    pose_scores,
    pose_sentence,
    scan_of,
    write_poses,
)
from foldless.cli.outputs import results_in
from foldless.cli.preflight import laid_by, on_disk, read_pair, recorded, spacing_words


@dataclass(frozen=True)
class FindPose:
    """Find how MOVING lies to FIXED, rigidly, wherever both are and however they are turned, whatever their contrasts.

    For scans as they come from the scanner: hundreds of turns with all shifts are tried, the best are refined by
    normalised mutual information of what both show. What only one of them shows counts nothing. Some ten seconds. What
    is found opens in ANTs, SimpleITK and 3D Slicer, and `foldless compose` puts it before a warp.
    """

    moving: Annotated[Positional[Path], arg(metavar="MOVING")]
    """The image to lay: NIfTI, NRRD, MHA, PNG, ..., or a folder of DICOM slices (of several series, FOLDER#NUMBER);
    any orientation, spacing and field of view."""
    fixed: Annotated[Positional[Path], arg(metavar="FIXED")]
    """The image to lay it on."""
    output: Path
    """Folder for pose.txt (which pulls MOVING onto FIXED's lattice), inverse_pose.txt, warped.nii.gz, metrics.json and
    run.json and, if rigid, laid.nii.gz: MOVING's own voxels under a header that lays them on FIXED."""
    transform: Literal["rigid", "similarity", "affine"] = "rigid"
    """rigid: turns and shifts, for one body twice; similarity: one scale too; affine: shears too, for two bodies."""
    placement: Placement = "anywhere"
    """Where to begin: anywhere, all turns and shifts being tried; world, where the headers say; or centre, centre on
    centre. The last two are refined without a search."""
    moving_mask: Path | None = None
    """What of the moving image counts, above 0; on any lattice in its world."""
    fixed_mask: Path | None = None
    """What of the fixed image counts."""
    moving_spacing: tuple[float, ...] | None = None
    """Of a moving picture (PNG, TIFF, JPEG), whose file says nothing or something wrong of it: mm along x, y(, z)."""
    fixed_spacing: tuple[float, ...] | None = None
    """The same of a fixed picture."""
    overwrite: bool = False
    """Replace an earlier result at --output."""

    def run(self) -> None:
        inputs = [path for path in (self.moving, self.fixed, self.moving_mask, self.fixed_mask) if path is not None]
        with results_in(self.output, "pose", self.overwrite, on_disk(inputs)) as folder:
            metrics = self._into(folder, inputs)
        say(pose_sentence(metrics))
        if metrics["runner_up"] > UNSURE:
            say("look at warped.nii.gz: another pose is nearly as likely")
        spacings = spacing_words(("--spacing", self.moving_spacing), ("--reference-spacing", self.fixed_spacing))
        images = (self.moving, "--reference", self.fixed)
        warped = shell("foldless", "apply", self.output / "pose.txt", *images, *spacings)
        say(f"Written to {self.output}. To carry other images: {warped} --output CARRIED.nii.gz")

    def _into(self, folder: Path, inputs: list[Path]) -> dict[str, Any]:
        """Fill the folder; the scores."""
        from foldless.io import write_volume
        from foldless.io.volumes import through
        from foldless.machine import CPU
        from foldless.pose import as_itk, laid
        from foldless.record import RECORD, file_digest, run_record, write_json

        spacings = (self.moving_spacing, self.fixed_spacing)
        moving, fixed, findings = read_pair(self.moving, self.fixed, spacings, laid_by(self.placement))
        scans = scan_of(moving, self.moving_mask), scan_of(fixed, self.fixed_mask)
        found = found_pose(*scans, self.transform, self.placement)
        write_poses(found.pose, folder)
        warped = through(as_itk(found.pose), moving, fixed.geometry, order=1)
        write_volume(warped.array, fixed.geometry, folder / "warped.nii.gz")
        if self.transform == "rigid":
            moved = laid(moving, found.pose)
            write_volume(moved.array, moved.geometry, folder / "laid.nii.gz")
        metrics = pose_scores(found)
        write_json(metrics, folder / "metrics.json")
        digests = {str(path): file_digest(path) for path in inputs}
        record = {**run_record("pose", asdict(self), digests, CPU), "preflight": recorded(findings)}
        write_json(record, folder / RECORD)
        return metrics
