"""Where a pose may lie: for each of many turns the best of all shifts, by correlation within both fields of view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from foldless.pose.rigid import Pose
from foldless.pose.views import View

LEAST_OVERLAP = 0.25
"""Share of the smaller field of view that both must show."""
VARIES = 1e-4
"""Variance below which an overlap shows nothing."""


@dataclass(frozen=True, eq=False)
class _Box:
    """A lattice along the world's axes about a centre: nodes an axis (array order), mm between them."""

    counts: tuple[int, ...]
    spacing: float

    @classmethod
    def holding(cls, half: Float64[np.ndarray, " dim"], spacing: float) -> _Box:
        return cls(tuple(2 * int(np.ceil(h / spacing)) + 1 for h in half[::-1]), spacing)

    @property
    def middle(self) -> np.ndarray:
        return np.array(self.counts) // 2

    @property
    def offsets(self) -> Float64[np.ndarray, "nodes dim"]:
        index = np.stack(np.unravel_index(np.arange(np.prod(self.counts)), self.counts), 1)
        offsets: np.ndarray = (index - self.middle)[:, ::-1] * self.spacing
        return offsets


def searched(
    fixed: View,
    moving: View,
    turns: Float64[np.ndarray, "count dim dim"],
    spacing: float,
    on_part: Callable[[], None] = lambda: None,
) -> list[tuple[float, Pose]]:
    """For each turn the shift at which the images correlate best, either way; a score and a pose each, best first.

    All shifts at once, by Fourier transforms of what counts (Padfield, IEEE TIP 2012). A correlation of ρ says
    −½ log(1 − ρ²) of a voxel; that is weighed by the root of the share that both show.
    """
    here, there = fixed.geometry.centre, moving.geometry.centre
    around = fixed.geometry.corners - here
    box = _Box.holding(np.abs(around).max(0) + spacing / 2, spacing)
    reach = np.linalg.norm(moving.geometry.corners - there, axis=1).max()
    thin = np.abs(turns - np.eye(len(here))).max((0, 1)) < 1e-9  # nothing turns out of these axes' way
    half = np.where(thin, np.abs(moving.geometry.corners - there).max(0), reach)
    other = _Box.holding(half + spacing / 2, spacing)
    from scipy.fft import next_fast_len

    size = [next_fast_len(n + m - 1, True) for n, m in zip(box.counts, other.counts, strict=True)]
    mine = _transforms(fixed, here + box.offsets, box, size)
    least = LEAST_OVERLAP * min(fixed.extent, moving.extent) / spacing ** len(here)
    found = []
    for turn in turns:
        score = _scores(mine, _transforms(moving, there + other.offsets @ turn.T, other, size), size, least)
        best = int(score.argmax())
        index = np.array(np.unravel_index(best, size))
        index = np.where(index >= np.array(other.counts), index - size, index)
        shift = (index - other.middle + box.middle)[::-1] * spacing
        found.append((float(score.flatten()[best]), Pose.laying(there + turn @ shift, here, turn)))
        on_part()
    return sorted(found, key=lambda one: -one[0])


def _transforms(view: View, points: np.ndarray, box: _Box, size: list[int]) -> list[Tensor]:
    """Of what counts, of the intensities times that, and of their squares."""
    value, weight, _ = view.read(points)
    value = value - 0.5
    stacked = torch.stack([weight, weight * value, weight * value * value]).reshape(3, *box.counts)
    return list(torch.fft.rfftn(stacked, size, dim=list(range(1, stacked.ndim))))


def _scores(mine: list[Tensor], theirs: list[Tensor], size: list[int], least: float) -> Tensor:
    pairs = [(0, 0), (1, 0), (2, 0), (0, 1), (0, 2), (1, 1)]
    products = torch.stack([mine[i].conj() * theirs[j] for i, j in pairs])
    count, a, aa, b, bb, ab = torch.fft.irfftn(products, size, dim=list(range(1, products.ndim)))
    whole = count.clamp_min(1)
    a, b = a / whole, b / whole
    varies_a, varies_b = aa / whole - a * a, bb / whole - b * b
    square = (ab / whole - a * b).square() / (varies_a.clamp_min(VARIES) * varies_b.clamp_min(VARIES))
    says = -0.5 * torch.log1p(-square.clamp(0, 0.999))
    return torch.where(count >= least, says * (count / count.max()).clamp_min(0).sqrt(), -1.0)
