"""Convolutions that keep, halve or double a lattice, in the dtype of their input, with the backward that is fastest.

The kernels behind torch differ by an order of magnitude between equal computations, above all in bfloat16 on a CPU.
The forms here compute what `conv` and `conv_transpose` compute; `benchmarks/` measured them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foldless.kernels.derivatives import Reverse
from foldless.kernels.library import in_own_types
from foldless.kernels.windows import windows

FEW = 6_500_000
"""Up to so many numbers, the windows of all nodes are written out and gradients are matrix products of them. Of deep
levels, whose nodes are few and whose weights are many, that is several times as fast as torch's convolutions."""

SLAB = 2**21
"""Samples of more than twice as many numbers give their part of a weight's gradient in slabs of about this many."""

AT_ONCE = 2**21
"""Numbers of a weight that matrix products take at once, so that what they make of it is small."""

_backward = torch.ops.aten.convolution_backward


def keep(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution that keeps the lattice, in the dtype of its input: weight (outputs, channels, *odd kernel)."""
    if _too_thin(x, weight):
        return keep(x.float(), weight, bias).to(x.dtype)
    dim, padding = x.ndim - 2, [n // 2 for n in weight.shape[2:]]
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    return torch.convolution(x, weight, bias, [1] * dim, padding, [1] * dim, False, [0] * dim, 1)


def halve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 3-wide convolution of stride 2, padding 1, in the dtype of its input."""
    result: Tensor = _Halve.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result


def double(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 4-wide transposed convolution of stride 2, padding 1, in the dtype of its input."""
    result: Tensor = _Double.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result


class _Halve(Reverse):
    @staticmethod
    @in_own_types
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return halved(x, weight, bias)

    @staticmethod
    @in_own_types
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return halved_backward(gradient, x, weight, ctx.needs_input_grad[0])


def halved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What `halve` comes to, outside autograd."""
    dim, bias = x.ndim - 2, bias.to(x.dtype)
    if max(x.shape[2:]) > 2:
        return torch.convolution(x, weight.to(x.dtype), bias, [2] * dim, [1] * dim, [1] * dim, False, [0] * dim, 1)
    y = torch.addmm(bias, _flat(x), _flat(_middle(weight, x).to(x.dtype)).t())
    return y.reshape(*y.shape, *[1] * dim)


def halved_backward(gradient: Tensor, x: Tensor, weight: Tensor, for_x: bool) -> tuple[Tensor | None, Tensor, Tensor]:
    """The gradients of `halved` by x (None unless asked for), the weight and the bias."""
    dim, g_x, g_bias = x.ndim - 2, None, _total(gradient).to(weight.dtype)
    if max(x.shape[2:]) <= 2:
        taps, g_weight, g_node = _middle(weight, x).to(x.dtype), torch.zeros_like(weight), gradient.flatten(1)
        met = _middle(g_weight, x).movedim(1, -1)
        met.copy_((g_node.t() @ _flat(x)).reshape(met.shape))
        if for_x:
            g_x = (g_node @ _flat(taps)).reshape(x.movedim(1, -1).shape).movedim(-1, 1)
        return g_x, g_weight, g_bias
    how = (None, [2] * dim, [1] * dim, [1] * dim, False, [0] * dim, 1)
    if for_x:
        g_x = _backward(gradient, x, weight.to(x.dtype), *how, [True, False, False])[0]
    if _few_windows(gradient, weight):
        return g_x, _by_windows(gradient, x, weight, for_nodes=False)[1], g_bias
    # In bfloat16 some sizes have no fast kernel; float32 always has.
    return g_x, _by_slabs(gradient, x, weight, torch.float32 if x.dtype == torch.bfloat16 else x.dtype), g_bias


def _too_thin(x: Tensor, weight: Tensor) -> bool:
    """Whether torch's gradient of a kernel that slides over x is not to be trusted: in bfloat16 on CPUs, torch 2.13 and
    2.14 read memory that nobody wrote where some sides are shorter than the kernel. No side that is not longer will do.
    """
    short = any(size <= width for size, width in zip(x.shape[2:], weight.shape[2:], strict=False))
    return short and x.dtype == torch.bfloat16 and x.device.type == "cpu"


def _middle(weight: Tensor, x: Tensor) -> Tensor:
    """The taps of a 3-wide kernel that meet x, of at most two nodes an axis, (outputs, channels, *lattice of x)."""
    for axis, size in enumerate(x.shape[2:], start=2):
        weight = weight.narrow(axis, 1, size)
    return weight


class _Double(Reverse):
    @staticmethod
    @in_own_types
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return doubled(x, weight, bias)

    @staticmethod
    @in_own_types
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return doubled_backward(gradient, x, weight, ctx.needs_input_grad[0])


def doubled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What `double` comes to, outside autograd."""
    dim, weight, bias = x.ndim - 2, weight.to(x.dtype), bias.to(x.dtype)
    if not _node_by_node(x):
        return torch.convolution(x, weight, bias, [2] * dim, [1] * dim, [1] * dim, True, [0] * dim, 1)
    y = bias.repeat(len(x), *[2 * n for n in x.shape[2:]], 1)
    for node, place, taps in _meetings(x, weight):
        part = y[place]
        part += (node @ taps.flatten(1)).reshape(part.shape)
    return y.movedim(-1, 1)


def doubled_backward(gradient: Tensor, x: Tensor, weight: Tensor, for_x: bool) -> tuple[Tensor | None, Tensor, Tensor]:
    """The gradients of `doubled` by x (None unless asked for), the weight and the bias.

    The adjoint of halving: a plain strided convolution, and that one's gradient by the weights.
    """
    if _node_by_node(x):
        return _node_by_node_backward(gradient, x, weight, for_x)
    dim, cast, g_x, g_bias = x.ndim - 2, weight.to(x.dtype), None, _total(gradient).to(weight.dtype)
    how = ([2] * dim, [1] * dim, [1] * dim, False, [0] * dim, 1)
    if _few_windows(x, weight):
        return *_by_windows(x, gradient, weight, for_x), g_bias
    if for_x:
        g_x = torch.convolution(gradient, cast, None, *how)
    wide = torch.float32 if _too_thin(gradient, weight) else x.dtype
    return g_x, _by_slabs(x, gradient, weight, wide), g_bias


def _node_by_node_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, for_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    g_rows, g_weight = gradient.movedim(1, -1), torch.zeros_like(weight)
    g_nodes = torch.empty_like(x.movedim(1, -1), memory_format=torch.contiguous_format)
    parts = zip(_meetings(x, weight.to(x.dtype)), _meetings(g_nodes.movedim(-1, 1), g_weight), strict=True)
    for (node, place, taps), (g_node, _, g_taps) in parts:
        g_part = g_rows[place].flatten(1)
        g_node.copy_(g_part @ taps.flatten(1).t())
        g_taps += (node.t() @ g_part).reshape(g_taps.shape)
    return g_nodes.movedim(-1, 1) if for_x else None, g_weight, _total(gradient).to(weight.dtype)


def _node_by_node(x: Tensor) -> bool:
    """Whether matrix products, one a node, are faster than a convolution: few nodes, many samples."""
    return max(x.shape[2:]) == 1 or (max(x.shape[2:]) == 2 and len(x) >= 32)


def _meetings(x: Tensor, weight: Tensor) -> Iterator[tuple[Tensor, tuple[slice, ...], Tensor]]:
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


def _few_windows(nodes: Tensor, weight: Tensor) -> bool:
    """Whether what the nodes (batch, channels, *lattice) meet, written out, is at most `FEW`."""
    channels = nodes.shape[1]
    on_cpu = nodes.device.type == "cpu"  # whose libraries FEW and SLAB were measured on
    return on_cpu and nodes.numel() // channels * (weight.numel() // channels) <= FEW


def _flat(x: Tensor) -> Tensor:
    """(batch, channels, *lattice) as (batch, lattice · channels), free of charge where it is channels-last."""
    return x.movedim(1, -1).flatten(1)


def _by_windows(nodes: Tensor, x: Tensor, weight: Tensor, for_nodes: bool) -> tuple[Tensor | None, Tensor]:
    """What a weight (channels, others, *kernel) makes of x at nodes (None unless asked for), and its gradient, which is
    that of the sum of `nodes` times such. Some channels at a time: deep levels' weights are large."""
    flat, taps = nodes.movedim(1, -1).flatten(0, -2), _flat(weight)
    made = torch.empty_like(flat) if for_nodes else None
    total = torch.empty_like(taps, dtype=torch.promote_types(weight.dtype, torch.float32))
    for part, met in windows(x, nodes.shape[2:], weight.shape[2]):
        for some in _parts(len(taps), max(AT_ONCE // taps.shape[1], 1)):
            if made is not None:
                made[part, some] = met @ taps[some].to(x.dtype).t()
            product = flat[part, some].t() @ met
            total[some] = product if part.start == 0 else total[some] + product
    g_weight = total.reshape(weight.movedim(1, -1).shape).movedim(-1, 1).to(weight.dtype)
    return None if made is None else made.reshape(nodes.movedim(1, -1).shape).movedim(-1, 1), g_weight


def _parts(count: int, most: int) -> Iterator[slice]:
    return (slice(begin, min(begin + most, count)) for begin in range(0, count, most))


def _by_slabs(nodes: Tensor, x: Tensor, weight: Tensor, wide: torch.dtype) -> Tensor:
    """The gradient of a weight that takes x to the nodes of a lattice half as fine, by torch, computed in `wide`.

    Of large samples slab by slab, which stay in the cache: the library writes all of its arguments out once more.
    """
    count, size = nodes.shape[2], prod(x.shape[1:])
    if x.device.type != "cpu" or size <= 2 * SLAB:
        return _torchs(nodes, x, weight, wide, 1).to(weight.dtype)
    thick, fine = max(SLAB * count // size, 1), x.shape[2]
    total = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
    for sample, of_sample in zip(nodes.split(1), x.split(1), strict=True):  # type: ignore[no-untyped-call]
        for begin in range(0, count, thick):
            end = min(begin + thick, count)
            low, high = 2 * begin - 1, 2 * end + weight.shape[2] - 3
            slab = of_sample[:, :, max(low, 0) : min(high, fine)]
            outside = [0, 0] * (x.ndim - 2) + [max(-low, 0), max(high - fine, 0)]
            slab = F.pad(slab.movedim(1, -1), outside).movedim(-1, 1) if any(outside) else slab
            total += _torchs(sample[:, :, begin:end], slab, weight, wide, 0)
    return total.to(weight.dtype)


def _torchs(nodes: Tensor, x: Tensor, weight: Tensor, wide: torch.dtype, padding: int) -> Tensor:
    """The same by one call; x is padded already on its first axis, or has `padding` there."""
    dim = x.ndim - 2
    how = (None, [2] * dim, [padding, *[1] * (dim - 1)], [1] * dim, False, [0] * dim, 1, [False, True, False])
    result: Tensor = _backward(nodes.to(wide), x.to(wide), weight.to(wide), *how)[1]
    return result


def _total(gradient: Tensor) -> Tensor:
    return gradient.sum([0, *range(2, gradient.ndim)])
