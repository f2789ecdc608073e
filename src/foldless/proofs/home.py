"""How far from home points of two bodies come back, through the fields in files."""

from __future__ import annotations

import numpy as np
import torch

from foldless.data.prepare import normalised
from foldless.io import Volume, arriving_inside, inverse_consistency_of_files
from foldless.proofs.warps import Warp
from foldless.tolerance import body


def largest_inverse_error(
    moving: Volume, fixed: Volume, forward: Warp, inverse: Warp, percentiles: tuple[float, float]
) -> float:
    """The largest way from home of a voxel of either body, there and back, in its image's voxels.

    Voxels that are carried out of the other image do not count.

    Args:
        moving: the image on whose lattice `inverse` lies.
        fixed: the image on whose lattice `forward` lies.
        forward: the warp from fixed to moving space, (*shape, dim), LPS mm.
        inverse: the warp back.
        percentiles: a body is where its image is above the lower of them, in percent, and next to there.
    """

    def largest(volume: Volume, there: Warp, other: Volume, back: Warp) -> float:
        error = inverse_consistency_of_files(there, volume.geometry, back, other.geometry)
        image = normalised(volume.array, volume.array, percentiles)
        inside = body(torch.from_numpy(image)[None, None])[0].numpy()
        inside &= arriving_inside(there, volume.geometry, other.geometry)
        return float(np.where(inside, error, 0).max())

    return max(largest(fixed, forward, moving, inverse), largest(moving, inverse, fixed, forward))
