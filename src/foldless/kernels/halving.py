"""Halving a lattice with its shortcut, a layer of ICON's U-Net, on channels-last memory."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foldless.kernels.convolution import halve, halved, halved_backward, through_activation
from foldless.kernels.library import lanes, library, pointer

_TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}
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
    if x.device.type == "cpu" and x.dtype in _TYPES and x.numel() and lanes():
        result: Tensor = _ResidualHalve.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return result
    wide = x.float() if x.dtype == torch.bfloat16 else x  # torch pools no volumes in bfloat16
    means = _AVERAGE_POOL[x.ndim - 2](wide, [min(2, n) for n in x.shape[2:]], ceil_mode=True).to(x.dtype)
    missing = max(len(weight) - x.shape[1], 0)
    matched = F.pad(means.movedim(1, -1), (missing, 0)).movedim(-1, 1)[:, : len(weight)]
    return halve(F.leaky_relu(x), weight, bias) + matched


class _ResidualHalve(torch.autograd.Function):
    """Keeps x alone for the way back, and adds up there what arrives at it on both ways."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows = x.movedim(1, -1).contiguous()
        x = rows.movedim(-1, 1)
        ctx.save_for_backward(x, weight)
        y = halved(F.leaky_relu(x), weight, bias).movedim(1, -1).contiguous()
        _call("add_means", rows, y, rows, y)
        return y.movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        g_rows, for_x = gradient.movedim(1, -1).contiguous(), ctx.needs_input_grad[0]
        g_active, g_weight, g_bias = halved_backward(g_rows.movedim(-1, 1), F.leaky_relu(x), weight, for_x)
        if g_active is None:
            return None, g_weight, g_bias
        g_x = through_activation(g_active, x).movedim(1, -1).contiguous()
        _call("means_adjoint", g_x, g_rows, g_rows, g_x)
        return g_x.movedim(-1, 1), g_weight, g_bias


def _call(name: str, fine: Tensor, coarse: Tensor, source: Tensor, target: Tensor) -> None:
    compiled = library()[0]
    assert compiled is not None
    (batch, *size, have), (_, *coarse_size, want) = fine.shape, coarse.shape
    ones = [1] * (3 - len(size))
    meeting = min(have, want)
    shape = (ctypes.c_int64 * 11)(batch, *ones, *size, *ones, *coarse_size, meeting, have, want, want - meeting)
    function = getattr(compiled, f"foldless_{name}_{_TYPES[source.dtype]}")
    function(pointer(source), pointer(target), shape, ctypes.c_int(torch.get_num_threads()))
