"""Signed sizes of simplices around every node, all of them in one pass over a displacement field."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from foldless.kernels.library import call, library, pointer

_TYPES = {torch.float32: "f32", torch.float64: "f64"}

Simplex = Sequence[Sequence[int]]


def can_judge(field: Tensor) -> bool:
    """Whether `judge` takes this field: on the CPU, float32 or float64, at most three dimensions, compiled kernels."""
    known = field.device.type == "cpu" and field.dtype in _TYPES and 1 <= field.ndim - 2 == field.shape[1] <= 3
    return known and library()[0] is not None


def judge(
    field: Tensor, simplices: Sequence[Simplex], signs: Sequence[int], crop: tuple[int, int], zero_folds: bool
) -> tuple[Tensor, Tensor]:
    """Which places fold, and the sum of max(-determinant, 0) of each, both (batch, *places).

    Args:
        field: displacement (batch, dim, *lattice), voxels.
        simplices: the offsets of each one's other corners.
        signs: 1 or -1, what each one's determinants are multiplied by: its sign at the identity.
        crop: nodes that are not judged, below and above on each axis.
        zero_folds: whether a determinant of zero is a fold.

    Raises:
        ValueError: a simplex has not `dim` offsets, of `dim` numbers each, and a sign, or reaches beyond the crop.
    """
    field = field.contiguous()
    batch, dim, *lattice = field.shape
    _check(simplices, signs, crop, dim)
    places = [n - sum(crop) for n in lattice]
    folded = torch.empty(batch, *places, dtype=torch.bool)
    negative = field.new_empty(batch, *places)
    edges = sorted({tuple(offset) for simplex in simplices for offset in simplex})
    corners = [edges.index(tuple(offset)) for simplex in simplices for offset in simplex]
    if folded.numel() == 0:
        return folded, negative
    size = ctypes.c_int64
    call(
        f"judge_{_TYPES[field.dtype]}",
        *map(pointer, (field, folded, negative)),
        *map(_integers, ([number for offset in edges for number in offset], corners, signs)),
        size(len(edges)),
        size(len(simplices)),
        size(batch),
        size(dim),
        (size * dim)(*lattice),
        size(crop[0]),
        size(crop[1]),
        ctypes.c_int(zero_folds),
        ctypes.c_int(torch.get_num_threads()),
    )
    return folded, negative


def _check(simplices: Sequence[Simplex], signs: Sequence[int], crop: tuple[int, int], dim: int) -> None:
    whole = len(signs) == len(simplices) and all(len(simplex) == dim for simplex in simplices)
    offsets = [offset for simplex in simplices for offset in simplex]
    if not whole or any(len(offset) != dim for offset in offsets):
        raise ValueError(f"simplices in {dim} dimensions need {dim} offsets of {dim} numbers and a sign each")
    low, high = crop
    beyond = [tuple(offset) for offset in offsets if not -low <= min(offset) <= max(offset) <= high]
    if beyond:
        raise ValueError(f"offsets must lie between {-low} and {high}, what is cropped; got {beyond[0]}: crop more")


def _integers(numbers: Sequence[int]) -> ctypes.Array[ctypes.c_int]:
    return (ctypes.c_int * len(numbers))(*numbers)
