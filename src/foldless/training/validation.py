"""A look at held-out pairs while training."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite, nan, prod
from typing import NamedTuple

import torch
from torch import Tensor

from foldless.data.images import ImageSet
from foldless.grid import Grid
from foldless.machine import CPU, Machine
from foldless.maps import Map
from foldless.metrics import folds
from foldless.objective import BaseObjective
from foldless.overlap import mean_overlap
from foldless.registration import average_pool

BATCH = 8
AT_ONCE = 8_000_000
"""Voxels that are looked at together, so that a look takes no more memory than a training step."""


class Scores(NamedTuple):
    """Means over the held-out pairs.

    Attributes:
        total: the objective, lower is better; infinite where that of any pair is not finite, so that it is never best.
        dice: higher is better, of the pairs that have labels; NaN where none has.
        folds: forward folds a pair.
        error: the largest inverse-consistency error inside a body, in voxels; NaN where there is no tolerance for it.
            The total has by how many tolerances it is beyond.
    """

    total: float
    dice: float
    folds: float
    error: float = nan


def validate(
    objective: BaseObjective,
    images: ImageSet,
    pairs: Sequence[tuple[int, ...]],
    weight: float | None = None,
    level: int = 1,
    machine: Machine = CPU,
) -> Scores:
    """The objective, Dice and forward folds of fixed pairs; leaves the random state and the modes as they were.

    Args:
        objective: what is judged.
        images: the held-out ones.
        pairs: places of as many images as the objective takes; Dice and folds are those of the first two.
        weight: replaces the objective's own, which may grow: scores of different steps compare only under one weight.
        level: the objective sees images pooled by this; Dice and folds are those of the full lattice.
        machine: where the objective lies.
    """
    modes = [(module, module.training) for module in objective.modules()]
    objective.eval()
    totals, overlaps, folded, errors = [], [], [], []
    held = objective.tolerance
    size = max(1, min(BATCH, AT_ONCE // prod(images.lattice)))
    with torch.no_grad(), torch.random.fork_rng(devices=_gpus(machine)):
        torch.manual_seed(0)
        for some in (pairs[i : i + size] for i in range(0, len(pairs), size)):
            seen = [machine.takes(images.images[list(places)]) for places in zip(*some, strict=True)]
            terms, phi = objective.with_maps(*(average_pool(x, level) if level > 1 else x for x in seen))
            factor = terms.weight if weight is None else weight
            totals += [(terms.similarity + factor * terms.regularity).item()] * len(some)
            if held is not None:
                errors.append(held.largest.item())
            folded += forward_folds(phi, Grid(images.lattice)).tolist()
            overlaps += [mean_overlap(phi[k : k + 1], images, i, j) for k, (i, j, *_) in enumerate(some)]
    for module, mode in modes:
        module.training = mode
    total, error = sum(totals) / len(totals), nan
    if held is not None:
        total, error = total + max(0.0, max(errors) / held.voxels - 1), level * max(errors)
    return Scores(total if isfinite(total) else inf, _mean_of_known(overlaps), sum(folded) / len(folded), error)


def _gpus(machine: Machine) -> list[int]:
    """Those whose random state a look changes."""
    return list(range(torch.cuda.device_count())) if machine.device.type == "cuda" else []


def forward_folds(phi: Map, grid: Grid) -> Tensor:
    """Forward folds of a map on a lattice, one number a sample."""
    return folds(phi.displacement_on(grid), "forward").float()


def _mean_of_known(overlaps: Sequence[float]) -> float:
    """NaN says that a pair has no labels."""
    known = [x for x in overlaps if x == x]
    return sum(known) / len(known) if known else nan
