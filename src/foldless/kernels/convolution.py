"""Convolutions that halve or double a lattice, in the dtype of their input, with the backward that is fastest.

The kernels behind torch differ by an order of magnitude between equal computations, above all in bfloat16 on a CPU.
The forms here compute what `conv` and `conv_transpose` compute; `benchmarks/` measured them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

_backward = torch.ops.aten.convolution_backward


def halve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 3-wide convolution of stride 2, padding 1, in the dtype of its input."""
    if max(x.shape[2:]) <= 2:
        return _to_one_node(x, weight, bias)
    result: Tensor = _Halve.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result


def double(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 4-wide transposed convolution of stride 2, padding 1, in the dtype of its input."""
    result: Tensor = _Double.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result


def _to_one_node(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Halving a lattice of at most two nodes an axis: a matrix product with the taps that meet a node."""
    taps: Tensor = _Middle.apply(weight, tuple(x.shape[2:]), x.dtype)  # type: ignore[no-untyped-call]
    y = torch.addmm(bias.to(x.dtype), x.movedim(1, -1).flatten(1), taps.flatten(1).t())
    return y.reshape(*y.shape, *[1] * (x.ndim - 2))


class _Middle(torch.autograd.Function):
    """The taps of a kernel from the second on, as many an axis as `size` says, (channels, *size, other channels).

    One pass back instead of one an axis.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.place = (slice(None), *[slice(1, 1 + n) for n in size])
        return weight.movedim(1, -1)[ctx.place].to(dtype).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        result = torch.zeros_like(weight)
        result.movedim(1, -1)[ctx.place] = gradient.to(weight.dtype)
        return result, None, None


class _Halve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        dim = x.ndim - 2
        how = ([2] * dim, [1] * dim, [1] * dim, False, [0] * dim, 1)
        return torch.convolution(x, weight.to(x.dtype), bias.to(x.dtype), *how)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        dim = x.ndim - 2
        how = (None, [2] * dim, [1] * dim, [1] * dim, False, [0] * dim, 1)
        for_x = None
        if ctx.needs_input_grad[0]:
            for_x = _backward(gradient, x, weight.to(x.dtype), *how, [True, False, False])[0]
        # In bfloat16 some sizes of the weights' gradient have no fast kernel; float32 always has.
        wide = torch.float32 if x.dtype == torch.bfloat16 else x.dtype
        for_weight = _backward(gradient.to(wide), x.to(wide), weight.to(wide), *how, [False, True, False])[1]
        return for_x, for_weight.to(weight.dtype), _total(gradient).to(weight.dtype)


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return doubled(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return doubled_backward(gradient, x, weight, ctx.needs_input_grad[0])


def doubled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What `double` comes to, outside autograd."""
    dim, weight, bias = x.ndim - 2, weight.to(x.dtype), bias.to(x.dtype)
    if not _node_by_node(x):
        return torch.convolution(x, weight, bias, [2] * dim, [1] * dim, [1] * dim, True, [0] * dim, 1)
    y = bias.repeat(len(x), *[2 * n for n in x.shape[2:]], 1)
    for node, place, taps in _windows(x, weight):
        part = y[place]
        part += (node @ taps.flatten(1)).reshape(part.shape)
    return y.movedim(-1, 1)


def doubled_backward(gradient: Tensor, x: Tensor, weight: Tensor, for_x: bool) -> tuple[Tensor | None, Tensor, Tensor]:
    """The gradients of `doubled` by x (None unless asked for), the weight and the bias.

    The adjoint of halving: a plain strided convolution, and that one's gradient by the weights.
    """
    dim, cast = x.ndim - 2, weight.to(x.dtype)
    how = ([2] * dim, [1] * dim, [1] * dim, False, [0] * dim, 1)
    if not _node_by_node(x):
        g_x = torch.convolution(gradient, cast, None, *how) if for_x else None
        # On such thin lattices torch 2.13's backward in bfloat16 reads what nobody wrote.
        wide = torch.float32 if x.dtype == torch.bfloat16 and min(x.shape[2:]) <= 2 else x.dtype
        operands = (t.to(wide) for t in (x, gradient, weight))
        g_weight = _backward(*operands, None, *how, [False, True, False])[1]
        return g_x, g_weight.to(weight.dtype), _total(gradient).to(weight.dtype)
    g_rows, g_weight = gradient.movedim(1, -1), torch.zeros_like(weight)
    g_nodes = torch.empty_like(x.movedim(1, -1), memory_format=torch.contiguous_format)
    parts = zip(_windows(x, cast), _windows(g_nodes.movedim(-1, 1), g_weight), strict=True)
    for (node, place, taps), (g_node, _, g_taps) in parts:
        g_part = g_rows[place].flatten(1)
        g_node.copy_(g_part @ taps.flatten(1).t())
        g_taps += (node.t() @ g_part).reshape(g_taps.shape)
    return g_nodes.movedim(-1, 1) if for_x else None, g_weight, _total(gradient).to(weight.dtype)


def _node_by_node(x: Tensor) -> bool:
    """Whether matrix products, one a node, are faster than a convolution: few nodes, many samples."""
    return max(x.shape[2:]) == 1 or (max(x.shape[2:]) == 2 and len(x) >= 32)


def _windows(x: Tensor, weight: Tensor) -> Iterator[tuple[Tensor, tuple[slice, ...], Tensor]]:
    """Every node of x, (batch, channels); where its window lies in the doubled lattice; and the taps that meet it."""
    rows, kernel = x.movedim(1, -1), weight.movedim(1, -1)
    everything, nodes = slice(None), [range(n) for n in x.shape[2:]]
    for at in product(*nodes):
        place, taps = [everything], [everything]
        for i, n in zip(at, x.shape[2:], strict=True):
            begin, end = max(2 * i - 1, 0), min(2 * i + 3, 2 * n)
            place.append(slice(begin, end))
            taps.append(slice(begin - 2 * i + 1, end - 2 * i + 1))
        node = rows
        for i in at:
            node = node[:, i]
        yield node, tuple(place), kernel[tuple(taps)]


def _total(gradient: Tensor) -> Tensor:
    return gradient.sum([0, *range(2, gradient.ndim)])
