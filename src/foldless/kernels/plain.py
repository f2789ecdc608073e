"""Sampling in plain torch: works everywhere, and is the referee of the compiled form."""

from __future__ import annotations

import itertools
from math import prod

import torch
from torch import Tensor


def sample(values: Tensor, points: Tensor, with_jacobian: bool) -> tuple[Tensor, Tensor | None]:
    """Multilinear interpolation and, if wanted, its derivative, from the same corners.

    Args:
        values: (batch, channels, *lattice).
        points: (batch, dim, count), unit cube, same dtype.
        with_jacobian: whether the derivative is wanted.

    Returns:
        The value (batch, channels, count); the derivative (batch, channels, dim, count) or None.
    """
    lattice, dim = values.shape[2:], points.shape[1]
    scale = torch.tensor([n - 1 for n in lattice], dtype=points.dtype, device=points.device)[:, None]
    index = points * scale
    inside = (index >= 0) & (index <= scale)
    clamped = torch.where(inside, index, index.detach().clamp_min(0).minimum(scale))
    low = clamped.detach().nan_to_num(0).floor().minimum((scale - 1).clamp_min(0))
    fraction = clamped - low
    slope = torch.where(inside, scale, torch.zeros_like(scale))
    stride = [prod(lattice[axis + 1 :]) for axis in range(dim)]
    step = [s if n > 1 else 0 for s, n in zip(stride, lattice, strict=True)]
    base = (low.long() * torch.tensor(stride, device=points.device)[:, None]).sum(1)

    flat = values.flatten(2)
    value = values.new_zeros(*values.shape[:2], points.shape[2])
    slopes = [torch.zeros_like(value) for _ in range(dim)] if with_jacobian else []
    for corner in itertools.product((0, 1), repeat=dim):
        place = base + sum(bit * s for bit, s in zip(corner, step, strict=True))
        at_corner = flat.gather(2, place[:, None].expand(-1, flat.shape[1], -1))
        weights = [fraction[:, axis] if bit else 1 - fraction[:, axis] for axis, bit in enumerate(corner)]
        value = value + at_corner * _product(weights)[:, None]
        for axis in range(dim if with_jacobian else 0):
            sign = slope[:, axis] if corner[axis] else -slope[:, axis]
            others = weights[:axis] + weights[axis + 1 :]
            slopes[axis] = slopes[axis] + at_corner * _product([sign, *others])[:, None]
    return value, torch.stack(slopes, dim=2) if with_jacobian else None


def _product(factors: list[Tensor]) -> Tensor:
    result = factors[0]
    for factor in factors[1:]:
        result = result * factor
    return result
