"""Scores of points: where the way there and back ends, where landmarks land."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor

from foldless.arguments import check_tensor
from foldless.grid import Grid, per_axis
from foldless.maps import Map, check_maps


def inverse_consistency_error(phi_AB: Map, phi_BA: Map, grid: Grid) -> Float[Tensor, " batch *shape"]:
    """|phi_BA(phi_AB(x)) - x| at the nodes x of `grid`, (batch, *shape): Euclidean, each axis in its own voxels.

    Swap the maps for the other order. Zero folds do not make it small: report both.
    """
    check_maps(phi_AB, phi_BA)
    with torch.no_grad():
        there = phi_AB.on(grid)
        away = phi_BA(there) - grid.points(there)
        length: Tensor = torch.linalg.vector_norm(away / per_axis(grid.voxel, away), dim=1)
    return length


def summary(error: Float[Tensor, " ..."]) -> dict[str, float]:
    """`mean`, `p99` (99th percentile, linear between neighbours) and `max` of an error over all its entries.

    Raises:
        ValueError: an error without entries.
    """
    check_tensor("an error", error, "(...)", least_axes=0)
    if not error.numel():
        raise ValueError(f"a summary takes one error or more; got a tensor of shape {tuple(error.shape)}")
    values = error.detach().double().cpu().numpy()
    return {"mean": float(values.mean()), "p99": float(np.percentile(values, 99)), "max": float(values.max())}


def target_registration_error(
    field_voxels: Float[Tensor, "1 dim *lattice"],
    fixed_landmarks: Num[Tensor, "n axes"],
    moving_landmarks: Num[Tensor, "m axes"],
    spacing: Sequence[float] | None = None,
) -> Float[Tensor, " n"]:
    """Distance of each carried fixed landmark from its moving one, (n,), float64: ‖(fix + u(fix) - mov) · spacing‖.

    The displacement is read at the fixed landmarks with scipy's cubic spline, and is 0 outside the lattice: Learn2Reg's
    evaluator to the digit, not the linear interpolation that the maps use.

    Args:
        field_voxels: displacement of one pair, (1, dim, *lattice), on the fixed lattice, voxels.
        fixed_landmarks: (n, dim), voxel indices of the fixed image.
        moving_landmarks: (n, dim), voxel indices of the moving image.
        spacing: of the moving image's voxels on each axis, mm; 1 where not given, and the error is in voxels.

    Raises:
        ValueError: the landmarks do not pair up, or have not one coordinate an axis.
    """
    from scipy.ndimage import map_coordinates

    check_tensor("a displacement field", field_voxels, "(1, dim, *lattice)")
    for landmarks in (fixed_landmarks, moving_landmarks):
        check_tensor("a set of landmarks", landmarks, "(n, dim)", least_axes=2)
    field, fixed, moving = (
        t.detach().double().cpu().numpy() for t in (field_voxels, fixed_landmarks, moving_landmarks)
    )
    dim = field.shape[1]
    if fixed.shape != moving.shape or fixed.shape[1] != dim or field.ndim != dim + 2:
        raise ValueError(
            f"a field (1, dim, *lattice) takes two sets of (n, dim) landmarks; got {field.shape}, {fixed.shape} and "
            f"{moving.shape}"
        )
    moved = np.stack([map_coordinates(component, fixed.T, order=3) for component in field[0]], axis=1)
    sides = np.ones(dim) if spacing is None else np.asarray(spacing, dtype=float)
    return torch.from_numpy(np.linalg.norm((fixed + moved - moving) * sides, axis=1))
