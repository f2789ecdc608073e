"""Proof that a displacement field does not fold: not at its nodes, but everywhere."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field, fields
from fractions import Fraction
from math import inf, isfinite
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from foldless.arguments import check_tensor
from foldless.errors import NotFiniteError
from foldless.kernels.certify import Cells, can_certify, certify_cells
from foldless.maps import Displacement, Map
from foldless.metrics.bernstein import decide_exactly, plain_cells

DEEPEST = 10
"""How often a cell is halved at most."""

BUDGET = 4096
"""Parts of a cell that are looked at, at most, before exact arithmetic is asked."""

LISTED = 1 << 18
"""Cells without a proof that a witness is chosen from."""

EXACT = 64
"""Undecided cells that exact arithmetic is asked about: rounding hides the sign of what is zero, or nearly."""

RANGE = {torch.float32: 2.0**30, torch.float64: 2.0**200}
"""Displacements and steps up to this size, and steps down to its inverse: there no product of three leaves its type."""

State = Literal["proven", "refuted", "undecided"]


@dataclass(frozen=True)
class Certificate:
    """What is known of phi(x) = x + u(x), u multilinear between its nodes and continued outside by its border.

    Proven: the determinant of phi's derivative is positive in every closed cell of the lattice and outside of it, and
    so phi is a homeomorphism of the whole space; docs/certificate.md has the theorem. All determinants are relative to
    that of the lattice's own steps, so that they say how volumes change.

    Attributes:
        state: proven; refuted, as there is a point whose determinant is not positive; or undecided.
        cells: how many were judged, those just outside the lattice among them.
        refuted: cells with such a point.
        undecided: cells neither proven nor refuted when halved `depth` times.
        bounds: no volume shrinks to less, or grows to more, than this; rounding included. The lower one is not positive
            where not all is proven.
        nodes: smallest and largest determinant at the cells' corners.
        depth: how often a cell had to be halved.
        witness: where the determinant is not positive, voxel indices in array order; of those found the worst.
        determinant: the determinant there.
        digest: SHA-256 of the field's numbers, one component after the other.
        lower: a bound below the determinant in every cell, (*cells), but for the last digit of its type; not positive
            where the cell is not proven. The cell `i` ends at the node `i`.
    """

    state: State
    cells: int
    refuted: int
    undecided: int
    bounds: tuple[float, float]
    nodes: tuple[float, float]
    depth: int
    witness: tuple[float, ...] | None
    determinant: float | None
    digest: str
    lower: Float[Tensor, "*cells"] = field(repr=False, compare=False)

    @property
    def proven(self) -> bool:
        """Whether the map is proven to be one-to-one."""
        return self.state == "proven"

    @property
    def least_at_nodes(self) -> Float[Tensor, "*lattice"]:
        """The least of the bounds in the cells around each node."""
        least = self.lower
        for axis, n in enumerate(self.lower.shape):
            if n > 1:
                least = torch.minimum(least.narrow(axis, 0, n - 1), least.narrow(axis, 1, n - 1))
        return least

    @property
    def sentence(self) -> str:
        """What is known, in a sentence."""
        if self.proven:
            low, high = self.bounds
            return f"proven fold-free: all {self.cells} cells, volumes change by factors of {low:.3g} to {high:.3g}"
        if self.state == "undecided":
            return f"undecided: {self.undecided} of {self.cells} cells could be neither proven nor refuted"
        assert self.witness is not None
        place = ", ".join(f"{x:.3f}" for x in self.witness)
        return (
            f"refuted: {self.refuted} of {self.cells} cells fold; at voxel ({place}) the determinant is "
            f"{self.determinant:.3g}"
        )

    def as_dict(self) -> dict[str, Any]:
        """All but the bounds of single cells, for a file."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "lower"} | {"sentence": self.sentence}


def certify(displacement: Map) -> Certificate:
    """Prove that a displacement does not fold, or show where it does.

    Args:
        displacement: a `Displacement` of one sample, in one to three dimensions.

    Raises:
        TypeError: another kind of map.
        ValueError: a batch of several, more than three dimensions, or values that are not finite.
    """
    if not isinstance(displacement, Displacement):
        raise TypeError(
            f"a Displacement is certified, whose cells are known; got {type(displacement).__name__}: take "
            "Displacement.from_voxels(phi.displacement_on(grid)), which is the field that would be written"
        )
    if len(displacement.field) != 1:
        raise ValueError(f"one map is certified at a time; got a batch of {len(displacement.field)}, take phi[:1]")
    steps = torch.diag(torch.tensor(displacement.grid.voxel, dtype=torch.float64))
    return certify_field(displacement.field[0].detach(), steps)


def certify_field(u: Float[Tensor, components * lattice], steps: Float[Tensor, "axes components"]) -> Certificate:
    """Prove the same, or not, of any field on any lattice of parallelepipeds.

    Args:
        u: displacement of the nodes (dim, *lattice), in any unit and any order of components.
        steps: where a step along each axis of the lattice leads, (axis, component), in the same unit and order.

    Raises:
        ValueError: another shape, more than three dimensions, steps that span no volume, values that are not finite, or
            so large or small that their products cannot be told.
    """
    check_tensor("a displacement", u, "(dim, *lattice)", least_axes=2)
    check_tensor("its steps", steps, "(dim, dim)", least_axes=2)
    dim = u.shape[0]
    if dim != u.ndim - 1 or not 1 <= dim <= 3 or steps.shape != (dim, dim) or 0 in u.shape:
        raise ValueError(
            f"a displacement is (dim, *lattice) in one to three dimensions, its steps (dim, dim); "
            f"got {tuple(u.shape)} and {tuple(steps.shape)}"
        )
    volume = float(torch.linalg.det(steps.double()))
    if not 1e-9 * float(steps.double().norm(dim=1).prod()) < abs(volume) < inf:
        raise ValueError(f"the steps of a lattice span a volume; got {steps.tolist()}")
    u = u.to(torch.promote_types(u.dtype, torch.float32))
    whole, wide = _three_dimensional(u.to(_safe_type(u, steps.double())), steps.double())
    run = certify_cells if can_certify(whole) else plain_cells
    found = run(whole, wide, DEEPEST, BUDGET, LISTED)
    return _certificate(found, whole, wide, volume, dim, digest_of(u))


