"""Products of small matrices at many points, beside the identity."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from foldless.kernels.library import library, pointer

_TYPES = {torch.float32: "f32", torch.float64: "f64"}


def can_multiply(a: Tensor, b: Tensor) -> bool:
    """Whether `product_error` takes these: on the CPU, of one shape, float32 or float64, compiled kernels."""
    alike = a.dtype == b.dtype and a.device == b.device and a.shape == b.shape
    compiled = a.device.type == "cpu" and a.dtype in _TYPES and library()[0] is not None
    return compiled and alike and a.shape[1] <= 3 and a.numel() > 0


def product_error(a: Tensor, b: Tensor) -> Tensor:
    """Squared entries of a · b - 1, added over columns, mean over batch, rows and points; scalar.

    Args:
        a: (batch, dim, dim, *at).
        b: (batch, dim, dim, *at).
    """
    result: Tensor = _ProductError.apply(a, b)  # type: ignore[no-untyped-call]
    return result


class _ProductError(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        a, b = a.contiguous(), b.contiguous()
        ctx.save_for_backward(a, b)
        return a.new_tensor(_call(a, b, None, None, 0.0) / (a.numel() // a.shape[2]))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        g_a, g_b = torch.empty_like(a), torch.empty_like(b)
        _call(a, b, g_a, g_b, gradient.item() / (a.numel() // a.shape[2]))
        return g_a, g_b


def _call(a: Tensor, b: Tensor, g_a: Tensor | None, g_b: Tensor | None, factor: float) -> float:
    compiled = library()[0]
    assert compiled is not None
    batch, dim = a.shape[:2]
    function = getattr(compiled, f"foldless_product_error_{_TYPES[a.dtype]}")
    function.restype = ctypes.c_double
    sizes = map(ctypes.c_int64, (batch, dim, a.numel() // (batch * dim * dim)))
    tensors = map(pointer, (a, b, g_a, g_b))
    total: float = function(*tensors, *sizes, ctypes.c_double(factor), ctypes.c_int(torch.get_num_threads()))
    return total
