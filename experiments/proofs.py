"""Which maps are proven, by method, before and after repair; what proof costs in Dice; whether tolerances are kept.

    python -m experiments.proofs --data FOLDER --output RUNS --runs "VoxelMorph=runs/baseline"

Every method registers the same pairs of a labelled folder; both of its fields are certified, repaired and certified
again. Then pairs are registered under tolerances of their inverse-consistency error. Methods that are done are kept.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from experiments.command import begin
from experiments.icon_table2 import trained_by
from experiments.places import Shown
from experiments.results import command_of, kept, markdown
from experiments.tools import MissingToolError, unrounded_greedy
from foldless.cli.console import progress, say

if TYPE_CHECKING:
    from foldless.io import Volume
    from foldless.registering import Fields, Setting

Found = Callable[["Volume", "Volume"], tuple["Fields", "Setting"]]
Score = dict[str, float]

ALONE: dict[str, dict[str, Any]] = {
    "the pair alone": {},
    "the pair alone, Adam, GradICON": {"optimiser": "adam"},
    "the pair alone, Adam, ICON": {"optimiser": "adam", "regularity": "icon", "weight": 500.0},
    "the pair alone, Adam, Certified": {"optimiser": "adam", "regularity": "certified", "weight": 1.0},
    "the pair alone, Adam, nothing": {"optimiser": "adam", "weight": 0.0},
}
"""What is found without a model: by forces, as `foldless register` does it, and by Adam, under what makes maps regular
beside the velocity's stiffness."""
GREEDY = {
    "greedy (picsl-greedy)": ("1.732vox", "0.7071vox"),
    "greedy, smoothed by 1.0 and 0.0 voxel": ("1.0vox", "0.0vox"),
}
PROOFS = (
    "method",
    "pairs",
    "proven",
    "cells that fail, %",
    "proven, repaired",
    "Dice",
    "Dice, repaired",
    "largest move",
)
HELD = ("tolerance", "kept", "unasked", "proven", "largest error", "Dice", "seconds", "most")


@dataclass(frozen=True)
class Proofs(Shown):
    """Certify the maps of many methods before and after repair, and hold pairs to tolerances."""

    data: Path
    """Folder with images/ and labels/, and split.json if not every case is to be judged."""
    output: Path
    """Folder for what is found, a file a method."""
    pairs: int = 50
    """How many ordered pairs of the test cases, drawn with seed 0."""
    compared: int = 10
    """How many of them for Adam, which takes as long as all other rows."""
    methods: tuple[str, ...] = ()
    """Names of the rows, all by default."""
    runs: tuple[str, ...] = ()
    """Trained foldless models, each NAME=RUN."""
    tolerances: tuple[float, ...] = (0.5, 0.25, 0.1)
    """Voxels, for the pair alone with its defaults."""

    def run(self) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        rows, held = [], []
        for name, (found, about, tolerances) in self._methods().items():
            scores = self._judged(name, found, about, tolerances)
            rows.append(row_of(name, scores))
            held += [held_row(tolerance, scores) for tolerance in tolerances]
        self.write("Proven, not counted", self._text(rows, held))

    def _methods(self) -> dict[str, tuple[Found, Any, tuple[float, ...]]]:
        """How each method finds fields, what that depends on, and the tolerances that it is held to."""
        from foldless.model import weights_file
        from foldless.record import file_digest

        methods: dict[str, tuple[Found, Any, tuple[float, ...]]] = {
            name: (partial(alone, settings), found_by(settings), () if settings else self.tolerances)
            for name, settings in ALONE.items()
        }
        for name, smoothing in GREEDY.items():
            methods[name] = (partial(by_greedy, smoothing), smoothing, ())
        for run in self.runs:
            title, _, path = run.partition("=")
            methods[title] = (partial(by_model, Path(path)), file_digest(weights_file(Path(path))), ())
        return {name: method for name, method in methods.items() if not self.methods or name in self.methods}

    def _text(self, rows: list[tuple[str, ...]], held: list[tuple[str, ...]]) -> str:
        runs = "\n".join(map(trained_by, self.runs))
        named = {"runs": tuple("NAME=RUN" for _ in self.runs[:1]), "methods": tuple(map(shlex.quote, self.methods))}
        command = command_of("proofs", replace(self, **named))
        text = (
            f"    {command}\n\nOrdered pairs of the test cases, drawn with seed 0; both maps of each are certified as "
            "they would be written. Shares of pairs whose maps are all proven; cells, Dice: means over pairs; the "
            f"largest move of any node by the repair, in voxels.\n\n{markdown(PROOFS, rows)}\n{runs}"
        )
        if not held:
            return text
        return (
            f"{text}\n\n{next(iter(ALONE))}, brought to a tolerance in voxels; `unasked`: who keeps it when nobody "
            "asks; seconds: of finding the maps and mending them, by those of finding them, the mean and the most over "
            f"pairs.\n\n{markdown(HELD, held)}"
        )

    def _judged(self, method: str, found: Found, about: Any, tolerances: tuple[float, ...]) -> list[Score]:
        """Every pair by one method; none where a tool is missing."""
        from foldless.data.folder import case_names, split_names
        from foldless.data.images import ordered_pairs
        from foldless.record import file_digest, write_json

        files = case_names(self.data)
        names = split_names(self.data, list(files))["test"] if (self.data / "split.json").is_file() else list(files)
        pairs = [(names[i], names[j]) for i, j in ordered_pairs(len(names), self.pairs)]
        pairs = pairs[: self.compared] if ALONE.get(method) else pairs
        data = {files[name].name: file_digest(files[name]) for name in sorted({*sum(pairs, ())})}
        settings = {"method": method, "about": about, "held": tolerances, "pairs": pairs, "data_sha256": data}
        file = self.output / f"{''.join(c if c.isalnum() else '-' for c in method)}.json"
        if (done := kept(file, settings)) is not None:
            return list(done["scores"])
        say(method)
        with progress() as bar:
            try:
                scores = [
                    judge(found, self.data, files[moving], files[fixed], tolerances)
                    for moving, fixed in bar.track(pairs, description=method)
                ]
            except MissingToolError as error:
                say(str(error))
                return []
        write_json({"settings": settings, "scores": scores}, file)
        return scores


