"""The same for the fields in files."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from foldless.io import Geometry
from foldless.metrics import Certificate, certify_field
from foldless.proofs.repair import MARGIN, Repair, repair_field

Warp = Float[np.ndarray, "*shape dim"]


def certify_warp(warp: Warp, geometry: Geometry) -> Certificate:
    """Prove that a field of a file does not fold, or show where it does.

    Args:
        warp: displacement as `read_warp` gives it, components x, y(, z), LPS millimetres.
        geometry: its lattice.

    Raises:
        ValueError: the field is not finite, or no displacement in one to three dimensions.
    """
    return certify_field(_components_first(warp), _steps(geometry))


def repair_warp(
    warp: Warp, geometry: Geometry, care: Float[np.ndarray, "*shape"] | None = None, margin: float = MARGIN
) -> Repair:
    """Make a field of a file provable by the smallest change, see `repair_field`; `written` has the field for a file.

    Raises:
        ValueError: as for `certify_warp` and `repair_field`.
    """
    dear = None if care is None else torch.from_numpy(np.ascontiguousarray(care))
    return repair_field(_components_first(warp), _steps(geometry), dear, margin)


def components_last(field: Float[Tensor, "dim *shape"]) -> Warp:
    """A repaired field as `write_warp` takes it."""
    return np.ascontiguousarray(field.movedim(0, -1).numpy())


def _components_first(warp: Warp) -> Float[Tensor, "dim *shape"]:
    return torch.from_numpy(np.ascontiguousarray(warp)).movedim(-1, 0)


def _steps(geometry: Geometry) -> Float[Tensor, "axes components"]:
    return torch.from_numpy(np.ascontiguousarray(geometry.matrix.T[::-1]))
