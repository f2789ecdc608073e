"""Normalised mutual information of two images in a pose, and its derivative by the pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from foldless.pose.rigid import Moves, Pose
from foldless.pose.views import View

BINS = 32
LEAST_SHARE = 0.3
"""Share of the smaller field of view, below which less overlap makes a pose less likely."""
TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Points:
    """Points of the fixed image, what it shows there, and how much each counts.

    Attributes:
        at: (count, dim), LPS mm.
        value: (count,), 0 to 1.
        weight: (count,).
        volume: mm³ (in 2-D mm²) that a point stands for.
    """

    at: Float64[np.ndarray, "count dim"]
    value: Float[Tensor, " count"]
    weight: Float[Tensor, " count"]
    volume: float

    @classmethod
    def of(cls, view: View, most: int, seed: int = 0) -> Points:
        """A point in every voxel, somewhere in it, or in as many as `most`: nodes of both images never coincide."""
        random = np.random.default_rng(seed)
        size = np.array(view.geometry.size)
        count = int(size.prod())
        chosen = np.arange(count) if count <= most else np.sort(random.choice(count, most, replace=False))
        index = np.stack(np.unravel_index(chosen, view.geometry.shape), 1)[:, ::-1]
        index = index + np.where(size > 1, random.uniform(-0.5, 0.5, index.shape), 0)
        at = view.geometry.index_to_physical(np.clip(index, 0, size - 1))
        value, weight, _ = view.read(at)
        cell = abs(np.linalg.det(view.geometry.matrix))
        return cls(at, value, (weight > 0).float(), cell * count / len(chosen))


@dataclass(frozen=True, eq=False)
class Measure:
    """How much two images say of each other in a pose: normalised mutual information less 1 (Studholme 1999).

    Attributes:
        points: of the fixed image.
        moving: the other.
        least: mm³ of common field of view below which a pose counts for less.
    """

    points: Points
    moving: View
    least: float

    def __call__(self, pose: Pose) -> float:
        return self._joint(pose)[0]

    def with_slope(self, pose: Pose, moves: Moves) -> tuple[float, np.ndarray]:
        """The same, and its derivative by motions in fixed space about the pose's centre."""
        score, by_value, gradient = self._joint(pose)
        pull = (by_value[:, None] * gradient).double().numpy() @ pose.linear
        return score, moves.slope(pull.sum(0), pull.T @ (self.points.at - pose.here))

    def share(self, pose: Pose) -> float:
        """How much both show, as a share of the least that is asked for, 1 at most."""
        return min(1.0, self.common(pose) / self.least)

    def common(self, pose: Pose) -> float:
        """What both show, mm³ (in 2-D mm²)."""
        weight = self.moving.read(pose(self.points.at))[1] * self.points.weight
        return float(weight.sum()) * self.points.volume

    def _joint(self, pose: Pose) -> tuple[float, Tensor, Tensor]:
        points = self.points
        value, weight, gradient = self.moving.read(pose(points.at))
        weight = weight * points.weight
        total = weight.sum().clamp_min(TINY)
        here, there = _between(points.value), _between(value)
        joint = torch.zeros(BINS * BINS)
        for i, a in here:
            for j, b in there:
                joint.index_add_(0, i * BINS + j, a * b * weight)
        joint = _smooth(joint.reshape(BINS, BINS)) / total
        score, slope = _information(joint)
        slope = _smooth(slope)
        (low, _), (high, _) = there
        flat = slope.flatten()
        by_value = sum(a * (flat[i * BINS + high] - flat[i * BINS + low]) for i, a in here)
        share = min(1.0, total.item() * points.volume / self.least)
        inside = (value > 0) & (value < 1)
        return score * share, share * (BINS - 1) * by_value * weight * inside / total, gradient


def _between(value: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The two bins of each value in 0 ... 1, and its share of each."""
    at = value.clamp(0, 1) * (BINS - 1)
    low = at.floor().clamp_max(BINS - 2)
    return [(low.long(), 1 - (at - low)), (low.long() + 1, at - low)]


def _smooth(joint: Tensor) -> Tensor:
    return SMOOTH @ joint @ SMOOTH.T


def _kernel() -> Tensor:
    """A Gaussian of one bin as a symmetric matrix; what would leave the histogram stays."""
    index = torch.arange(BINS, dtype=torch.float32)
    near = torch.exp(-0.5 * (index[:, None] - index) ** 2)
    for _ in range(50):
        scale = near.sum(1).rsqrt()
        near = scale[:, None] * near * scale
    return near


SMOOTH = _kernel()


def _information(joint: Tensor) -> tuple[float, Tensor]:
    """(H(a) + H(b)) / H(a, b) − 1 of a histogram, and its derivative by the histogram's bins."""
    a, b = joint.sum(1, keepdim=True), joint.sum(0, keepdim=True)
    logs = [(part + TINY).log() for part in (joint, a, b)]
    both, one, other = (-(part * log).sum() for part, log in zip((joint, a, b), logs, strict=True))
    both = both.clamp_min(TINY)
    slope = (-(logs[1] + logs[2]) + (one + other) / both * logs[0]) / both
    return ((one + other) / both - 1).item(), slope