def _safe_type(u: Tensor, steps: Tensor) -> torch.dtype:
    """The field's own type, or float64 where products of its numbers may be too large or too small for it."""
    largest = max(map(abs, map(float, torch.aminmax(u))))
    if not isfinite(largest):
        raise NotFiniteError("the field holds values that are not finite; it cannot be certified")
    longest = steps.abs().amax(1)
    least, most = float(longest.min()), max(largest, float(longest.max()))
    for dtype in dict.fromkeys((u.dtype, torch.float64)):
        if least >= 1 / RANGE[dtype] and most <= RANGE[dtype]:
            return dtype
    raise ValueError(
        f"steps and displacements from {least:g} to {most:g} have products that no number holds; take another unit"
    )


def digest_of(u: Tensor) -> str:
    """SHA-256 of a field's numbers, one component after the other."""
    found = hashlib.sha256()
    for component in u:
        found.update(component.cpu().contiguous().numpy())
    return found.hexdigest()


def _three_dimensional(u: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """The field with leading axes of one node, along which nothing moves."""
    dim = u.shape[0]
    if dim == 3:
        return u, steps
    whole = u.new_zeros(3, *[1] * (3 - dim), *u.shape[1:])
    whole[3 - dim :] = u.reshape(dim, *whole.shape[1:])
    wide = torch.eye(3, dtype=torch.float64)
    wide[3 - dim :, 3 - dim :] = steps
    return whole, wide


def _certificate(found: Cells, u: Tensor, steps: Tensor, volume: float, dim: int, digest: str) -> Certificate:
    lower, rows = found.lower / abs(volume), found.doubtful.tolist()
    undecided, depth = found.undecided, found.depth
    if found.refuted + undecided == len(rows) and undecided <= EXACT:
        rows, halved = _settled(rows, u, steps, lower, volume)
        undecided, depth = sum(row[1] == 0 for row in rows), max(depth, halved)
    refuted = found.refuted + found.undecided - undecided - (len(found.doubtful) - len(rows))
    worst = min((row for row in rows if row[1] < 0), key=lambda row: row[5], default=None)
    return Certificate(
        "refuted" if refuted else "undecided" if undecided else "proven",
        lower.numel(),
        refuted,
        undecided,
        _outwards(float(lower.min()), found.bounds[1] / abs(volume), 4 * torch.finfo(lower.dtype).eps),
        (found.nodes[0] / abs(volume), found.nodes[1] / abs(volume)),
        depth,
        None if worst is None else _place(worst, u, lower)[3 - dim :],
        None if worst is None else worst[5] / abs(volume),
        digest,
        lower.reshape(lower.shape[3 - dim :]),
    )


def _outwards(low: float, high: float, share: float) -> tuple[float, float]:
    """Both bounds apart by a share of themselves, for what storing them and dividing by the volume rounded."""
    return low - share * abs(low), high + share * abs(high)


def _settled(
    rows: list[list[float]], u: Tensor, steps: Tensor, lower: Tensor, volume: float
) -> tuple[list[list[float]], int]:
    """The doubtful cells when exact arithmetic has decided what rounding left open, and how often it halved."""
    left, depth = [], 0
    for row in rows:
        if row[1] < 0:
            left.append(row)
            continue
        exact = decide_exactly(_corners(u, steps, _cell(row, lower)), 1 if volume > 0 else -1, DEEPEST)
        depth = max(depth, exact.depth)
        if exact.state > 0:
            lower[_cell(row, lower)] = torch.finfo(lower.dtype).tiny
        else:
            left.append([row[0], float(exact.state), *map(float, exact.where), float(exact.value)])
    return left, depth


def _cell(row: list[float], lower: Tensor) -> tuple[int, int, int]:
    i, j, k = np.unravel_index(int(row[0]), lower.shape)
    return int(i), int(j), int(k)


def _place(row: list[float], u: Tensor, lower: Tensor) -> tuple[float, ...]:
    """Where in the lattice a doubtful cell's point lies, in voxels; of what lies outside, the border next to it."""
    shape = u.shape[1:]
    low = [c - (n > 1) for c, n in zip(_cell(row, lower), shape, strict=True)]
    return tuple(min(max(at + inside, 0.0), n - 1.0) for at, inside, n in zip(low, row[2:5], shape, strict=True))


def _corners(u: Tensor, steps: Tensor, cell: tuple[int, int, int]) -> list[list[Fraction]]:
    """Positions of a cell's corners, exactly."""
    shape, corners = u.shape[1:], []
    for corner in itertools.product((0, 1), repeat=3):
        node = [c - (n > 1) + far for c, far, n in zip(cell, corner, shape, strict=True)]
        i, j, k = (min(max(at, 0), n - 1) for at, n in zip(node, shape, strict=True))
        moved = u[:, i, j, k].tolist()
        base = [sum(far * Fraction(steps[a, c].item()) for a, far in enumerate(corner)) for c in range(3)]
        corners.append([b + Fraction(m) for b, m in zip(base, moved, strict=True)])
    return corners
