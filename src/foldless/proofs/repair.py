"""The smallest change that makes a displacement field provable: cells that fail are opened, all else stays.

A map may be proven and yet have folds by the rule of ten, of which two determinants are of tetrahedra that no
interpolation knows. They are opened too, so that whoever counts by that rule counts none.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foldless.kernels.bernstein import coefficients_of
from foldless.metrics import certify_field, folded

MARGIN = 0.02
"""What the coefficients of a repaired cell reach, as a share of the lattice cell's volume."""

ENOUGH = 0.05
"""A cell asks no more when half its squared shortages are less than this share of the margin's square."""

SWEEPS = 1000
"""How often cells that fail are moved, at most."""

PULLS = [0.3 * 0.02 ** (sweep / 12) for sweep in range(12)]
"""How far what moved is drawn back after each of the first sweeps; with these the moves are 0 to 4 % from shortest."""

RELAXATION = 1.6
"""Nodes move by this much of the mean of what their cells ask for; projections converge below 2."""


CENTRAL = ((0, (6, 3, 5)), (7, (1, 2, 4)))
"""A corner of a cell and the other three of its central tetrahedron, of twice the volume of a corner's."""


@dataclass(frozen=True)
class Repair:
    """What was done to a field.

    Attributes:
        failed: cells that were not proven, or had a fold by the rule of ten.
        proven: whether all cells are proven now.
        nodes: how many moved.
        largest: the longest of their moves, in voxels.
        mean: the mean length of their moves, in voxels.
    """

    failed: int
    proven: bool
    nodes: int = 0
    largest: float = 0.0
    mean: float = 0.0

    @property
    def sentence(self) -> str:
        """The same in words."""
        if not self.failed:
            return "nothing to repair"
        if not self.proven:
            return f"not repaired: {self.failed} cells fail, and no small change near them is enough"
        return (
            f"repaired: {self.failed} cells failed; {self.nodes} nodes moved, by {self.mean:.3f} voxel on average and "
            f"{self.largest:.3f} at most"
        )

    def as_dict(self) -> dict[str, Any]:
        """The same for a file."""
        return {**asdict(self), "sentence": self.sentence}


def repair_field(
    u: Float[Tensor, " dim *lattice"],
    steps: Float[Tensor, "axes components"],
    care: Float[Tensor, "*lattice"] | None = None,
    margin: float = MARGIN,
) -> tuple[Float[Tensor, " dim *lattice"], Repair]:
    """Make every cell provable that is not, moving as few nodes by as little as that takes.

    Each cell whose coefficients fall short of the margin asks its corners for the step that would just mend it (a
    projection onto its constraint, linearised); corners take the mean of what their cells ask, until none asks.

    Args:
        u: displacement of the nodes, as for `certify_field`.
        steps: where a step along each axis leads.
        care: how dear a move of each node is, positive; a node twice as dear moves half as far. All alike by default.
        margin: the least coefficient of a repaired cell, as a share of the lattice cell's volume.

    Returns:
        The repaired field; the same one where nothing had to, or could, be repaired.

    Raises:
        ValueError: see `certify_field`; a margin outside 0 to 1, or care that is not positive.
    """
    if not 0 < margin < 1:
        raise ValueError(f"a margin lies between 0 and 1, as a share of a cell's volume; got {margin}")
    if care is not None and (care.shape != u.shape[1:] or not bool((care > 0).all())):
        raise ValueError(f"care is positive, one number for each node {tuple(u.shape[1:])}; got {tuple(care.shape)}")
    lattice = _Lattice(u, steps, care)
    before = certify_field(u, steps)
    unproven = torch.nonzero(before.lower.flatten() <= 0)[:, 0]
    near = lattice.cells_around(_folded_nodes(u, steps))
    failing = torch.unique(torch.cat([unproven, near[lattice.failing(near)]]))
    failed = len(failing)
    if not failed:
        return u, Repair(0, before.proven)
    if not lattice.open(failing, margin):
        return u, Repair(failed, before.proven)
    mended = lattice.field().to(u.dtype)
    if not certify_field(mended, steps).proven:
        return u, Repair(failed, before.proven)
    away = (mended - u)[:, (mended != u).any(0)].double()
    moved = _in_voxels(away, steps).square().sum(0).sqrt()
    return mended, Repair(failed, True, moved.numel(), float(moved.max()), float(moved.mean()))


def _in_voxels(u: Float[Tensor, " dim *lattice"], steps: Tensor) -> Float[Tensor, " dim *lattice"]:
    return torch.einsum("c...,ca->a...", u, torch.linalg.inv(steps.double()).to(u.dtype))


def _folded_nodes(u: Float[Tensor, " dim *lattice"], steps: Tensor) -> Int[Tensor, " nodes"]:
    """The nodes that fold by the rule of ten, by number; of a lattice too thin for it none."""
    if min(u.shape[1:]) < 3:
        return torch.empty(0, dtype=torch.int64)
    inside = folded(_in_voxels(u, steps)[None], "ten")[0]
    index = torch.nonzero(inside) + 1
    return (index * _strides(u.shape[1:])).sum(-1)


