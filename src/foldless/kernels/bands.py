"""Banded matrices along the axes of a lattice: blurring, reading off a coarser lattice, the adjoint of that."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil

import numpy as np
import torch
from torch import Tensor

from foldless.kernels.library import call, library, pointer, threads_for

Matrix = np.ndarray
_TYPES = {torch.float32: "f32", torch.float64: "f64"}


@dataclass(frozen=True, eq=False)
class Bands:
    """A matrix (to, from) whose row j holds `weight[:, j]` from column `start[j]` on, and nothing else.

    Attributes:
        start: (to,) int64.
        weight: (taps, to) of the values' type.
        size: columns.
    """

    start: Tensor
    weight: Tensor
    size: int

    @classmethod
    def of(cls, matrix: Matrix, dtype: torch.dtype = torch.float32) -> Bands:
        """What of a matrix (to, from) is not zero."""
        columns = matrix.shape[1]
        filled = matrix != 0
        first = np.where(filled.any(1), filled.argmax(1), 0)
        last = np.where(filled.any(1), columns - 1 - filled[:, ::-1].argmax(1), 0)
        taps = int((last - first).max()) + 1
        start = np.minimum(first, columns - taps)
        weight = np.take_along_axis(matrix, start[:, None] + np.arange(taps), axis=1)
        return cls(torch.from_numpy(start.astype(np.int64)), torch.from_numpy(weight.T.copy()).to(dtype), columns)

    @property
    def arguments(self) -> tuple[ctypes.c_void_p | ctypes.c_int64, ...]:
        """As the kernels take them: start, weight, from, to, taps."""
        taps, rows = self.weight.shape
        return pointer(self.start), pointer(self.weight), *map(ctypes.c_int64, (self.size, rows, taps))


def banded(bands: Bands, values: Tensor, axis: int) -> Tensor:
    """The matrix applied along an axis of `values`."""
    values = values.contiguous()
    shape = [*values.shape[:axis], len(bands.start), *values.shape[axis + 1 :]]
    if values.dtype not in _TYPES or values.device.type != "cpu" or library()[0] is None:
        return _plain(bands, values, axis)
    out = values.new_empty(shape)
    outer, inner = values.shape[:axis].numel(), values.shape[axis + 1 :].numel()
    sizes = map(ctypes.c_int64, (outer, inner))
    threads = ctypes.c_int(threads_for(out.numel()))
    call(f"bands_{_TYPES[values.dtype]}", pointer(values), pointer(out), *bands.arguments, *sizes, threads)
    return out


def _plain(bands: Bands, values: Tensor, axis: int) -> Tensor:
    ones = [1] * (values.ndim - axis - 1)
    start = bands.start.to(values.device)
    parts = (
        weight.to(values).reshape(-1, *ones) * values.index_select(axis, start + k)
        for k, weight in enumerate(bands.weight)
    )
    return sum(parts, start=torch.zeros((), dtype=values.dtype, device=values.device))


@cache
def blur(nodes: int, sigma: float) -> Matrix:
    """The discrete Gaussian of standard deviation `sigma` nodes, (nodes, nodes); the lattice is mirrored at its ends.

    Its weights are exp(-σ²) I_k(σ²), whose variance is σ² however small that is (Lindeberg 1990). Rows add up to 1 and
    so do columns.
    """
    if sigma <= 0 or nodes == 1:
        return np.eye(nodes)
    reach = ceil(4 * sigma) + 1
    turns = 2 * np.pi * np.fft.fftfreq(4 * reach)
    half = np.fft.ifft(np.exp(sigma**2 * (np.cos(turns) - 1))).real[: reach + 1]  # Bessel's integral, as a sum
    weights = np.concatenate([half[:0:-1], half])
    matrix = np.zeros((nodes, nodes))
    rows = np.arange(nodes)
    for offset, weight in zip(range(-reach, reach + 1), weights / weights.sum(), strict=True):
        column = (rows + offset) % (2 * nodes)
        np.add.at(matrix, (rows, np.minimum(column, 2 * nodes - 1 - column)), weight)
    return matrix


@cache
def between(nodes: int, coarse: int) -> Matrix:
    """Linear reading at `nodes` places of a coarser lattice that spans the same, (nodes, coarse)."""
    matrix = np.zeros((nodes, coarse))
    place = np.arange(nodes) * (coarse - 1) / max(nodes - 1, 1)
    low = np.clip(np.floor(place + 1e-12).astype(int), 0, max(coarse - 2, 0))
    rows, part = np.arange(nodes), place - low
    matrix[rows, low] = 1 - part
    if coarse > 1:
        matrix[rows, low + 1] += part
    return matrix


def gathered(nodes: int, coarse: int) -> Matrix:
    """The adjoint of `between` with rows that add up to 1: the mean around every coarse node, (coarse, nodes)."""
    adjoint = between(nodes, coarse).T
    mean: Matrix = adjoint / adjoint.sum(1, keepdims=True)
    return mean


def along(bands: Sequence[Bands], values: Tensor) -> Tensor:
    """A matrix each for the first axes of a lattice, applied to values (batch, channels, *lattice), last axis first."""
    for axis in range(len(bands) - 1, -1, -1):
        values = banded(bands[axis], values, axis + 2)
    return values
