"""Pairs registered by foldless and by its peers in turn, one table: `python -m benchmarks.pair --data FOLDER`.

Every contestant is a command in a process of its own, as a user would call it, with the same threads, and all take a
pair before the next one comes. What they write is judged alike: Dice, folds by rule, proof, and both directions' error
from home. Rows that are done are kept, so that a comparison that was cut off goes on. For the brains, whose settings
were chosen on `--part val`:

    python -m benchmarks.pair --data brains --output OUT --groups labels.csv --aligned --pairs 30
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, time
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.peer import PEERS
from benchmarks.results import commit, machine

if TYPE_CHECKING:
    from foldless.io import Volume

OURS: dict[str, tuple[str, ...]] = {"foldless": (), "foldless, adam": ("--optimiser", "adam")}
UNPROVEN = 3
"""Contestants that are `foldless register`, by their options."""
COLUMNS = {
    "Dice": (("dice",), "{:.4f}"),
    "least": (("dice",), "{:.3f}"),
    "folds, % (forward)": (("folds_percent", "forward"), "{:.4f}"),
    "folds, % (ten)": (("folds_percent", "ten"), "{:.4f}"),
    "proven": (("certificate", "proven"), "{:.0%}"),
    "inverse error, voxels": (("inverse_consistency_voxels", "mean"), "{:.3f}"),
    "its p99": (("inverse_consistency_voxels", "p99"), "{:.2f}"),
    "finding, s": (("finding",), "{:.2f}"),
    "whole, s": (("whole",), "{:.2f}"),
    "MiB": (("mebibytes",), "{:.0f}"),
}
"""What a row says, where a pair's scores have it, and how it is written; means over pairs.

