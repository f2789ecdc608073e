"""The mean local normalised cross correlation and its gradient, in a few passes over memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foldless.kernels.derivatives import Reverse, once
from foldless.kernels.library import call, library, pointer

_TYPES = {torch.float32: "f32", torch.float64: "f64"}


class Windows(NamedTuple):
    """Windows around every voxel and how correlations are taken in them.

    `kernel` holds 2 reach + 1 weights, the same on every axis; `scale` turns a weighted sum into an average;
    `epsilon` is added to each variance or, where the correlation is squared, to their product.
    """

    kernel: Sequence[float]
    scale: float
    epsilon: float
    squared: bool


def can_correlate(a: Tensor, b: Tensor, mask: Tensor | None) -> bool:
    """Whether `mean_correlation` takes these images: on the CPU, of one shape, float32 or float64, compiled kernels."""
    others = [b] if mask is None else [b, mask]
    alike = all(t.dtype == a.dtype and t.device == a.device and t.shape[2:] == a.shape[2:] for t in others)
    fixed = mask is None or not mask.requires_grad
    meets = mask is None or (mask.shape[1] == 1 and len(mask) in (1, len(a)))
    compiled = a.device.type == "cpu" and a.dtype in _TYPES and library()[0] is not None
    return compiled and alike and fixed and meets and a.shape == b.shape and 3 <= a.ndim <= 5 and a.numel() > 0


def mean_correlation(a: Tensor, b: Tensor, mask: Tensor | None, windows: Windows) -> Tensor:
    """Mean correlation of the windows around every voxel, scalar; the gradient is computed on the way, if wanted.

    Args:
        a: (batch, channels, *lattice).
        b: (batch, channels, *lattice).
        mask: (batch or 1, 1, *lattice), restricts the windows and weighs the mean; it has no gradient.
        windows: see `Windows`.

    Raises:
        ValueError: the windows have no middle.
    """
    if len(windows.kernel) % 2 == 0:
        raise ValueError(f"a window around a voxel needs an odd number of weights; got {len(windows.kernel)}")
    if b.requires_grad and not a.requires_grad:
        a, b = b, a
    result: Tensor = _MeanCorrelation.apply(a, b, mask, windows, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return result


class _MeanCorrelation(Reverse):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, mask: Tensor | None, windows: Windows, differentiated: bool) -> Tensor:
        a, b = a.contiguous(), b.contiguous()
        mask = None if mask is None else mask.contiguous()
        wanted = [differentiated and needed for needed in ctx.needs_input_grad]
        g_a = torch.empty_like(a) if wanted[0] else None
        g_b = torch.empty_like(b) if wanted[1] else None
        mean = _correlate(a, b, mask, g_a, g_b, windows)
        ctx.save_for_backward(*(g for g in (g_a, g_b) if g is not None))
        return a.new_tensor(mean)

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = [gradient * g for g in ctx.saved_tensors]
        return (*saved, *[None] * (5 - len(saved)))


def _correlate(
    a: Tensor, b: Tensor, mask: Tensor | None, g_a: Tensor | None, g_b: Tensor | None, windows: Windows
) -> float:
    batch, channels, *lattice = a.shape
    kernel, absent = list(windows.kernel), 3 - len(lattice)
    weights = a.new_tensor([1.0] * absent + kernel * len(lattice))
    shape, reach = [1] * absent + lattice, [0] * absent + [len(kernel) // 2] * len(lattice)
    total = float(a.numel()) if mask is None else mask.sum(dtype=torch.float64).item() * channels * batch / len(mask)
    share, size, real = 1 / max(total, 1e-12), ctypes.c_int64, ctypes.c_double
    correlations = real()
    call(
        f"correlate_{_TYPES[a.dtype]}",
        *map(pointer, (a, b, mask, g_a, g_b, weights)),
        (size * 3)(*shape),
        (size * 3)(*reach),
        size(batch * channels),
        size(channels if mask is not None and len(mask) > 1 else batch * channels),
        real(windows.scale ** len(lattice)),
        real(windows.epsilon),
        real(share),
        ctypes.c_int(windows.squared),
        ctypes.c_int(torch.get_num_threads()),
        ctypes.byref(correlations),
    )
    return correlations.value * share
