"""Halving a lattice with its shortcut, a layer of ICON's U-Net, on channels-last memory."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foldless.kernels.convolution import halve, halved, halved_backward, through_activation
from foldless.kernels.library import in_own_types, lanes, library, pointer

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
    means: Tensor = _Means.apply(x)  # type: ignore[no-untyped-call]
    missing = max(len(weight) - x.shape[1], 0)
    matched = F.pad(means.movedim(1, -1), (missing, 0)).movedim(-1, 1)[:, : len(weight)]
    return halve(F.leaky_relu(x), weight, bias) + matched


class _Means(torch.autograd.Function):
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


class _ResidualHalve(torch.autograd.Function):
    """Keeps x alone for the way back, and adds up there what arrives at it on both ways."""

    @staticmethod
    @in_own_types
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows = x.movedim(1, -1).contiguous()
        x = rows.movedim(-1, 1)
        ctx.save_for_backward(x, weight)
        y = halved(F.leaky_relu(x), weight, bias).movedim(1, -1).contiguous()
        _call("add_means", rows, y, rows, y)
        return y.movedim(-1, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    @in_own_types
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
    assert source.dtype == target.dtype
    (batch, *size, have), (_, *coarse_size, want) = fine.shape, coarse.shape
    ones = [1] * (3 - len(size))
    meeting = min(have, want)
    shape = (ctypes.c_int64 * 11)(batch, *ones, *size, *ones, *coarse_size, meeting, have, want, want - meeting)
    function = getattr(compiled, f"foldless_{name}_{_TYPES[source.dtype]}")
    function(pointer(source), pointer(target), shape, ctypes.c_int(torch.get_num_threads()))
