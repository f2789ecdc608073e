"""Normalisation in any dimension, by one kernel, and none at all."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from foldless.kernels.norm import normalise
from foldless.kernels.thin import normalised_thin

Normalisation = Literal["batch", "instance", "none"]


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation in any dimension; torch's parameters, buffers and result."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any dimension will do."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        y, mean, variance = normalise(x, self.weight, self.bias, self.eps, by_sample=False)
        self._remember(mean, variance, x.numel() // x.shape[1])
        return y

    def before_thin(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """In training: what `thin` makes of the result, which is not kept."""
        y, mean, variance = normalised_thin(x, self.weight, self.bias, self.eps, weight, bias)
        self._remember(mean, variance, x.numel() // x.shape[1])
        return y

    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        with torch.no_grad():
            for running, now in ((self.running_mean, mean), (self.running_var, variance * count / max(count - 1, 1))):
                assert running is not None
                running.lerp_(now[0].to(running.dtype), self.momentum or 0.1)
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1


class InstanceNorm(nn.Module):
    """Each channel of each sample to mean 0 and variance 1, then scaled; nothing depends on the batch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return normalise(x, self.weight, self.bias, 1e-5, by_sample=True)[0]


def normalisation_of(name: Normalisation, channels: int) -> nn.Module:
    """The module that a name stands for, for so many channels."""
    match name:
        case "batch":
            return BatchNorm(channels)
        case "instance":
            return InstanceNorm(channels)
        case "none":
            return nn.Identity()
    raise ValueError(f'normalisation is "batch", "instance" or "none"; got {name!r}')
