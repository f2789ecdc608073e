"""Halving a lattice with its shortcut, a layer of ICON's U-Net, on channels-last memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foldless.kernels.convolution import halve, halved, halved_backward
from foldless.kernels.derivatives import Reverse
from foldless.kernels.residual import SLOPE, Level, can_be_compiled, residual

_AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def residual_halve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """leaky_relu(x) halved by `convolution.halve`, plus means of x over blocks of two nodes an axis.

    Where the lattice is odd the last block is what is left. Where x has more channels than the result its last are
    dropped from the means; where it has fewer, zeros are put before its first, as published.

    Args:
        x: (batch, channels, *lattice).
        weight: (outputs, channels, *3 an axis).
        bias: (outputs,).
    """
    if can_be_compiled(x, weight, _DOWN):
        return residual(x, weight, bias, _DOWN)
    means: Tensor = _Means.apply(x)  # type: ignore[no-untyped-call]
    missing = max(len(weight) - x.shape[1], 0)
    matched = F.pad(means.movedim(1, -1), (missing, 0)).movedim(-1, 1)[:, : len(weight)]
    return halve(F.leaky_relu(x, SLOPE), weight, bias) + matched


def _channels(have: int, want: int) -> Sequence[int]:
    meeting = min(have, want)
    return meeting, have, want, want - meeting


_DOWN = Level(halved, halved_backward, "add_means", "means_adjoint", _channels, 3)


class _Means(Reverse):
    """Means of blocks in torch. Keeps a size for the way back; torch's own pooling keeps its input, in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.size = x.shape[2:]
        no_such = x.dtype == torch.bfloat16 and x.device.type == "cpu"  # torch pools no such volumes there
        wide = x.float() if no_such else x
        return _AVERAGE_POOL[x.ndim - 2](wide, [min(2, n) for n in ctx.size], ceil_mode=True).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        for axis, n in enumerate(ctx.size, start=2):
            node = torch.arange(n, device=gradient.device) // 2
            count = (n - 2 * node).clamp_max(2).to(gradient.dtype)
            gradient = gradient.index_select(axis, node) / count.reshape(-1, *[1] * (gradient.ndim - 1 - axis))
        return gradient
