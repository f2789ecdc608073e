"""Weights: how much regularity counts at this step. What changes is a buffer, so a checkpoint holds all of it."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Weight(nn.Module):
    """`weight()` is the current factor, a scalar tensor; `weight.advance()` tells it that a step is done."""

    @abstractmethod
    def forward(self) -> Float[Tensor, ""]: ...

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
