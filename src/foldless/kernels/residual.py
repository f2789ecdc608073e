"""A strided convolution of an activated input, with a shortcut beside it, as one autograd step: a level of a U-Net."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foldless.kernels.derivatives import Reverse, once
from foldless.kernels.library import call, in_own_types, lanes, pointer

SLOPE = 0.01
"""Of the activation, below zero; `slope` in `lanes.h` knows it too."""

_TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Level:
    """What the way down and the way up differ in.

    Attributes:
        convolved: (x, weight, bias) -> y, outside autograd.
        backward: (gradient, x, weight, for x) -> gradients by x, weight and bias.
        shortcut: (x, y), the compiled kernel that adds the shortcut to y.
        adjoint: (gradient, x, g_x), the one that takes g_x through the activation and adds what the shortcut brings.
        channels: those of x and y -> what the kernels want to know of them.
        width: of the convolution's kernel, on every axis.
    """

    convolved: Callable[[Tensor, Tensor, Tensor], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor, bool], tuple[Tensor | None, Tensor, Tensor]]
    shortcut: str
    adjoint: str
    channels: Callable[[int, int], Sequence[int]]
    width: int


def can_be_compiled(x: Tensor, weight: Tensor, level: Level) -> bool:
    """Whether the kernels take x and what the weight makes of it."""
    known = x.device.type == "cpu" and x.dtype in _TYPES and x.numel() > 0 and lanes() > 0
    return known and x.ndim <= 5 and weight.shape[2:] == (level.width,) * (x.ndim - 2)


def residual(x: Tensor, weight: Tensor, bias: Tensor, level: Level) -> Tensor:
    """leaky_relu(x) convolved, plus the shortcut, on channels-last memory."""
    result: Tensor = _Residual.apply(x, weight, bias, level)  # type: ignore[no-untyped-call]
    return result


class _Residual(Reverse):
    """Keeps x alone for the way back, and adds up there what arrives at it on both ways."""

    @staticmethod
    @in_own_types
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, level: Level) -> Tensor:
        rows = x.movedim(1, -1).contiguous()
        x = rows.movedim(-1, 1)
        ctx.save_for_backward(x, weight)
        ctx.level = level
        y = level.convolved(F.leaky_relu(x, SLOPE), weight, bias).movedim(1, -1).contiguous()
        _call(level.shortcut, level, rows, y, rows, y)
        return y.movedim(-1, 1)

    @staticmethod
    @once
    @in_own_types
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        g_rows, for_x = gradient.movedim(1, -1).contiguous(), ctx.needs_input_grad[0]
        active = F.leaky_relu(x, SLOPE)
        g_active, g_weight, g_bias = ctx.level.backward(g_rows.movedim(-1, 1), active, weight, for_x)
        if g_active is None:
            return None, g_weight, g_bias, None
        rows, g_x = x.movedim(1, -1), g_active.movedim(1, -1).contiguous()
        _call(ctx.level.adjoint, ctx.level, rows, g_rows, g_rows, rows, g_x)
        return g_x.movedim(-1, 1), g_weight, g_bias, None


def _call(name: str, level: Level, x: Tensor, y: Tensor, *tensors: Tensor) -> None:
    """A kernel for an x and a y (batch, *lattice, channels), or gradients of such."""
    assert len({tensor.dtype for tensor in tensors}) == 1
    (batch, *size_x, have), (_, *size_y, want) = x.shape, y.shape
    ones = [1] * (3 - len(size_x))
    numbers = [batch, *ones, *size_x, *ones, *size_y, *level.channels(have, want)]
    shape = (ctypes.c_int64 * len(numbers))(*numbers)
    call(f"{name}_{_TYPES[x.dtype]}", *map(pointer, tensors), shape, ctypes.c_int(torch.get_num_threads()))
