"""The determinant's Bernstein coefficients in torch, and by how much those of a field fall short of a margin."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

AT_ONCE = 1 << 15
"""Cells whose coefficients are looked at together: some 30 MB."""

PAIRS = [(a, b) for a in (0, 1) for b in (0, 1)]


def coefficients(corners: Sequence[Any]) -> list[Any]:
    """The 27 coefficients of a cell, by index (a, b, c) row by row, from its eight corners' positions.

    `corners[4 i + 2 j + k]` is the image of the corner (i, j, k), three numbers or tensors, exact or not.
    """

    def edge(start: int, step: int) -> list[Any]:
        return [there - here for here, there in zip(corners[start], corners[start + step], strict=True)]

    x = {(j, k): edge(2 * j + k, 4) for j, k in PAIRS}
    y = {(i, k): edge(4 * i + k, 2) for i, k in PAIRS}
    z = {(i, j): edge(4 * i + 2 * j, 1) for i, j in PAIRS}
    found: list[Any] = [0] * 27
    for (i, k), (m, n) in itertools.product(PAIRS, PAIRS):
        p, q = y[i, k], z[m, n]
        minor = (p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0])
        for j, o in PAIRS:
            at = 9 * (i + m) + 3 * (j + n) + k + o
            found[at] = found[at] + sum(a * b for a, b in zip(x[j, o], minor, strict=True))
    return [one / 2 ** [at // 9, at // 3 % 3, at % 3].count(1) for at, one in enumerate(found)]


def coefficients_of(corners: Float[Tensor, "cells 8 3"]) -> Float[Tensor, "cells 27"]:
    """The same of many cells in a few operations, with a derivative."""
    cell = corners.reshape(-1, 2, 2, 2, 3)
    x = (cell[:, 1] - cell[:, 0]).flatten(1, 2)
    y = (cell[:, :, 1] - cell[:, :, 0]).flatten(1, 2)
    z = (cell[:, :, :, 1] - cell[:, :, :, 0]).flatten(1, 2)
    minors = torch.linalg.cross(y[:, :, None], z[:, None, :], dim=-1).flatten(1, 2)
    found: Tensor = (x @ minors.mT).flatten(1) @ _gathering().to(corners)
    return found


@functools.cache
def _gathering() -> Float[Tensor, "64 27"]:
    """How much of each determinant of three edges each coefficient has."""
    gathered = torch.zeros(64, 27, dtype=torch.float64)
    for row, ((j, o), (i, k), (m, n)) in enumerate(itertools.product(PAIRS, repeat=3)):
        at = (i + m, j + n, k + o)
        gathered[row, 9 * at[0] + 3 * at[1] + at[2]] = 1 / 2 ** at.count(1)
    return gathered


def shortage(u: Float[Tensor, "batch dim *lattice"], margin: float) -> Float[Tensor, " batch"]:
    """What the coefficients of a displacement's cells lack of a margin: summed in each cell, mean over cells.

    Args:
        u: in voxels of its lattice.
        margin: a share of a cell's volume, from 0 to 1.
    """
    total, cells = u.new_zeros(len(u)), prod(n + (n > 1) for n in u.shape[2:])
    for some in torch.split(short_cells(u, margin), AT_ONCE):
        lacking = (margin - _cells_at(u, some)).clamp_min(0).sum(1)
        total = total.index_add(0, some[:, 0], lacking)
    return total / cells


@torch.no_grad()
def short_cells(u: Float[Tensor, "batch dim *lattice"], margin: float) -> Int[Tensor, "some place"]:
    """The cells with a coefficient below a margin: the sample of each, and its place; cell `i` ends at node `i`.

    Those just outside of the lattice count, as in a certificate. Only coefficients that may be short are computed: in a
    cell none of whose edges differs from the lattice's own by more than s, its components' absolute values added, none
    is less than (1 - s)^dim.
    """
    steep = torch.nonzero(_steepest(u) > 1 - margin ** (1 / (u.ndim - 2)))
    short = [
        torch.nonzero(_cells_at(u, some).amin(1) < margin)[:, 0] + n * AT_ONCE
        for n, some in enumerate(torch.split(steep, AT_ONCE))
    ]
    return steep[torch.cat(short)]


def _steepest(u: Float[Tensor, "batch dim *lattice"]) -> Float[Tensor, " batch *cells"]:
    """How much the edges of each cell differ from the lattice's at most, their components' absolute values added."""
    found: list[Tensor] = []
    for axis in range(2, u.ndim):
        if u.shape[axis] == 1:
            continue
        edges = u.diff(dim=axis).abs().sum(1)
        still = edges.new_zeros(()).expand([1 if d == axis - 1 else n for d, n in enumerate(edges.shape)])
        edges = torch.cat([still, edges, still], axis - 1)
        for other in range(1, edges.ndim):
            n = u.shape[other + 1]
            if other != axis - 1 and n > 1:
                nodes = torch.arange(-1, n + 1, device=u.device).clamp(0, n - 1)
                edges = torch.maximum(edges.index_select(other, nodes[:-1]), edges.index_select(other, nodes[1:]))
        found.append(edges)
    return functools.reduce(torch.maximum, found) if found else u.new_zeros(len(u), *u.shape[2:])


def _cells_at(u: Float[Tensor, "batch dim *lattice"], at: Int[Tensor, "some place"]) -> Float[Tensor, "some 27"]:
    """The coefficients of cells, each named by its sample and its place; cell `i` ends at node `i`."""
    _, dim, *shape = u.shape
    far = torch.tensor(list(itertools.product((0, 1), repeat=3)), device=u.device)
    node, lead = torch.zeros(len(at), 8, dtype=torch.int64, device=u.device), 3 - dim
    for axis, n in enumerate(shape):
        here = at[:, 1 + axis, None] + far[:, lead + axis] - int(n > 1)
        node = node * n + here.clamp(0, n - 1)
    moved = u.flatten(2)[at[:, :1], :, node]
    whole = far + torch.nn.functional.pad(moved, (lead, 0))
    return coefficients_of(whole)
