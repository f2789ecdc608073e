"""ICON's Table 2 on a labelled folder of one's own: foldless beside other tools, on the same pairs.

    python -m experiments.icon_table2 --data FOLDER --runs "ICON, two steps=runs/one" --output runs/table2

Dice, folds by two rules, inverse-consistency error, seconds and memory of every method, each in a process of its own.
Methods that are done are kept, so a call goes on where the last one stopped; a missing tool is a row that says so.
What `experiments.tools.CHOSEN` lists is tried with several settings on pairs of cases that judge nothing, those of
split.json's val where there is one, and judged with the setting of the highest mean Dice there.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from experiments.command import begin
from experiments.places import Shown
from experiments.results import kept, markdown
from experiments.tools import CHOSEN, TOOLS, Field, MissingToolError
from foldless.cli.console import progress, say
from foldless.errors import InputError

if TYPE_CHECKING:
    from foldless.io import Volume

DIRECTLY = "foldless, the pair alone"
COLUMNS = (
    "method",
    "Dice",
    "least Dice",
    "forward folds a pair",
    "folds, % (ten)",
    "inverse error, voxels",
    "s a pair",
    "MiB",
)
PACKAGES = ("foldless", "simpleitk", "antspyx", "picsl-greedy")
Pairs = list[tuple[str, str]]
Registered = Callable[["Volume", "Volume", Path], tuple[Field, Field | None]]


@dataclass(frozen=True)
class Table2(Shown):
    """Judge trained and untrained methods on the same pairs of a labelled folder, and write the table."""

    data: Path
    """Folder with images/ and labels/, and split.json if not every case is to be judged."""
    output: Path
    """Folder for what is found, a file a method."""
    name: str = ""
    """What the table calls the data; the folder's name if empty."""
    untrained: tuple[str, ...] = (*TOOLS, *CHOSEN, DIRECTLY)
    """Which methods that need no training."""
    runs: tuple[str, ...] = ()
    """Trained foldless models, each NAME=RUN."""
    tuned: tuple[str, ...] = ()
    """The same, with test-time optimisation for every pair."""
    tuning_steps: int = 50
    """Its steps."""
    tuning_rate: float = 2e-5
    """Adam's in these steps."""
    pairs: int = 25
    """How many ordered pairs of the test cases, drawn with seed 0."""
    choosing: int = 5
    """How many ordered pairs of other cases a tool's setting is chosen on, drawn with seed 0."""

    def run(self) -> None:
        if self.choosing < 1:
            raise InputError(f"a setting is chosen on one pair or more; got --choosing {self.choosing}")
        name = self.name or self.data.name
        names, files = self._pairs()
        methods = self._methods()
        self.output.mkdir(parents=True, exist_ok=True)
        found, choices = {}, []
        for method, (run, settings) in methods.items():
            if method in CHOSEN:
                try:
                    run, settings, choice = self._choose(method, names, files)
                except MissingToolError as error:
                    found[method] = {"missing": str(error)}
                    continue
                choices.append(choice)
            found[method] = self._judged(method, run, settings, names, files)
        rows = [row_of(method, scores) for method, scores in found.items()]
        trained = map(trained_by, dict.fromkeys((*self.runs, *self.tuned)))
        text = "\n".join((self._about(name, len(names)), markdown(COLUMNS, rows), *choices, *trained))
        self.write(f"ICON, Table 2, {name}", text)
        for row in (COLUMNS, *rows):
            say("  ".join(row))

    def _about(self, name: str, pairs: int) -> str:
        runs = " --runs NAME=RUN ..." if self.runs else ""
        tuned = f" --tuned NAME=RUN ... --tuning-rate {self.tuning_rate:g}" if self.tuned else ""
        named = "" if self.untrained == Table2.untrained else " --untrained " + shlex.join(self.untrained)
        return (
            "    python -m experiments.icon_table2 --data FOLDER --output RUNS "
            f"--pairs {self.pairs}{runs}{tuned}{named}\n\n"
            f"{pairs} ordered pairs of the test cases of {name}, drawn with seed 0; means over pairs.\n"
        )

    def _methods(self) -> dict[str, tuple[Registered, dict[str, Any]]]:
        """The methods by name: how each registers two volumes, and what that depends on."""
        from foldless.model import weights_file
        from foldless.record import file_digest

        first = {method: next(iter(tools.values())) for method, tools in CHOSEN.items()}
        known = {**TOOLS, **first, DIRECTLY: directly}
        if strange := [name for name in self.untrained if name not in known]:
            raise InputError(f"there is no method {strange[0]!r}; there are {', '.join(known)}")
        methods: dict[str, tuple[Registered, dict[str, Any]]] = {
            name: (known[name], keywords(known[name])) for name in self.untrained
        }
        for run in (*self.runs, *self.tuned):
            title, _, path = run.partition("=")
            settings: dict[str, Any] = {"model": file_digest(weights_file(Path(path)))}
            if run in self.runs:
                methods[title] = (partial(by_model, Path(path)), settings)
            if run in self.tuned:
                tuning = {"steps": self.tuning_steps, "rate": self.tuning_rate}
                name = f"{title}, {self.tuning_steps} steps on the pair"
                methods[name] = (partial(by_model, Path(path), **tuning), {**settings, **tuning})
        return methods

    def _pairs(self) -> tuple[Pairs, dict[str, Path]]:
        from foldless.data.folder import case_names, split_names
        from foldless.data.images import ordered_pairs

        files = case_names(self.data)
        names = list(files)
        chosen = split_names(self.data, names)["test"] if (self.data / "split.json").is_file() else names
        return [(chosen[i], chosen[j]) for i, j in ordered_pairs(len(chosen), self.pairs)], files

    def _choose(self, method: str, judged: Pairs, files: dict[str, Path]) -> tuple[Registered, dict[str, Any], str]:
        """The tool with the setting of the highest mean Dice on cases that judge nothing, and what is said of it.

        Raises:
            MissingToolError: it is not installed, or fewer than two cases are left to choose on.
        """
        pairs, tools, dice = self._other_pairs(judged, files), CHOSEN[method], dict[str, float]()
        for name, tool in tools.items():
            found = self._judged(f"{method} {name}", tool, keywords(tool), pairs, files)
            if "missing" in found:
                raise MissingToolError(found["missing"])
            dice[name] = sum(score["dice"] for score in found["scores"]) / len(pairs)
        best = max(dice, key=lambda name: dice[name])
        tried = ", ".join(f"{name} {value:.4f}" for name, value in dice.items())
        said = f"- {method}: {best}, by mean Dice of {len(pairs)} pairs of cases that judge nothing: {tried}"
        return tools[best], keywords(tools[best]), said

    def _other_pairs(self, judged: Pairs, files: dict[str, Path]) -> Pairs:
        from foldless.data.folder import split_names
        from foldless.data.images import ordered_pairs

        seen = set(sum(judged, ()))
        named = split_names(self.data, files)["val"] if (self.data / "split.json").is_file() else files
        others = [name for name in named if name not in seen]
        if len(others) < 2:
            raise MissingToolError("all cases judge; its setting is chosen on two others or more")
        return [(others[i], others[j]) for i, j in ordered_pairs(len(others), self.choosing)]

    def _judged(
        self, method: str, run: Registered, settings: dict[str, Any], pairs: Pairs, files: dict[str, Path]
    ) -> dict[str, Any]:
        """Every pair by one method, in a process of its own, whose memory is the method's."""
        from foldless.record import file_digest, installed_version, write_json

        data = {files[name].name: file_digest(files[name]) for name in sorted({*sum(pairs, ())})}
        settings = {"method": method, "pairs": pairs, "data_sha256": data, **settings}
        file = self.output / f"{''.join(c if c.isalnum() else '-' for c in method)}.json"
        if (done := kept(file, settings)) is not None:
            return done
        say(method)
        with alone() as pool, progress() as bar:
            try:
                scores = [
                    pool.apply(judge, (run, self.data, files[moving], files[fixed]))
                    for moving, fixed in bar.track(settings["pairs"], description=method)
                ]
            except MissingToolError as error:
                return {"missing": str(error)}
        versions = {package: installed_version(package) for package in PACKAGES}
        found = {"settings": settings, "scores": scores, "versions": versions}
        write_json(found, file)
        return found


