"""Time and memory of a training step by voxels and by batch, and of a pair's inference: `python -m benchmarks.scaling`.

Every size is measured in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.results import Result
from benchmarks.training_step import Case, measure

SIDES = (48, 64, 80, 96, 128, 160)
BATCHES = (1, 2, 4, 8)
BATCH_SIDE = 48
PAIRS = ((80, 192, 192), (160, 192, 224))
FROM_SIDE = 64
"""The smallest cube in the fit: below, what does not depend on voxels counts."""
STEPS = 5

BY_VOXELS, BY_BATCH, OF_A_PAIR = "step by voxels", "step by batch", "inference"


def results(
    sides: Sequence[int] = SIDES,
    batches: Sequence[int] = BATCHES,
    pairs: Sequence[tuple[int, ...]] = PAIRS,
    steps: int = STEPS,
    device: str = "cpu",
) -> Iterator[Result]:
    """GradICON steps on cubes, then on batches of the smallest of `sides`, then inference of one pair."""
    cases = [(BY_VOXELS, Case("gradicon", (side,) * 3)) for side in sides]
    cases += [(BY_BATCH, Case("gradicon", (min(BATCH_SIDE, *sides),) * 3, batch)) for batch in batches]
    cases += [(OF_A_PAIR, Case("inference", shape)) for shape in pairs]
    for benchmark, case in cases:
        seconds, memory = measure(case, ["foldless"], steps, device)["foldless"]
        yield Result(benchmark, case.name, "foldless", seconds, memory)


def exponent(voxels: Sequence[int], seconds: Sequence[float]) -> float:
    """p of the best fit of seconds = c · voxels^p."""
    return float(np.polyfit(np.log(voxels), np.log(seconds), 1)[0])


def exponent_of(found: Sequence[Result]) -> float | None:
    """Over the cubes from `FROM_SIDE`, or over all if fewer than two are as large."""
    cubes = [(_voxels(r), r.seconds) for r in found if r.benchmark == BY_VOXELS and r.seconds is not None]
    large = [cube for cube in cubes if cube[0] >= FROM_SIDE**3]
    chosen = large if len(large) > 1 else cubes
    return exponent(*zip(*chosen, strict=True)) if len(chosen) > 1 else None


def _voxels(result: Result) -> int:
    shape = result.case.split(", ")[1]
    return prod(map(int, shape.split(" x ")))


def show(found: Sequence[Result], device: str = "cpu") -> None:
    table = Table("benchmark", "case", "seconds", "ns a voxel", "MiB", "bytes a voxel", title=f"scaling, {device}")
    for result in found:
        assert result.seconds is not None
        assert result.mebibytes is not None
        voxels = _voxels(result) * int(result.case.rpartition("batch ")[2])
        per_voxel = f"{1e9 * result.seconds / voxels:.1f}", f"{result.mebibytes * 2**20 / voxels:.0f}"
        numbers = f"{result.seconds:.3f}", per_voxel[0], f"{result.mebibytes:.0f}", per_voxel[1]
        table.add_row(result.benchmark, result.case, *numbers)
    console = Console(width=120)
    console.print(table)
    if (p := exponent_of(found)) is not None:
        console.print(f"seconds grow as voxels^{p:.2f}")


@dataclass(frozen=True)
class Scaling:
    """Time a training step by voxels and by batch, and a pair's inference, and their memory."""

    steps: int = STEPS
    """Timed steps of each size, after two to warm up."""
    device: str = "cpu"
    """Where they run."""


if __name__ == "__main__":
    options = tyro.cli(Scaling)
    show(list(results(steps=options.steps, device=options.device)), options.device)
