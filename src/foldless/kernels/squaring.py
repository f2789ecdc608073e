"""Displacements carried along themselves, the steps of scaling and squaring, in one pass each way."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from foldless.kernels.derivatives import Reverse, once
from foldless.kernels.library import call, library, pointer, threads_for

_TYPES = {torch.float32: "f32", torch.float64: "f64"}


def can_square(u: Tensor) -> bool:
    """Whether `squared` takes it: a displacement on the CPU, not traced, compiled."""
    known = u.device.type == "cpu" and u.dtype in _TYPES and 1 <= u.ndim - 2 == u.shape[1] <= 3 and u.numel() > 0
    return known and not torch.compiler.is_compiling() and library()[0] is not None


def squared(u: Tensor, keep: float = 1.0, reach: float = 1.0) -> Tensor:
    """keep · u(x) + u(x + reach · u(x)) at the nodes x of u's lattice: exp(2 v) of u = exp(v) as displacements.

    Args:
        u: (batch, dim, *lattice), unit-cube units.
        keep: 1 for squaring, 0 for what a step carries alone.
        reach: how far along u the nodes are read; 1/2 for the midpoint rule.
    """
    result: Tensor = _Squared.apply(u, keep, reach)  # type: ignore[no-untyped-call]
    return result


def steepest(u: Tensor) -> Tensor:
    """The largest difference of neighbouring nodes along every axis, (batch, dim, axes); NaN where u is not finite."""
    u = u.detach().contiguous()
    (batch, dim, *lattice), size = u.shape, ctypes.c_int64
    out = u.new_empty(batch, dim, dim)
    shape, threads = (size * dim)(*lattice), ctypes.c_int(threads_for(u.numel() // dim))
    call(f"steepest_{_TYPES[u.dtype]}", pointer(u), pointer(out), size(batch), size(dim), shape, threads)
    return out


class _Squared(Reverse):
    @staticmethod
    def forward(ctx: Any, u: Tensor, keep: float, reach: float) -> Tensor:
        u = u.contiguous()
        ctx.save_for_backward(u)
        ctx.factors = keep, reach
        out = torch.empty_like(u)
        _call("square", u, ctx.factors, u, out)
        return out

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (u,) = ctx.saved_tensors
        g_u = torch.empty_like(u)
        _call("square_backward", u, ctx.factors, u, gradient.contiguous(), g_u)
        return g_u, None, None


def _call(name: str, u: Tensor, factors: tuple[float, float], *tensors: Tensor) -> None:
    (batch, dim, *lattice), size = u.shape, ctypes.c_int64
    shape, numbers = (size * dim)(*lattice), map(ctypes.c_double, factors)
    threads = ctypes.c_int(threads_for(u.numel() // dim))
    call(f"{name}_{_TYPES[u.dtype]}", *map(pointer, tensors), size(batch), size(dim), shape, *numbers, threads)
