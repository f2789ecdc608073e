"""Scores of the map's Jacobian by finite differences: folds by rule, non-diffeomorphic volume, SDlogJ."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from functools import reduce
from math import factorial, prod

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foldless.arguments import all_finite, check_tensor
from foldless.errors import NotFiniteError
from foldless.grid import per_axis
from foldless.kernels.simplices import can_judge, judge
from foldless.maps import determinant

Field = Float[Tensor, "batch dim *lattice"]
Simplex = tuple[tuple[int, ...], ...]

FOLD_RULES = ("forward", "central", "any_of_eight", "ten")
"""The names of the rules; the table is in `foldless.metrics`."""

_CROP = {"forward": (0, 1), "central": (0, 0), "any_of_eight": (1, 1), "ten": (1, 1), "kuang_legacy": (0, 1)}
"""Nodes of the lattice that a rule does not judge, below and above on each axis.

The rule `kuang_legacy` is for comparing with one table only, so no score counts by it unasked.
"""

_SLAB = 2**16
"""Voxels judged at once on a CPU: a slab's differences then stay in its cache."""


def jacobian_determinant(field_voxels: Field, rule: str = "central") -> Float[Tensor, " batch *places"]:
    """Determinant of the map's Jacobian by one finite difference a place.

    Args:
        field_voxels: displacement (batch, dim, *lattice), voxels.
        rule: `central` (differences as `np.gradient` has them, one-sided at the border; every voxel) or `forward` (one
            corner of each cell; one place fewer on each axis); `kuang_legacy` is `forward` with the mistake of 2019,
            which depends on the order of the axes: the lattice is (z, y, x), the reverse of the file's, as `io` reads.

    Raises:
        ValueError: another rule, a field that is no displacement or not finite, or fewer than two nodes on an axis.
    """
    if rule not in ("central", "forward", "kuang_legacy"):
        raise ValueError(f"one determinant a place is had from 'central' or 'forward'; got {rule!r}")
    field = _checked(field_voxels, rule)
    return torch.cat([next(determinants) for determinants in _slabs(field, rule)], dim=1)


def folded(field_voxels: Field, rule: str = "forward") -> Bool[Tensor, " batch *places"]:
    """Where the map folds, by one of `FOLD_RULES`.

    Args:
        field_voxels: displacement (batch, dim, *lattice), voxels.
        rule: one of `FOLD_RULES`; the table is in `foldless.metrics`. `forward` judges the cells, `central` every
            voxel, `any_of_eight` and `ten` the voxels of the interior, one cropped at each side. Beside them
            `kuang_legacy`, in 3-D, for comparing with Kuang's Table 1.

    Raises:
        ValueError: an unknown rule, a field that is no displacement or not finite, or a lattice too small for the rule.
    """
    field = _checked(field_voxels, rule)
    if rule in FOLD_RULES and rule != "central" and can_judge(field):
        return _judge(field, rule)[0]
    return _folded(field, rule)


def _folded(field: Tensor, rule: str) -> Tensor:
    """`folded` in torch: where there is no kernel, and as the kernel's referee."""
    is_fold = operator.le if rule in ("any_of_eight", "ten") else operator.lt
    slabs = [reduce(operator.or_, (is_fold(one, 0) for one in determinants)) for determinants in _slabs(field, rule)]
    return torch.cat(slabs, dim=1)


def folds(field_voxels: Field, rule: str = "forward") -> Int[Tensor, " batch"]:
    """How many places of each sample fold, (batch,). Arguments and errors are those of `folded`."""
    return folded(field_voxels, rule).flatten(1).sum(1)


def folds_percent(
    field_voxels: Field, rule: str = "forward", mask: Bool[Tensor, "#batch *lattice"] | None = None
) -> Float[Tensor, " batch"]:
    """Folds of each sample in % of the places judged, (batch,).

    Args:
        field_voxels: displacement (batch, dim, *lattice), voxels.
        rule: one of `FOLD_RULES`; the table is in `foldless.metrics`.
        mask: voxels to judge, (batch, *lattice), for the rules that judge voxels (not `forward`, `kuang_legacy`); it is
            cropped as the rule crops. A sample whose mask is empty there has nan.

    Raises:
        ValueError: as `folded`, or a mask with the rule `forward`, or on another lattice.
    """
    return _percent(folded(field_voxels, rule), _judged(field_voxels, rule, mask))


