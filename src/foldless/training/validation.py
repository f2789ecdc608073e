"""A look at held-out pairs while training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from foldless.data.images import ImageSet
from foldless.grid import Grid, in_voxels
from foldless.maps import Map
from foldless.metrics import folds
from foldless.objective import Objective
from foldless.overlap import mean_overlap

BATCH = 8


class Scores(NamedTuple):
    """Means over the held-out pairs; `total` is the objective, `dice` NaN where nothing is labelled."""

    total: float
    dice: float
    folds: float


def validate(
    objective: Objective, images: ImageSet, pairs: Sequence[tuple[int, int]], weight: float | None = None
) -> Scores:
    """The objective, Dice and forward folds of fixed pairs; leaves the random state and the mode as they were.

    `weight` replaces the objective's own, which may grow: scores of different steps compare only under one weight.
    """
    was_training = objective.training
    objective.eval()
    totals, overlaps, folded = [], [], []
    with torch.no_grad(), torch.random.fork_rng(devices=_gpus(images.images)):
        torch.manual_seed(0)
        for some in (pairs[i : i + BATCH] for i in range(0, len(pairs), BATCH)):
            moving, fixed = [i for i, _ in some], [j for _, j in some]
            a, b = images.images[moving], images.images[fixed]
            terms, phi = objective.with_maps(a, b)
            factor = terms.weight if weight is None else weight
            totals += [(terms.similarity + factor * terms.regularity).item()] * len(some)
            folded += forward_folds(phi, Grid.of(b)).tolist()
            overlaps += [mean_overlap(phi[k : k + 1], images, i, j) for k, (i, j) in enumerate(some)]
    objective.train(was_training)
    return Scores(_mean(totals), _mean(overlaps), _mean(folded))


def _gpus(images: Tensor) -> list[int]:
    """Those whose random state a look changes."""
    return list(range(torch.cuda.device_count())) if images.is_cuda else []


def forward_folds(phi: Map, grid: Grid) -> Tensor:
    """Forward folds of a map on a lattice, one number a sample."""
    nodes = phi.on(grid)
    return folds(in_voxels(nodes, grid), "forward").float()


def _mean(numbers: Sequence[float]) -> float:
    finite = [x for x in numbers if x == x]
    return sum(finite) / len(finite) if finite else float("nan")
