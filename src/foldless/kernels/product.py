"""Products of small matrices at many points, and how far they are from the identity."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from foldless.kernels.derivatives import Reverse, once
from foldless.kernels.library import call, library, pointer

_TYPES = {torch.float32: "f32", torch.float64: "f64"}


def can_multiply(a: Tensor, b: Tensor) -> bool:
    """Whether `product` and `product_error` take these: on the CPU, of one shape, float32 or float64, compiled."""
    alike = a.dtype == b.dtype and a.device == b.device and a.shape == b.shape
    compiled = a.device.type == "cpu" and a.dtype in _TYPES and library()[0] is not None
    return compiled and alike and a.ndim >= 3 and a.shape[1] == a.shape[2] <= 3 and a.numel() > 0


def product(a: Tensor, b: Tensor) -> Tensor:
    """a · b at every point, all three (batch, dim, dim, *at)."""
    result: Tensor = _Product.apply(a, b, False, False)  # type: ignore[no-untyped-call]
    return result


def product_error(a: Tensor, b: Tensor) -> Tensor:
    """Squared entries of a · b - 1, added over columns, mean over batch, rows and points; scalar.

    Args:
        a: (batch, dim, dim, *at).
        b: (batch, dim, dim, *at).
    """
    result: Tensor = _ProductError.apply(a, b)  # type: ignore[no-untyped-call]
    return result


class _Product(Reverse):
    """op(a) · op(b), either transposed or not; its gradients are such products again."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, turn_a: bool, turn_b: bool) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.turned = turn_a, turn_b
        a, b = a.contiguous(), b.contiguous()
        out = torch.empty_like(a)
        flags = (ctypes.c_int(flag) for flag in (turn_a, turn_b, torch.get_num_threads()))
        call(f"product_{_TYPES[a.dtype]}", *map(pointer, (a, b, out)), *_sizes(a), *flags)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        turn_a, turn_b = ctx.turned
        g_a = g_b = None
        if ctx.needs_input_grad[0]:
            factors = (b, gradient, turn_b, True) if turn_a else (gradient, b, False, not turn_b)
            g_a = _Product.apply(*factors)  # type: ignore[no-untyped-call]
        if ctx.needs_input_grad[1]:
            factors = (gradient, a, True, turn_a) if turn_b else (a, gradient, not turn_a, False)
            g_b = _Product.apply(*factors)  # type: ignore[no-untyped-call]
        return g_a, g_b, None, None


class _ProductError(Reverse):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        a, b = a.contiguous(), b.contiguous()
        ctx.save_for_backward(a, b)
        return a.new_tensor(_call(a, b, None, None, 0.0) / (a.numel() // a.shape[2]))

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        g_a, g_b = torch.empty_like(a), torch.empty_like(b)
        _call(a, b, g_a, g_b, gradient.item() / (a.numel() // a.shape[2]))
        return g_a, g_b


def _call(a: Tensor, b: Tensor, g_a: Tensor | None, g_b: Tensor | None, factor: float) -> float:
    tensors, total = map(pointer, (a, b, g_a, g_b)), ctypes.c_double()
    last = ctypes.c_double(factor), ctypes.c_int(torch.get_num_threads()), ctypes.byref(total)
    call(f"product_error_{_TYPES[a.dtype]}", *tensors, *_sizes(a), *last)
    return total.value


def _sizes(a: Tensor) -> Iterator[ctypes.c_int64]:
    """Batch, dimension and number of points."""
    batch, dim = a.shape[:2]
    return map(ctypes.c_int64, (batch, dim, a.numel() // (batch * dim * dim)))
