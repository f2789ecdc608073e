"""Where a map takes a point from: Newton steps, and a walk along a straight line of images for what they miss."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from foldless.grid import Points
from foldless.maps.algebra import Map
from foldless.maps.matrices import Jacobian, determinant

STEPS = 12
"""Newton steps before a point is walked to; where a map is smooth, four do."""
SHORTEST = 2.0**-24
"""Share of the way that a step of the walk takes at least; where shorter ones are needed, there is no way."""


@torch.no_grad()
def solve(
    phi: Map, target: Points, unit: Tensor, tolerance: float, walk: int = 2000
) -> tuple[Points, Float[Tensor, "#batch one *at"]]:
    """Points that `phi` takes to `target`, (batch, dim, *at), and how far off each ends, in units.

    Damped Newton steps come first. Where they do not arrive, as across kinks in cells that are squeezed to a hundredth,
    the straight line from the image that they reached to the target is followed backwards, in steps so short that
    Newton's arrive. Under a homeomorphism, as every field is that is proven fold-free, that line is the image of
    exactly one path, so that the walk ends where it should but for lines that meet an edge of cells; under a map that
    folds it may end where it folds.

    Args:
        phi: any map.
        target: where the points are to be taken.
        unit: in what an error is measured, one number an axis, shaped to divide `target`.
        tolerance: the largest error at which the steps end.
        walk: how many steps of the walk to try.
    """
    batch = max(len(target), len(phi(target[..., :1].flatten(2)[..., :1])))
    unit = unit.expand(1, target.shape[1], *[1] * (target.ndim - 2)).flatten(2)
    found = []
    for n in range(batch):
        aims = target[n % len(target)][None].flatten(2)
        at, error = _newton(phi[n : n + 1], aims, aims, unit, tolerance)
        found.append(_walk(phi[n : n + 1], at, aims, error, unit, tolerance, walk))
    at, error = (torch.cat(both).reshape(batch, -1, *target.shape[2:]) for both in zip(*found, strict=True))
    return at, error


def _newton(phi: Map, at: Tensor, aims: Tensor, unit: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Damped Newton steps from `at`, (1, dim, count): a step that does not come nearer is halved.

    The next step takes the slope of where the last one led, even if that was no nearer: at a kink, where it is halved
    again and again, that becomes the slope beyond the kink, by which the target lies ahead.
    """
    at, step = at.clone(), torch.ones_like(at[:, :1])
    image, slope = phi.with_jacobian(at)
    error = _length((image - aims) / unit)
    image, slope = image.clone(), slope.expand(1, *slope.shape[1:3], at.shape[2]).clone()
    for _ in range(STEPS):
        left = _beyond(error, tolerance)
        if not len(left):
            break
        trial = at[..., left] - step[..., left] * _solved(slope[..., left], image[..., left] - aims[..., left])
        there, steeper = phi.with_jacobian(trial)
        off = _length((there - aims[..., left]) / unit)
        better = (off < error[..., left])[0, 0]
        won = left[better]
        at[..., won], image[..., won], error[..., won] = trial[..., better], there[..., better], off[..., better]
        slope[..., left] = steeper.expand(1, *slope.shape[1:3], len(left))
        step[..., left] = torch.where(better, (step[..., left] * 2).clamp_max(1.0), step[..., left] / 2)
    return at, error


def _walk(
    phi: Map, at: Tensor, aims: Tensor, error: Tensor, unit: Tensor, tolerance: float, most: int
) -> tuple[Tensor, Tensor]:
    """Newton's points that missed, (1, dim, count), taken on along the line from their image to their aim."""
    missed = _beyond(error, tolerance)
    if not len(missed):
        return at, error
    here, begun = at[..., missed], phi(at[..., missed])
    done, step = torch.zeros_like(here[:, :1]), torch.ones_like(here[:, :1])
    for _ in range(most):
        left = ((done < 1) & (step > SHORTEST))[0, 0].nonzero()[:, 0]
        if not len(left):
            break
        share = (done[..., left] + step[..., left]).clamp_max(1.0)
        ahead = torch.lerp(begun[..., left], aims[..., missed[left]], share)
        trial, off = _newton(phi, here[..., left], ahead, unit, tolerance)
        arrived = (off <= tolerance)[0, 0]
        here[..., left[arrived]], done[..., left[arrived]] = trial[..., arrived], share[..., arrived]
        step[..., left] = torch.where(arrived, step[..., left] * 2, step[..., left] / 2)
    off = _length((phi(here) - aims[..., missed]) / unit)
    better = (off < error[..., missed])[0, 0]
    at[..., missed[better]], error[..., missed[better]] = here[..., better], off[..., better]
    return at, error


def _beyond(error: Tensor, tolerance: float) -> Tensor:
    """The indices of the points that are not there, those that are no number among them."""
    return (~(error <= tolerance))[0, 0].nonzero()[:, 0]


def _solved(matrix: Jacobian, vector: Points) -> Points:
    """matrix⁻¹ · vector at every point, by Cramer's rule; where the matrix is singular, the vector itself."""
    columns, numerators = list(matrix.unbind(2)), []
    for axis in range(len(columns)):
        replaced = [*columns[:axis], vector, *columns[axis + 1 :]]
        numerators.append(determinant(torch.stack(replaced, 2)))
    solution = torch.stack(numerators, 1) / determinant(matrix)[:, None]
    return torch.where(solution.isfinite().all(1, keepdim=True), solution, vector)


def _length(vector: Points) -> Tensor:
    return vector.square().sum(1, keepdim=True).sqrt()
