"""`foldless train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from foldless.cli.console import Replaced, check_output, say, table
from foldless.cli.watch import Watch
from foldless.errors import InputError
from foldless.recipe import Recipe, Source, recipe_for

if TYPE_CHECKING:
    from foldless.data.images import Split
    from foldless.data.prepare import Preparation
    from foldless.objective import Terms

TYPICAL = (48, 64, 48)
"""The lattice that `--help` shows the defaults for when no data are named."""


@dataclass(frozen=True)
class Train:
    """Train a registration network on a folder of images: no labels, no true deformations.

    `train --data FOLDER --output RUN` is all that is needed: the defaults suit the data, and --help after --data shows
    them. `train --resume RUN` goes on after a kill and ends with the same bits as if nothing had happened.
    """

    source: Source = field(default_factory=Source)
    output: Path | None = None
    """Folder of the run: checkpoints, log.csv, TensorBoard events, run.json."""
    resume: Path | None = None
    """Go on with this run as its record says; takes no other option."""
    config: Path | None = None
    """Start from the settings in the run record of an earlier run (its folder or run.json)."""
    overwrite: bool = False
    """Replace an earlier run at --output."""
    recipe: Recipe = field(default_factory=lambda: recipe_for(TYPICAL))

    def run(self) -> None:
        if self.resume is not None:
            if self != Train(resume=self.resume):
                raise InputError("--resume goes on exactly as the run's record says, so it takes no other option")
            self._resume(self.resume)
            return
        if not self.source.data or self.output is None:
            raise InputError("train needs --data (a folder, shapes or mnist:FOLDER) and --output, or --resume RUN")
        inputs = [Path(self.source.data)] if self.source.is_folder else []
        check_output(self.output, self.overwrite, inputs)

        from foldless.build import settled
        from foldless.data.source import open_source
        from foldless.record import FILE, run_record, write_json
        from foldless.training.checkpoints import FILE as CHECKPOINT

        source, recipe = self.source.resolved(), settled(self.recipe)
        split, preparation = open_source(source, recipe.seed)
        settings = {"source": asdict(source), "recipe": recipe.as_dict()}
        digests = {part: getattr(split, part).digest() for part in ("train", "val", "test")}
        record = {
            **run_record("train", settings, digests),
            "preparation": asdict(preparation),
            "cases": {part: list(getattr(split, part).names) for part in ("train", "val", "test")}
            if self.source.is_folder
            else {},
        }
        with Replaced(self.output, sign=CHECKPOINT) as earlier:
            try:
                earlier.output.mkdir(parents=True)
            except OSError as error:
                raise InputError(f"the output folder {self.output} cannot be made: {error.strerror}") from error
            write_json(record, self.output / FILE)
            _learn(recipe, split, preparation, self.output, earlier)

    def _resume(self, folder: Path) -> None:
        from foldless.data.source import open_source
        from foldless.record import read_record

        record = read_record(folder)
        try:
            source = Source.from_dict(record["settings"]["source"])
            recipe = Recipe.from_dict(record["settings"]["recipe"])
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder} is not the run of a training: its record lacks {error}") from error
        split, preparation = open_source(source, recipe.seed)
        known = record.get("data_sha256", {})
        if any(getattr(split, part).digest() != known.get(part) for part in ("train", "val")):
            raise InputError(f"the images of {source.data} are not those that {folder} was trained on; start a new run")
        _learn(recipe, split, preparation, folder)


def with_defaults_for_the_data(words: Sequence[str]) -> Train:
    """The defaults for the data or record named among the words, so that --help shows the true ones."""

    @dataclass(frozen=True)
    class Named:
        data: str = ""
        config: str = ""

    if not words or words[0] != "train":
        return Train()
    named, _ = tyro.cli(Named, args=list(words[1:]), return_unknown_args=True, add_help=False)
    if named.config:
        from foldless.record import read_record

        settings = read_record(Path(named.config))["settings"]
        try:
            source, recipe = Source.from_dict(settings["source"]), Recipe.from_dict(settings["recipe"])
        except (KeyError, TypeError) as error:
            raise InputError(f"{named.config} is not the record of a training: it lacks {error}") from error
        return Train(source=source, recipe=recipe)
    return Train(recipe=recipe_for(_lattice(named.data)))


def _lattice(data: str) -> tuple[int, ...] | None:
    """The largest image of a folder, for the defaults; what is wrong with the folder is said when it is read."""
    if not Source(data or "folder").is_folder:
        return None
    if not (Path(data) / "images").is_dir():
        return TYPICAL
    from foldless.data.folder import largest_lattice

    return largest_lattice(Path(data)) or TYPICAL


def _learn(
    recipe: Recipe, split: Split, preparation: Preparation, folder: Path, earlier: Replaced | None = None
) -> None:
    from foldless.training.checkpoints import FILE as CHECKPOINT
    from foldless.training.loop import train

    def on_step(step: int, terms: Terms) -> None:
        watch.on_step(step, terms)
        if earlier is not None:
            earlier.settle()

    _announce(recipe, split, preparation)
    try:
        with Watch(recipe.ends()[-1]) as watch:
            train(recipe, split, preparation, folder, earlier is None, on_step, watch.on_scores)
    except KeyboardInterrupt:
        if (folder / CHECKPOINT).is_file():
            say(f"To go on from the last checkpoint: foldless train --resume {folder}")
        raise
    watch.summarise(folder / "log.csv")
    say(f"The model is {folder / 'best.safetensors'}. Next:")
    say(f"  foldless register MOVING FIXED --model {folder} --output DIR")
    say(f"  foldless evaluate --model {folder} --data FOLDER --output DIR")


def _announce(recipe: Recipe, split: Split, preparation: Preparation) -> None:
    lattice = " x ".join(map(str, preparation.lattice))
    spacing = " x ".join(f"{s:g}" for s in preparation.spacing)
    say(
        f"{len(split.train)} images to learn from, {len(split.val)} to watch, {len(split.test)} to judge by; "
        f"lattice {lattice}, spacing {spacing}, placed by {preparation.placement}"
    )
    rows = [(f.name.replace("_", "-"), str(getattr(recipe, f.name))) for f in fields(recipe)]
    table("Settings", rows, ("option", "value"))