class _Lattice:
    """Nodes that can be moved and the cells between them, by number; cell `i` ends at node `i`, as in a certificate."""

    def __init__(self, u: Tensor, steps: Tensor, care: Tensor | None) -> None:
        self.dim, self.shape = u.shape[0], tuple(u.shape[1:])
        self.nodes = u.double().flatten(1).T.clone()
        self.ease = torch.ones(len(self.nodes), dtype=torch.float64) if care is None else 1 / care.double().flatten()
        self.steps, self.volume = steps.double(), float(torch.linalg.det(steps.double()))
        self.cells = [1 if n == 1 else n + 1 for n in self.shape]
        corners = list(itertools.product((0, 1), repeat=3))
        self.far = torch.tensor(corners, dtype=torch.float64)  # of a cell of three dimensions
        self.corner = [sum(f << p for p, f in enumerate(reversed(far[3 - self.dim :]))) for far in corners]

    def field(self) -> Tensor:
        return self.nodes.T.reshape(self.dim, *self.shape)

    def open(self, work: Int[Tensor, " cells"], margin: float) -> bool:
        """Move nodes until no cell falls short; whether that came about.

        At first all that moved are drawn back towards where they were, less each time: of the ways to mend a cell the
        nodes then find one that is nearly the shortest.
        """
        before, moved = self.nodes.clone(), torch.empty(0, dtype=torch.int64)
        for sweep in range(SWEEPS):
            corners = self.corners(work)
            asking = self.short(self.nodes[corners], margin) > ENOUGH * margin**2
            drawn = sweep < len(PULLS)
            if not (drawn or bool(asking.any())):
                return True
            last = self.move(corners[asking], margin)
            if drawn:
                moved = torch.unique(torch.cat([moved, last]))
                self.nodes[moved] += PULLS[sweep] * (before - self.nodes)[moved]
            work = self.cells_around(moved if drawn else last)
        return False

    def corners(self, cells: Int[Tensor, " cells"]) -> Int[Tensor, "cells corners"]:
        """The nodes at the corners; outside of the lattice they are those of its border."""
        index = _indices(cells, self.cells)
        low = index - torch.tensor([int(n > 1) for n in self.shape])
        far = torch.tensor(list(itertools.product((0, 1), repeat=self.dim)))
        at = (low[:, None] + far).clamp_min(0).minimum(torch.tensor(self.shape) - 1)
        numbers: Tensor = (at * _strides(self.shape)).sum(-1)
        return numbers

    def cells_around(self, nodes: Int[Tensor, " nodes"]) -> Int[Tensor, " cells"]:
        """The cells that the nodes are corners of, each once."""
        index = _indices(nodes, self.shape)
        far = torch.tensor(list(itertools.product((0, 1), repeat=self.dim)))
        at = (index[:, None] + far).minimum(torch.tensor(self.cells) - 1)
        numbers: Tensor = torch.unique((at * _strides(self.cells)).sum(-1))
        return numbers

    def volumes(self, moved: Float[Tensor, "cells corners dim"]) -> Float[Tensor, "cells volumes"]:
        """What is to be positive in each cell: the coefficients and, in 3-D, both central tetrahedra."""
        lead = 3 - self.dim
        whole = self.far.expand(len(moved), 8, 3).clone()
        whole[..., lead:] = moved[:, self.corner] + self.far[:, lead:] @ self.steps
        found = coefficients_of(whole)
        if self.dim == 3 and CENTRAL:
            edges = [(whole[:, list(three)] - whole[:, one, None]).unbind(1) for one, three in CENTRAL]
            central = [(torch.linalg.cross(a, b) * c).sum(-1) / 2 for a, b, c in edges]
            found = torch.cat([found, torch.stack(central, 1)], 1)
        return found / self.volume

    def failing(self, cells: Int[Tensor, " cells"]) -> Bool[Tensor, " cells"]:
        return self.volumes(self.nodes[self.corners(cells)]).amin(1) <= 0

    def short(self, moved: Float[Tensor, "cells corners dim"], margin: float) -> Float[Tensor, " cells"]:
        """Half the squares of what the volumes of each cell lack."""
        return 0.5 * (margin - self.volumes(moved)).clamp_min(0).square().sum(1)

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
        nodes: Tensor
        nodes, place = torch.unique(corners, return_inverse=True)
        total = torch.zeros(len(nodes), self.dim, dtype=torch.float64)
        total.index_add_(0, place.flatten(), step.flatten(0, 1))
        share = torch.zeros(len(nodes), dtype=torch.float64)
        share.index_add_(0, place.flatten(), (1 / same.sum(-1)).flatten())
        self.nodes[nodes] += RELAXATION * total / share[:, None]
        return nodes


def _indices(numbers: Int[Tensor, " numbers"], shape: Sequence[int]) -> Int[Tensor, "numbers axes"]:
    """Along every axis; torch's own function imports a computer algebra, which takes longer than a repair."""
    return numbers[:, None] // _strides(shape) % torch.tensor(shape)


def _strides(shape: Any) -> Int[Tensor, " axes"]:
    return torch.tensor([int(torch.tensor(shape[axis + 1 :]).prod()) for axis in range(len(shape))])
