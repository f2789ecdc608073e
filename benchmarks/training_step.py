"""ICON training steps of foldless beside icon_registration's, in turn: `python -m benchmarks.training_step`.

icon_registration is optional: `pip install --no-deps icon_registration matplotlib tensorboard tqdm`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from statistics import median

from rich.console import Console
from rich.table import Table

CASES = {"28 x 28, batch 128": ("28x28", 128), "80 x 80 x 80, batch 1": ("80x80x80", 1)}
NAMES = ("foldless", "foldless-float32", "icon_registration")
STEPS = 9


def measure(
    shape: str, batch: int, names: tuple[str, ...], module: str = "benchmarks.contestants", steps: int = STEPS
) -> dict[str, tuple[float, float]]:
    """Median seconds and MiB above the imports of each contestant, its steps taken in turn with the others'."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    workers = {}
    for name in names:
        command = [sys.executable, "-m", module, name, shape, str(batch)]
        pipe = subprocess.PIPE
        workers[name] = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        _ask(workers[name], None)
    times: dict[str, list[float]] = {name: [] for name in names}
    memory = {}
    for turn in range(steps + 2):
        for name, worker in workers.items():
            seconds, memory[name] = map(float, _ask(worker, "step").split())
            if turn >= 2:
                times[name].append(seconds)
    for worker in workers.values():
        worker.communicate()
    return {name: (median(times[name]), memory[name]) for name in names}


def _ask(worker: subprocess.Popen[str], line: str | None) -> str:
    assert worker.stdin is not None
    assert worker.stdout is not None
    if line is not None:
        worker.stdin.write(line + "\n")
        worker.stdin.flush()
    answer = worker.stdout.readline()
    if not answer:
        raise RuntimeError("a contestant died; run it by itself: python -m THE_MODULE NAME SHAPE BATCH")
    return answer


def main() -> None:
    here = find_spec("icon_registration") is not None
    names = NAMES if here else NAMES[:2]
    table = Table(
        "case", "contestant", "seconds a step", "x", "MiB", "x", title="ICON training step, ICON's U-Net, CPU"
    )
    for case, (shape, batch) in CASES.items():
        results = measure(shape, batch, names)
        peer = results.get("icon_registration")
        for name, (seconds, memory) in results.items():
            ratios = ("", "") if peer is None else (f"{seconds / peer[0]:.2f}", f"{memory / peer[1]:.2f}")
            table.add_row(case, name, f"{seconds:.3f}", ratios[0], f"{memory:.0f}", ratios[1])
        if peer is None:
            table.add_row(case, "icon_registration", "not installed", "", "", "")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
