"""Sums and averages over a window around every voxel, in torch: zeros outside the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foldless.kernels.derivatives import Reverse
from foldless.kernels.library import own_types


def box_sum(image: Tensor, window: int) -> Tensor:
    """Sums over a box of `window` (odd) voxels a side around every voxel, zeros outside; a few passes over memory."""
    result: Tensor = _BoxSum.apply(image, window)  # type: ignore[no-untyped-call]
    return result


def gaussian_average(image: Tensor, sigma: float) -> Tensor:
    """Averages under a Gaussian of `sigma` voxels, cut at three of them and normalised; zeros outside."""
    for axis in range(2, image.ndim):
        n = image.shape[axis]
        index = torch.arange(n, dtype=image.dtype, device=image.device)
        distance = (index[:, None] - index[None, :]).abs()
        weights = gaussian(sigma, image)
        reach = len(weights) // 2
        kernel = torch.where(distance <= reach, weights[(distance.long() + reach).clamp_max(2 * reach)], 0.0)
        with own_types(image):  # bfloat16 would leave nothing of a local variance
            image = (image.movedim(axis, -1) @ kernel).movedim(-1, axis)
    return image


def gaussian(sigma: float, like: Tensor | None = None) -> Tensor:
    """Weights that add to one, (2 reach + 1,), up to three `sigma` on either side; float64 unless like a tensor."""
    reach = int(3 * sigma + 0.5)
    dtype, device = (torch.float64, torch.device("cpu")) if like is None else (like.dtype, like.device)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=dtype, device=device) / sigma).square())
    return weights / weights.sum()


class _BoxSum(Reverse):
    """A centred box is its own adjoint, so the backward is the forward."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, window: int) -> Tensor:
        ctx.window = window
        for axis in range(2, image.ndim):
            image = _running_sum(image, window, axis)
        return image

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return box_sum(gradient, ctx.window), None


def _running_sum(x: Tensor, window: int, axis: int) -> Tensor:
    """Sums of `window` neighbours by doubling: log2(window) additions, and no cancellation as in a cumulative sum."""
    half = window // 2
    n = x.shape[axis]
    padding = [0, 0] * (x.ndim - 1 - axis) + [half, half]
    ready = torch.nn.functional.pad(x, padding)
    result: Tensor | None = None
    start, width = 0, 1
    while width <= window:
        if window & width:
            piece = ready.narrow(axis, start, n)
            result = piece if result is None else result + piece
            start += width
        if 2 * width <= window:
            length = ready.shape[axis] - width
            ready = ready.narrow(axis, 0, length) + ready.narrow(axis, width, length)
        width *= 2
    assert result is not None
    return result


def share_outside(image: Tensor, kernel: Sequence[float]) -> Tensor:
    """How much of the window around every voxel lies outside the image, (*lattice); of whole ones exactly 0.

    `kernel` holds the window's weights, 2 reach + 1 of them, on every axis.
    """
    weights = torch.tensor(kernel, dtype=torch.float64)
    tail = torch.cat([weights.new_zeros(1), (weights / weights.sum()).cumsum(0)])
    reach, outside = len(kernel) // 2, torch.zeros((), dtype=torch.float64)
    for axis, n in enumerate(image.shape[2:]):
        below = torch.arange(reach, reach - n, -1).clamp_min(0)
        missing = (tail[below] + tail[below.flip(0)]).clamp_max(1)
        missing = missing.reshape(-1, *[1] * (image.ndim - 3 - axis))
        outside = outside + missing - outside * missing
    return outside.to(image)
