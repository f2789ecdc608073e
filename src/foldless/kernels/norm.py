"""Batch and instance normalisation on channels-last memory, where torch's own backward is an order slower."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from foldless.kernels.derivatives import Reverse, once
from foldless.kernels.library import call, lanes, pointer

_TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}

FAR = 4.0
"""Spreads between a mean and 0 from which on a channel is moved before it is convolved: `nearer`."""


def normalise(
    x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, by_sample: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Every channel to mean 0 and variance 1 over the batch's voxels, or over each sample's, then scaled and shifted.

    Args:
        x: (batch, channels, *lattice).
        weight: (channels,), float32.
        bias: (channels,), float32.
        epsilon: added to the variance.
        by_sample: whether each sample is normalised by itself.

    Returns:
        The result, and the mean and (biased) variance that were used, (batch or 1, channels).
    """
    channels, ones = x.shape[1], [1] * (x.ndim - 2)
    native = x.device.type == "cpu" and x.dtype in _TYPES and weight.dtype == torch.float32 and x.numel() > 0
    if native and lanes() and channels % lanes() == 0:
        y, mean, variance = _Normalise.apply(x, weight, bias, epsilon, by_sample)  # type: ignore[no-untyped-call]
        return y, mean, variance
    axes = [*([] if by_sample else [0]), *range(2, x.ndim)]
    wide = x.float() if x.dtype == torch.bfloat16 else x
    variance, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
    scale = (variance + epsilon).rsqrt() * weight.reshape(1, channels, *ones)
    y = ((wide - mean) * scale + bias.reshape(1, channels, *ones)).to(x.dtype)
    return y, mean.flatten(1).detach(), variance.flatten(1).detach()


class _Normalise(Reverse):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, by_sample: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = x.movedim(1, -1).contiguous()
        groups = rows.shape[0] if by_sample else 1
        mean, variance = moments(rows, groups)
        deviation = (variance + epsilon).rsqrt()
        scale = weight * deviation
        y = _combine(None, rows, None, scale, mean, bias, groups)
        ctx.save_for_backward(rows, weight, mean, deviation)
        ctx.groups = groups
        mean, variance = mean.float(), variance.float()
        ctx.mark_non_differentiable(mean, variance)
        return y.movedim(-1, 1), mean, variance

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, mean, deviation = ctx.saved_tensors
        g = gradient.movedim(1, -1).contiguous()
        count = rows.numel() // rows.shape[-1] // ctx.groups
        sums = _reduce(g, rows, ctx.groups)
        total, along = sums[:, 0], (sums[:, 1] - mean * sums[:, 0]) * deviation
        a = weight * deviation
        b = -a * deviation * along / count
        g_x = _combine(g, rows, a, b, mean, -a * total / count, ctx.groups)
        return g_x.movedim(-1, 1), along.sum(0).to(weight.dtype), total.sum(0).to(weight.dtype), None, None


def moments(rows: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of every channel, the last axis, over each group of samples: (groups, channels), float64."""
    sums = _reduce(rows, rows, groups) / (rows.numel() // rows.shape[-1] // groups)
    mean = sums[:, 0]
    return mean, (sums[:, 1] - mean.square()).clamp_min(0)


def nearer(rows: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of channels whose means are many times their spreads, moved to about 0; and the means (groups, channels).

    By what the rows' type holds of a mean: such differences are exact, but for rare numbers far away.
    """
    far = mean.square() > FAR**2 * variance
    if not far.any():
        return rows, mean
    moved = torch.where(far, mean, 0.0).to(rows.dtype).double()
    one, zero = torch.ones_like(mean), torch.zeros_like(mean)
    return _combine(None, rows, None, one, moved, zero, len(mean)), mean - moved


def _reduce(p: Tensor, q: Tensor, groups: int) -> Tensor:
    sums = p.new_empty(groups, 2, p.shape[-1], dtype=torch.float64)
    _call("reduce", p, groups, p, q, sums)
    return sums


def _combine(
    p: Tensor | None, q: Tensor, a: Tensor | None, b: Tensor, middle: Tensor, c: Tensor, groups: int
) -> Tensor:
    """a · p + b · (q - middle) + c. What float32 does not hold of the middle goes into c."""
    out, near = torch.empty_like(q), middle.float()
    c = c - b * (middle - near)
    factors = [None if t is None else t.float().contiguous() for t in (a, b, near, c)]
    _call("combine", q, groups, p, q, *factors, out)
    return out


def _call(name: str, rows: Tensor, groups: int, *tensors: Tensor | None) -> None:
    channels = rows.shape[-1]
    sizes = (ctypes.c_int64(n) for n in (groups, rows.numel() // channels // groups, channels))
    threads = ctypes.c_int(torch.get_num_threads())
    call(f"norm_{name}_{_TYPES[rows.dtype]}", *map(pointer, tensors), *sizes, threads)
