"""`foldless register`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from foldless.cli.console import check_output, results_in, say, score_rows, table
from foldless.errors import InputError


@dataclass(frozen=True)
class Register:
    """Find the map that carries MOVING onto FIXED and back; write both as ANTs, SimpleITK and 3D Slicer read them."""

    moving: Positional[Path]
    """The image to warp: NIfTI, NRRD, MHA, PNG, ...; any orientation and spacing."""
    fixed: Positional[Path]
    """The image to match."""
    model: Path
    """A run of `foldless train` (its folder) or a .safetensors file."""
    output: Path
    """Folder for warped.nii.gz, warp.nii.gz, inverse_warp.nii.gz, metrics.json, run.json and report.html."""
    moving_labels: Path | None = None
    """Label map on the moving image's lattice; with --fixed-labels it gives Dice before and after."""
    fixed_labels: Path | None = None
    """Label map on the fixed image's lattice."""
    warp_format: Literal["nii.gz", "h5"] = "nii.gz"
    """nii.gz: 5-D NIfTI, intent 1007. h5: ITK composite transform, which sitk.ReadTransform opens as it is."""
    overwrite: bool = False
    """Replace an earlier result at --output."""

    def run(self) -> None:
        labels = [path for path in (self.moving_labels, self.fixed_labels) if path is not None]
        if len(labels) == 1:
            raise InputError("labels come in pairs: give both --moving-labels and --fixed-labels, or neither")
        inputs = [self.moving, self.fixed, self.model, *labels]
        check_output(self.output, self.overwrite, inputs)

        from foldless.io import apply_warp, read_volume, read_warp, write_volume, write_warp
        from foldless.model import Model, weights_file
        from foldless.outcome import Fields, Outcome, headline, register_volumes, same_lattice
        from foldless.record import FILE, file_digest, run_record, write_json
        from foldless.report import write_report

        moving, fixed = read_volume(self.moving), read_volume(self.fixed)
        moving_labels = fixed_labels = None
        if self.moving_labels is not None and self.fixed_labels is not None:
            moving_labels = same_lattice(read_volume(self.moving_labels, labels=True), moving, "moving")
            fixed_labels = same_lattice(read_volume(self.fixed_labels, labels=True), fixed, "fixed")
        model = Model.load(self.model)
        found = register_volumes(model, moving, fixed)
        with results_in(self.output, self.overwrite, inputs) as folder:
            warp, inverse = folder / f"warp.{self.warp_format}", folder / f"inverse_warp.{self.warp_format}"
            write_warp(found.forward, fixed.geometry, warp)
            write_warp(found.inverse, moving.geometry, inverse)
            written = Fields(read_warp(warp)[0], read_warp(inverse)[0], found.untouched, found.seconds)
            outcome = Outcome(moving, fixed, written, model, moving_labels, fixed_labels)
            warped = apply_warp(moving, warp, fixed.geometry)
            write_volume(warped.array, warped.geometry, folder / "warped.nii.gz")
            if outcome.warped_labels is not None:
                labels_array = outcome.warped_labels.array
                write_volume(labels_array, fixed.geometry, folder / "warped_labels.nii.gz")
            metrics = outcome.metrics()
            write_json(metrics, folder / "metrics.json")
            digests = {str(path): file_digest(path) for path in [*inputs[:2], weights_file(self.model), *labels]}
            record = {**run_record("register", asdict(self), digests), "recipe": model.recipe.as_dict()}
            write_json(record, folder / FILE)
            lines = outcome.opening_lines(self.output / warp.name)
            write_report(
                folder / "report.html",
                f"{self.moving.name} onto {self.fixed.name}",
                [outcome.drawn(f"{self.moving.name} → {self.fixed.name}", metrics)],
                headline(metrics),
                command=" ".join(["foldless", *map(str, record["arguments"])]),
                record=record,
                opening_lines=lines,
            )
        table("Result", score_rows(metrics), ("score", "before", "after"))
        say(f"Written to {self.output}; look at {self.output / 'report.html'}. To open it elsewhere:")
        for line in lines:
            say(f"  {line}")
