"""A step of Kuang's cycle, beside it with VoxelMorph's dense LNCC, in turn: `python -m benchmarks.cycle_step`.

All contestants train the same network on the same images; memory is the peak above the imports.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.results import Result
from benchmarks.training_step import Case, in_turn

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

    def results(self) -> Iterator[Result]:
        """Every contestant."""
        case = Case("cycle", self.size, self.batch)
        shape = "x".join(map(str, self.size))
        commands = {name: ("benchmarks.cycle_contestants", name, shape, str(self.batch)) for name in NAMES}
        for name, (seconds, memory) in in_turn(commands, self.steps).items():
            yield Result("step of the cycle", case.name, name, seconds, memory)


def show(found: Sequence[Result]) -> None:
    """A table; times and memory also as a share of the peer's."""
    table = Table("contestant", "seconds a step", "x", "MiB", "x", title=f"step of the {found[0].case}, CPU")
    measured = {result.contestant: (result.seconds or 0.0, result.mebibytes or 0.0) for result in found}
    peer = measured[PEER]
    for name, (seconds, memory) in measured.items():
        ratios = f"{seconds / peer[0]:.2f}", f"{memory / peer[1]:.2f}" if peer[1] else ""
        table.add_row(name, f"{seconds:.3f}", ratios[0], f"{memory:.0f}", ratios[1])
    Console(width=110).print(table)


if __name__ == "__main__":
    show(list(tyro.cli(CycleStep).results()))
