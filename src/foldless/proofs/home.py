"""Two fields between two images brought so close to each other's inverse that no point comes back far from home."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from foldless.data.prepare import normalised
from foldless.grid import sample, sample_with_jacobian
from foldless.io import Volume
from foldless.kernels import plain
from foldless.proofs.after import Warp
from foldless.tolerance import body

Back = Float[np.ndarray, "*elsewhere dim"]

SWEEPS = 300
"""How often fields are moved towards each other, at most, where that is all that is done to them."""

LOOK = 10
"""Sweeps of the nodes that come back from too far away, or nearly so, between two looks at all."""

NEARLY = 0.8
"""Share of the tolerance from which on a node is one of those."""

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
    moving: Volume,
    fixed: Volume,
    forward: Warp,
    inverse: Back,
    percentiles: tuple[float, float],
    tolerance: float,
    sweeps: int = SWEEPS,
) -> tuple[Warp, Back, Homing]:
    """Both fields moved, by little and only where it takes that, until no voxel of the bodies comes back too far away.

    Args:
        moving: the image on whose lattice `inverse` lies.
        fixed: the image on whose lattice `forward` lies.
        forward: the warp from fixed to moving space, (*shape, dim), LPS mm.
        inverse: the warp back.
        percentiles: a body is where its image is above the lower of them, in percent, and next to there.
        tolerance: the largest error, in voxels.
        sweeps: how often nodes are moved, at most.

    Returns:
        Both fields, the same where nothing had to be done, and what was done.
    """
    legs = _Leg(fixed, forward, percentiles), _Leg(moving, inverse, percentiles)
    fields, before, after, sweep = [leg.field.clone() for leg in legs], 0.0, 0.0, 0
    while True:
        errors = _errors(legs, fields, everywhere := [leg.inside for leg in legs])
        after = max(error.max().item() for error in errors)
        before = before if sweep else after
        if after <= tolerance or sweep >= sweeps:
            break
        near = [points[error > NEARLY * tolerance] for points, error in zip(everywhere, errors, strict=True)]
        fields = _drawn(legs, fields, near, AIM * tolerance)
        sweep += LOOK
    if sweep == 0:
        return forward, inverse, Homing(tolerance, after, after)
    moved = [(field - leg.field).norm(dim=0).max().item() for field, leg in zip(fields, legs, strict=True)]
    there, back = (leg.written(field) for leg, field in zip(legs, fields, strict=True))
    return there, back, Homing(tolerance, before, after, sweep, max(moved))


def _drawn(legs: Legs, fields: Sequence[Tensor], points: Sequence[Tensor], aim: float) -> list[Tensor]:
    """Both fields after some steps down half the squared excesses of some nodes.

    Accelerated as by Nesterov, begun anew where a step leads up (O'Donoghue and Candès 2015).
    """
    at, ahead, pace = list(fields), list(fields), 1.0
    for _ in range(LOOK):
        new, gone, uphill = [], [], 0.0
        for field, last, (slope, bend) in zip(ahead, at, _slopes(legs, ahead, points, aim), strict=True):
            new.append(field - slope / bend)
            gone.append(new[-1] - last)
            uphill += (slope * gone[-1]).sum().item()
        following = 1.0 if uphill > 0 else (1 + sqrt(1 + 4 * pace**2)) / 2
        share = 0.0 if uphill > 0 else (pace - 1) / following
        ahead = [field + share * way for field, way in zip(new, gone, strict=True)]
        at, pace = new, following
    return at


def largest_inverse_error(
    moving: Volume, fixed: Volume, forward: Warp, inverse: Back, percentiles: tuple[float, float]
) -> float:
    """The largest way from home of a voxel of either body, there and back, in its image's voxels; see `brought_home`.

    Voxels that are carried out of the other image do not count.
    """
    legs = _Leg(fixed, forward, percentiles), _Leg(moving, inverse, percentiles)
    errors = _errors(legs, [leg.field for leg in legs], [leg.inside for leg in legs])
    return max(error.max().item() for error in errors)


class _Leg:
    """A field on its way from one lattice: what it is in voxels of it, and where points lie in its unit cube."""

    def __init__(self, volume: Volume, there: Warp, percentiles: tuple[float, float]) -> None:
        geometry = volume.geometry
        self.steps, self.nodes = _tensor(geometry.matrix), _tensor(geometry.voxel_centres)
        self.field = torch.einsum("ac,...c->a...", torch.linalg.inv(self.steps), _tensor(there).double())
        self.corner = _tensor(geometry.physical_to_unit(np.zeros((geometry.dim, 1))))
        self.slope = _tensor(geometry.physical_to_unit(np.eye(geometry.dim))) - self.corner
        image = normalised(volume.array, volume.array, percentiles)
        self.inside = torch.nonzero(body(torch.from_numpy(image)[None, None])[0].flatten())[:, 0]

    def arriving(self, field: Tensor, points: Int[Tensor, " n"], other: _Leg) -> tuple[Tensor, Tensor, Tensor]:
        """How far nodes are carried, mm, where that is in the other's unit cube, both (dim, n), and whether in it."""
        way = self.in_mm(field.flatten(1)[:, points])
        at = other.unit(self.nodes.flatten(1)[:, points] + way)
        return way, at, ((at >= -ON_BORDER) & (at <= 1 + ON_BORDER)).all(0)

    def in_mm(self, field: Float[Tensor, dim * at]) -> Float[Tensor, dim * at]:
        return torch.einsum("ca,a...->c...", self.steps, field)

    def unit(self, points: Float[Tensor, dim * at]) -> Float[Tensor, dim * at]:
        corner = self.corner.reshape(-1, *[1] * (points.ndim - 1))
        return torch.einsum("ac,c...->a...", self.slope, points) + corner

    def written(self, field: Float[Tensor, dim * at]) -> Warp:
        return np.ascontiguousarray(self.in_mm(field).movedim(0, -1).float().numpy())


Legs = tuple[_Leg, _Leg]


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _slopes(legs: Legs, fields: Sequence[Tensor], points: Sequence[Tensor], aim: float) -> list[tuple[Tensor, Tensor]]:
    """The slope of half the squared excesses by both fields, and bounds of how fast it grows as a node moves.

    A point's error changes by at most a |d| as its own node moves by d, and by b |d'| as what is read where it
    arrives does; to first order the square of both is at most (a + b) (a |d|² + b Σ w |d'|²), w the reading's weights.
    """
    sums = [field.new_zeros(len(field) + 1, *field.shape[1:]) for field in fields]  # of slopes, and of bends
    for k, (there, back) in enumerate((legs, legs[::-1])):
        way, at, inside = there.arriving(fields[k], points[k], back)
        value, slope = sample_with_jacobian(back.in_mm(fields[1 - k])[None], at[None])
        inverse = torch.linalg.inv(there.steps)
        off = inverse @ (way + value[0])
        error = off.square().sum(0).sqrt()
        far = inside & (error > aim)
        excess = (off * (1 - aim / error))[:, far]
        own = torch.einsum("ac,cdn,de,ef->afn", inverse, slope[0][..., far], back.slope, there.steps)
        own += torch.eye(len(own), dtype=own.dtype)[..., None]
        a = (own.abs().sum(0).amax(0) * own.abs().sum(1).amax(0)).sqrt()  # no less than its largest stretch
        b = torch.linalg.matrix_norm(inverse @ back.steps, 2)
        by_own = torch.cat([torch.einsum("afn,an->fn", own, excess), ((a + b) * a)[None]])
        by_read = torch.cat([(inverse @ back.steps).mT @ excess, ((a + b) * b)[None]])
        sums[k].flatten(1)[:, points[k][far]] += by_own
        sums[1 - k] += _spread(by_read, at[:, far], sums[1 - k].shape)
    return [(both[:-1], both[-1].clamp_min(BEND)) for both in sums]


def _spread(values: Float[Tensor, "rows n"], at: Float[Tensor, "dim n"], shape: Sequence[int]) -> Tensor:
    """Values of points (in the unit cube) spread over the nodes around each, as reading there weighs them."""
    nodes = values.new_zeros(1, *shape).requires_grad_()
    with torch.enable_grad():
        read, _ = plain.sample(nodes, at[None], with_jacobian=False)
        return torch.autograd.grad(read, nodes, values[None])[0][0]


def _errors(legs: Legs, fields: Sequence[Tensor], points: Sequence[Tensor]) -> list[Tensor]:
    """How far from home nodes of both images come back, in their own voxels; 0 where that does not count."""
    found = []
    for k, (there, back) in enumerate((legs, legs[::-1])):
        way, at, inside = there.arriving(fields[k], points[k], back)
        off = torch.linalg.inv(there.steps) @ (way + sample(back.in_mm(fields[1 - k])[None], at[None])[0])
        found.append(torch.where(inside, off.square().sum(0).sqrt(), 0))
    return found
