"""All benchmarks or some, a table of each, and by request one more line in a file and a plot of that file's lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from benchmarks import cycle_step, operations, scaling, training_step
from benchmarks.cycle_step import CycleStep
from benchmarks.results import Result, draw, write_line

Name = Literal["operations", "steps", "cycle", "scaling"]


@dataclass(frozen=True)
class Benchmarks:
    """Time foldless beside its peers. Peers that are not installed are rows that say so."""

    run: tuple[Name, ...] = ("operations", "steps", "cycle", "scaling")
    """Which; none to plot only."""
    output: Path | None = None
    """A file that one line of JSON is added to, for this commit and this machine."""
    plot: Path | None = None
    """An SVG of all lines of that file."""
    device: str = "cpu"
    """Where operations, steps and inference run; the cycle is timed on the CPU."""
    side: int | None = None
    """Voxels a side of every volume instead of the published sizes: a quick look at whether all of it works;
    32 at least, which icon_registration's network needs."""
    steps: int = training_step.STEPS
    """Timed steps of every case; three at most of the cycle, whose dense contestants take a minute each."""


def run(options: Benchmarks) -> None:
    found = [result for name in options.run for result in RUNS[name](options)]
    if options.output is not None and found:
        write_line(options.output, found)
    if options.plot is not None:
        if options.output is None:
            raise SystemExit("--plot draws the lines of a file; name it by --output")
        draw(options.output, options.plot)


def run_operations(options: Benchmarks) -> list[Result]:
    shape = operations.SHAPE if options.side is None else (options.side,) * 3
    timed = operations.timed(shape, options.device)
    operations.show(timed, shape, options.device)
    return operations.results(timed, shape)


def run_steps(options: Benchmarks) -> list[Result]:
    cases = [_of_side(case, options.side) for case in training_step.CASES]
    found = list(training_step.results(cases, options.steps, options.device))
    training_step.show(found, options.device)
    return found


def run_cycle(options: Benchmarks) -> list[Result]:
    timed = CycleStep(steps=min(options.steps, CycleStep.steps))
    found = list((timed if options.side is None else replace(timed, size=(options.side,) * 3)).results())
    cycle_step.show(found)
    return found


def run_scaling(options: Benchmarks) -> list[Result]:
    side, how = options.side, {"steps": options.steps, "device": options.device}
    sizes = {} if side is None else {"sides": (side, 2 * side), "batches": (1, 2), "pairs": ((side,) * 3,)}
    found = list(scaling.results(**sizes, **how))
    scaling.show(found, options.device)
    return found


def _of_side(case: training_step.Case, side: int | None) -> training_step.Case:
    return case if side is None else replace(case, shape=(side,) * len(case.shape), batch=min(case.batch, 2))


RUNS: dict[Name, Callable[[Benchmarks], list[Result]]] = {
    "operations": run_operations,
    "steps": run_steps,
    "cycle": run_cycle,
    "scaling": run_scaling,
}

if __name__ == "__main__":
    run(tyro.cli(Benchmarks))
