"""Convolutions of few channels, such as the images themselves, added to what the other channels came to; float32."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from foldless.kernels.convolution import keep
from foldless.kernels.derivatives import Reverse, once
from foldless.kernels.library import call, library, pointer
from foldless.kernels.thin import check_odd


def add_convolved(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """y + x convolved by an odd kernel that keeps the lattice; y may be overwritten.

    Args:
        y: (batch, outputs, *lattice), float32.
        x: (batch, channels, *lattice), float32 or bfloat16.
        weight: (outputs, channels, *kernel), float32.

    Raises:
        ValueError: a width of the kernel is even.
    """
    check_odd(weight)
    if _can_be_compiled(y, x, weight):
        result: Tensor = _AddConvolved.apply(y, x, weight)  # type: ignore[no-untyped-call]
        return result
    return y + keep(x.to(weight.dtype), weight, None)


def _can_be_compiled(y: Tensor, x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel takes these. Others go to torch, which computes them or says why not."""
    wide = y.dtype == weight.dtype == torch.float32 and y.is_contiguous()
    on_cpu = y.device.type == x.device.type == weight.device.type == "cpu"
    meet = x.ndim == weight.ndim <= 5 and x.shape[1] == weight.shape[1]
    kept = y.shape == (len(x), len(weight), *x.shape[2:])
    return wide and on_cpu and meet and kept and y.numel() > 0 and library()[0] is not None


class _AddConvolved(Reverse):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.mark_dirty(y)
        _call("add", _padded(x, weight), weight.contiguous(), y, y.shape, weight.shape)
        return y

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        g_x, gradient = None, gradient.contiguous()
        if ctx.needs_input_grad[1]:
            turned = weight.transpose(0, 1).flip(*range(2, weight.ndim)).contiguous()
            g_x = gradient.new_zeros(x.shape)
            _call("add", _padded(gradient, weight), turned, g_x, x.shape, turned.shape)
            g_x = g_x.to(x.dtype)
        g_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
        _call("backward_weights", _padded(x, weight), gradient, g_weight, gradient.shape, weight.shape)
        return gradient, g_x, g_weight


def _padded(x: Tensor, weight: Tensor) -> Tensor:
    """Planar float32 with half a kernel of zeros around."""
    sizes = list(zip(x.shape[2:], weight.shape[2:], strict=True))
    padded = x.new_zeros(*x.shape[:2], *(n + k - 1 for n, k in sizes), dtype=torch.float32)
    inner = padded
    for axis, (n, k) in enumerate(sizes, start=2):
        inner = inner.narrow(axis, k // 2, n)
    inner.copy_(x)
    return padded


def _call(name: str, x: Tensor, second: Tensor, out: Tensor, lattice: torch.Size, weight: torch.Size) -> None:
    ones = [1] * (5 - len(lattice))
    shape = (ctypes.c_int64 * 9)(lattice[0], weight[1], weight[0], *ones, *lattice[2:], *ones, *weight[2:])
    call(f"planar_{name}", *map(pointer, (x, second, out)), shape, ctypes.c_int(torch.get_num_threads()))
