"""ICON's Fig. 2 and §2.1: matching intensities alone is no registration, not even when the matching is one to one.

python -m experiments.icon_fig2
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.command import begin
from experiments.drawing import panels, save
from experiments.places import Pictured
from experiments.results import markdown
from foldless.cli.console import say

Signal = NDArray[np.float64]
Places = NDArray[np.int64]


class Matching(NamedTuple):
    """What became of the source: for every place of the target, the place of the source it reads."""

    places: Places
    error: float
    used: float
    backwards: float


@dataclass(frozen=True)
class Fig2(Pictured):
    """Match two 1-D signals by intensity, freely and by sorting, and draw both maps."""

    output: Path = Path("runs/fig2")
    """Folder for what other settings than the defaults come to."""
    nodes: int = 200
    """Places on the line."""

    def run(self) -> None:
        x, source, target = signals(self.nodes)
        found = {
            "free (MSE)": matched(source, target, nearest(source, target)),
            "sorted (OMT)": matched(source, target, by_order(source, target)),
            "nothing done": matched(source, target, np.arange(self.nodes)),
        }
        figure, [[a, b], [c, d]] = panels(2, 2, width=8)
        a.plot(x, source)
        a.set(title="(a) source")
        b.plot(x, target)
        b.set(title="(b) target")
        for axes, name, letter in ((c, "free (MSE)", "c"), (d, "sorted (OMT)", "d")):
            axes.plot(x, x[found[name].places], ".", markersize=2)
            axes.set(title=f"({letter}) map, {name}", xlabel="target x", ylabel="source x")
        save(figure, self.picture_folder / "icon_fig2.svg")
        rows = [
            (name, f"{m.error:.2e}", f"{100 * m.used:.0f} %", f"{100 * m.backwards:.0f} %") for name, m in found.items()
        ]
        header = ("matching", "mean squared error", "source places used", "steps backwards")
        self.write("ICON, Fig. 2", self._text(markdown(header, rows)))
        for row in rows:
            say("  ".join(row))

    def _text(self, table: str) -> str:
        return (
            f"    python -m experiments.icon_fig2\n\n{self.shown('icon_fig2', 'Fig. 2')}\n\n{table}\n"
            "As in the paper: intensities match best where a free choice reads few places again and again. Sorting "
            "reads every place once, so the map is invertible, and it still jumps back and forth: without something "
            "that makes maps regular, inverse consistency of one pair alone does not.\n"
        )


def signals(nodes: int) -> tuple[Signal, Signal, Signal]:
    """Places in [0, 1], and two signals of two bumps each: the higher is the first here, the second there."""
    x = np.linspace(0, 1, nodes)

    def bump(centre: float, width: float) -> Signal:
        return np.exp(-(((x - centre) / width) ** 2))

    return x, bump(0.3, 0.12) + 0.6 * bump(0.7, 0.1), 0.5 * bump(0.35, 0.1) + 0.9 * bump(0.75, 0.15)


def nearest(source: Signal, target: Signal) -> Places:
    """Eq. 2 without regularity: every target value reads the closest source value, wherever that lies."""
    return np.abs(source[None] - target[:, None]).argmin(1)


def by_order(source: Signal, target: Signal) -> Places:
    """Eq. 3: the permutation with the least error for every p ≥ 1 is the one that sorts both signals alike."""
    places = np.empty(len(source), dtype=np.int64)
    places[np.argsort(target, kind="stable")] = np.argsort(source, kind="stable")
    return places


def matched(source: Signal, target: Signal, places: Places) -> Matching:
    """How good a matching is, and how far from a map that does not fold."""
    error = float(np.square(source[places] - target).mean())
    return Matching(places, error, len(np.unique(places)) / len(source), float((np.diff(places) < 0).mean()))


if __name__ == "__main__":
    begin(Fig2)
