"""`foldless register`."""

from __future__ import annotations

from collections.abc import Mapping
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
from foldless.recipe import Regularity, Similarity

if TYPE_CHECKING:
    from foldless.halfway import Forces
    from foldless.io import Volume
    from foldless.machine import Machine
    from foldless.metrics import Certificate
    from foldless.outcome import Outcome
    from foldless.registering import Fields, Setting


SMOOTHING = ("smooth_update", "smooth_total")
WITHOUT_A_MODEL = ("similarity", "placement", "optimiser", "weight", "regularity")
"""Options of finding a map for a pair alone."""
MOST_SMOOTHING = 100
"""Voxels; more would smooth a displacement away."""


@dataclass(frozen=True)
class Register:
    """Find the map that carries MOVING onto FIXED and back; write both as ANTs, SimpleITK and 3D Slicer read them.

    With --model a network predicts it, in a second; --refine then draws the images closer, from its map on, and
    --steps 50 tunes a copy of the network to this pair instead. Without, the map itself is found, an affine part first:
    two images are all it takes, and some seconds.
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
    refine: bool = False
    """With a model: take its map as the start, and find the rest for this pair as without a model."""
    steps: tuple[int, ...] | None = None
    """With a model, steps of test-time optimisation of a copy of its network, by default 0. Without one, the most steps
    at each level, coarse to fine, by default 60 30 20: two numbers are two levels; with --refine 40 30 20.
    With --optimiser adam, one number for all levels, by default 50."""
    similarity: Similarity | None = None
    """Without a model: how alike the images should become, by default lncc; mind-ssc for images of different kinds."""
    smooth_update: float | None = None
    """Without a model, or with --refine: how smooth each step is, voxels of its level, by default 1.25; more makes
    stiffer maps."""
    smooth_total: float | None = None
    """Without a model, or with --refine: how much the whole map is smoothed after each step, voxels, by default 0.55;
    less lets parts move farther and change their volume more."""
    optimiser: Literal["forces", "adam"] | None = None
    """Without a model: forces, the default, or adam, similarity and regularity by autograd, slower."""
    rate: float | None = None
    """Adam's; by default 2e-5 for a network and 5e-3 for a map, which is in units of the image's extent."""
    weight: float | None = None
    """With --optimiser adam: how much regularity counts, by default 1.5; more makes smoother maps."""
    regularity: Regularity | None = None
    """With --optimiser adam: what makes maps regular, by default gradicon; certified asks for no folds."""
    tolerance: float | None = None
    """The largest inverse-consistency error that is acceptable, in voxels inside the body: nodes that come back from
    further away are moved, by as little as that takes; tuning a model by --steps is held to it too. Where it is not
    kept, that is said."""
    aligned: bool = False
    """Without a model: the images lie affinely aligned already, as in a template's space; no affine part is sought."""
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
        _fail_where_unproven(certificates, metrics.get("tolerance"))

    def _into(
        self, folder: Path, labels: list[Path], machine: Machine
    ) -> tuple[list[str], dict[str, Any], dict[str, Certificate]]:
        """Fill the folder; the lines that open it elsewhere, the scores, and what is proven of both maps."""
        from foldless.io import apply_warp, read_volume, read_warp, write_volume, write_warp
        from foldless.mending import mended
        from foldless.model import weights_file
        from foldless.outcome import Outcome, headline, same_lattice
        from foldless.record import FILE, file_digest, run_record, write_json
        from foldless.report import write_report

        moving, fixed = read_volume(self.moving), read_volume(self.fixed)
        moving_labels = fixed_labels = None
        if self.moving_labels is not None and self.fixed_labels is not None:
            moving_labels = same_lattice(read_volume(self.moving_labels, labels=True), moving, "moving")
            fixed_labels = same_lattice(read_volume(self.fixed_labels, labels=True), fixed, "fixed")
        setting, found = self._found(moving, fixed, machine)
        found = mended(found, moving, fixed, setting, provable=not self.keep_folds)
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
        forces = self._refining() if self.refine else getattr(setting, "forces", None)
        if forces is not None:
            record["forces"] = asdict(forces)
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
        """Refuse what cannot be or would do nothing.

        Raises:
            InputError: says which option, and what it is for.
        """
        if self.aligned and (self.model is not None or self.optimiser == "adam"):
            raise InputError(
                "--aligned leaves out the affine part that forces begin with; it is for no model and no Adam"
            )
        if self.refine and self.model is None:
            raise InputError("--refine goes on from what a model predicts; add --model RUN, or leave it out")
        if self.model is not None:
            if wrong := self._given(*WITHOUT_A_MODEL, *(() if self.refine else SMOOTHING)):
                raise InputError(f"{wrong} is for finding a map without a model; a model brings its own")
            if self.rate is not None and self.refine:
                raise InputError("--rate is for tuning the network by --steps; with --refine no network is tuned")
            if self.rate is not None and not any(self.steps or ()):
                raise InputError("--rate is for test-time optimisation; add --steps 50, or leave it out")
        elif self.optimiser == "adam":
            if wrong := self._given(*SMOOTHING):
                raise InputError(f"{wrong} is for --optimiser forces; --weight makes Adam's maps smoother")
        elif wrong := self._given("weight", "regularity", "rate"):
            raise InputError(
                f"{wrong} is for --optimiser adam; --smooth-update and --smooth-total say how stiff a map is"
            )
        self._check_numbers()

    def _check_numbers(self) -> None:
        levels = self.refine or (self.model is None and self.optimiser != "adam")
        least = int(self.model is None or self.refine)
        if self.steps is not None and (min(self.steps, default=-1) < least or (not levels and len(self.steps) > 1)):
            most = "a number for each level, coarse to fine" if levels else "one number"
            raise InputError(f"--steps is {most}, {least} or more")
        if self.rate is not None and not 0 < self.rate < inf:
            raise InputError(f"--rate is above 0 and finite; got {self.rate:g}")
        if self.tolerance is not None and not 0 < self.tolerance < inf:
            raise InputError(f"--tolerance is in voxels, above 0 and finite; got {self.tolerance:g}")
        for name in SMOOTHING:
            sigma = getattr(self, name)
            if sigma is not None and not 0 <= sigma <= MOST_SMOOTHING:
                raise InputError(f"--{name.replace('_', '-')} is 0 to {MOST_SMOOTHING} voxels; got {sigma:g}")

    def _given(self, *names: str) -> str:
        """The first of these options that was given, as it is written; empty if none was."""
        return next((f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None), "")

    def _found(self, moving: Volume, fixed: Volume, machine: Machine) -> tuple[Setting, Fields]:
        """The fields between the volumes, and what they were found with."""
        if self.model is None:
            return self._optimised(moving, fixed, machine)

        from foldless.model import Model
        from foldless.pairwise import TEST_TIME_RATE
        from foldless.registering import Tuning, register_volumes

        model = Model.load(self.model, machine)
        if self.tolerance is not None:
            model = replace(model, recipe=replace(model.recipe, tolerance=self.tolerance))
        tuning = Tuning(sum(self.steps or ()), self.rate or TEST_TIME_RATE)
        if self.refine:
            tuning = Tuning(forces=self._refining())
        if not tuning.most_steps:
            return model, register_volumes(model, moving, fixed)
        with Watch(tuning.most_steps, "refining" if self.refine else "tuning") as watch:
            return model, register_volumes(model, moving, fixed, tuning, watch.on_next)

    def _refining(self) -> Forces:
        """The forces of --refine."""
        from foldless.registering import REFINING

        return replace(REFINING, **self._forces())

    def _forces(self) -> dict[str, Any]:
        """The settings of `Forces` that were given."""
        given = {name: getattr(self, name) for name in SMOOTHING if getattr(self, name) is not None}
        given |= {"affine_steps": 0} if self.aligned else {}
        if self.steps is None:
            return given
        return {**given, "steps": self.steps, "levels": tuple(2**k for k in reversed(range(len(self.steps))))}

    def _optimised(self, moving: Volume, fixed: Volume, machine: Machine) -> tuple[Setting, Fields]:
        from foldless.direct import Direct, register_directly

        names = ("rate", "similarity", "weight", "regularity", "tolerance")
        settings: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        optimiser = self.optimiser or "forces"
        if optimiser == "forces":
            settings |= self._forces()
        elif self.steps is not None:
            settings["steps"] = self.steps[0]
        direct = Direct.of_pair(moving, fixed, self.placement or "centre", optimiser, **settings)
        with Watch(direct.steps, "optimising") as watch:
            return direct, register_directly(direct, moving, fixed, watch.on_next, machine)


def _fail_where_unproven(certificates: Mapping[str, Certificate], tolerance: Mapping[str, float] | None) -> None:
    """End with exit code 3 where a map is not proven, or a tolerance that was asked for is not kept."""
    wrong = []
    if not all(certificate.proven for certificate in certificates.values()):
        wrong.append("a map is not proven fold-free")
    if tolerance is not None:
        error = f"up to {tolerance['largest_error']:.3f} voxel from home"
        say(f"inside the bodies points come back {error}; asked for were {tolerance['voxels']:g}")
        if not tolerance["kept"]:
            wrong.append(f"the tolerance of {tolerance['voxels']:g} voxel is not kept: points come back {error}")
    if wrong:
        raise UnprovenError(f"{'; '.join(wrong)}; all is written, and the page shows where")


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