def ndv_percent(field_voxels: Field, mask: Bool[Tensor, "#batch *lattice"] | None = None) -> Float[Tensor, " batch"]:
    """Non-diffeomorphic volume of each sample in % of the voxels judged, (batch,); Liu et al. 2024, as LUMIR scores it.

    The sum of `½ · max(-J, 0) / dim!` over the voxels and the determinants J of the rule `ten`. J / dim! is the signed
    size of a simplex with a corner at the voxel, and together they cover every cell twice: hence the half. At the
    identity a voxel's share is one voxel: ½ · (8 · 1 + 2 · 2) / 6 in 3-D. In 2-D it is the paper's
    non-diffeomorphic area (four triangles, ½ · 4 · 1 / 2), in 1-D a length.

    Args:
        field_voxels: displacement (batch, dim, *lattice), voxels; one voxel is cropped at each side. (The authors'
            package pads the displacement by its edge and judges the border as well.)
        mask: voxels to judge, (batch, *lattice), cropped alike; LUMIR takes moving image > 0. Empty: nan.

    Raises:
        ValueError: as `folds_percent`.
    """
    field = _checked(field_voxels, "ten")
    negative = _judge(field, "ten")[1] if can_judge(field) else _negative(field)
    return _percent(negative * (0.5 / factorial(field.shape[1])), _judged(field_voxels, "ten", mask))


def _negative(field: Tensor) -> Tensor:
    """The sum of max(-J, 0) at every place, in torch: where there is no kernel, and as the kernel's referee."""
    slabs = [sum(one.neg().clamp_min(0) for one in determinants) for determinants in _slabs(field, "ten")]
    return torch.cat([torch.as_tensor(slab) for slab in slabs], dim=1)


def sdlogj(field_voxels: Field) -> Float[Tensor, " batch"]:
    """Standard deviation of log(J) over each sample, (batch,), float64.

    J by central differences, two voxels cropped at each side, clipped to 1e-9 ... 1e9. What the name says, and not what
    Learn2Reg reports under it: see `sdlogj_learn2reg`.

    Raises:
        ValueError: fewer than five nodes on an axis, or a field that is no displacement or not finite.
    """
    return _sdlogj(field_voxels, 0.0)


def sdlogj_learn2reg(field_voxels: Field) -> Float[Tensor, " batch"]:
    """Learn2Reg's SDlogJ of each sample, (batch,), float64: the deviation of log(J + 3), otherwise as `sdlogj`.

    Its evaluator adds 3 to a determinant that already has the identity in it. Numbers compare with the challenge's
    tables only, and a fold (J > -3) does not stand out in them.

    Raises:
        ValueError: as `sdlogj`.
    """
    return _sdlogj(field_voxels, 3.0)


def _sdlogj(field_voxels: Tensor, offset: float) -> Tensor:
    check_tensor("a displacement field", field_voxels, "(batch, dim, *lattice)")
    if (smallest := min(field_voxels.shape[2:], default=0)) < 5:
        raise ValueError(f"two voxels are cropped at each side: SDlogJ needs 5 nodes on an axis; got {smallest}")
    at = (slice(None), *[slice(2, -2)] * (field_voxels.ndim - 2))
    jacobian = jacobian_determinant(field_voxels.double(), "central")[at]
    return (jacobian + offset).clamp(1e-9, 1e9).log().flatten(1).std(1, correction=0)


def _checked(field: Tensor, rule: str) -> Tensor:
    """The field without its gradient, at least float32, if it is a displacement that the rule can judge."""
    if rule not in _CROP:
        raise ValueError(f"there is no rule {rule!r} to find folds; the rules are {', '.join(FOLD_RULES)}")
    check_tensor("a displacement field", field, "(batch, dim, *lattice)")
    if field.shape[1] != field.ndim - 2:
        raise ValueError(
            f"a displacement field is (batch, dim, *lattice) with one component an axis; got {tuple(field.shape)}"
        )
    if rule == "kuang_legacy" and field.ndim != 5:
        raise ValueError(f"the mistake of 'kuang_legacy' is one of 3-D determinants; got {field.ndim - 2}-D")
    needed = max(sum(_CROP[rule]) + 1, 2)
    if min(field.shape[2:]) < needed:
        raise ValueError(f"the rule {rule!r} needs {needed} nodes on every axis; got {tuple(field.shape[2:])}")
    if not all_finite(field):
        raise NotFiniteError("the field holds values that are not finite; its folds cannot be judged")
    return field.detach().to(torch.promote_types(field.dtype, torch.float32))


