"""Training steps of foldless beside its peers', in turn: `python -m benchmarks.training_step`.

The peers are optional: `pip install monai`, `pip install --no-deps icon_registration matplotlib tensorboard tqdm`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.contestants import PEERS, missing
from benchmarks.results import Result


@dataclass(frozen=True)
class Case:
    """A task of `benchmarks.contestants` at a size."""

    task: str
    shape: tuple[int, ...]
    batch: int = 1

    @property
    def name(self) -> str:
        return f"{self.task}, {' x '.join(map(str, self.shape))}, batch {self.batch}"


CASES = (
    Case("icon", (28, 28), 128),
    Case("icon", (80, 80, 80)),
    Case("gradicon", (80, 80, 80)),
    Case("voxelmorph", (64, 64, 64)),
)
OURS = ("foldless", "foldless-float32")
STEPS = 9


def results(cases: Sequence[Case] = CASES, steps: int = STEPS, device: str = "cpu") -> Iterator[Result]:
    """Every contestant in every case."""
    for case in cases:
        names = (*OURS, *PEERS[case.task])
        absent = {name: why for name in names if (why := missing(name))}
        for name, (seconds, memory) in measure(case, [n for n in names if n not in absent], steps, device).items():
            yield Result("training step", case.name, name, seconds, memory)
        for name, why in absent.items():
            yield Result("training step", case.name, name, note=why)


def measure(case: Case, names: Sequence[str], steps: int, device: str) -> dict[str, tuple[float, float]]:
    """Median seconds and MiB above the imports of each contestant, its steps taken in turn with the others'."""
    size = "x".join(map(str, case.shape))
    return in_turn(
        {name: ("benchmarks.contestants", case.task, name, size, str(case.batch), device) for name in names}, steps
    )


def in_turn(modules: Mapping[str, Sequence[str]], steps: int) -> dict[str, tuple[float, float]]:
    """The same of modules that `contestants.serve`, each with its arguments, in processes of their own."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    workers = {}
    for name, module in modules.items():
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", *module]
        workers[name] = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        ask(workers[name], None)
    times: dict[str, list[float]] = {name: [] for name in modules}
    memory = {}
    for turn in range(steps + 2):
        for name, worker in workers.items():
            seconds, memory[name] = map(float, ask(worker, "step").split())
            if turn >= 2:
                times[name].append(seconds)
    for worker in workers.values():
        worker.communicate()
    return {name: (median(times[name]), memory[name]) for name in modules}


def ask(worker: subprocess.Popen[str], line: str | None) -> str:
    """The next line of a worker, after it was sent one, if any."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    if line is not None:
        worker.stdin.write(line + "\n")
        worker.stdin.flush()
    answer = worker.stdout.readline()
    if not answer:
        command = " ".join(map(str, worker.args)) if isinstance(worker.args, list) else worker.args
        raise RuntimeError(f"a contestant died; run it by itself: {command}")
    return answer


def show(found: Sequence[Result], device: str = "cpu") -> None:
    """A table; times and memory also as a share of the first peer's."""
    table = Table("case", "contestant", "seconds a step", "x", "MiB", "x", title=f"training step, {device}")
    for result in found:
        if result.seconds is None or result.mebibytes is None:
            table.add_row(result.case, result.contestant, result.note, "", "", "")
            continue
        peer = _peer(found, result.case)
        ratios = ("", "")
        if peer is not None and peer.seconds and peer.mebibytes:
            ratios = f"{result.seconds / peer.seconds:.2f}", f"{result.mebibytes / peer.mebibytes:.2f}"
        numbers = f"{result.seconds:.3f}", ratios[0], f"{result.mebibytes:.0f}", ratios[1]
        table.add_row(result.case, result.contestant, *numbers)
    Console(width=120).print(table)


def _peer(found: Sequence[Result], case: str) -> Result | None:
    peers = (r for r in found if r.case == case and r.contestant not in OURS and r.seconds is not None)
    return next(peers, None)


@dataclass(frozen=True)
class TrainingStep:
    """Time a training step of foldless and of its peers, in turn, and its memory."""

    steps: int = STEPS
    """Timed steps of each, after two to warm up."""
    device: str = "cpu"
    """Where they run."""


if __name__ == "__main__":
    options = tyro.cli(TrainingStep)
    show(list(results(CASES, options.steps, options.device)), options.device)
