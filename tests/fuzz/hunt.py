"""Seeds given to a worker that is ended and started anew where one hangs or dies; what came, counted by format."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).parents[2]
LONGEST = 120.0
"""Seconds after which a file counts as one that hangs; others take milliseconds, and transforms a second."""
START = 300.0
"""Seconds that a worker may take to import what it needs."""


@dataclass(frozen=True)
class Found:
    """What came of one damaged file."""

    kind: str
    seed: int
    outcome: str
    wrong: str = ""
    name: str = ""
    seconds: float = 0.0
    grown: int = 0


class Worker:
    """A process of `tests.fuzz.worker`."""

    def __init__(self) -> None:
        paths = [str(ROOT), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
        )
        if self._line(START) != b"ready\n":
            raise RuntimeError("the worker did not start; python -m tests.fuzz.worker says why")

    def ask(self, kind: str, seed: int) -> Found:
        """One file; a worker that hangs or dies is of no more use."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{kind} {seed}\n".encode())
        self.process.stdin.flush()
        line = self._line(LONGEST)
        if line is None:
            return Found(kind, seed, "hang", f"no answer after {LONGEST:g} s")
        if not line:
            return Found(kind, seed, "crash", f"the process ended with {self.process.wait()}")
        answer = json.loads(line)
        return Found(kind, seed, *(answer[key] for key in ("outcome", "wrong", "name", "seconds", "grown")))

    def end(self) -> None:
        """Stop it, whatever it does."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def _line(self, seconds: float) -> bytes | None:
        """A line, b"" if the process has ended, None if it takes too long."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return self.process.stdout.readline() if ready else None


def hunted(asked: Iterable[tuple[str, int]]) -> Iterator[Found]:
    """What came of every (format, seed)."""
    worker = Worker()
    try:
        for kind, seed in asked:
            found = worker.ask(kind, seed)
            yield found
            if found.outcome in ("hang", "crash"):
                worker.end()
                worker = Worker()
    finally:
        worker.end()


def in_turn(kinds: Iterable[str], first: int, count: int | None, seconds: float | None) -> Iterator[tuple[str, int]]:
    """Formats in turn with growing seeds, until `count` files or `seconds`."""
    kinds, end = tuple(kinds), monotonic() + (seconds or float("inf"))
    n = 0
    while (count is None or n < count) and monotonic() < end:
        yield kinds[n % len(kinds)], first + n // len(kinds)
        n += 1


GOOD = ("read", "refused")


@dataclass
class Tally:
    """What came, by format."""

    found: dict[str, list[Found]] = field(default_factory=dict)

    def add(self, found: Found) -> None:
        """Count one."""
        self.found.setdefault(found.kind, []).append(found)

    @property
    def faults(self) -> list[Found]:
        return [one for several in self.found.values() for one in several if one.outcome not in GOOD]

    def table(self) -> str:
        """Markdown."""
        rows = [
            "| format | mutations | refused | read right | tracebacks | other faults | slowest, s | most memory, MiB |",
            "|---|---|---|---|---|---|---|---|",
        ]
        together = [one for several in self.found.values() for one in several]
        for name, several in [*self.found.items(), ("all", together)]:
            count = Counter(one.outcome for one in several)
            others = count.total() - sum(count[outcome] for outcome in (*GOOD, "exception"))
            numbers = (count.total(), count["refused"], count["read"], count["exception"], others)
            slowest, most = max(one.seconds for one in several), max(one.grown for one in several) >> 20
            rows.append(f"| {name} | {' | '.join(map(str, numbers))} | {slowest:.2f} | {most} |")
        return "\n".join(rows)
