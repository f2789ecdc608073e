"""Bounds of the Jacobian determinant in every cell of a displacement field, one pass, halving where it is needed."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foldless.kernels.library import call, library, pointer, threads_for

_TYPES = {torch.float32: "f32", torch.float64: "f64"}


@dataclass(frozen=True)
class Cells:
    """What is known of all cells of a field.

    Attributes:
        lower: a bound below the determinant in every cell, (*cells), not positive exactly where it is not proven.
        nodes: smallest and largest determinant at corners of cells.
        bounds: below and above all determinants.
        depth: how often a cell was halved.
        refuted: how many cells have a point whose determinant is not positive.
        undecided: how many cells are neither proven nor refuted.
        doubtful: the first of those, (some, 6): the cell's number, its state (-1 refuted, 0 undecided), a place in the
            cell, from 0 to 1 on each axis, and the determinant there.
    """

    lower: Tensor
    nodes: tuple[float, float]
    bounds: tuple[float, float]
    depth: int
    refuted: int
    undecided: int
    doubtful: Tensor


def can_certify(field: Tensor) -> bool:
    """Whether `certify_cells` takes this field: of three axes, on the CPU, float32 or float64, compiled."""
    known = field.device.type == "cpu" and field.dtype in _TYPES and field.ndim == 4 and len(field) == 3
    return known and field.numel() > 0 and library()[0] is not None


def certify_cells(
    field: Float[Tensor, "3 depth height width"],
    steps: Float[Tensor, "3 3"],
    deepest: int,
    budget: int,
    capacity: int,
) -> Cells:
    """Judge every cell of x + u(clamp x), the lattice's own and those just outside of it.

    Args:
        field: u (3, *shape), finite; axes of one node where there are fewer dimensions.
        steps: where a step along each axis leads, (axis, component), in u's units; float64.
        deepest: how often a cell is halved at most.
        budget: parts of a cell that are looked at, at most.
        capacity: doubtful cells that are listed, at most.
    """
    steps = steps.double().contiguous()
    shape = field.shape[1:]
    lower = torch.empty([1 if n == 1 else n + 1 for n in shape], dtype=field.dtype)
    summary, listed = torch.empty(7, dtype=torch.float64), torch.empty(capacity, 6, dtype=torch.float64)
    size, number = ctypes.c_int64, ctypes.c_int
    found = size()
    call(
        f"certify_{_TYPES[field.dtype]}",
        pointer(field),
        (size * 3)(*shape),
        (size * 4)(*field.stride()),
        *map(pointer, (steps, lower, summary, listed)),
        size(capacity),
        number(deepest),
        number(budget),
        number(threads_for(lower.numel())),
        ctypes.byref(found),
    )
    least, most, low, high, depth, refuted, undecided = summary.tolist()
    return Cells(lower, (least, most), (low, high), int(depth), int(refuted), int(undecided), listed[: found.value])
