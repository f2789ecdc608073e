"""ICON's Table 2 on a labelled folder of one's own: foldless beside other tools, on the same pairs.

    python -m experiments.icon_table2 --data FOLDER --runs "ICON, two steps=runs/one" --output runs/table2

Dice, folds by two rules, inverse-consistency error, seconds and memory of every method, each in a process of its own.
Methods that are done are kept, so a call goes on where the last one stopped; a missing tool is a row that says so.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from experiments.command import begin
from experiments.results import RESULTS, kept, markdown, write_section
from experiments.tools import TOOLS, Field, MissingToolError
from foldless.cli.console import progress, say

if TYPE_CHECKING:
    from foldless.io import Volume

COLUMNS = ("method", "Dice", "forward folds a pair", "folds, % (ten)", "inverse error, voxels", "s a pair", "MiB")
Registered = Callable[["Volume", "Volume", Path], tuple[Field, Field | None]]


@dataclass(frozen=True)
class Table2:
    """Judge trained and untrained methods on the same pairs of a labelled folder, and write the table."""

    data: Path
    """Folder with images/ and labels/, and split.json if not every case is to be judged."""
    output: Path
    """Folder for what is found, a file a method."""
    name: str = ""
    """What the table calls the data; the folder's name if empty."""
    tools: tuple[str, ...] = tuple(TOOLS)
    """Which other tools."""
    runs: tuple[str, ...] = ()
    """Trained foldless models, each NAME=RUN."""
    pairs: int = 25
    """How many ordered pairs of the test cases, drawn with seed 0."""
    results: Path = RESULTS
    """Where the table goes."""

    def run(self) -> None:
        name = self.name or self.data.name
        names, files = self._pairs()
        methods: dict[str, Registered] = {tool: TOOLS[tool] for tool in self.tools}
        for run in self.runs:
            title, _, folder = run.partition("=")
            methods[title] = partial(by_model, Path(folder))
        self.output.mkdir(parents=True, exist_ok=True)
        found = {method: self._judged(method, run, names, files) for method, run in methods.items()}
        rows = [row_of(method, scores) for method, scores in found.items()]
        command = "    python -m experiments.icon_table2 --data FOLDER --runs NAME=RUN --output RUNS"
        about = f"{len(names)} ordered pairs of the test cases of {name}, drawn with seed 0; mean over pairs."
        write_section(f"ICON, Table 2, {name}", f"{command}\n\n{about}\n\n{markdown(COLUMNS, rows)}", self.results)
        for row in (COLUMNS, *rows):
            say("  ".join(row))

    def _pairs(self) -> tuple[list[tuple[str, str]], dict[str, Path]]:
        from foldless.data.folder import case_names, split_names
        from foldless.data.images import ordered_pairs

        files = case_names(self.data)
        names = list(files)
        chosen = split_names(self.data, names)["test"] if (self.data / "split.json").is_file() else names
        return [(chosen[i], chosen[j]) for i, j in ordered_pairs(len(chosen), self.pairs)], files

    def _judged(
        self, method: str, run: Registered, names: list[tuple[str, str]], files: dict[str, Path]
    ) -> dict[str, Any]:
        """Every pair by one method, in a process of its own, whose memory is the method's."""
        from foldless.record import installed_version, write_json

        file = self.output / f"{''.join(c if c.isalnum() else '-' for c in method)}.json"
        settings = {"method": method, "pairs": [list(pair) for pair in names]}
        if (done := kept(file, settings)) is not None:
            return done
        say(method)
        with multiprocessing.get_context("spawn").Pool(1) as pool, progress() as bar:
            try:
                scores = [
                    pool.apply(judge, (run, self.data, files[moving], files[fixed]))
                    for moving, fixed in bar.track(names, description=method)
                ]
            except MissingToolError as error:
                return {"missing": str(error)}
        versions = {package: installed_version(package) for package in ("foldless", "simpleitk", "antspyx")}
        found = {"settings": settings, "scores": scores, "versions": versions}
        write_json(found, file)
        return found


def by_model(run: Path, moving: Volume, fixed: Volume, scratch: Path) -> tuple[Field, Field | None]:
    """foldless, as `foldless register` does it."""
    from foldless.model import Model
    from foldless.outcome import register_volumes

    fields = register_volumes(Model.load(run), moving, fixed)
    return fields.forward, fields.inverse


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
    """A line of the table: means over pairs, the largest memory."""
    if "missing" in found:
        return (method, found["missing"], *[""] * (len(COLUMNS) - 2))
    scores = found["scores"]
    mean = {name: sum(s[name] for s in scores) / len(scores) for name in scores[0]}
    inverse = f"{mean['inverse']:.3f}" if "inverse" in mean else "not given"
    memory = max(s["mib"] for s in scores)
    return (
        method,
        f"{mean['dice']:.3f}",
        f"{mean['folds']:.2f}",
        f"{mean['ten']:.4f}",
        inverse,
        f"{mean['seconds']:.2f}",
        f"{memory:.0f}",
    )


if __name__ == "__main__":
    begin(Table2)
