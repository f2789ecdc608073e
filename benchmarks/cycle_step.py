"""A step of Kuang's cycle, beside it with VoxelMorph's dense LNCC, in turn: `python -m benchmarks.cycle_step`.

All contestants train the same network on the same images; memory is the peak above the imports.
"""

from __future__ import annotations

from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.training_step import in_turn

OURS, PEER = "foldless", "plain torch, dense LNCC"
NAMES = (OURS, "foldless-float32", "foldless, dense LNCC", PEER)


@dataclass(frozen=True)
class CycleStep:
    """Time a training step of every contestant, and its memory."""

    size: tuple[int, ...] = (144, 180, 144)
    """Voxels an axis."""
    batch: int = 1
    """Pairs a step."""
    steps: int = 3
    """Timed steps of each, after two to warm up."""

    def run(self) -> None:
        shape = "x".join(map(str, self.size))
        commands = {name: ("benchmarks.cycle_contestants", name, shape, str(self.batch)) for name in NAMES}
        results = in_turn(commands, self.steps)
        title = f"step of the cycle, {shape}, batch {self.batch}, CPU"
        table = Table("contestant", "seconds a step", "x", "MiB", "x", title=title)
        seconds_peer, memory_peer = results[PEER]
        for name, (seconds, memory) in results.items():
            ratios = f"{seconds / seconds_peer:.2f}", f"{memory / memory_peer:.2f}"
            table.add_row(name, f"{seconds:.3f}", ratios[0], f"{memory:.0f}", ratios[1])
        Console(width=110).print(table)


if __name__ == "__main__":
    tyro.cli(CycleStep).run()
