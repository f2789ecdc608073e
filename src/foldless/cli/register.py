"""`foldless register`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from foldless.cli.console import HINT, say, score_rows, shell, table
from foldless.cli.machine import machine_named
from foldless.cli.outputs import results_in
from foldless.cli.watch import Watch
from foldless.errors import InputError, UnprovenError
from foldless.recipe import Similarity

if TYPE_CHECKING:
    from foldless.io import Volume
    from foldless.machine import Machine
    from foldless.metrics import Certificate
    from foldless.outcome import Fields, Outcome, Setting


@dataclass(frozen=True)
class Register:
    """Find the map that carries MOVING onto FIXED and back; write both as ANTs, SimpleITK and 3D Slicer read them.

    With --model a network predicts it, in a second; --steps 50 then tunes a copy of the network to this pair. Without,
    the map itself is optimised, an affine part first: two images are all it takes, and a minute.
    """

    moving: Annotated[Positional[Path], arg(metavar="MOVING")]
    """The image to warp: NIfTI, NRRD, MHA, PNG, ...; any orientation and spacing."""
    fixed: Annotated[Positional[Path], arg(metavar="FIXED")]
    """The image to match."""
    output: Path
    """Folder for warped.nii.gz, warp.nii.gz, inverse_warp.nii.gz, certificate.json, metrics.json, run.json and
    report.html."""
    model: Path | None = None
    """A run of `foldless train` (its folder) or a .safetensors file; without one the map is optimised for this pair."""
    steps: int | None = None
    """With a model, steps of test-time optimisation of a copy of its network, by default 0. Without one, steps of
    optimisation at each of its levels, by default 50."""
    rate: float | None = None
    """Adam's; by default 2e-5 for a network and 5e-3 for a map, which is in units of the image's extent."""
    similarity: Similarity | None = None
    """Without a model: how alike the images should become, by default lncc; mind-ssc for images of different kinds."""
    weight: float | None = None
    """Without a model: how much regularity counts, by default 1.5; more makes smoother maps."""
    placement: Literal["centre", "world"] | None = None
    """Without a model: begin with the images centre on centre, the default, or where their headers say."""
    moving_labels: Path | None = None
    """Label map on the moving image's lattice; with --fixed-labels it gives Dice before and after."""
    fixed_labels: Path | None = None
    """Label map on the fixed image's lattice."""
    warp_format: Literal["nii.gz", "h5"] = "nii.gz"
    """nii.gz: 5-D NIfTI, intent 1007. h5: ITK composite transform, which sitk.ReadTransform opens as it is."""
    keep_folds: bool = False
    """Leave cells that fold as they are. By default they are opened by the smallest change."""
    device: str = "auto"
    """Where the maps are computed: cpu, cuda, cuda:N or mps; auto takes the first CUDA GPU if there is one."""
    overwrite: bool = False
    """Replace an earlier result at --output."""

    def run(self) -> None:
        labels = [path for path in (self.moving_labels, self.fixed_labels) if path is not None]
        if len(labels) == 1:
            raise InputError("labels come in pairs: give both --moving-labels and --fixed-labels, or neither")
        self._check_options()
        machine = machine_named(self.device)
        inputs = [self.moving, self.fixed, *([self.model] if self.model else []), *labels]
        with results_in(self.output, "register", self.overwrite, inputs) as folder:
            lines, metrics, certificates = self._into(folder, labels, machine)
        table("Result", score_rows(metrics), ("score", "before", "after"))
        say(HINT)
        say(f"Written to {self.output}; look at {self.output / 'report.html'}. To open it elsewhere:")
        for line in lines:
            say(f"  {line}")
        for name, certificate in certificates.items():
            say(f"{name} is {certificate.sentence}")
        if not all(certificate.proven for certificate in certificates.values()):
            raise UnprovenError("a map is not proven fold-free; all is written, and the page shows where")

    def _into(
        self, folder: Path, labels: list[Path], machine: Machine
    ) -> tuple[list[str], dict[str, Any], dict[str, Certificate]]:
        """Fill the folder; the lines that open it elsewhere, the scores, and what is proven of both maps."""
        from foldless.io import apply_warp, read_volume, read_warp, write_volume, write_warp
        from foldless.model import weights_file
        from foldless.outcome import Outcome, headline, made_provable, same_lattice
        from foldless.record import FILE, file_digest, run_record, write_json
        from foldless.report import write_report

        moving, fixed = read_volume(self.moving), read_volume(self.fixed)
        moving_labels = fixed_labels = None
        if self.moving_labels is not None and self.fixed_labels is not None:
            moving_labels = same_lattice(read_volume(self.moving_labels, labels=True), moving, "moving")
            fixed_labels = same_lattice(read_volume(self.fixed_labels, labels=True), fixed, "fixed")
        setting, found = self._found(moving, fixed, machine)
        if not self.keep_folds:
            found = made_provable(found, moving, fixed)
        warp, inverse = folder / f"warp.{self.warp_format}", folder / f"inverse_warp.{self.warp_format}"
        write_warp(found.forward, fixed.geometry, warp)
        write_warp(found.inverse, moving.geometry, inverse)
        written = replace(found, forward=read_warp(warp)[0], inverse=read_warp(inverse)[0])
        outcome = Outcome(moving, fixed, written, setting, moving_labels, fixed_labels)
        warped = apply_warp(moving, warp, fixed.geometry)
        write_volume(warped.array, warped.geometry, folder / "warped.nii.gz")
        if outcome.warped_labels is not None:
            labels_array = outcome.warped_labels.array
            write_volume(labels_array, fixed.geometry, folder / "warped_labels.nii.gz")
        metrics = outcome.metrics()
        write_json(metrics, folder / "metrics.json")
        write_json(_certificates(outcome), folder / "certificate.json")
        read = [self.moving, self.fixed, *([weights_file(self.model)] if self.model else []), *labels]
        digests = {str(path): file_digest(path) for path in read}
        record = {**run_record("register", asdict(self), digests, machine), "recipe": setting.recipe.as_dict()}
        write_json(record, folder / FILE)
        lines = outcome.opening_lines(self.output / warp.name)
        write_report(
            folder / "report.html",
            f"{self.moving.name} onto {self.fixed.name}",
            [outcome.drawn(f"{self.moving.name} → {self.fixed.name}", metrics)],
            headline(metrics),
            command=shell("foldless", *record["arguments"]),
            record=record,
            opening_lines=lines,
        )
        return lines, metrics, _named(outcome)

    def _check_options(self) -> None:
        if self.steps is not None and self.steps < (self.model is None):
            raise InputError(f"--steps is {'1 or more without a model' if self.model is None else '0 or more'}")
        if self.rate is not None and not 0 < self.rate < inf:
            raise InputError(f"--rate is above 0 and finite; got {self.rate:g}")
        for name in ("similarity", "weight", "placement"):
            if self.model is not None and getattr(self, name) is not None:
                raise InputError(f"--{name} is for optimising a map without a model; a model brings its own")
        if self.model is not None and self.rate is not None and not self.steps:
            raise InputError("--rate is for test-time optimisation; add --steps 50, or leave it out")

    def _found(self, moving: Volume, fixed: Volume, machine: Machine) -> tuple[Setting, Fields]:
        """The fields between the volumes, and what they were found with."""
        if self.model is None:
            return self._optimised(moving, fixed, machine)

        from foldless.model import Model
        from foldless.outcome import register_volumes
        from foldless.pairwise import TEST_TIME_RATE

        model = Model.load(self.model, machine)
        if not self.steps:
            return model, register_volumes(model, moving, fixed)
        with Watch(self.steps, "tuning") as watch:
            rate = self.rate or TEST_TIME_RATE
            return model, register_volumes(model, moving, fixed, self.steps, rate, watch.on_next)

    def _optimised(self, moving: Volume, fixed: Volume, machine: Machine) -> tuple[Setting, Fields]:
        from foldless.direct import Direct, register_directly

        named = {name: getattr(self, name) for name in ("steps", "rate", "similarity", "weight")}
        settings: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        direct = Direct.of_pair(moving, fixed, self.placement or "centre", **settings)
        with Watch(direct.steps, "optimising") as watch:
            return direct, register_directly(direct, moving, fixed, watch.on_next, machine)


def _named(outcome: Outcome) -> dict[str, Certificate]:
    return dict(zip(("warp", "inverse_warp"), outcome.certificates, strict=True))


def _certificates(outcome: Outcome) -> dict[str, Any]:
    """What is proven of the written fields, and what was done to make them so."""
    proofs = {name: certificate.as_dict() for name, certificate in _named(outcome).items()}
    repairs = dict(zip(proofs, outcome.fields.repairs, strict=False))
    return {
        name: {**proof, **({"repair": repairs[name].as_dict()} if name in repairs else {})}
        for name, proof in proofs.items()
    }
