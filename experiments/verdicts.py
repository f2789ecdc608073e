"""What the evidence of a pose says of right and wrong ones: `python -m experiments.verdicts --data FOLDER`.

Right: planted pairs of one brain, and brains of two people, turned. Wrong: the first with the moving image mirrored,
and from a start that leads nowhere. Thresholds were chosen on even seeds and are reported on odd ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command import begin
from experiments.places import Shown
from experiments.results import markdown
from foldless.cli.console import say

if TYPE_CHECKING:
    from foldless.io import Volume
    from foldless.pose import Pose

NAMES = ("seed", "kind", "verdict", "error, mm", "clear", "mirrored", "runner-up", "overlap")


@dataclass(frozen=True)
class Verdicts(Shown):
    """Find poses that are known to be right or wrong; print and write what is said of them."""

    data: Path
    """Folder with brains/native2mm and brains_fullsize."""
    output: Path = Path("runs/verdicts")
    """Folder for the table of a run with other settings."""
    first: int = 1
    """The first seed; every other one follows."""
    seeds: int = 8
    """How many."""

    def run(self) -> None:
        from foldless.cli.laying import pose_scores
        from foldless.pose import Scan, find_pose
        from foldless.report.verdict import judge_numbers, level_of, named

        rows = []
        for seed in range(self.first, self.first + 2 * self.seeds, 2):
            for kind, moving, fixed, start, error in cases(self.data, seed):
                pose = find_pose(Scan(moving), Scan(fixed), initial=start)
                found, off = pose_scores(pose), "" if error is None else f"{error(pose.pose):.2f}"
                verdict = named(level_of(judge_numbers({"pose": found})))
                evidence = (found[name] for name in ("clear", "mirrored", "runner_up", "overlap"))
                rows.append((str(seed), kind, verdict, off, *(f"{number:.2f}" for number in evidence)))
                say("  ".join(rows[-1]))
        command = "    python -m experiments.verdicts --data FOLDER"
        self.write("Verdicts on poses", f"{command}\n\n{markdown(NAMES, rows)}")


def cases(data: Path, seed: int) -> Iterator[tuple[str, Volume, Volume, Pose | None, Callable[[Pose], float] | None]]:
    """Kind, moving and fixed image, a start where none is sought, and the error of a pose where the truth is known."""
    import numpy as np

    from experiments.phantoms import planted, volumes
    from foldless.io import like, read_volume
    from foldless.pose import Pose, laid

    files = volumes(data)
    volume, other = (read_volume(files[(seed + k) % len(files)]) for k in (0, 5))
    pair = planted(volume, seed)
    random = np.random.default_rng(seed)
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    turn = turn * np.sign(np.linalg.det(turn))
    turned = laid(other, Pose.laying(volume.geometry.centre, other.geometry.centre, turn))
    yield "right: one body", pair.moving, pair.fixed, None, pair.error
    yield "right: two people", turned, volume, None, None
    yield "wrong: mirrored", like(pair.moving.array[:, :, ::-1].copy(), pair.moving), pair.fixed, None, None
    lost = Pose.laying(pair.moving.geometry.centre, pair.fixed.geometry.centre)
    if pair.truth.degrees > 60:
        yield "wrong: a start that leads nowhere", pair.moving, pair.fixed, lost, pair.error


if __name__ == "__main__":
    begin(Verdicts)
