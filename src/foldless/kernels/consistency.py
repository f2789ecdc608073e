"""Inverse consistency of two chains of displacements: one pass for the value and all gradients."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from foldless.kernels.derivatives import Reverse, once
from foldless.kernels.jitter import Jittered
from foldless.kernels.library import call, library, pointer

_TYPES = {torch.float32: "f32", torch.float64: "f64"}


def can_compose(fields_AB: Sequence[Tensor], fields_BA: Sequence[Tensor], points: Tensor | Jittered) -> bool:
    """Whether `consistency` takes these: on the CPU, of one batch, dimension and type, compiled; fixed points."""
    fields, given = (*fields_AB, *fields_BA), () if isinstance(points, Jittered) else (points,)
    if not (fields_AB and fields_BA):
        return False
    one = fields[0]
    alike = len({(t.device.type, t.dtype, len(t)) for t in (*fields, *given)}) == 1
    dims = {n for field in fields for n in (field.ndim - 2, field.shape[1])}
    dims.add(points.shape[1] if given else len(points.shape))
    compiled = one.device.type == "cpu" and one.dtype in _TYPES and library()[0] is not None
    some = prod(points.shape) > 0 and all(field.numel() for field in fields)
    fixed = not any(tensor.requires_grad for tensor in given)
    return alike and compiled and len(dims) == 1 and max(dims) <= 3 and some and fixed


def consistency(fields_AB: Sequence[Tensor], fields_BA: Sequence[Tensor], points: Tensor | Jittered) -> Tensor:
    """Mean of |phi_AB(phi_BA(x)) - x|² over batch, points and components, plus the same the other way; scalar.

    Args:
        fields_AB: displacements (batch, dim, *lattice) in unit-cube units, each on a lattice of its own, that make up
            phi_AB, from the one that sees the points first; each is x + what is read at x.
        fields_BA: those of phi_BA.
        points: (batch, dim, *at), unit-cube units; or jittered nodes, which are made where they are read.
    """
    arguments = ("consistency", points, 1.0, len(fields_AB), *fields_AB, *fields_BA)
    result: Tensor = _Consistency.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


def gradient_consistency(fields_AB: Sequence[Tensor], fields_BA: Sequence[Tensor], points: Tensor | Jittered) -> Tensor:
    """Squared entries of D(phi_AB ∘ phi_BA) - 1, added over columns, mean over the rest and over both orders; scalar.

    The arguments are those of `consistency`.
    """
    arguments = ("gradient_consistency", points, 0.5, len(fields_AB), *fields_AB, *fields_BA)
    result: Tensor = _Consistency.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


class _Consistency(Reverse):
    """Keeps the gradients, which cost little more than the value, instead of what they are made of."""

    @staticmethod
    def forward(ctx: Any, name: str, points: Tensor | Jittered, factor: float, in_AB: int, *fields: Tensor) -> Tensor:
        fields = tuple(field.contiguous() for field in fields)
        (batch, dim), links, size = fields[0].shape[:2], len(fields), ctypes.c_int64
        if isinstance(points, Jittered):
            at, shape, seed, count = None, (size * dim)(*points.shape), points.seed, prod(points.shape)
        else:
            at, shape, seed, count = points.flatten(2).contiguous(), None, 0, prod(points.shape[2:])
        share = factor / (batch * dim * count)
        gradients = [torch.empty_like(field) for field in fields] if any(ctx.needs_input_grad) else None
        total = ctypes.c_double()
        call(
            f"{name}_{_TYPES[fields[0].dtype]}",
            _addresses(fields),
            None if gradients is None else _addresses(gradients),
            *map(size, (in_AB, links, batch, dim)),
            (size * (links * dim))(*(n for field in fields for n in field.shape[2:])),
            pointer(at),
            size(count),
            size(0 if at is None else at.stride(0)),
            shape,
            ctypes.c_uint64(seed),
            ctypes.c_double(share),
            ctypes.c_int(torch.get_num_threads()),
            ctypes.byref(total),
        )
        if gradients is not None:
            ctx.save_for_backward(*gradients)
        return fields[0].new_tensor(total.value * share)

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, None, *(g * gradient for g in ctx.saved_tensors)


def _addresses(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*map(pointer, tensors))
