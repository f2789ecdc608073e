"""Time and memory of registering a pair by forces, by voxels and by threads: `python -m benchmarks.forces`.

Every size is measured in a process of its own, so that its peak memory is its own; the images are smooth blots and the
same bent a little, and all steps are taken.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from dataclasses import dataclass
from time import perf_counter

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.scaling import exponent
from foldless.grid import Grid, sample
from foldless.halfway import Forces, register_halfway


@dataclass(frozen=True)
class ByForces:
    """Time a pair by forces on cubes, with one thread and with more."""

    sides: tuple[int, ...] = (64, 96, 128, 192, 256)
    """Voxels a side."""
    threads: int = 2
    """Of every size."""
    alone: int = 128
    """The side that one thread takes as well."""

    def run(self) -> None:
        table = Table("side", "threads", "seconds", "µs a voxel", "MiB", title="a pair by forces, without affine part")
        found: dict[tuple[int, int], float] = {}
        for side, threads in [*((side, self.threads) for side in self.sides), (self.alone, 1)]:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found[side, threads], memory = pool.apply(timed, (side, threads))
            seconds = found[side, threads]
            table.add_row(
                *map(str, (side, threads)), f"{seconds:.2f}", f"{1e6 * seconds / side**3:.2f}", f"{memory:.0f}"
            )
        console = Console(width=100)
        console.print(table)
        seconds = [found[side, self.threads] for side in self.sides]
        console.print(f"seconds grow as voxels^{exponent([side**3 for side in self.sides], seconds):.2f}")
        if (self.alone, self.threads) in found:
            ratio = found[self.alone, 1] / found[self.alone, self.threads]
            console.print(f"{self.threads} threads are {ratio:.2f} times as fast as one at side {self.alone}")


def timed(side: int, threads: int) -> tuple[float, float]:
    """Seconds of one pair, and the most memory that the process held, MiB."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(1)
    points = Grid((side,) * 3).points()
    image = sample(torch.rand(1, 1, 12, 12, 12, generator=generator), points)
    bend = 0.05 * torch.randn(1, 3, 5, 5, 5, generator=generator)
    other = sample(image, points + sample(bend, points))
    little = sample(image, Grid((16,) * 3).points())
    forces = Forces(affine_steps=0)
    register_halfway(little, little, forces=forces)  # what is done once
    started = perf_counter()
    register_halfway(image, other, forces=forces)
    seconds = perf_counter() - started
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


if __name__ == "__main__":
    tyro.cli(ByForces).run()
