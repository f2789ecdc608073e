"""Parallel slices that need not lie evenly or straight above each other, and the lattice that they are put on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import atan2, degrees
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import Float, Float64

from foldless.errors import InputError
from foldless.io.findings import warn
from foldless.io.geometry import Geometry

EVEN = 0.02
"""Share of their distance by which slices may lie off even heights; scanners round positions."""
WHOLE = 0.1
"""Share of their distance by which a gap may miss a whole number of distances and still be slices that are missing."""
STRAIGHT = 0.1
"""Voxels by which slices may lie beside the line on which the first one's normal leads."""
MOST_MISSING = 10
"""Times as many slices as there are, beyond which none are put between them."""
TOGETHER = 1e-3
"""Millimetres within which two slices lie at one place."""
STEPS_UP = 7
"""Calls between a command that reads and the place where slices are warned about."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices from one side to the other.

    Attributes:
        path: what they are called in sentences.
        slices: their numbers (slices, rows, columns).
        at: the lattice of the first slice.
        heights: millimetres along its normal at which they lie, from 0, ascending.
        beside: by how many pixels, x and y, each lies beside the first one's normal.
        labels: whether their numbers are labels, of which the nearest is taken.
    """

    path: Path
    slices: Float[np.ndarray, "slices rows columns"]
    at: Geometry
    heights: Float64[np.ndarray, " slices"]
    beside: Float64[np.ndarray, "slices 2"]
    labels: bool = False

    @classmethod
    def of(
        cls,
        path: Path,
        slices: Float[np.ndarray, "slices rows columns"],
        places: Sequence[Geometry],
        labels: bool = False,
    ) -> Stack:
        """Slices in any order, their lattices, and whether they hold labels.

        Raises:
            InputError: two lie at one place.
        """
        at, origins = places[0], np.array([place.origin for place in places])
        order = np.argsort(origins @ at.cosines[:, 2], kind="stable")
        at = places[order[0]]
        away = (origins[order] - np.array(at.origin)) @ at.cosines
        heights = away[:, 2]
        if len(heights) > 1 and np.diff(heights).min() < TOGETHER:
            twice = int((np.diff(heights) < TOGETHER).sum())
            raise InputError(
                f"{path}: {twice} of its {len(heights)} slices lie where another one does, as of several times or "
                "echoes, or of pictures that do not say where they lie; expected one volume, take it out of the series"
            )
        return cls(path, slices[order], at, heights, away[:, :2] / np.array(at.spacing[:2]), labels)

    def volume(self) -> tuple[Float[np.ndarray, "slices rows columns"], Geometry]:
        """The volume on a lattice with axes at right angles and even steps; what was done for that is warned of."""
        if len(self.heights) == 1:
            return self.slices, self.at
        return self._straight()._even()

    @property
    def step(self) -> float:
        """How far slices lie apart: a number of which all gaps are multiples, if there is one, else their median."""
        gaps = np.diff(self.heights)
        times = np.rint(gaps / gaps.min())
        whole = np.abs(gaps / gaps.min() - times).max() <= WHOLE
        return float(gaps.sum() / times.sum() if whole else np.median(gaps))

    def _straight(self) -> Stack:
        """Slices moved to lie straight above each other, on as many pixels as that takes."""
        if np.abs(self.beside).max() <= STRAIGHT:
            return self
        if (np.abs(self.beside).max(0) > self.at.size[:2]).any():
            self._refuse("lie beside each other by more than they are wide")
        tilt = np.hypot(*(self.beside[-1] * self.at.spacing[:2]))
        angle = degrees(atan2(float(tilt), float(self.heights[-1])))
        how = "by the nearest voxel" if self.labels else "by linear interpolation"
        warn(
            "gantry tilt",
            f"{self.path}: its slices lie aslant, {angle:.3g}° from straight above each other (gantry tilt), "
            f"{tilt:.3g} mm from the first to the last; foldless moves them onto unsheared axes, {how}, to where they "
            "were scanned; other programs may show them sheared, and of another spacing",
            STEPS_UP,
        )
        first = np.floor(self.beside.min(0)).astype(int)
        more = np.ceil(self.beside.max(0)).astype(int) - first
        outside = 0.0 if self.labels else float(self.slices.min())
        wide = np.pad(self.slices, ((0, 0), (0, more[1]), (0, more[0])), constant_values=outside)
        from scipy.ndimage import shift

        moved = np.stack(
            [
                shift(one, (by - first)[::-1], order=0 if self.labels else 1, mode="constant", cval=outside)
                for one, by in zip(wide, self.beside, strict=True)
            ]
        )
        corner = self.at.index_to_physical(np.array([*first, 0.0]))
        size = (moved.shape[2], moved.shape[1], 1)
        at = Geometry(size, self.at.spacing, tuple(corner.tolist()), self.at.direction)
        return replace(self, slices=moved, at=at, beside=np.zeros_like(self.beside))

    def _even(self) -> tuple[Float[np.ndarray, "slices rows columns"], Geometry]:
        """Slices at even steps, interpolated between those that there are."""
        gaps, step = np.diff(self.heights), self.step
        count = round(float(self.heights[-1]) / step) + 1
        array = self.slices
        if count > MOST_MISSING * len(array):
            self._refuse(f"lie {gaps.min():.3g} to {gaps.max():.3g} mm apart")
        even = np.linspace(0, self.heights[-1], count)
        if count != len(array) or np.abs(self.heights - even).max() > EVEN * step:
            self._say_uneven(gaps, step)
            array = np.stack([self._between(height) for height in even])
        spacing = (*self.at.spacing[:2], float(self.heights[-1]) / (count - 1))
        size = (array.shape[2], array.shape[1], count)
        return array, Geometry(size, spacing, self.at.origin, self.at.direction)

    def _refuse(self, why: str) -> NoReturn:
        raise InputError(
            f"{self.path}: its slices {why}, so they make no volume; see that they belong to one scan, or export it "
            "again"
        )

    def _between(self, height: float) -> Float[np.ndarray, "rows columns"]:
        """The slice at a height, linear between its neighbours, or the nearest one of labels."""
        above = int(np.clip(np.searchsorted(self.heights, height), 1, len(self.heights) - 1))
        low, high = self.heights[above - 1], self.heights[above]
        share = self.slices.dtype.type((height - low) / (high - low))
        if self.labels:
            share = np.rint(share)
        between: np.ndarray = (1 - share) * self.slices[above - 1] + share * self.slices[above]
        return between

    def _say_uneven(self, gaps: Float64[np.ndarray, " gaps"], step: float) -> None:
        times = np.rint(gaps / step)
        if times.min() >= 1 < times.max() and np.abs(gaps - times * step).max() <= WHOLE * step:
            missing, place = int(times.sum()) - len(gaps), int(times.argmax()) + 1
            kind = "missing slices"
            what = (
                f"{missing} of {int(times.sum()) + 1} slices are missing, the most after number {place} of those there"
            )
            do = "export the whole series if there is more of it"
        else:
            kind, what = "slice spacing", f"its slices lie {gaps.min():.3g} to {gaps.max():.3g} mm apart"
            do = "see that all of them belong to one scan"
        does = "takes the nearest of" if self.labels else "interpolates between"
        warn(
            kind,
            f"{self.path}: {what}; foldless {does} those that there are, at even steps of {step:.3g} mm, "
            f"where other programs may take them for even as they are: {do}",
            STEPS_UP,
        )
