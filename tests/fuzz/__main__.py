"""`python -m tests.fuzz`: damaged files by the thousand, the counts by format, and the seeds of what went wrong."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from tests.fuzz.hunt import Tally, hunted, in_turn
from tests.fuzz.valid import FORMATS


@dataclass(frozen=True)
class Fuzz:
    """Damage small valid files, their headers above all, and see that each is read right or refused in one sentence."""

    count: int | None = None
    """Files; all formats in turn."""
    seconds: float | None = None
    """Or as many as this time allows."""
    seed: int = 0
    """The first seed; every file is a function of its format and its seed."""
    formats: tuple[str, ...] = tuple(FORMATS)
    """Which."""
    only: tuple[str, int] | None = None
    """One file again, by FORMAT SEED."""
    keep: Path | None = None
    """Where to write the files that went wrong."""


def main(options: Fuzz) -> int:
    """Run, print, and say by the exit code whether anything went wrong."""
    count = options.count if options.count or options.seconds else 1000
    asked = [options.only] if options.only else in_turn(options.formats, options.seed, count, options.seconds)
    tally = Tally()
    for found in hunted(asked):
        tally.add(found)
        if found.wrong:
            print(f"{found.kind} {found.seed} ({found.name}) {found.outcome}: {found.wrong}", flush=True)
            _keep(options, found.kind, found.seed)
    print(tally.table())
    print(f"\n{len(tally.faults)} faults")
    return 1 if tally.faults else 0


def _keep(options: Fuzz, kind: str, seed: int) -> None:
    from tests.fuzz.damage import damaged

    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        name, content = damaged(kind, seed)
        (options.keep / f"{kind}-{seed}-{name}").write_bytes(content)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Fuzz)))