def alone() -> Pool:
    """A process of its own."""
    return multiprocessing.get_context("spawn").Pool(1)


def by_model(
    run: Path, moving: Volume, fixed: Volume, scratch: Path, steps: int = 0, rate: float = 2e-5
) -> tuple[Field, Field | None]:
    """foldless with a model, as `foldless register --model` does it."""
    from foldless.model import Model
    from foldless.registering import Tuning, register_volumes

    fields = register_volumes(Model.load(run), moving, fixed, Tuning(steps, rate))
    return fields.forward, fields.inverse


def directly(moving: Volume, fixed: Volume, scratch: Path) -> tuple[Field, Field | None]:
    """foldless without a model, as `foldless register` does it: an affine map and a velocity found for this pair."""
    from foldless.direct import Direct, register_directly

    fields = register_directly(Direct.of_pair(moving, fixed), moving, fixed)
    return fields.forward, fields.inverse


def keywords(run: Registered) -> dict[str, Any]:
    """What a tool is called with beside the pair."""
    return dict(run.keywords) if isinstance(run, partial) else {}


def trained_by(run: str) -> str:
    """The command that trained NAME=RUN, as its record has it, its folders as placeholders."""
    from foldless.record import RECORD

    title, _, path = run.partition("=")
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    if not (folder / RECORD).is_file():
        return f"- {title}: no record of its training"
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    words = ["foldless", *record["arguments"]]
    for option, place in (("--data", "FOLDER"), ("--output", "RUN"), ("--start", "RUN")):
        if option in words:
            words[words.index(option) + 1] = place
    of = f", its {Path(path).stem}" if Path(path) != folder else ""
    return f"- {title}: `{' '.join(words)}`{of}"


