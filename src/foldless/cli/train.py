"""`foldless train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from foldless.cli.console import number, say, shell, table
from foldless.cli.leftovers import Replaced
from foldless.cli.machine import machine_named
from foldless.cli.outputs import check_replaceable, claimed, put_in_order, tidy
from foldless.cli.watch import Watch
from foldless.errors import InputError, UnprovenError
from foldless.methods import Method, method_recipe, network_levels, planned
from foldless.recipe import Recipe, Source, recipe_for

if TYPE_CHECKING:
    from foldless.data.images import Split
    from foldless.data.prepare import Preparation
    from foldless.machine import Machine
    from foldless.model import Model
    from foldless.objective import Terms

STAGE_COLUMNS = ("stage", "at work", "trains", "level", "until step", "batch", "rate", "weight")

TYPICAL = (48, 64, 48)
"""The lattice that `--help` shows the defaults for when no data are named."""


@dataclass(frozen=True)
class Train:
    """Train a registration network on a folder of images: no labels, no true deformations.

    `train --data FOLDER --output RUN` is all that is needed: the defaults suit the data, and --help after --data shows
    them. `train --resume RUN` goes on after a kill and ends with the same bits as if nothing had happened.

    `--stages 3` trains four networks: two on images pooled by two, then a third and a fourth on whole ones, what came
    before frozen. `--method cycle` and its like train as Kuang did: VoxelMorph's network, its settings as defaults.
    """

    source: Source = field(default_factory=Source)
    output: Path | None = None
    """Folder of the run: checkpoints, log.csv, TensorBoard events, run.json."""
    resume: Path | None = None
    """Go on with this run as its record says; takes no other option but --device, where another is wanted."""
    config: Path | None = None
    """Start from the settings in the run record of an earlier run (its folder or run.json)."""
    overwrite: bool = False
    """Replace an earlier run at --output."""
    method: Method = "default"
    """Whose settings are the defaults: ours or, on Kuang and Schmah's network (VoxelMorph-1), the baseline; cycle, a
    second pass on the warped image; bidirectional, with the true target; three-images, maps around three; icon and
    gradicon, there and back; refinement, theirs, in alternating phases of --steps each; linear-refinement, without its
    last LeakyReLU; image-refinement, which sees images too; cycle-refinement, with the cycle. --help after it shows
    them."""
    stages: int = 1
    """Networks in stages: as many and one more, two at the coarse level, then one a stage at the fine."""
    pool: int = 1
    """Train on images pooled by this number as a whole, faster for it; the map serves the full lattice all the same."""
    start: Path | None = None
    """Begin with these weights, network by network: an earlier run, or the stage-K.safetensors of one. They are the
    best of the first stage until others beat them on the held-out pairs; --rate and --weight begin anew, so give a
    --rate below the one they were learnt at (a tenth) to go on from them gently."""
    first_stage: int = 1
    """With --start: the stage to begin with, those before are left out."""
    device: str = "auto"
    """Where the network learns: cpu, cuda, cuda:N or mps; auto takes the first CUDA GPU if there is one, and with
    --resume what the run was begun on."""
    recipe: Recipe = field(default_factory=lambda: recipe_for(TYPICAL))

    def run(self) -> None:
        if self.resume is not None:
            if self != Train(resume=self.resume, device=self.device):
                raise InputError(
                    "--resume goes on exactly as the run's record says, so it takes no other option but --device"
                )
            with claimed(self.resume):
                tidy(self.resume)
                self._resume(self.resume)
            return
        if not self.source.data or self.output is None:
            raise InputError("train needs --data (a folder, shapes or mnist:FOLDER) and --output, or --resume RUN")
        inputs = [*self.source.folders, *(path for path in (self.start, self.config) if path is not None)]
        machine = machine_named(self.device)
        with claimed(self.output, inputs):
            check_replaceable(self.output, "train", self.overwrite)
            self._begin(self.output, machine)

    def _begin(self, output: Path, machine: Machine) -> None:
        recipe = planned(self.recipe, self.method, self.stages, self.pool)
        if self.first_stage != 1 and self.start is None:
            raise InputError("--first-stage leaves stages out, so it takes the weights they would leave: --start RUN")

        from foldless.build import settled
        from foldless.data.source import open_source
        from foldless.model import Model, weights_file
        from foldless.record import RECORD, file_digest, run_record, write_json
        from foldless.training.checkpoints import CHECKPOINT

        source, recipe = self.source.resolved(), settled(recipe, machine)
        start = None if self.start is None else Model.load(self.start)
        split, preparation = open_source(source, recipe.seed)
        recipe.check_lattice(split.train.lattice)
        settings = {"source": asdict(source), "recipe": recipe.as_dict(), "first_stage": self.first_stage}
        settings["device"] = str(machine.device)
        digests = {part: getattr(split, part).digest() for part in ("train", "val", "test")}
        if self.start is not None:
            settings["start"] = str(self.start.resolve())
            digests["start"] = file_digest(weights_file(self.start))
        record = {
            **run_record("train", settings, digests, machine),
            "preparation": asdict(preparation),
            "cases": {part: list(getattr(split, part).names) for part in ("train", "val", "test")}
            if self.source.is_folder
            else {},
        }
        with Replaced(output, sign=CHECKPOINT) as earlier:
            try:
                earlier.output.mkdir(parents=True)
            except OSError as error:
                raise InputError(f"the output folder {output} cannot be made: {error.strerror}") from error
            write_json(record, output / RECORD)
            _learn(machine, recipe, split, preparation, output, earlier, start, self.first_stage)

    def _resume(self, folder: Path) -> None:
        from foldless.data.source import open_source
        from foldless.record import read_record

        record = read_record(folder)
        try:
            source = Source.from_dict(record["settings"]["source"])
            recipe = Recipe.from_dict(record["settings"]["recipe"])
            begun_on = str(record["settings"].get("device", "auto"))
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder} is not the run of a training: its record lacks {error}") from error
        machine = machine_named(begun_on if self.device == "auto" else self.device)
        split, preparation = open_source(source, recipe.seed)
        known = record.get("data_sha256", {})
        if any(getattr(split, part).digest() != known.get(part) for part in ("train", "val")):
            raise InputError(f"the images of {source.data} are not those that {folder} was trained on; start a new run")
        _learn(machine, recipe, split, preparation, folder)


def with_defaults_for_the_data(words: Sequence[str]) -> Train:
    """The defaults for the data or record named among the words of `train`, so that --help shows the true ones."""

    @dataclass(frozen=True)
    class Named:
        data: str = ""
        config: str = ""
        method: str = "default"
        stages: int = 1
        pool: int = 1

    named, _ = tyro.cli(Named, prog="foldless train", args=list(words), return_unknown_args=True, add_help=False)
    if named.config and (named.method, named.stages, named.pool) != ("default", 1, 1):
        raise InputError("--config names a record, which holds the stages; leave --method, --stages and --pool out")
    if named.config:
        from foldless.record import read_record

        put_in_order(Path(named.config))
        settings = read_record(Path(named.config))["settings"]
        try:
            source, recipe = Source.from_dict(settings["source"]), Recipe.from_dict(settings["recipe"])
            start = Path(settings["start"]) if settings.get("start") else None
            first = int(settings.get("first_stage", 1))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(
                f"{named.config} is not the record of a training, whose settings hold a source and a recipe ({error})"
            ) from error
        return Train(source=source, recipe=recipe, start=start, first_stage=first)
    recipe = method_recipe(named.method, recipe_for(_lattice(named.data)))
    return Train(recipe=network_levels(recipe, max(named.stages, 1)))


def _lattice(data: str) -> tuple[int, ...] | None:
    """The largest image of a folder, for the defaults; what is wrong with the folder is said when it is read."""
    if data and not Source(data).is_folder:
        return None
    if not data or not (Path(data) / "images").is_dir():
        return TYPICAL
    from foldless.data.folder import largest_lattice

    return largest_lattice(Path(data)) or TYPICAL


def _learn(
    machine: Machine,
    recipe: Recipe,
    split: Split,
    preparation: Preparation,
    folder: Path,
    earlier: Replaced | None = None,
    start: Model | None = None,
    first_stage: int = 1,
) -> None:
    from foldless.training.loop import train

    watch = Watch(recipe.ends()[-1])

    def on_step(step: int, terms: Terms) -> None:
        watch.on_step(step, terms)
        if earlier is not None:
            earlier.settle()

    def alone() -> bool:
        return earlier is None or earlier.aside is None

    resume, looks = earlier is None, watch.on_scores
    _announce(recipe, split, preparation)
    try:
        with watch, watch.stopping(when=alone) as stop:
            train(recipe, split, preparation, folder, resume, on_step, looks, start, first_stage, stop, machine)
    except KeyboardInterrupt as stopped:
        raise KeyboardInterrupt(_what_is_kept(folder, earlier, *stopped.args)) from None
    best = watch.summarise(folder / "log.csv", after=(0, *recipe.ends())[-2])
    say(f"The model is {folder / 'best.safetensors'}. Next:")
    say(f"  {shell('foldless', 'register', 'MOVING', 'FIXED', '--model', folder, '--output', 'DIR')}")
    say(f"  {shell('foldless', 'evaluate', '--model', folder, '--data', 'FOLDER', '--output', 'DIR')}")
    if recipe.tolerance and not best.get("error", 0.0) <= recipe.tolerance:
        raise UnprovenError(
            f"the tolerance of {recipe.tolerance:g} voxel is not kept: on held-out pairs points come back up to "
            f"{best['error']:.3f} voxel from home; the model is written: train for more --steps, or allow more"
        )


def _what_is_kept(folder: Path, earlier: Replaced | None, step: int | None = None) -> str:
    from foldless.training.checkpoints import CHECKPOINT

    if earlier is not None and earlier.aside is not None and not (folder / CHECKPOINT).is_file():
        return f"there was no checkpoint yet, so {folder} is what it was before"
    if not (folder / CHECKPOINT).is_file():
        return f"there is no checkpoint yet in {folder}; add --overwrite to begin there again"
    kept = "its last checkpoint" if step is None else f"all {step} steps"
    return f"{folder} keeps {kept}; to go on: {shell('foldless', 'train', '--resume', folder)}"


def _announce(recipe: Recipe, split: Split, preparation: Preparation) -> None:
    lattice = " x ".join(map(str, preparation.lattice))
    spacing = " x ".join(f"{s:g}" for s in preparation.spacing)
    say(
        f"{len(split.train)} images to learn from, {len(split.val)} to watch, {len(split.test)} to judge by; "
        f"lattice {lattice}, spacing {spacing}, placed by {preparation.placement}"
    )
    rows = [(f.name.replace("_", "-"), str(getattr(recipe, f.name))) for f in fields(recipe) if f.name != "stages"]
    table("Settings", rows, ("option", "value"))
    if recipe.stages:
        table("Stages", [_stage_row(recipe, k) for k in range(len(recipe.stages))], STAGE_COLUMNS)


def _stage_row(recipe: Recipe, place: int) -> tuple[str, ...]:
    stage = recipe.plan[place]
    settings, at_work = recipe.of_stage(stage), stage.parts or recipe.parts
    trains = " ".join(map(str, stage.trained or range(1, at_work + 1)))
    values = (stage.level, recipe.ends()[place], settings.batch, settings.rate, settings.weight)
    return (str(place + 1), f"1-{at_work}", trains, *map(number, values))