def _judge(field: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """Which places fold, and the sum of max(-J, 0) at each, by the compiled kernel."""
    simplices = _simplices(field.shape[1], rule)
    signs = [int(_orientation(simplex)) for simplex in simplices]
    return judge(field, simplices, signs, _CROP[rule], zero_folds=rule != "forward")


def _slabs(field: Tensor, rule: str) -> Iterator[Iterator[Tensor]]:
    """A rule's determinants, slab by slab of the first lattice axis, each (batch, *places of the slab)."""
    low, high = _CROP[rule]
    end = field.shape[2] - high
    at_once = _SLAB if field.device.type == "cpu" else 2**24
    depth = max(at_once // (field.shape[0] * prod(field.shape[3:])), 1)
    for start in range(low, end, depth):
        stop = min(start + depth, end)
        if rule == "central":
            yield iter([_central(field, start, stop)])
        elif rule == "kuang_legacy":
            yield iter([_kuang_legacy(field[:, :, start : stop + 1])])
        else:
            yield _one_sided(field[:, :, start - low : stop + high], rule)


def _central(field: Tensor, start: int, stop: int) -> Tensor:
    """Determinants by central differences of the slab start ... stop of the first lattice axis."""
    first = max(start - 1, 0)
    slab = field[:, :, first : stop + 1]
    slopes = torch.stack(torch.gradient(slab, dim=list(range(2, field.ndim))), dim=2)
    slopes = slopes[:, :, :, start - first : stop - first]
    slopes.diagonal(dim1=1, dim2=2).add_(1)
    return determinant(slopes)


def _kuang_legacy(field: Tensor) -> Tensor:
    """Forward determinants as Kuang's code computed them until 2020: D_x for D_z in the second minor.

    With the right term, D_z u_x for D_x u_x, it is the rule `forward`. The mistake singles out axes. The code calls the
    second axis of its arrays x, the first y and the third z, and its arrays are taken to be as nibabel reads them: the
    reverse of ours.
    """
    x, y, z = 1, 2, 0
    slopes = torch.stack([_edge(field, axis, (0, 1)) for axis in ((1, 0, 0), (0, 1, 0), (0, 0, 1))], dim=2)
    u = slopes - torch.eye(3, dtype=field.dtype, device=field.device).reshape(1, 3, 3, 1, 1, 1)
    return determinant(slopes) + u[:, y, x] * u[:, z, y] * (u[:, x, x] - u[:, x, z])


def _one_sided(field: Tensor, rule: str) -> Iterator[Tensor]:
    """A rule's determinants at the places of a small field, one after the other; each difference is taken once."""
    simplices = _simplices(field.shape[1], rule)
    edges = {offset: _edge(field, offset, _CROP[rule]) for offset in {o for simplex in simplices for o in simplex}}
    for simplex in simplices:
        volume = determinant(torch.stack([edges[offset] for offset in simplex], dim=2))
        yield volume if _orientation(simplex) > 0 else -volume


def _edge(field: Tensor, offset: tuple[int, ...], crop: tuple[int, int]) -> Tensor:
    """phi(x + offset) - phi(x) at the places x that remain after the crop, (batch, dim, *places), in voxels."""
    low, high = crop
    sizes = field.shape[2:]
    here = tuple(slice(low, n - high) for n in sizes)
    there = tuple(slice(low + o, n - high + o) for n, o in zip(sizes, offset, strict=True))
    return field[:, :, *there] - field[:, :, *here] + per_axis([float(o) for o in offset], field)


def _simplices(dim: int, rule: str) -> list[Simplex]:
    """The simplices at a voxel whose signed sizes the rule asks for, by the offsets of their other corners."""
    signs = [(1,) * dim] if rule == "forward" else list(itertools.product((1, -1), repeat=dim))
    corners = [tuple(tuple(s * (a == b) for b in range(dim)) for a, s in enumerate(sign)) for sign in signs]
    if rule != "ten" or dim != 3:
        return corners
    return [*corners, ((-1, -1, 0), (-1, 0, -1), (0, -1, -1)), ((1, 1, 0), (0, 1, 1), (1, 0, 1))]


def _orientation(simplex: Simplex) -> float:
    """Sign of a simplex' determinant at the identity, by which all its determinants are multiplied."""
    return float(np.sign(np.linalg.det(np.array(simplex, dtype=float))))


def _judged(field: Tensor, rule: str, mask: Tensor | None) -> Tensor | None:
    """The places that count, (batch or 1, *places); None for all of them."""
    low, high = _CROP[rule]
    crop = tuple(slice(low, n - high) for n in field.shape[2:])
    if mask is None:
        return None
    if rule in ("forward", "kuang_legacy"):
        raise ValueError(f"the rule {rule!r} judges cells and a mask names voxels; use it with another rule")
    if mask.shape[1:] != field.shape[2:] or mask.shape[0] not in (1, field.shape[0]):
        raise ValueError(f"a mask of shape {tuple(mask.shape)} does not lie on the lattice {tuple(field.shape[2:])}")
    return mask[:, *crop]


def _percent(amount: Tensor, judged: Tensor | None) -> Tensor:
    if judged is None:
        return 100 * amount.flatten(1).mean(1, dtype=torch.float64)
    total = (amount * judged).flatten(1).sum(1, dtype=torch.float64)
    return 100 * total / judged.flatten(1).sum(1)
