"""Inverse consistency of two displacements of one lattice: one pass for the value and both gradients."""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import torch
from torch import Tensor

from foldless.kernels.jitter import Jittered
from foldless.kernels.library import library, pointer

_TYPES = {torch.float32: "f32", torch.float64: "f64"}


def can_compose(field_AB: Tensor, field_BA: Tensor, points: Tensor | Jittered) -> bool:
    """Whether `consistency` takes these: on the CPU, of one lattice, batch and type, compiled; fixed points."""
    given = () if isinstance(points, Jittered) else (points,)
    tensors = (field_AB, field_BA, *given)
    alike = field_AB.shape == field_BA.shape and len({(t.device.type, t.dtype, len(t)) for t in tensors}) == 1
    compiled = field_AB.device.type == "cpu" and field_AB.dtype in _TYPES and library()[0] is not None
    dims = {field_AB.ndim - 2, field_AB.shape[1], points.shape[1] if given else len(points.shape)}
    some = prod(points.shape) > 0 and field_AB.numel() > 0
    fixed = not any(tensor.requires_grad for tensor in given)
    return alike and compiled and len(dims) == 1 and max(dims) <= 3 and some and fixed


def consistency(field_AB: Tensor, field_BA: Tensor, points: Tensor | Jittered) -> Tensor:
    """Mean of |phi_AB(phi_BA(x)) - x|² over batch, points and components, plus the same the other way; scalar.

    Args:
        field_AB: (batch, dim, *lattice), displacements in unit-cube units; phi(x) = x + what is read at x.
        field_BA: (batch, dim, *lattice).
        points: (batch, dim, *at), unit-cube units; or jittered nodes, which are made where they are read.
    """
    result: Tensor = _Consistency.apply("consistency", field_AB, field_BA, points, 1.0)  # type: ignore[no-untyped-call]
    return result


def gradient_consistency(field_AB: Tensor, field_BA: Tensor, points: Tensor | Jittered) -> Tensor:
    """Squared entries of D(phi_AB ∘ phi_BA) - 1, added over columns, mean over the rest and over both orders; scalar.

    The arguments are those of `consistency`.
    """
    result: Tensor = _Consistency.apply("gradient_consistency", field_AB, field_BA, points, 0.5)  # type: ignore[no-untyped-call]
    return result


class _Consistency(torch.autograd.Function):
    """Keeps the gradients, which cost little more than the value, instead of what they are made of."""

    @staticmethod
    def forward(
        ctx: Any, name: str, field_AB: Tensor, field_BA: Tensor, points: Tensor | Jittered, factor: float
    ) -> Tensor:
        compiled = library()[0]
        assert compiled is not None
        field_AB, field_BA = field_AB.contiguous(), field_BA.contiguous()
        (batch, dim), size = field_AB.shape[:2], ctypes.c_int64
        if isinstance(points, Jittered):
            at, shape, seed, count = None, (size * dim)(*points.shape), points.seed, prod(points.shape)
        else:
            at, shape, seed, count = points.flatten(2).contiguous(), None, 0, prod(points.shape[2:])
        share = factor / (batch * dim * count)
        wanted = any(ctx.needs_input_grad)
        gradients = [torch.empty_like(field) if wanted else None for field in (field_AB, field_BA)]
        function = getattr(compiled, f"foldless_{name}_{_TYPES[field_AB.dtype]}")
        function.restype = ctypes.c_double
        total = function(
            *map(pointer, (field_AB, field_BA, at, *gradients)),
            size(batch),
            size(dim),
            (size * dim)(*field_AB.shape[2:]),
            size(count),
            size(0 if at is None else at.stride(0)),
            shape,
            ctypes.c_uint64(seed),
            ctypes.c_double(share),
            ctypes.c_int(torch.get_num_threads()),
        )
        ctx.save_for_backward(*gradients)
        return field_AB.new_tensor(total * share)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(g * gradient for g in ctx.saved_tensors), None, None
