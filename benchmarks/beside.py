"""The same benchmarks of this checkout and of another one, in turn: `python -m benchmarks.beside OTHER_CHECKOUT`.

What is seen from one run to the next on a machine that others use too is mostly them. Here both checkouts take a row
alternately, each in a process of its own, so that what slows one slows the other: the ratio of neighbouring turns, of
which the median is shown, says what the change did. For an earlier commit:

    git worktree add ../earlier COMMIT
    cd ../earlier && python -m venv .venv && .venv/bin/pip install --editable . && cd -    # compiles its kernels
    python -m benchmarks.beside ../earlier
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from benchmarks.training_step import ask

HERE = Path(__file__).resolve().parents[1]
WARM_UP = 2
Kind = Literal["operations", "steps", "inference", "cycle"]


@dataclass(frozen=True)
class Row:
    """Median seconds of both, and the median ratio of neighbouring turns; None where `note` says why."""

    name: str
    here: float | None = None
    there: float | None = None
    ratio: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Beside:
    """Time the rows of this checkout and of another one in turn, and say which have become slower.

    The exit code is 1 where one has. What only one of them has is a row that says so.
    """

    other: Positional[Path]
    """The other checkout, its kernels compiled."""
    run: tuple[Kind, ...] = ("operations", "steps")
    """Which benchmarks."""
    only: tuple[str, ...] = ()
    """Rows whose names hold one of these; all if none is named."""
    size: tuple[int, ...] = (96, 96, 96)
    """Voxels an axis of the operations, one to three of them."""
    turns: int = 9
    """Timed turns of each row, after two to warm up."""
    slower: float = 5.0
    """A row that takes so many per cent longer here than there is marked."""

    def check(self) -> None:
        """Refuse before anything is timed what cannot be.

        Raises:
            SystemExit: says what.
        """
        if self.turns < 1:
            raise SystemExit(f"--turns is 1 or more; got {self.turns}")
        if not 1 <= len(self.size) <= 3 or min(self.size) < 8:
            raise SystemExit(f"--size is one to three numbers of 8 or more; got {' '.join(map(str, self.size))}")
        if not self.slower >= 0:
            raise SystemExit(f"--slower is 0 or more; got {self.slower:g}")
        if self.other.resolve() == HERE:
            raise SystemExit(f"{self.other} is this checkout; name another one")
        for checkout in (self.other, HERE):
            kernels = checkout / "src/foldless/kernels"
            if not (checkout / "benchmarks").is_dir() or not kernels.is_dir():
                raise SystemExit(f"{checkout} is no checkout of foldless: it needs benchmarks/ and src/foldless/")
            if not any(kernels.glob("libfoldless*")):
                raise SystemExit(f"{checkout} has no compiled kernels: pip install --editable {checkout} compiles them")

    def rows(self) -> Iterator[Row]:
        """Every row, as it is timed."""
        here, there = (listed(checkout, self.run, self.size) for checkout in (HERE, self.other))
        for name in dict.fromkeys((*here, *there)):
            if self.only and not any(part in name for part in self.only):
                continue
            if name not in here or name not in there:
                yield Row(name, note="only here" if name in here else "only there")
            else:
                yield in_turn(name, [(HERE, here[name]), (self.other, there[name])], self.turns)


def environment(checkout: Path) -> dict[str, str]:
    """That of a process which imports foldless and its benchmarks from a checkout."""
    path = os.pathsep.join(map(str, (checkout.resolve() / "src", checkout.resolve())))
    return {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE"}


def command(*words: str) -> list[str]:
    """This checkout's `rows`, which imports nothing from its own folder (-P)."""
    return [sys.executable, "-P", str(HERE / "benchmarks/rows.py"), *words]


def listed(checkout: Path, kinds: Sequence[str], size: Sequence[int]) -> dict[str, list[str]]:
    """What a checkout can be timed on: names, and the words that serve them.

    Raises:
        SystemExit: it cannot be asked.
    """
    words = command("list", "x".join(map(str, size)), *kinds)
    done = subprocess.run(words, capture_output=True, text=True, env=environment(checkout), cwd=checkout)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise SystemExit(f"the benchmarks of {checkout} cannot be listed: {last}")
    rows: dict[str, list[str]] = json.loads(done.stdout)
    return rows


def in_turn(name: str, sides: Sequence[tuple[Path, Sequence[str]]], turns: int) -> Row:
    """One row, taken by both alternately, the one that begins changing from turn to turn."""
    pipe = subprocess.PIPE
    workers = [
        subprocess.Popen(
            command("serve", *words), stdin=pipe, stdout=pipe, text=True, env=environment(checkout), cwd=checkout
        )
        for checkout, words in sides
    ]
    times: list[tuple[float, float]] = []
    place = 0
    try:
        for place in (0, 1):
            ask(workers[place], None)
        for turn in range(turns + WARM_UP):
            found = [0.0, 0.0]
            for place in (0, 1) if turn % 2 else (1, 0):
                found[place] = float(ask(workers[place], "step"))
            times.append((found[0], found[1]))
    except (RuntimeError, BrokenPipeError):
        return Row(name, note=f"died {('here', 'there')[place]}")
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    kept = times[WARM_UP:]
    here, there = (median(column) for column in zip(*kept, strict=True))
    return Row(name, here, there, median(one / other for one, other in kept))


def show(rows: Sequence[Row], other: Path, slower: float) -> int:
    """A table; how many rows are slower here by more than so many per cent."""
    title = f"this checkout beside {other}, in turn"
    table = Table("row", "ms here", "ms there", "here / there", "", title=title, caption="less is better")
    marked = 0
    for row in rows:
        if row.here is None or row.there is None or row.ratio is None:
            table.add_row(row.name, "", "", "", row.note)
            continue
        late = row.ratio > 1 + slower / 100
        marked += late
        numbers = f"{1e3 * row.here:.1f}", f"{1e3 * row.there:.1f}", f"{row.ratio:.2f}"
        table.add_row(row.name, *numbers, "slower" if late else "")
    console = Console(width=110)
    console.print(table)
    timed = sum(row.ratio is not None for row in rows)
    console.print(f"{marked} of {timed} rows are slower here by more than {slower:g} %")
    return marked


def main() -> None:
    options = tyro.cli(Beside)
    options.check()
    sys.exit(show(list(options.rows()), options.other, options.slower) > 0)


if __name__ == "__main__":
    main()
