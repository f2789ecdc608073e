"""A look at held-out pairs while training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from foldless.data.images import ImageSet
from foldless.grid import Grid, per_axis, sample
from foldless.maps import Map
from foldless.metrics import folds, mean_dice
from foldless.objective import Objective

BATCH = 8


class Scores(NamedTuple):
    """Means over the held-out pairs; `total` is the objective, `dice` NaN where nothing is labelled."""

    total: float
    dice: float
    folds: float


def validate(objective: Objective, images: ImageSet, pairs: Sequence[tuple[int, int]]) -> Scores:
    """The objective, Dice and forward folds of fixed pairs; leaves the random state and the mode as they were."""
    was_training = objective.training
    objective.eval()
    totals, overlaps, folded = [], [], []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for some in (pairs[i : i + BATCH] for i in range(0, len(pairs), BATCH)):
            moving, fixed = [i for i, _ in some], [j for _, j in some]
            a, b = images.images[moving], images.images[fixed]
            totals += [objective(a, b).total.item()] * len(some)
            phi = objective.registration(a, b)
            folded += forward_folds(phi, Grid.of(b)).tolist()
            overlaps += [overlap(phi[k : k + 1], images, i, j) for k, (i, j) in enumerate(some)]
    objective.train(was_training)
    return Scores(_mean(totals), _mean(overlaps), _mean(folded))


def forward_folds(phi: Map, grid: Grid) -> Tensor:
    """Forward folds of a map on a lattice, one number a sample."""
    nodes = phi.on(grid)
    return folds((nodes - grid.points(nodes)) / per_axis(grid.voxel, nodes), "forward").float()


def overlap(phi: Map, images: ImageSet, moving: int, fixed: int) -> float:
    """Mean Dice of one pair: labels by nearest neighbour or, without labels, warped pixels above the foreground."""
    nodes = phi.on(Grid(images.lattice))
    if images.labels is not None:
        labels = nearest(images.labels[moving], nodes)
        return mean_dice(labels, images.labels[fixed], moving=images.labels[moving])
    if images.foreground is not None:
        warped = sample(images.images[moving : moving + 1], nodes)[0, 0] > images.foreground
        target = images.images[fixed, 0] > images.foreground
        return mean_dice(warped.int(), target.int())
    return float("nan")


def nearest(labels: Tensor, points: Tensor) -> Tensor:
    """Labels (*lattice) at points (1, dim, *at), nearest neighbour, 0 outside the unit cube."""
    scale = per_axis([float(n - 1) for n in labels.shape], points)
    index = (points * scale).round()[0]
    inside = ((index >= 0) & (index <= scale[0])).all(0)
    places = tuple(index.clamp_min(0).minimum(scale[0]).long())
    return torch.where(inside, labels[places], torch.zeros_like(labels[:1].flatten()[0]))


def _mean(numbers: Sequence[float]) -> float:
    finite = [x for x in numbers if x == x]
    return sum(finite) / len(finite) if finite else float("nan")
