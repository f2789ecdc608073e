"""The smallest change that makes a displacement field provable: cells that fail are opened, all else stays."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foldless.metrics import Certificate, certify_field
from foldless.metrics.bernstein import coefficients

MARGIN = 0.02
"""What the coefficients of a repaired cell reach, as a share of the lattice cell's volume."""

SWEEPS = 2000
"""How often cells that fail are moved, at most."""

RELAXATION = 1.6
"""Nodes move by this much of the mean of what their cells ask for; projections converge below 2."""


@dataclass(frozen=True)
class Repair:
    """A field before and after.

    Attributes:
        field: (dim, *lattice); as it came where nothing had to, or could, be repaired.
        before: what was known of it as it came.
        after: what is known of `field`.
        nodes: how many moved.
        largest: the longest of their moves, in voxels.
        mean: the mean length of their moves, in voxels.
    """

    field: Float[Tensor, "dim *lattice"]
    before: Certificate
    after: Certificate
    nodes: int = 0
    largest: float = 0.0
    mean: float = 0.0

    @property
    def sentence(self) -> str:
        """What was done, in a sentence."""
        if self.before.proven:
            return "nothing to repair"
        failing = self.before.refuted + self.before.undecided
        if not self.after.proven:
            return f"not repaired: {failing} cells fail, and no small change near them is enough"
        return (
            f"repaired: {failing} cells failed; {self.nodes} nodes moved, by {self.mean:.3f} voxel on average and "
            f"{self.largest:.3f} at most"
        )

    def as_dict(self) -> dict[str, Any]:
        """The numbers, for a file."""
        failed = self.before.refuted + self.before.undecided
        return {
            "failed_cells": failed,
            "moved_nodes": self.nodes,
            "largest_move_voxels": self.largest,
            "mean_move_voxels": self.mean,
            "sentence": self.sentence,
        }


def repair_field(
    u: Float[Tensor, "dim *lattice"],
    steps: Float[Tensor, "axes components"],
    care: Float[Tensor, "*lattice"] | None = None,
    margin: float = MARGIN,
) -> Repair:
    """Make every cell provable that is not, moving as few nodes by as little as that takes.

    Each cell whose coefficients fall short of the margin asks its corners for the step that would just mend it (a
    projection onto its constraint, linearised); corners take the mean of what their cells ask, until none asks.

    Args:
        u: displacement of the nodes, as for `certify_field`.
        steps: where a step along each axis leads.
        care: how dear a move of each node is, positive; a node twice as dear moves half as far. All alike by default.
        margin: the least coefficient of a repaired cell, as a share of the lattice cell's volume.

    Raises:
        ValueError: see `certify_field`; a margin outside 0 to 1, or care that is not positive.
    """
    if not 0 < margin < 1:
        raise ValueError(f"a margin lies between 0 and 1, as a share of a cell's volume; got {margin}")
    if care is not None and (care.shape != u.shape[1:] or not bool((care > 0).all())):
        raise ValueError(f"care is positive, one number for each node {tuple(u.shape[1:])}; got {tuple(care.shape)}")
    before = certify_field(u, steps)
    if before.proven:
        return Repair(u, before, before)
    cells = _Lattice(u, steps, care)
    if not cells.open(torch.nonzero(before.lower.flatten() <= 0)[:, 0], margin):
        return Repair(u, before, before)
    mended = cells.field().to(u.dtype)
    after = certify_field(mended, steps)
    if not after.proven:
        return Repair(u, before, before)
    moves = torch.einsum("c...,ca->a...", (mended - u).double(), torch.linalg.inv(steps.double())).norm(dim=0)
    moved = moves[moves > 0]
    return Repair(mended, before, after, moved.numel(), float(moved.max()), float(moved.mean()))


