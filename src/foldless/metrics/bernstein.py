"""Cells decided in torch and in fractions: where there is no kernel, and as its referee."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from foldless.kernels.bernstein import coefficients
from foldless.kernels.certify import Cells

ROUNDINGS, A_DEPTH = 32, 6
"""Relative errors of a coefficient and of a halving, as in `kernels/bernstein.h`; docs/certificate.md derives them."""

Coefficients = Float[Tensor, "27 cells"]


def halves(one: Sequence[Any], axis: int) -> tuple[list[Any], list[Any]]:
    """The coefficients of both halves of a cell along an axis (de Casteljau)."""
    stride = (9, 3, 1)[axis]
    low, high = list(one), list(one)
    for at in range(27):
        if at // stride % 3 == 0:
            a, b, c = (one[at + n * stride] for n in range(3))
            left, right = (a + b) / 2, (b + c) / 2
            middle = (left + right) / 2
            low[at + stride], low[at + 2 * stride] = left, middle
            high[at], high[at + stride] = middle, right
    return low, high


def parts(one: Sequence[Any]) -> Iterator[tuple[tuple[int, int, int], list[Any]]]:
    """The eight parts of a cell, each with its place, and their coefficients."""
    for i, on_first in enumerate(halves(one, 0)):
        for j, on_second in enumerate(halves(on_first, 1)):
            for k, on_third in enumerate(halves(on_second, 2)):
                yield (i, j, k), on_third


@dataclass(frozen=True)
class Exact:
    """A cell in rational arithmetic: 1 proven, 0 undecided, -1 refuted at `where`, with the determinant there."""

    state: int
    depth: int
    where: Sequence[Fraction] = (Fraction(0),) * 3
    value: Fraction = Fraction(0)


def decide_exactly(corners: Sequence[Sequence[Fraction]], sign: int, deepest: int) -> Exact:
    """Decide a cell without any rounding.

    Args:
        corners: positions of the eight corners.
        sign: of the determinant of the lattice's own steps.
        deepest: how often the cell is halved at most.
    """
    start: Sequence[Fraction] = (Fraction(0),) * 3
    todo = [(start, [sign * one for one in coefficients(corners)], 0)]
    state, depth = 1, 0
    while todo:
        origin, one, level = todo.pop()
        depth = max(depth, level)
        if min(one) > 0:
            continue
        for far in itertools.product((0, 1), repeat=3):
            value = one[18 * far[0] + 6 * far[1] + 2 * far[2]]
            if value <= 0:
                return Exact(-1, depth, [o + Fraction(f, 2**level) for o, f in zip(origin, far, strict=True)], value)
        if level == deepest:
            state = 0
            continue
        for place, part in parts(one):
            todo.append(
                ([o + Fraction(p, 2 ** (level + 1)) for o, p in zip(origin, place, strict=True)], part, level + 1)
            )
    return Exact(state, depth)


def plain_cells(
    field: Float[Tensor, "3 depth height width"], steps: Float[Tensor, "3 3"], deepest: int, budget: int, capacity: int
) -> Cells:
    """`kernels.certify.certify_cells` in torch, in float64, all cells that are left halved together."""
    shape = field.shape[1:]
    padded = field.double()
    for axis, n in enumerate(shape, 1):
        index = torch.arange(-1 if n > 1 else 0, n + 1, device=field.device).clamp(0, n - 1)
        padded = padded.index_select(axis, index)
    cells = [n - 1 for n in padded.shape[1:]]
    sign = 1.0 if torch.linalg.det(steps.double()) > 0 else -1.0
    corners, bound = [], []
    for corner in itertools.product((0, 1), repeat=3):
        at = tuple(slice(c, c + n) for c, n in zip(corner, cells, strict=True))
        corners.append(padded[:, *at].flatten(1))
    for axis, stride in enumerate((4, 2, 1)):
        pairs = [(c, c + stride) for c in range(8) if not c & stride]
        moved = torch.stack([corners[b] - corners[a] for a, b in pairs]).abs().amax((0, 1))
        bound.append(moved + steps[axis].abs().max())
    offsets = [torch.tensor(corner, dtype=torch.float64) for corner in itertools.product((0, 1), repeat=3)]
    at_corner = [
        c + (o.to(steps.device).double() @ steps.double())[:, None] for c, o in zip(corners, offsets, strict=True)
    ]
    one = torch.stack([sign * c for c in coefficients([list(c) for c in at_corner])])
    unit = 6 * torch.stack(bound).prod(0) * torch.finfo(torch.float64).eps / 2
    return _decided(one, unit, cells, deepest, capacity, field.dtype)


def _decided(
    one: Coefficients, unit: Tensor, cells: list[int], deepest: int, capacity: int, dtype: torch.dtype
) -> Cells:
    count = one.shape[1]
    lower, state = torch.full((count,), torch.inf, dtype=torch.float64), torch.ones(count)
    where, value = torch.zeros(count, 3, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    corner = [18 * a + 6 * b + 2 * c for a, b, c in itertools.product((0, 1), repeat=3)]
    nodes = one[corner]
    highest = (one.amax(0) + ROUNDINGS * unit).max()
    open_cells, origin, depth = torch.arange(count), torch.zeros(count, 3, dtype=torch.float64), 0
    while True:
        margin = (ROUNDINGS + A_DEPTH * depth) * unit[open_cells]
        low = one.amin(0) - margin
        worst, place = one[corner].min(0)
        refuted = (worst <= -margin) & (low <= 0)
        left = (low <= 0) & ~refuted
        ended = ~left if depth < deepest else torch.ones_like(left)
        lower.scatter_reduce_(0, open_cells[ended], low[ended], "amin")
        if depth == deepest:
            state[open_cells[left]] = state[open_cells[left]].clamp_max(0)
        far = torch.stack([place // 4, place // 2 % 2, place % 2], 1) / 2**depth
        for cell, at, found in zip(
            open_cells[refuted].tolist(), (origin + far)[refuted], worst[refuted].tolist(), strict=True
        ):
            if state[cell] >= 0 or found < value[cell]:
                state[cell], where[cell], value[cell] = -1, at, found
        left &= state[open_cells] >= 0
        if depth == deepest or not bool(left.any()):
            break
        kept, home, cells_left = one[:, left], origin[left], open_cells[left]
        children = list(parts(list(kept)))
        one = torch.cat([torch.stack(part) for _, part in children], 1)
        depth += 1
        origin = torch.cat([home + torch.tensor(p, dtype=torch.float64) / 2**depth for p, _ in children])
        open_cells = cells_left.repeat(8)
    lower = torch.where(state > 0, lower, lower.clamp_max(0))
    doubtful = torch.nonzero(state <= 0)[:, 0]
    listed = torch.cat(
        [doubtful[:, None].double(), state[doubtful, None].double(), where[doubtful], value[doubtful, None]], 1
    )
    return Cells(
        lower.to(dtype).reshape(cells),
        (float(nodes.min()), float(nodes.max())),
        (float(lower.min()), float(highest)),
        depth,
        int((state < 0).sum()),
        int((state == 0).sum()),
        listed[:capacity],
    )
