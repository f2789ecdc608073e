"""Steps of an optimiser that keep maps provable."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from foldless.kernels.bernstein import short_cells

LEAST = 1e-3
"""What the coefficients of a cell keep, as a share of its volume: far above what rounding takes."""

HALVINGS = 8
"""How often a step is halved where it folds, before all of it is taken back."""


class Provably:
    """A step of an optimiser, halved where it makes a cell unprovable, and halved again until it makes none.

    Parameters on a lattice are halved around the cells that fail, one node further with every halving, since what a
    velocity carries comes from further away; others, as those of an affine map, for the sample that fails. What is not
    proven before a step is not asked of it.

    Args:
        step: takes it, as an optimiser's `step`.
        parameters: what it changes; of as many samples as there are displacements, or of half as many, which serve both
            directions.
        displacements: the displacements in voxels (samples, dim, *lattice) that follow from the parameters as they are.
    """

    def __init__(
        self,
        step: Callable[[], object],
        parameters: Sequence[Tensor],
        displacements: Callable[[], Float[Tensor, "samples dim *lattice"]],
    ) -> None:
        self.step, self.parameters, self.displacements = step, parameters, displacements
        with torch.no_grad():
            self.failed = failing_nodes(displacements())

    @torch.no_grad()
    def __call__(self) -> None:
        """Take a step."""
        before = [parameter.clone() for parameter in self.parameters]
        self.step()
        for halving in range(HALVINGS + 1):
            failing = failing_nodes(self.displacements())
            new = failing & ~self.failed
            if not bool(new.any()):
                self.failed = failing
                return
            for parameter, old in zip(self.parameters, before, strict=True):
                share = 0.5 * _on(new, parameter, halving) if halving < HALVINGS else torch.ones_like(parameter)
                parameter.lerp_(old, share.expand_as(parameter))


def failing_nodes(u: Float[Tensor, "samples dim *lattice"]) -> Bool[Tensor, " samples *lattice"]:
    """The corners of cells that are not provable: those with a Bernstein coefficient below `LEAST`; u in voxels."""
    shape = u.shape[2:]
    cells = torch.zeros(len(u), *(n + (n > 1) for n in shape), dtype=torch.bool, device=u.device)
    cells[tuple(short_cells(u, LEAST).T)] = True
    for axis, n in enumerate(shape, 1):
        if n > 1:
            cells = cells.narrow(axis, 0, n) | cells.narrow(axis, 1, n)
    return cells


def _on(nodes: Bool[Tensor, " samples *lattice"], parameter: Tensor, further: int) -> Tensor:
    """Where on a parameter's own lattice these nodes lie, `further` nodes around included, as numbers 0 and 1."""
    dim = nodes.ndim - 1
    marked = nodes[:, None].to(parameter)
    if len(parameter) != len(nodes):
        marked = torch.stack(marked.chunk(2)).amax(0)
    if parameter.ndim != nodes.ndim + 1 or parameter.shape[1] != dim:
        return marked.flatten(1).amax(1).reshape(-1, *[1] * (parameter.ndim - 1))
    pool, shrink = (
        (F.max_pool1d, F.adaptive_max_pool1d),
        (F.max_pool2d, F.adaptive_max_pool2d),
        (F.max_pool3d, F.adaptive_max_pool3d),
    )[dim - 1]
    marked = shrink(marked, list(parameter.shape[2:]))
    return pool(marked, 2 * further + 3, 1, further + 1)
