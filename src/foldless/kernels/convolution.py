"""Convolutions that halve or double a lattice, in the dtype of their input, with the backward that is fastest.

The kernels behind torch differ by an order of magnitude between equal computations, above all in bfloat16 on a CPU.
The forms here compute what `conv` and `conv_transpose` compute; `benchmarks/` measured them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_backward = torch.ops.aten.convolution_backward


def halve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 3-wide convolution of stride 2, padding 1, in the dtype of its input."""
    if max(x.shape[2:]) <= 2:
        return _to_one_node(x, weight, bias)
    result: Tensor = _Halve.apply(x, weight.to(x.dtype), bias.to(x.dtype))  # type: ignore[no-untyped-call]
    return result


def double(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 4-wide transposed convolution of stride 2, padding 1, in the dtype of its input."""
    if max(x.shape[2:]) == 1:
        return _from_one_node(x, weight, bias)
    result: Tensor = _Double.apply(x, weight.to(x.dtype), bias.to(x.dtype))  # type: ignore[no-untyped-call]
    return result


def _to_one_node(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Halving a lattice of at most two nodes an axis: a matrix product with the taps that meet a node."""
    taps: Tensor = _Middle.apply(weight, tuple(x.shape[2:]), x.dtype)  # type: ignore[no-untyped-call]
    y = torch.addmm(bias.to(x.dtype), x.flatten(1), taps.flatten(1).t())
    return y.reshape(*y.shape, *[1] * (x.ndim - 2))


def _from_one_node(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Doubling a single node: a matrix product with the two middle taps of every axis."""
    twos = (2,) * (x.ndim - 2)
    taps: Tensor = _Middle.apply(weight, twos, x.dtype)  # type: ignore[no-untyped-call]
    y = (x.flatten(1) @ taps.flatten(1)).reshape(x.shape[0], weight.shape[1], *twos)
    return y + bias.to(x.dtype).reshape(1, -1, *[1] * len(twos))


class _Middle(torch.autograd.Function):
    """The taps of a kernel from the second on, as many an axis as `size` says; one pass back instead of one an axis."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.place = (..., *[slice(1, 1 + n) for n in size])
        return weight[ctx.place].to(dtype).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        result = torch.zeros_like(weight)
        result[ctx.place] = gradient.to(weight.dtype)
        return result, None, None


class _Halve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        dim = x.ndim - 2
        return torch.convolution(x, weight, bias, [2] * dim, [1] * dim, [1] * dim, False, [0] * dim, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        dim = x.ndim - 2
        how = (None, [2] * dim, [1] * dim, [1] * dim, False, [0] * dim, 1)
        for_x = _backward(gradient, x, weight, *how, [True, False, False])[0] if ctx.needs_input_grad[0] else None
        # In bfloat16 some sizes of the weights' gradient have no fast kernel; float32 always has.
        wide = torch.float32 if x.dtype == torch.bfloat16 else x.dtype
        for_weight = _backward(gradient.to(wide), x.to(wide), weight.to(wide), *how, [False, True, False])[1]
        return for_x, for_weight.to(weight.dtype), gradient.sum([0, *range(2, gradient.ndim)])


class _Double(torch.autograd.Function):
    """The adjoint of halving: its backward is a plain strided convolution, and that one's gradient by the weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        dim = x.ndim - 2
        return torch.convolution(x, weight, bias, [2] * dim, [1] * dim, [1] * dim, True, [0] * dim, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        dim = x.ndim - 2
        how = ([2] * dim, [1] * dim, [1] * dim, False, [0] * dim, 1)
        for_x = torch.convolution(gradient, weight, None, *how) if ctx.needs_input_grad[0] else None
        for_weight = _backward(x, gradient, weight, None, *how, [False, True, False])[1]
        return for_x, for_weight, gradient.sum([0, *range(2, gradient.ndim)])