Finding is what a contestant takes for its maps: foldless for the affine part, the flow, both fields and their repair,
greedy for its deformation and, unless images lie aligned, its affine stage, ANTs for all that it does. Whole is the
command: greedy's both stages and the image resampled, foldless's also the proof, all scores and the page.
"""

ITK_THREADS = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"

Scores = dict[str, Any]
Case = tuple[Path, Path]


@dataclass(frozen=True)
class Compared:
    """Register the same pairs by foldless and by its peers, in turn, and print one table."""

    data: Path
    """Folder with images/ and labels/, and split.json if not every case is to be judged."""
    output: Path
    """Folder for what is found, a line a pair and contestant."""
    pairs: int = 30
    """How many ordered pairs, drawn with seed 0."""
    part: Literal["test", "val", "train"] = "test"
    """Which part of split.json they are of; settings are chosen on another one than is reported."""
    contestants: tuple[str, ...] = (*OURS, *PEERS)
    """Names of the rows."""
    groups: Path | None = None
    """CSV with the columns label and group: Dice is of groups of labels then, 0 counting as background."""
    aligned: bool = False
    """The images lie affinely aligned: foldless and greedy begin where they lie. greedy's affine stage is run all the
    same, as part of its whole command."""
    threads: int = 2
    """Of every contestant."""

    def run(self) -> None:
        unknown = [name for name in self.contestants if name not in (*OURS, *PEERS)]
        if unknown or self.pairs < 1:
            known = ", ".join((*OURS, *PEERS))
            raise SystemExit(f"contestants are {known}, pairs 1 or more; got {unknown or self.pairs}")
        self.output.mkdir(parents=True, exist_ok=True)
        file = self.output / "pairs.jsonl"
        done = self._done(file)
        wanted = []
        for turn, (moving, fixed) in enumerate(self._cases()):
            for name in np.roll(self.contestants, -turn):
                key = (str(name), moving[0].name, fixed[0].name)
                wanted.append(key)
                if key not in done:
                    done[key] = self._judged(str(name), moving, fixed)
                    if "missing" not in done[key]:
                        line = {"key": key, "about": self._about(), "scores": done[key]}
                        with file.open("a") as out:
                            out.write(json.dumps(line) + "\n")
                    said = done[key].get("missing") or f"Dice {done[key].get('dice', np.nan):.4f}"
                    print(" ".join(key), said, f"{done[key].get('whole', np.nan):.1f} s", file=sys.stderr, flush=True)
        show(self, {key: done[key] for key in wanted})

    def _about(self) -> Mapping[str, Any]:
        groups = None if self.groups is None else self.groups.read_text()
        data = str(self.data.resolve())
        asked = {"threads": self.threads, "aligned": self.aligned, "data": data, "groups": groups}
        return {"commit": commit(), "machine": machine(), **asked}

    def _done(self, file: Path) -> dict[tuple[str, ...], Scores]:
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return {tuple(line["key"]): line["scores"] for line in lines if line["about"] == self._about()}

    def _cases(self) -> Iterator[tuple[Case, Case]]:
        from foldless.data.folder import case_names, label_file, split_names
        from foldless.data.images import ordered_pairs

        files = case_names(self.data)
        names = split_names(self.data, list(files))[self.part] if (self.data / "split.json").is_file() else list(files)
        labels = {name: label_file(self.data, files[name]) for name in names}
        for i, j in ordered_pairs(len(names), self.pairs):
            (a, b), (seg_a, seg_b) = ((at[names[i]], at[names[j]]) for at in (files, labels))
            if seg_a is None or seg_b is None:
                raise SystemExit(f"{self.data}/labels lacks {names[i]} or {names[j]}")
            yield (a, seg_a), (b, seg_b)

    def _judged(self, name: str, moving: Case, fixed: Case) -> Scores:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            words = self._command(name, moving[0].resolve(), fixed[0].resolve(), folder)
            before = perf_counter()
            code, last, mebibytes = run_alone(words, self.threads)
            whole = perf_counter() - before
            if code and not (name in OURS and code == UNPROVEN):
                return {"missing": last}
            if name in OURS:
                there, back = folder / "out/warp.nii.gz", folder / "out/inverse_warp.nii.gz"
                finding = json.loads((folder / "out/metrics.json").read_text())["seconds"]
            else:
                there, back = folder / "there.nii.gz", folder / "back.nii.gz"
                seconds = json.loads((folder / "seconds.json").read_text())
                finding, whole = seconds["finding"], seconds["whole"]
            scores = self._scores(moving, fixed, there, back)
            return {**scores, "finding": finding, "whole": whole, "mebibytes": mebibytes}

    def _command(self, name: str, moving: Path, fixed: Path, folder: Path) -> list[str]:
        if name in OURS:
            ours = ("-m", "foldless", "register", moving, fixed, "--output", folder / "out", "--device", "cpu")
            aligned = ["--aligned"] * (self.aligned and "adam" not in OURS[name])
            return [sys.executable, *map(str, ours), *OURS[name], *aligned]
        told = ("--name", name, "--threads", self.threads, "--started", time(), *["--aligned"] * self.aligned)
        return [sys.executable, *map(str, (Path(__file__).with_name("peer.py"), moving, fixed, folder, *told))]

    def _scores(self, moving: Case, fixed: Case, there: Path, back: Path) -> Scores:
        from foldless.direct import Direct
        from foldless.io import read_transform, read_volume, read_warp
        from foldless.outcome import Outcome
        from foldless.registering import Fields

        a, b = (read_volume(image) for image, _ in (moving, fixed))
        labels = [self._grouped(read_volume(file, labels=True)) for _, file in (moving, fixed)]
        pose = there.with_name("pose.txt")
        after = read_transform(pose).linear if pose.is_file() else None
        fields = Fields(read_warp(there)[0], read_warp(back)[0], read_warp(there)[0], 0.0, pose=after)
        return Outcome(a, b, fields, Direct.of_pair(a, b), *labels).metrics()

    def _grouped(self, labels: Volume) -> Volume:
        from foldless.io import like

        if self.groups is None:
            return labels
        with self.groups.open(newline="") as file:
            group = {int(row["label"]): int(row["group"] or 0) for row in csv.DictReader(file)}
        table = np.zeros(max(*group, int(labels.array.max())) + 1, labels.array.dtype)
        table[list(group)] = list(group.values())
        return like(table[labels.array], labels)


def run_alone(words: Sequence[str], threads: int) -> tuple[int, str, float]:
    """A command's exit code, its last line, and the most memory that it held, MiB."""
    environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", ITK_THREADS), str(threads))}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(words, env=environment, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        last = (said.read().strip().splitlines() or ["no word"])[-1]
    return process.returncode, last, used.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def _at(scores: Mapping[str, Any], names: Sequence[str]) -> float:
    found: Any = scores
    for name in names:
        found = found[name]
    return float(found)


def show(options: Compared, done: Mapping[tuple[str, ...], Scores]) -> None:
    """Means over pairs, a row a contestant; the least Dice, which tells a lost pair, and the most memory."""
    about = f"{options.pairs} pairs of {options.part}, {options.threads} threads"
    title = f"{options.data.name}, {about}, {commit()}, {machine()}"
    table = Table("contestant", *COLUMNS, title=title)
    for name in options.contestants:
        scores = [found for key, found in done.items() if key[0] == name]
        if missing := [found["missing"] for found in scores if "missing" in found]:
            table.add_row(name, missing[0])
            continue
        cells = []
        for column, (where, form) in COLUMNS.items():
            over = {"least": min, "MiB": max}.get(column, np.mean)
            cells.append(form.format(over([_at(one, where) for one in scores])))
        table.add_row(name, *cells)
    Console(width=160).print(table)


if __name__ == "__main__":
    tyro.cli(Compared).run()
