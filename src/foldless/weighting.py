"""Weights: how much regularity counts at this step. What changes is a buffer, so a checkpoint holds all of it."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Weight(nn.Module):
    """`weight()` is the current factor, a scalar tensor; `weight.advance()` tells it that a step is done."""

    needs_folds = False
    """Whether `update` wants to be called; the objective counts folds for those weights only."""

    @abstractmethod
    def forward(self) -> Float[Tensor, ""]: ...

    def update(self, folds_per_pair: float, places: int) -> None:
        """Called once in every training step with what the maps folded, of how many places judged."""

    def advance(self) -> None:
        """Called once after every training step."""


class Constant(Weight):
    """The same factor all along."""

    value: Tensor

    def __init__(self, value: float) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(float(value)))

    def forward(self) -> Float[Tensor, ""]:
        return self.value


class Ramp(Weight):
    """From `start` to `end` in a straight line over `steps` steps, then `end`."""

    done: Tensor

    def __init__(self, start: float, end: float, steps: int) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"a ramp takes at least one step; got {steps}")
        self.start, self.end, self.steps = start, end, steps
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))

    def forward(self) -> Float[Tensor, ""]:
        return self.start + (self.end - self.start) * (self.done / self.steps).clamp_max(1.0)

    def advance(self) -> None:
        self.done += 1


class HoldBelow(Weight):
    """Raised by `increase` in every step whose maps fold more than `threshold`; ICON, supplement §6.1.

    Args:
        initial: the factor at first; the paper begins low, where training goes fast.
        increase: what every step with too many folds adds.
        threshold: forward folds a pair that are acceptable, mean over the batch.
        per_voxel: whether `threshold` is a share of the places judged, from 0 to 1, instead of a count: it then means
            the same at every resolution.
    """

    needs_folds = True
    value: Tensor

    def __init__(self, initial: float, increase: float, threshold: float, per_voxel: bool = False) -> None:
        super().__init__()
        if increase <= 0 or threshold < 0:
            raise ValueError(f"increase is above 0 and threshold not below; got {increase:g} and {threshold:g}")
        self.increase, self.threshold, self.per_voxel = increase, threshold, per_voxel
        self.register_buffer("value", torch.tensor(float(initial)))

    def forward(self) -> Float[Tensor, ""]:
        return self.value

    def update(self, folds_per_pair: float, places: int) -> None:
        if folds_per_pair > self.threshold * (places if self.per_voxel else 1):
            self.value = self.value + self.increase  # a new tensor: the old one waits for its backward