def judge(run: Registered, folder: Path, moving_file: Path, fixed_file: Path) -> dict[str, float]:
    """The scores of one pair, from the displacements alone."""
    import numpy as np
    import torch

    from foldless.data.folder import label_file
    from foldless.io import inverse_consistency_of_files, read_volume, sitk_transform, voxel_displacement
    from foldless.io.volumes import through
    from foldless.metrics import folds, folds_percent, mean_dice

    moving, fixed = read_volume(moving_file), read_volume(fixed_file)
    labels = [label_file(folder, file) for file in (moving_file, fixed_file)]
    if None in labels:
        raise SystemExit(f"{folder} lacks labels for {moving_file.name} or {fixed_file.name}")
    a, b = (read_volume(file, labels=True) for file in labels if file is not None)
    with tempfile.TemporaryDirectory() as scratch:
        started = perf_counter()
        there, back = run(moving, fixed, Path(scratch))
        seconds = perf_counter() - started
    warped = through(sitk_transform(there, fixed.geometry), a, fixed.geometry, order=0)
    voxels = torch.from_numpy(voxel_displacement(there, fixed.geometry).copy())[None]
    inverse = {}
    if back is not None:
        error = inverse_consistency_of_files(there, fixed.geometry, back, moving.geometry)
        inverse["inverse"] = float(np.mean(error))
    return {
        "dice": mean_dice(warped.array, b.array, moving=a.array),
        "folds": folds(voxels, "forward").item(),
        "ten": folds_percent(voxels, rule="ten").item(),
        **inverse,
        "seconds": seconds,
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2),
    }


def row_of(method: str, found: dict[str, Any]) -> Sequence[str]:
    """A line of the table: means over pairs, the largest memory, and the least Dice, which tells a lost pair."""
    if "missing" in found:
        return (method, found["missing"], *[""] * (len(COLUMNS) - 2))
    scores = found["scores"]
    mean = {name: sum(s[name] for s in scores) / len(scores) for name in scores[0]}
    inverse = f"{mean['inverse']:.3f}" if "inverse" in mean else "not given"
    memory = max(s["mib"] for s in scores)
    return (
        method,
        f"{mean['dice']:.3f}",
        f"{min(s['dice'] for s in scores):.3f}",
        f"{mean['folds']:.2f}",
        f"{mean['ten']:.4f}",
        inverse,
        f"{mean['seconds']:.2f}",
        f"{memory:.0f}",
    )


if __name__ == "__main__":
    begin(Table2)
