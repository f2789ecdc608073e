"""Warps that end in an affine map: what is left of them without it is what is proven."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from foldless.io import Geometry, Linear
from foldless.metrics import Certificate
from foldless.metrics.certificate import State

Warp = Float[np.ndarray, "*shape dim"]

ROUNDED = 8 * 2.0**-53
"""Of the absolute values that a node's place is summed from: what is lost where an affine map is taken off."""


def without(warp: Warp, geometry: Geometry, after: Linear) -> Float64[np.ndarray, "*shape dim"]:
    """What the warp adds to A p, but for a shift: u(i) − (A − 1) M i at every voxel i, LPS millimetres."""
    bare: np.ndarray = warp.astype(np.float64) - _bend(geometry, after)
    return bare


def along_with(bare: Float64[np.ndarray, "*shape dim"], geometry: Geometry, after: Linear) -> Warp:
    """A warp (*shape, dim), float32, of what `without` has left."""
    warp: np.ndarray = (bare + _bend(geometry, after)).astype(np.float32)
    return warp


def deformation(warp: Warp, geometry: Geometry, after: Linear | None) -> Warp:
    """The displacement before the affine map: v with p + u(p) = A (p + v(p)) + t, (*shape, dim), LPS millimetres."""
    if after is None:
        return warp
    there = np.moveaxis(geometry.voxel_centres, 0, -1) + warp
    back = after.inverse.matrix
    found: np.ndarray = there @ back[:, :-1].T + back[:, -1] - np.moveaxis(geometry.voxel_centres, 0, -1)
    return found


def steps_of(geometry: Geometry, after: Linear | None = None) -> Float64[Tensor, "axes components"]:
    """Where a step along each array axis of a lattice leads, and an affine map after it; (axis, component)."""
    matrix = geometry.matrix if after is None else after.matrix[:, :-1] @ geometry.matrix
    return torch.from_numpy(np.ascontiguousarray(matrix.T[::-1]))


def doubted(
    found: Certificate, bare: Float64[np.ndarray, "*shape dim"], geometry: Geometry, after: Linear
) -> Certificate:
    """The certificate of a field whose nodes may lie a little elsewhere, since taking off an affine map was rounded.

    A cell is proven if its bound stays positive by more than that may take; a fold is shown if its determinant stays
    below minus that.
    """
    off = _lost(bare, geometry, after)
    lower = found.lower - off
    open_ = int((lower <= 0).sum())
    low, high = found.bounds
    shown = found.determinant is not None and found.determinant < -off
    state: State = "proven" if not open_ else "refuted" if shown else "undecided"
    refuted = found.refuted if shown else 0
    return replace(
        found, state=state, refuted=refuted, undecided=open_ - refuted, bounds=(low - off, high + off), lower=lower
    )


def _bend(geometry: Geometry, after: Linear) -> Float64[np.ndarray, "*shape dim"]:
    index = np.moveaxis(np.indices(geometry.shape, dtype=np.float64)[::-1], 0, -1)
    change = after.matrix[:, :-1] - np.eye(geometry.dim)
    bend: np.ndarray = index @ (change @ geometry.matrix).T
    return bend


def _lost(bare: Float64[np.ndarray, "*shape dim"], geometry: Geometry, after: Linear) -> float:
    """How much a determinant may be off, as a share of a cell's volume; docs/certificate.md, 5."""
    steps = steps_of(geometry, after).numpy()
    edges = [
        np.abs(step).max() + (np.abs(np.diff(bare, axis=axis)).max() if bare.shape[axis] > 1 else 0.0)
        for axis, step in enumerate(steps)
    ]
    reach = np.abs(geometry.matrix) @ np.array(geometry.size)
    largest = np.abs(bare).max() + (2 * (np.abs(after.matrix[:, :-1]) + np.eye(geometry.dim)) @ reach).max()
    share = 2 * ROUNDED * largest * sum(1 / edge for edge in edges)
    return float(2 * 6 * np.prod(edges) * share / abs(np.linalg.det(steps)))