def found_by(settings: Mapping[str, Any]) -> dict[str, Any]:
    """All that a pair alone is found with, so that rows of earlier defaults are not taken for those of today's."""
    from dataclasses import asdict

    from foldless.halfway import Forces
    from foldless.recipe import direct_recipe

    forces = {} if "optimiser" in settings else asdict(Forces())
    return {**direct_recipe((64, 64, 64)).as_dict(), **settings, "forces": forces}


def alone(settings: Mapping[str, Any], moving: Volume, fixed: Volume) -> tuple[Fields, Setting]:
    """foldless without a model, before any repair; `settings` as for `Direct.of_pair`."""
    from foldless.direct import Direct, register_directly

    direct = Direct.of_pair(moving, fixed, **settings)
    return register_directly(direct, moving, fixed), direct


def by_model(run: Path, moving: Volume, fixed: Volume) -> tuple[Fields, Setting]:
    """foldless with a model, before any repair."""
    from foldless.model import Model
    from foldless.registering import register_volumes

    model = Model.load(run)
    return register_volumes(model, moving, fixed), model


def by_greedy(smoothing: tuple[str, str], moving: Volume, fixed: Volume) -> tuple[Fields, Setting]:
    """greedy's unrounded warps."""
    from foldless.direct import Direct
    from foldless.registering import Fields

    started = perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        there, back = unrounded_greedy(moving, fixed, Path(scratch), smoothing)
    assert back is not None
    return Fields(there, back, there, perf_counter() - started), Direct.of_pair(moving, fixed)


def judge(found: Found, folder: Path, moving_file: Path, fixed_file: Path, tolerances: Sequence[float] = ()) -> Score:
    """What is proven of a pair's two maps and what their Dice is: as found, repaired, and brought to tolerances."""
    from foldless.data.folder import label_file
    from foldless.io import read_volume, sitk_transform
    from foldless.io.volumes import through
    from foldless.mending import mended
    from foldless.metrics import mean_dice
    from foldless.outcome import Outcome

    moving, fixed = read_volume(moving_file), read_volume(fixed_file)
    labels = [label_file(folder, file) for file in (moving_file, fixed_file)]
    if None in labels:
        raise SystemExit(f"{folder} lacks labels for {moving_file.name} or {fixed_file.name}")
    a, b = (read_volume(file, labels=True) for file in labels if file is not None)
    fields, setting = found(moving, fixed)
    score: Score = {}
    states = {"": fields, "_repaired": mended(fields, moving, fixed, setting)}
    for tolerance in tolerances:
        asked = replace(setting, recipe=replace(setting.recipe, tolerance=tolerance))  # type: ignore[type-var]
        states[f"_{tolerance:g}"] = mended(fields, moving, fixed, asked)
    for when, some in states.items():
        outcome = Outcome(moving, fixed, some, setting)
        certificates = outcome.certificates
        failing, cells = (sum(n) for n in zip(*((c.refuted + c.undecided, c.cells) for c in certificates), strict=True))
        warped = through(sitk_transform(some.forward, fixed.geometry), a, fixed.geometry, order=0)
        score[f"proven{when}"] = float(all(certificate.proven for certificate in certificates))
        score[f"failing{when}"] = failing / cells
        score[f"dice{when}"] = mean_dice(warped.array, b.array, moving=a.array)
        score[f"error{when}"] = outcome.largest_inverse_error
        score[f"seconds{when}"] = some.seconds
        score[f"largest_move{when}"] = max((repair.largest for repair in some.repairs), default=0.0)
    return score


def row_of(method: str, scores: list[Score]) -> tuple[str, ...]:
    """A line of the first table."""
    if not scores:
        return (method, "0", "not installed", *[""] * (len(PROOFS) - 3))
    mean = {name: sum(score[name] for score in scores) / len(scores) for name in scores[0]}
    return (
        method,
        str(len(scores)),
        f"{100 * mean['proven']:.0f} %",
        f"{100 * mean['failing']:.4f}",
        f"{100 * mean['proven_repaired']:.0f} %",
        f"{mean['dice']:.4f}",
        f"{mean['dice_repaired']:.4f}",
        f"{max(score['largest_move_repaired'] for score in scores):.2f}",
    )


def held_row(tolerance: float, scores: list[Score]) -> tuple[str, ...]:
    """A line of the second table; errors are those of what is written."""
    when = f"_{tolerance:g}"
    errors = [score[f"error{when}"] for score in scores]
    kept_now, unasked, proven = (
        f"{100 * sum(kept) / len(scores):.0f} %"
        for kept in (
            [error <= tolerance for error in errors],
            [score["error_repaired"] <= tolerance for score in scores],
            [score[f"proven{when}"] for score in scores],
        )
    )
    ratios = [score[f"seconds{when}"] / score["seconds"] for score in scores]
    dice = sum(score[f"dice{when}"] for score in scores) / len(scores)
    times = (f"{ratio:.2f}" for ratio in (sum(ratios) / len(ratios), max(ratios)))
    return (f"{tolerance:g}", kept_now, unasked, proven, f"{max(errors):.3f}", f"{dice:.4f}", *times)


if __name__ == "__main__":
    begin(Proofs)
