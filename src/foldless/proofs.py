"""What is proven of the fields in files."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from foldless.io import Geometry
from foldless.metrics import Certificate, certify_field


def certify_warp(warp: Float[np.ndarray, "*shape dim"], geometry: Geometry) -> Certificate:
    """Prove that a field of a file does not fold, or show where it does.

    Args:
        warp: displacement as `read_warp` gives it, components x, y(, z), LPS millimetres.
        geometry: its lattice.

    Raises:
        ValueError: the field is not finite, or no displacement in one to three dimensions.
    """
    u = torch.from_numpy(np.ascontiguousarray(warp)).movedim(-1, 0)
    return certify_field(u, torch.from_numpy(np.ascontiguousarray(geometry.matrix.T[::-1])))
