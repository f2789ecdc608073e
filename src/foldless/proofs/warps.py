"""The same for the fields in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from foldless.io import Geometry, Linear
from foldless.metrics import Certificate, certify_field, digest_of
from foldless.proofs.after import Warp, along_with, doubted, steps_of, without
from foldless.proofs.repair import MARGIN, Repair, repair_field


def certify_warp(warp: Warp, geometry: Geometry, after: Linear | None = None) -> Certificate:
    """Prove that a field of a file does not fold, or show where it does.

    With an affine map A that the warp ends in, p + u(p) = A (p + v(p)), the proof is of p + v(p), continued beyond the
    lattice by its border, and so of A after it.

    Args:
        warp: displacement as `read_warp` gives it, components x, y(, z), LPS millimetres.
        geometry: its lattice.
        after: the affine map, of positive determinant.

    Raises:
        ValueError: the field is not finite, or no displacement in one to three dimensions.
    """
    if after is None:
        return certify_field(_components_first(warp), steps_of(geometry))
    bare = without(warp, geometry, after)
    found = doubted(certify_field(_components_first(bare), steps_of(geometry, after)), bare, geometry, after)
    return replace(found, digest=digest_of(_components_first(warp)))


def certify_voxel_field(u: Float[np.ndarray, " dim *shape"], apart: int = 1) -> Certificate:
    """The same of displacements in voxels, components first in the order of the axes, of nodes `apart` voxels apart.

    Raises:
        ValueError: as for `certify_warp`.
    """
    return certify_field(torch.from_numpy(np.ascontiguousarray(u)), apart * torch.eye(u.shape[0], dtype=torch.float64))


def repair_warp(
    warp: Warp,
    geometry: Geometry,
    care: Float[np.ndarray, "*shape"] | None = None,
    margin: float = MARGIN,
    after: Linear | None = None,
) -> tuple[Warp, Repair]:
    """Make a field of a file provable by the smallest change, see `repair_field`; the field as `write_warp` takes it.

    `after` is the affine map that the warp ends in, as for `certify_warp`. Nodes that need not move keep every bit.

    Raises:
        ValueError: as for `certify_warp` and `repair_field`.
    """
    dear = None if care is None else torch.from_numpy(np.ascontiguousarray(care))
    if after is None:
        field, repair = repair_field(_components_first(warp), steps_of(geometry), dear, margin)
        return np.ascontiguousarray(field.movedim(0, -1).numpy()), repair
    bare = without(warp, geometry, after)
    field, repair = repair_field(_components_first(bare), steps_of(geometry, after), dear, margin)
    mended = np.ascontiguousarray(field.movedim(0, -1).numpy())
    return np.where(mended == bare, warp, along_with(mended, geometry, after)), repair


def care_for(image: Shaped[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """How dear a move of each voxel is: 1 where the image is flat, 2 where it is as steep as on average."""
    values = np.nan_to_num(image.astype(np.float32))
    slopes = [np.gradient(values, axis=axis) for axis in range(values.ndim) if values.shape[axis] > 1]
    steep = np.sqrt(sum((slope**2 for slope in slopes), np.zeros_like(values)))
    return np.asarray(1 + steep / max(float(steep.mean()), 1e-30))


def certificate_scores(certificates: Sequence[Certificate], repairs: Sequence[Repair] = ()) -> dict[str, float]:
    """The certificates of a registration's maps as numbers whose means over pairs say something."""
    return {
        "proven": float(all(one.proven for one in certificates)),
        "failing_cells": sum(one.refuted + one.undecided for one in certificates),
        "least_volume": min(one.bounds[0] for one in certificates),
        "repaired_cells": sum(one.failed for one in repairs if one.proven),
        "largest_repair_voxels": max((one.largest for one in repairs), default=0.0),
    }


def _components_first(warp: Warp) -> Float[Tensor, " dim *shape"]:
    return torch.from_numpy(np.ascontiguousarray(warp)).movedim(-1, 0)
