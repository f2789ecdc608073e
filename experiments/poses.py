"""How often poses of planted pairs are found: `python -m experiments.poses --data FOLDER`.

Every seed is a pair made from one whole brain (`experiments.phantoms`), whose truth is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import process_time

from experiments.command import begin
from experiments.places import Shown
from experiments.results import markdown
from foldless.cli.console import say

NAMES = ("seed", "pair", "error, mm", "half a voxel's diagonal, mm", "found", "seconds of processor")


@dataclass(frozen=True)
class Poses(Shown):
    """Find the poses of planted pairs; print and write one table."""

    data: Path
    """Folder with brains/native2mm and brains_fullsize."""
    output: Path = Path("runs/poses")
    """Folder for the table of a run with other settings."""
    first: int = 0
    """The first seed."""
    pairs: int = 14
    """How many seeds from there on."""

    def run(self) -> None:
        from experiments.phantoms import planted, volumes
        from foldless.io import read_volume
        from foldless.pose import Scan, find_pose

        files, rows = volumes(self.data), []
        for seed in range(self.first, self.first + self.pairs):
            pair = planted(read_volume(files[seed % len(files)]), seed)
            before = process_time()
            found = find_pose(Scan(pair.moving), Scan(pair.fixed))
            seconds, error = process_time() - before, pair.error(found.pose)
            right = "yes" if error <= pair.tolerance else "no"
            rows.append((str(seed), pair.kind, f"{error:.2f}", f"{pair.tolerance:.2f}", right, f"{seconds:.1f}"))
            say("  ".join(rows[-1]))
        command = "    python -m experiments.poses --data FOLDER"
        self.write("Poses of planted pairs", f"{command}\n\n{markdown(NAMES, rows)}")


if __name__ == "__main__":
    begin(Poses)
