"""Two fields between two images brought so close to each other's inverse that no point comes back far from home."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foldless.data.prepare import normalised
from foldless.grid import sample, sample_with_jacobian
from foldless.io import Volume
from foldless.proofs.after import Warp
from foldless.tolerance import body

Back = Float[np.ndarray, "*elsewhere dim"]

SWEEPS = 300
"""How often fields are moved towards each other, at most."""

AIM = 0.95
"""Of the tolerance: what nodes that come back from further away are moved to."""

BEND = 4.0
"""How fast the slope of half the squared excesses grows at least, as a node moves; the step is the slope by that.

A node bears its own excess, and about as much of those that arrive near it, and shares each with the nodes at the other
end. Where maps are steep, or many points arrive at one place, it is more; see `_bends`.
"""

ON_BORDER = 1e-6
"""Of the cube: by how much rounding may carry a node of the border outside."""


@dataclass(frozen=True)
class Homing:
    """What was done to two fields so that all points of the bodies come home.

    Attributes:
        tolerance: the largest error that was asked for, in voxels.
        before: the largest before.
        after: the largest after.
        sweeps: how often nodes were moved.
        largest: the longest of their moves, in voxels.
    """

    tolerance: float
    before: float
    after: float
    sweeps: int = 0
    largest: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The same for a file."""
        return asdict(self)


def brought_home(
    moving: Volume, fixed: Volume, forward: Warp, inverse: Back, percentiles: tuple[float, float], tolerance: float
) -> tuple[Warp, Back, Homing]:
    """Both fields moved, by little and only where it takes that, until no voxel of the bodies comes back too far away.

    Args:
        moving: the image on whose lattice `inverse` lies.
        fixed: the image on whose lattice `forward` lies.
        forward: the warp from fixed to moving space, (*shape, dim), LPS mm.
        inverse: the warp back.
        percentiles: a body is where its image is above the lower of them, in percent, and next to there.
        tolerance: the largest error, in voxels.

    Returns:
        Both fields, the same where nothing had to be done, and what was done.
    """
    legs = _Leg(fixed, forward, percentiles), _Leg(moving, inverse, percentiles)
    fields = [leg.field.clone().requires_grad_() for leg in legs]
    before = after = 0.0
    for sweep in range(SWEEPS + 1):
        errors = _errors(legs, fields)
        after = max(error.max().item() for error in errors)
        before = before if sweep else after
        if after <= tolerance or sweep == SWEEPS:
            break
        excess = torch.stack([(error - AIM * tolerance).clamp_min(0).square().sum() for error in errors]).sum() / 2
        slopes, bends = torch.autograd.grad(excess, fields), _bends(legs, fields, errors, AIM * tolerance)
        for field, slope, bend in zip(fields, slopes, bends, strict=True):
            field.data -= slope / bend
    if sweep == 0:
        return forward, inverse, Homing(tolerance, after, after)
    moved = [(field.detach() - leg.field).norm(dim=0).max().item() for field, leg in zip(fields, legs, strict=True)]
    there, back = (leg.written(field.detach()) for leg, field in zip(legs, fields, strict=True))
    return there, back, Homing(tolerance, before, after, sweep, max(moved))


def largest_inverse_error(
    moving: Volume, fixed: Volume, forward: Warp, inverse: Back, percentiles: tuple[float, float]
) -> float:
    """The largest way from home of a voxel of either body, there and back, in its image's voxels; see `brought_home`.

    Voxels that are carried out of the other image do not count.
    """
    legs = _Leg(fixed, forward, percentiles), _Leg(moving, inverse, percentiles)
    return max(error.max().item() for error in _errors(legs, [leg.field for leg in legs]))


class _Leg:
    """A field on its way from one lattice: what it is in voxels of it, and where points lie in its unit cube."""

    def __init__(self, volume: Volume, there: Warp, percentiles: tuple[float, float]) -> None:
        geometry = volume.geometry
        self.steps, self.nodes = _tensor(geometry.matrix), _tensor(geometry.voxel_centres)
        self.field = torch.einsum("ac,...c->a...", torch.linalg.inv(self.steps), _tensor(there).double())
        self.corner = _tensor(geometry.physical_to_unit(np.zeros((geometry.dim, 1))))
        self.slope = _tensor(geometry.physical_to_unit(np.eye(geometry.dim))) - self.corner
        image = normalised(volume.array, volume.array, percentiles)
        self.body: Bool[Tensor, "*shape"] = body(torch.from_numpy(image)[None, None])[0]

    def in_mm(self, field: Float[Tensor, dim * at]) -> Float[Tensor, dim * at]:
        return torch.einsum("ca,a...->c...", self.steps, field)

    def unit(self, points: Float[Tensor, dim * at]) -> Float[Tensor, dim * at]:
        corner = self.corner.reshape(-1, *[1] * (points.ndim - 1))
        return torch.einsum("ac,c...->a...", self.slope, points) + corner

    def written(self, field: Float[Tensor, dim * at]) -> Warp:
        return np.ascontiguousarray(self.in_mm(field).movedim(0, -1).float().numpy())


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


@torch.no_grad()
def _bends(legs: tuple[_Leg, _Leg], fields: Sequence[Tensor], errors: Sequence[Tensor], aim: float) -> list[Tensor]:
    """Bounds of how fast the slope at each node grows as nodes move; a step of the slope by them does not overshoot.

    A point's error changes by at most a |d| as its own node moves by d, and by b |d'| as what is read where it
    arrives does; to first order the square of both is at most (a + b) (a |d|² + b Σ w |d'|²), w the reading's weights.
    """
    bends = [torch.zeros_like(error) for error in errors]
    for k, ((there, back), (out, home)) in enumerate(((legs, fields), (legs[::-1], fields[::-1]))):
        far = errors[k] > aim
        at = back.unit(there.nodes + there.in_mm(out))[:, far]
        _, slope = sample_with_jacobian(back.in_mm(home)[None], at[None])
        inverse = torch.linalg.inv(there.steps)
        own = torch.einsum("ac,cdn,de,ef->afn", inverse, slope[0], back.slope, there.steps)
        own += torch.eye(len(own), dtype=own.dtype)[..., None]
        a = (own.abs().sum(0).amax(0) * own.abs().sum(1).amax(0)).sqrt()  # no less than its largest stretch
        b = torch.linalg.matrix_norm(inverse @ back.steps, 2)
        bends[k][far] += (a + b) * a
        with torch.enable_grad():
            read = torch.zeros_like(home[:1]).requires_grad_()
            arrived = (sample(read[None], at[None])[0, 0] * ((a + b) * b)).sum()
            bends[1 - k] += torch.autograd.grad(arrived, read)[0][0]
    return [bend.clamp_min(BEND) for bend in bends]


def _errors(legs: tuple[_Leg, _Leg], fields: Sequence[Tensor]) -> list[Tensor]:
    """How far from home the voxels of both images come back, in their own voxels; 0 where that does not count."""
    found = []
    for (there, back), (out, home) in ((legs, fields), (legs[::-1], fields[::-1])):
        way = there.in_mm(out)
        at = back.unit(there.nodes + way)
        off = way + sample(back.in_mm(home)[None], at[None])[0]
        error = torch.einsum("ac,c...->a...", torch.linalg.inv(there.steps), off).square().sum(0)
        inside = there.body & ((at >= -ON_BORDER) & (at <= 1 + ON_BORDER)).all(0)
        found.append(torch.where(inside, error.clamp_min(1e-24).sqrt(), 0))
    return found
