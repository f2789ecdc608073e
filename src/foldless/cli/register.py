"""`foldless register`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from foldless.cli.asked import OF_FORCES, check_options
from foldless.cli.console import HINT, say, score_rows, shell, table
from foldless.cli.laying import (
    Placement,
    found_pose,
    initial_pose,
    pose_scores,
    pose_sentence,
    scan_of,
    write_poses,
)
from foldless.cli.machine import machine_named
from foldless.cli.outputs import results_in
from foldless.cli.preflight import laid_by, on_disk, read_pair, readable, recorded
from foldless.cli.transforms import file_of, given
from foldless.cli.watch import Watch
from foldless.errors import InputError, UnprovenError
from foldless.recipe import Regularity, Similarity

if TYPE_CHECKING:
    from foldless.halfway import Forces
    from foldless.io import Volume
    from foldless.io.landmarks import LandmarkPairs
    from foldless.machine import Machine
    from foldless.metrics import Certificate
    from foldless.outcome import Outcome
    from foldless.pose import Found, Freedom, Pose, Scan
    from foldless.preflight import Laid
    from foldless.registering import Fields, Setting


@dataclass(frozen=True)
class Register:
    """Find the map that carries MOVING onto FIXED and back; write both as ANTs, SimpleITK and 3D Slicer read them.

    Two images are all it takes, as they come from the scanner: first their pose is found, wherever both are and however
    they are turned (see `foldless pose`), then what is left is deformed. With --model a network predicts the map
    instead, in a second; --refine then draws the images closer, from its map on, and --steps 50 tunes a copy of the
    network to this pair.
    """

    moving: Annotated[Positional[Path], arg(metavar="MOVING")]
    """The image to warp: NIfTI, NRRD, MHA, PNG, ..., or a folder of DICOM slices (of several series, FOLDER#NUMBER);
    any orientation and spacing."""
    fixed: Annotated[Positional[Path], arg(metavar="FIXED")]
    """The image to match."""
    output: Path
    """Folder for warped.nii.gz, warp.nii.gz, inverse_warp.nii.gz, certificate.json, metrics.json, run.json,
    report.html and, where a pose was found, pose.txt and inverse_pose.txt, which the warps end in; of DICOM slices, and
    pictures whose spacing is given, also moving.nii.gz and fixed.nii.gz for other programs."""
    model: Path | None = None
    """A run of `foldless train` (its folder) or a .safetensors file; without one the map is optimised for this pair."""
    transform: Literal["rigid", "similarity", "affine", "deformable"] | None = None
    """Without a model: what the map may be, by default deformable; the others deform nothing and need some seconds."""
    placement: Placement | None = None
    """Without a model: where the pose begins: anywhere, the default, as it is sought; world, where the headers say; or
    centre, centre on centre. With --aligned it says how the images lie, by default centre on centre."""
    initial: str | None = None
    """Without a model: an affine transform to begin with, FILE or FORMAT:FILE of any program (see `foldless convert`),
    from FIXED to MOVING. It is refined; with --aligned it is taken as it is."""
    moving_mask: Path | None = None
    """Without a model: what of the moving image counts, above 0; on any lattice in its world."""
    fixed_mask: Path | None = None
    """Without a model: what of the fixed image counts."""
    moving_spacing: tuple[float, ...] | None = None
    """Of a moving picture (PNG, TIFF, JPEG), whose file says nothing or something wrong of it: mm along x, y(, z)."""
    fixed_spacing: tuple[float, ...] | None = None
    """The same of a fixed picture."""
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
    """Without a model, or with --refine: how much the whole map is smoothed after each step, voxels, by default 0.6;
    less lets parts move farther and change their volume more."""
    gain: float | None = None
    """Without a model, or with --refine: end a level once ten of its steps gained less than this share of the score. By
    default 0: all steps are taken. 0.01 saves half of them, most of them the cheap ones of coarse levels."""
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
    """Without a model: the images lie affinely aligned already, as in a template's space; no pose is sought."""
    moving_labels: Path | None = None
    """Label map on the moving image's lattice; with --fixed-labels it gives Dice before and after."""
    fixed_labels: Path | None = None
    """Label map on the fixed image's lattice."""
    moving_landmarks: Path | None = None
    """Points of the moving image, .csv, .fcsv, .mrk.json, ...; with --fixed-landmarks, row by row the same places, it
    gives how far they miss each other before and after (TRE)."""
    fixed_landmarks: Path | None = None
    """Points of the fixed image."""
    landmark_space: Literal["lps", "ras", "voxels"] | None = None
    """What the numbers of files are that do not say it (.csv, .vtk, .ply): lps, the default, or ras, mm; of a .csv also
    voxels, indices x, y(, z) of its image from 0."""
    landmark_weight: float | None = None
    """Without a model: have landmarks draw the images together too, each as much as so many voxels; 100 is a start.
    By default they only judge."""
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
        landmarks = [path for path in (self.moving_landmarks, self.fixed_landmarks) if path is not None]
        for what, given_files in (("labels", labels), ("landmarks", landmarks)):
            if len(given_files) == 1:
                raise InputError(f"{what} come in pairs: give both --moving-{what} and --fixed-{what}, or neither")
        check_options(self)

        from foldless.report.verdict import judge_numbers, overall, pose_findings

        machine = machine_named(self.device)
        inputs = [
            self.moving,
            self.fixed,
            *given(self.model, self._initial, self.moving_mask, self.fixed_mask),
            *labels,
            *landmarks,
        ]
        with results_in(self.output, "register", self.overwrite, on_disk(inputs)) as folder:
            lines, metrics, certificates = self._into(folder, [*labels, *landmarks], machine)
        say(overall([judge_numbers(metrics)])[1])
        table(
            "Result",
            score_rows({name: value for name, value in metrics.items() if name != "pose"}),
            ("score", "before", "after"),
        )
        say(HINT)
        say(f"Written to {self.output}; look at {self.output / 'report.html'}. To open it elsewhere:")
        for line in lines:
            say(f"  {line}")
        for name, certificate in certificates.items():
            say(f"{name} is {certificate.sentence}")
        lost = [finding.text for finding in pose_findings(metrics) if finding.level == "bad"]
        _fail_where_unproven(certificates, metrics.get("tolerance"), lost)

    def _into(
        self, folder: Path, judging: list[Path], machine: Machine
    ) -> tuple[list[str], dict[str, Any], dict[str, Certificate]]:
        """Fill the folder; the lines that open it elsewhere, the scores, and what is proven of both maps."""
        from foldless.io import apply_warp, opening_lines, read_beside, read_warp, write_volume, write_warp
        from foldless.mending import mended
        from foldless.model import weights_file
        from foldless.outcome import Outcome, headline, same_lattice
        from foldless.pose import pose_of
        from foldless.record import RECORD, file_digest, run_record, write_json
        from foldless.report import write_report

        spacings = (self.moving_spacing, self.fixed_spacing)
        moving, fixed, findings = read_pair(self.moving, self.fixed, spacings, self._laid)
        moving_labels = fixed_labels = None
        if self.moving_labels is not None and self.fixed_labels is not None:
            moving_labels = same_lattice(read_beside(self.moving_labels, moving), moving, "moving")
            fixed_labels = same_lattice(read_beside(self.fixed_labels, fixed), fixed, "fixed")
        landmarks = self._landmarks(moving, fixed)
        setting, found, pose = self._found(moving, fixed, landmarks, machine)
        found = mended(found, moving, fixed, setting, provable=not self.keep_folds)
        warp, inverse = folder / f"warp.{self.warp_format}", folder / f"inverse_warp.{self.warp_format}"
        write_warp(found.forward, fixed.geometry, warp)
        write_warp(found.inverse, moving.geometry, inverse)
        written = replace(found, forward=read_warp(warp)[0], inverse=read_warp(inverse)[0])
        outcome = Outcome(moving, fixed, written, setting, moving_labels, fixed_labels, landmarks)
        warped = apply_warp(moving, warp, fixed.geometry)
        write_volume(warped.array, warped.geometry, folder / "warped.nii.gz")
        if outcome.warped_labels is not None:
            labels_array = outcome.warped_labels.array
            write_volume(labels_array, fixed.geometry, folder / "warped_labels.nii.gz")
        if found.pose is not None:
            write_poses(pose_of(found.pose, fixed.geometry.centre), folder)
        metrics = outcome.metrics() | ({"pose": pose_scores(pose)} if pose else {})
        write_json(metrics, folder / "metrics.json")
        write_json(_certificates(outcome), folder / "certificate.json")
        weights = weights_file(self.model) if self.model else None
        read = [self.moving, self.fixed, *given(weights, self._initial, self.moving_mask, self.fixed_mask), *judging]
        digests = {str(path): file_digest(path) for path in read}
        record = {**run_record("register", asdict(self), digests, machine), "recipe": setting.recipe.as_dict()}
        record["preflight"] = recorded(findings)
        forces = self._refining() if self.refine else getattr(setting, "forces", None)
        if forces is not None:
            record["forces"] = asdict(forces)
        write_json(record, folder / RECORD)
        where = (folder, self.output)
        there = (readable(moving, spacings[0], "moving", *where), readable(fixed, spacings[1], "fixed", *where))
        lines = opening_lines(*there, self.output / warp.name, fixed.dim)
        write_report(
            folder / "report.html",
            f"{self.moving.name} onto {self.fixed.name}",
            [outcome.drawn(f"{self.moving.name} → {self.fixed.name}", metrics)],
            headline(metrics),
            command=shell("foldless", *record["arguments"]),
            record=record,
            opening_lines=lines,
            notes=[finding.text for finding in findings],
        )
        return lines, metrics, _named(outcome)

    @property
    def _initial(self) -> Path | None:
        return None if self.initial is None else file_of(self.initial)

    @property
    def _laid(self) -> Laid:
        """By what the images are laid on each other."""
        return laid_by(self.placement, self.model is None and self.initial is None, not self.aligned)

    def _landmarks(self, moving: Volume, fixed: Volume) -> LandmarkPairs | None:
        from foldless.io.landmarks import read_landmarks

        if self.moving_landmarks is None or self.fixed_landmarks is None:
            return None
        files = self.moving_landmarks, self.fixed_landmarks
        return read_landmarks(*files, moving.geometry, fixed.geometry, self.landmark_space)

    def _found(
        self, moving: Volume, fixed: Volume, landmarks: LandmarkPairs | None, machine: Machine
    ) -> tuple[Setting, Fields, Found | None]:
        """The fields between the volumes, what they were found with, and the pose if one was sought."""
        if self.model is not None:
            return (*self._predicted(moving, fixed, machine), None)
        scans = scan_of(moving, self.moving_mask), scan_of(fixed, self.fixed_mask)
        if self.aligned:
            return (*self._deformed(*scans, landmarks, self._lies(moving, fixed), machine), None)

        from foldless.direct import Direct, posed
        from foldless.pose import displacement_of

        freedom: Freedom = "rigid"
        if not (deforms := self.transform is None or self.transform == "deformable"):
            freedom = self.transform
        started = perf_counter()
        found = found_pose(*scans, freedom, self.placement or "anywhere", self.initial)
        seconds = perf_counter() - started
        found = found.settled if deforms else found
        say(pose_sentence(pose_scores(found)))
        if deforms:
            setting, fields = self._deformed(*scans, landmarks, found.pose, machine)
        else:
            setting = Direct.of_pair(moving, fixed, found.pose, **self._settings("similarity", "tolerance"))
            fields = posed(found.pose, moving, fixed)
        before = displacement_of(found.began, fixed.geometry)
        return setting, replace(fields, untouched=before, seconds=fields.seconds + seconds), found

    def _lies(self, moving: Volume, fixed: Volume) -> Literal["centre"] | Pose:
        """How images lie to each other that are aligned."""
        from foldless.io.volumes import check_overlap
        from foldless.pose import Pose

        if self.initial is not None:
            return initial_pose(self.initial, moving, fixed)
        if self.placement != "world":
            return "centre"
        check_overlap(moving, fixed)
        return Pose.laying(fixed.geometry.centre, fixed.geometry.centre)

    def _predicted(self, moving: Volume, fixed: Volume, machine: Machine) -> tuple[Setting, Fields]:
        """The fields by a model."""
        from foldless.model import Model
        from foldless.pairwise import TEST_TIME_RATE
        from foldless.registering import Tuning, register_volumes

        assert self.model is not None
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
        settings = self._settings(*OF_FORCES)
        settings |= {"affine_steps": 0} if self.aligned else {}
        if self.steps is None:
            return settings
        return {**settings, "steps": self.steps, "levels": tuple(2**k for k in reversed(range(len(self.steps))))}

    def _settings(self, *names: str) -> dict[str, Any]:
        """Those of these options that were given."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _deformed(
        self,
        moving: Scan,
        fixed: Scan,
        landmarks: LandmarkPairs | None,
        placement: Literal["centre"] | Pose,
        machine: Machine,
    ) -> tuple[Setting, Fields]:
        """The fields by deforming scans that lie as is said."""
        from foldless.direct import Direct, register_directly

        settings = self._settings("rate", "similarity", "weight", "regularity", "tolerance", "landmark_weight")
        optimiser = self.optimiser or "forces"
        if optimiser == "forces":
            settings |= self._forces()
        elif self.steps is not None:
            settings["steps"] = self.steps[0]
        direct = Direct.of_pair(moving.volume, fixed.volume, placement, optimiser, **settings)
        with Watch(direct.steps, "optimising") as watch:
            return direct, register_directly(
                direct, moving.volume, fixed.volume, watch.on_next, machine, (moving.mask, fixed.mask), landmarks
            )


def _fail_where_unproven(
    certificates: Mapping[str, Certificate], tolerance: Mapping[str, float] | None, wrong: list[str]
) -> None:
    """End with exit code 3 where the pose failed, a map is not proven, or a tolerance is not kept."""
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
    ends = (outcome.fields.pose, outcome.fields.back)
    proofs = {
        name: certificate.as_dict() | ({} if after is None else {"after": after.matrix.tolist()})
        for (name, certificate), after in zip(_named(outcome).items(), ends, strict=True)
    }
    repairs = dict(zip(proofs, outcome.fields.repairs, strict=False))
    return {
        name: {**proof, **({"repair": repairs[name].as_dict()} if name in repairs else {})}
        for name, proof in proofs.items()
    }
