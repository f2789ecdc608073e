"""Convolutions with as many outputs as dimensions, float32 out of float32 or bfloat16: the last layer of a network."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foldless.kernels.convolution import keep
from foldless.kernels.derivatives import Reverse, once
from foldless.kernels.library import call, in_own_types, lanes, pointer
from foldless.kernels.norm import moments, nearer, normalise

_TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}


def thin(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution that keeps the lattice: x (batch, channels, *lattice), weight (outputs, channels, *odd kernel).

    Compiled for one to three outputs on the CPU with float32 weights and enough channels; torch's own elsewhere. Half
    as many channels as lanes or more are filled up with zeros: torch is slow at them, above all in small batches.

    Raises:
        ValueError: a width of the kernel is even.
    """
    check_odd(weight)
    if _can_be_compiled(x, weight, bias) and 0 < lanes() <= 2 * x.shape[1]:
        missing = max(lanes() - x.shape[1], 0)
        result: Tensor = _Thin.apply(_filled(x, missing), _filled(weight, missing), bias)  # type: ignore[no-untyped-call]
        return result
    return keep(x.to(weight.dtype), weight, bias)


def normalised_thin(
    x: Tensor, scale: Tensor, shift: Tensor, epsilon: float, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`thin` of what `norm.normalise` makes of x over the whole batch, and the mean and variance that it used.

    Compiled, what is normalised is never in memory: it enters the convolution by its weights and where it begins.

    Raises:
        ValueError: a width of the kernel is even.
    """
    check_odd(weight)
    if _can_be_compiled(x, weight, bias) and lanes() and x.shape[1] % lanes() == 0:
        inputs = (x, scale, shift, epsilon, weight, bias)
        y, mean, variance = _NormalisedThin.apply(*inputs)  # type: ignore[no-untyped-call]
        return y, mean, variance
    between, mean, variance = normalise(x, scale, shift, epsilon, by_sample=False)
    return thin(between, weight, bias), mean, variance


def check_odd(weight: Tensor) -> None:
    """Refuse a weight (outputs, channels, *kernel) that cannot keep a lattice.

    Raises:
        ValueError: a width of the kernel is even.
    """
    if any(width % 2 == 0 for width in weight.shape[2:]):
        raise ValueError(
            f"a convolution that keeps the lattice needs a kernel of odd widths; got {tuple(weight.shape[2:])}: "
            "take one more or one fewer"
        )


def _can_be_compiled(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether the kernels take these. Others go to torch, which computes them or says why not."""
    on_cpu = x.device.type == weight.device.type == bias.device.type == "cpu"
    known = on_cpu and x.dtype in _TYPES and weight.dtype == bias.dtype == torch.float32
    meet = x.ndim == weight.ndim <= 5 and x.shape[1] == weight.shape[1] and bias.shape == weight.shape[:1]
    return known and meet and 1 <= len(weight) <= 3 and x.numel() > 0


def _filled(x: Tensor, more: int) -> Tensor:
    """x with so many more channels of zeros, (batch, channels + more, *lattice), channels-last."""
    return F.pad(x.movedim(1, -1), (0, more)).movedim(-1, 1) if more else x


class _Thin(Reverse):
    @staticmethod
    @in_own_types
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        nodes = x.movedim(1, -1).contiguous()
        channel, first = _blocks(weight.shape[1])
        packed = weight.flatten(2).permute(2, 0, 1)[:, :, channel].contiguous()
        ctx.save_for_backward(nodes, packed)
        ctx.weight_shape = weight.shape
        y = weight.new_empty(x.shape[0], weight.shape[0], *x.shape[2:])
        _call("thin", nodes, weight.shape, nodes, packed * first, bias.contiguous(), None, y)
        return y

    @staticmethod
    @once
    @in_own_types
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        nodes, packed = ctx.saved_tensors
        gradient, g_nodes, g_packed = gradient.contiguous(), None, torch.empty_like(packed)
        if ctx.needs_input_grad[0]:
            g_nodes = torch.empty_like(nodes).movedim(-1, 1)
            _call("thin_backward_x", nodes, ctx.weight_shape, gradient, packed, None, None, None, g_nodes)
        _call("thin_backward_weights", nodes, ctx.weight_shape, nodes, gradient, g_packed)
        channel, first = _blocks(nodes.shape[-1])
        g_weight = packed.new_empty(*packed.shape[:2], nodes.shape[-1])
        g_weight[:, :, channel[first]] = g_packed[:, :, first]
        g_bias = gradient.sum([0, *range(2, gradient.ndim)])
        return g_nodes, g_weight.permute(1, 2, 0).reshape(ctx.weight_shape), g_bias


class _NormalisedThin(Reverse):
    """Keeps x alone, moved to about 0. With y = a·x + c between the two, the sums that a normalisation's gradient
    needs, of y's gradient and of that times x, follow from the sums over the lattice that the weights' gradient is made
    of.
    """

    @staticmethod
    @in_own_types
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, epsilon: float, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        nodes = x.movedim(1, -1).contiguous()
        means, variances = moments(nodes, 1)
        nodes, left = nearer(nodes, means, variances)
        mean, deviation = left[0], (variances[0] + epsilon).rsqrt()
        taps = _by_tap(weight)
        a, c = _affine(scale, shift, mean, deviation)
        y = weight.new_empty(x.shape[0], weight.shape[0], *x.shape[2:])
        _call("thin", nodes, weight.shape, nodes, (taps * a).float(), bias.contiguous(), (taps @ c).float(), y)
        ctx.save_for_backward(nodes, scale, shift, mean, deviation, weight)
        mean, variance = means.float(), variances.float()
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @once
    @in_own_types
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        nodes, scale, shift, mean, deviation, weight = ctx.saved_tensors
        gradient, taps = gradient.contiguous(), _by_tap(weight)
        a, c = _affine(scale, shift, mean, deviation)
        products, met = torch.empty_like(taps, dtype=torch.float32), _met(gradient, weight.shape[2:])
        _call("thin_backward_weights", nodes, weight.shape, nodes, gradient, products)
        total, product = ((taps * sums).sum([0, 1]) for sums in (met, products))
        along = (product - mean * total) * deviation
        g_x = None
        if ctx.needs_input_grad[0]:
            count = nodes.numel() // nodes.shape[-1]
            by = -a * deviation * along / count
            plus = -a * total / count - by * mean
            g_x = torch.empty_like(nodes).movedim(-1, 1)
            factors = ((taps * a).float(), nodes, by.float(), plus.float())
            _call("thin_backward_x", nodes, weight.shape, gradient, *factors, g_x)
        g_weight = (products * a + met * c).permute(1, 2, 0).reshape(weight.shape).to(weight.dtype)
        g_bias = gradient.sum([0, *range(2, gradient.ndim)])
        return g_x, along.to(scale.dtype), total.to(shift.dtype), None, g_weight, g_bias


def _by_tap(weight: Tensor) -> Tensor:
    """A weight (outputs, channels, *kernel) as (taps, outputs, channels), in float64."""
    return weight.flatten(2).permute(2, 0, 1).double().contiguous()


def _affine(scale: Tensor, shift: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    a = scale * deviation
    return a, shift - mean * a


def _met(gradient: Tensor, kernel: torch.Size) -> Tensor:
    """The gradient (batch, outputs, *lattice) summed, for every tap, over the nodes where it meets the lattice.

    (taps, outputs, 1), in float64 but for the lines of the last axis, whose sums are the gradient's own type.
    """
    lines = gradient @ _meeting(gradient.shape[-1], kernel[-1], gradient)
    sums = lines.sum(0, dtype=torch.float64)
    for axis in range(len(kernel) - 1, 0, -1):
        sums = torch.tensordot(sums, _meeting(sums.shape[axis], kernel[axis - 1], sums), dims=([axis], [0]))
    return sums.permute(*range(len(kernel), 0, -1), 0).flatten(0, -2)[:, :, None]


def _meeting(nodes: int, width: int, like: Tensor) -> Tensor:
    """Whether a tap placed on a node of an axis reads inside, (nodes, width), 1 or 0."""
    node, tap = torch.arange(nodes)[:, None], torch.arange(width) - width // 2
    return ((node + tap >= 0) & (node + tap < nodes)).to(like)


def _blocks(channels: int) -> tuple[Tensor, Tensor]:
    """The channel of every lane (blocks, lanes), and whether no block before holds it: the last may overlap."""
    width = lanes()
    starts = torch.arange(0, channels, width, device="cpu")
    channel = starts.clamp_max(channels - width)[:, None] + torch.arange(width, device="cpu")
    return channel, channel >= starts[:, None]


def _call(name: str, nodes: Tensor, weight_shape: torch.Size, *tensors: Tensor | None) -> None:
    ones = [1] * (5 - nodes.ndim)
    shape = (ctypes.c_int64 * 8)(nodes.shape[0], *ones, *nodes.shape[1:], *ones, *weight_shape[2:])
    counts = ctypes.c_int(weight_shape[0]), ctypes.c_int(torch.get_num_threads())
    call(f"{name}_{_TYPES[nodes.dtype]}", *map(pointer, tensors), shape, *counts)