class _Lattice:
    """Nodes that can be moved, and the cells between them, by number; cell `i` ends at node `i`, as in a certificate."""

    def __init__(self, u: Tensor, steps: Tensor, care: Tensor | None) -> None:
        self.dim, self.shape = u.shape[0], tuple(u.shape[1:])
        self.nodes = u.double().flatten(1).T.clone()
        self.ease = torch.ones(len(self.nodes), dtype=torch.float64) if care is None else 1 / care.double().flatten()
        self.steps, self.volume = steps.double(), float(torch.linalg.det(steps.double()))
        self.cells = [1 if n == 1 else n + 1 for n in self.shape]

    def field(self) -> Tensor:
        return self.nodes.T.reshape(self.dim, *self.shape)

    def open(self, work: Int[Tensor, " cells"], margin: float) -> bool:
        """Move nodes until no cell falls short; whether that came about."""
        for _ in range(SWEEPS):
            corners = self.corners(work)
            short = self.shortage(corners, margin)
            asking = short > 0.05 * margin**2
            if not bool(asking.any()):
                return True
            work = self.cells_around(self.move(corners[asking], margin))
        return False

    def corners(self, cells: Int[Tensor, " cells"]) -> Int[Tensor, "cells corners"]:
        """The nodes at the corners; outside of the lattice they are those of its border."""
        index = torch.stack(torch.unravel_index(cells, self.cells), -1)
        low = index - torch.tensor([int(n > 1) for n in self.shape])
        far = torch.tensor(list(itertools.product((0, 1), repeat=self.dim)))
        at = (low[:, None] + far).clamp_min(0).minimum(torch.tensor(self.shape) - 1)
        return (at * _strides(self.shape)).sum(-1)

    def cells_around(self, nodes: Int[Tensor, " nodes"]) -> Int[Tensor, " cells"]:
        """The cells that the nodes are corners of, each once."""
        index = torch.stack(torch.unravel_index(nodes, self.shape), -1)
        far = torch.tensor(list(itertools.product((0, 1), repeat=self.dim)))
        at = (index[:, None] + far).minimum(torch.tensor(self.cells) - 1)
        return (at * _strides(self.cells)).sum(-1).unique()

    def short(self, moved: Float[Tensor, "cells corners dim"], margin: float) -> Float[Tensor, " cells"]:
        """Half the squares of what the coefficients of each cell lack."""
        far = torch.tensor(list(itertools.product((0, 1), repeat=self.dim)), dtype=torch.float64)
        at = moved + far @ self.steps
        lead = 3 - self.dim
        whole = [
            [*(at.new_tensor(float(corner[axis])) for axis in range(lead)), *at[:, _number(corner[lead:])].unbind(-1)]
            for corner in itertools.product((0, 1), repeat=3)
        ]
        one = torch.stack(coefficients(whole)) / self.volume
        return 0.5 * (margin - one).clamp_min(0).square().sum(0)

    def shortage(self, corners: Int[Tensor, "cells corners"], margin: float) -> Float[Tensor, " cells"]:
        return self.short(self.nodes[corners], margin)

    def move(self, corners: Int[Tensor, "cells corners"], margin: float) -> Int[Tensor, " nodes"]:
        """One sweep over cells that ask; the nodes that moved."""
        moved = self.nodes[corners].requires_grad_()
        with torch.enable_grad():
            short = self.short(moved, margin)
            (slope,) = torch.autograd.grad(short.sum(), moved)
        same = (corners[:, :, None] == corners[:, None, :]).double()
        slope = same @ slope / same.sum(-1, keepdim=True).sqrt()  # a node that is several corners counts once
        eased = slope * self.ease[corners][..., None]
        length = (slope * eased).sum((1, 2), keepdim=True).clamp_min(1e-300)
        step = -2 * short.detach()[:, None, None] / length * eased / same.sum(-1, keepdim=True).sqrt()
        nodes, place = corners.unique(return_inverse=True)
        total = torch.zeros(len(nodes), self.dim, dtype=torch.float64)
        total.index_add_(0, place.flatten(), step.flatten(0, 1))
        share = torch.zeros(len(nodes), dtype=torch.float64)
        share.index_add_(0, place.flatten(), (1 / same.sum(-1)).flatten())
        self.nodes[nodes] += RELAXATION * total / share[:, None]
        return nodes


def _strides(shape: Any) -> Int[Tensor, " axes"]:
    return torch.tensor([int(torch.tensor(shape[axis + 1 :]).prod()) for axis in range(len(shape))])


def _number(corner: tuple[int, ...]) -> int:
    return sum(far << place for place, far in enumerate(reversed(corner)))
