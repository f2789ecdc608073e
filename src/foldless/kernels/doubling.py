"""Doubling a lattice with its shortcut, a layer of ICON's U-Net, on channels-last memory."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foldless.kernels.convolution import double, doubled, doubled_backward, through_activation
from foldless.kernels.library import in_own_types, lanes, library, pointer

_TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def residual_double(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """leaky_relu(x) doubled by `convolution.double`, plus x itself doubled by linear interpolation.

    Half-pixel centres. Where x has more channels than the result its last are dropped from the shortcut; where it has
    fewer, zeros are put before its first, as published.

    Args:
        x: (batch, channels, *lattice).
        weight: (channels, outputs, *4 an axis).
        bias: (outputs,).
    """
    have, want = x.shape[1], weight.shape[1]
    native = x.device.type == "cpu" and x.dtype in _TYPES and x.numel() > 0 and lanes() > 0
    if native and have >= want and want % lanes() == 0:
        result: Tensor = _ResidualDouble.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return result
    kept = x[:, :want] if have >= want else torch.cat([x.new_zeros(len(x), want - have, *x.shape[2:]), x], dim=1)
    shortcut = F.interpolate(kept, scale_factor=2, mode=_LINEAR[x.ndim - 2], align_corners=False)
    return double(F.leaky_relu(x), weight, bias) + shortcut


class _ResidualDouble(torch.autograd.Function):
    """Keeps x alone for the way back, and adds up there what arrives at it on both ways."""

    @staticmethod
    @in_own_types
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows = x.movedim(1, -1).contiguous()
        x = rows.movedim(-1, 1)
        ctx.save_for_backward(x, weight)
        y = doubled(F.leaky_relu(x), weight, bias).movedim(1, -1).contiguous()
        _call("add_doubled", rows, y, rows, y)
        return y.movedim(-1, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    @in_own_types
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        g_rows = gradient.movedim(1, -1).contiguous()
        g_active, g_weight, g_bias = doubled_backward(g_rows.movedim(-1, 1), F.leaky_relu(x), weight, for_x=True)
        assert g_active is not None
        g_x = through_activation(g_active, x).movedim(1, -1).contiguous()
        _call("doubled_adjoint", g_x, g_rows, g_rows, g_x)
        return g_x.movedim(-1, 1), g_weight, g_bias


def _call(name: str, coarse: Tensor, fine: Tensor, source: Tensor, target: Tensor) -> None:
    compiled = library()[0]
    assert compiled is not None
    assert source.dtype == target.dtype
    (batch, *size, pitch), (_, *fine_size, channels) = coarse.shape, fine.shape
    ones = [1] * (3 - len(size))
    shape = (ctypes.c_int64 * 9)(batch, *ones, *size, *ones, *fine_size, channels, pitch)
    function = getattr(compiled, f"foldless_{name}_{_TYPES[source.dtype]}")
    function(pointer(source), pointer(target), shape, ctypes.c_int(torch.get_num_threads()))
