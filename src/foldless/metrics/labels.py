"""Scores of label maps: how far two of them overlap, how far apart their surfaces are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import nan

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from foldless.arguments import check_tensor

LabelMap = Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."]
Box = tuple[slice, ...]

HAUSDORFF_SHARE = 0.95


def dice(
    a: LabelMap, b: LabelMap, labels: Iterable[int] | None = None, moving: LabelMap | None = None
) -> dict[int, float]:
    """Dice overlap 2|a ∩ b| / (|a| + |b|) of each label, by label.

    Args:
        a: label map (*lattice), integers; the warped moving one.
        b: label map of the same shape; the fixed one.
        labels: which labels; those of `b` without the background 0 where none are given. A label that neither map has
            scores nan.
        moving: the moving label map before warping, of any shape. Where it is given, labels that it or `b` lacks are
            left out, as Learn2Reg does.

    Raises:
        ValueError: different shapes, or labels that are not integers.
    """
    warped, fixed = _same_lattice(a, b)
    in_warped, in_fixed, in_both = _sizes(warped), _sizes(fixed), _sizes(warped[warped == fixed])
    scores = {}
    for label in _labels_to_judge(in_fixed, labels, moving):
        total = in_warped.get(label, 0) + in_fixed.get(label, 0)
        scores[label] = 2 * in_both.get(label, 0) / total if total else nan
    return scores


def mean_dice(a: LabelMap, b: LabelMap, labels: Iterable[int] | None = None, moving: LabelMap | None = None) -> float:
    """Mean over the labels of `dice`, whose arguments and errors it shares; nan only where no label has a score."""
    scores = [score for score in dice(a, b, labels, moving).values() if score == score]
    return sum(scores) / len(scores) if scores else nan


def hd95(
    a: LabelMap,
    b: LabelMap,
    labels: Iterable[int] | None = None,
    spacing: Sequence[float] | None = None,
    moving: LabelMap | None = None,
) -> dict[int, float]:
    """95th-percentile Hausdorff distance of each label, by label, as Learn2Reg and LUMIR measure it.

    DeepMind's `surface_distance` 0.1: each way the 95th percentile over the surface, its elements weighted by their
    area (length in 2-D), then the larger of the two. Plain percentiles over surface voxels (MONAI, MedPy) differ.

    Args:
        a: label map (*lattice) in 2-D or 3-D, integers; the warped moving one.
        b: label map of the same shape; the fixed one.
        labels: as for `dice`. A label that either map lacks scores nan.
        spacing: of the voxels on each axis, mm; 1 where not given (as in the challenges), which gives voxels.
        moving: as for `dice`.

    Raises:
        ValueError: different shapes, other than 2 or 3 dimensions, or labels that are not integers.
    """
    warped, fixed = (labels_.cpu().numpy() for labels_ in _same_lattice(a, b))
    if fixed.ndim not in (2, 3):
        raise ValueError(f"surface distances are defined in 2 and 3 dimensions; got label maps of {fixed.ndim}")
    sides = [1.0] * fixed.ndim if spacing is None else [float(side) for side in spacing]
    if len(sides) != fixed.ndim:
        raise ValueError(f"spacing has one number an axis, so {fixed.ndim}; got {len(sides)}")
    near, far = _boxes(fixed), _boxes(warped)
    scores = {}
    for label in _labels_to_judge(near, labels, moving):
        if label in near and label in far:
            at = _hull(near[label], far[label])
            scores[label] = _hd95_of_masks(fixed[at] == label, warped[at] == label, sides)
        else:
            scores[label] = nan
    return scores


def _hd95_of_masks(a: np.ndarray, b: np.ndarray, spacing: list[float]) -> float:
    """What `surface_distance` 0.1 computes, whose own functions call names that newer SciPy and older numpy lack."""
    from scipy.ndimage import correlate, distance_transform_edt
    from surface_distance import lookup_tables as tables

    if a.ndim == 2:
        kernel = tables.ENCODE_NEIGHBOURHOOD_2D_KERNEL
        areas = tables.create_table_neighbour_code_to_contour_length(spacing)
    else:
        kernel = tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
        areas = tables.create_table_neighbour_code_to_surface_area(spacing)
    codes = [correlate(np.pad(mask.astype(np.uint8), (0, 1)), kernel, mode="constant") for mask in (a, b)]
    surfaces = [(code > 0) & (code < kernel.sum()) for code in codes]
    near = [distance_transform_edt(~surface, sampling=spacing) for surface in surfaces]
    there, back = (
        _percentile(near[1 - k][surfaces[k]], areas[codes[k][surfaces[k]]], HAUSDORFF_SHARE) for k in range(2)
    )
    return max(there, back)


def _percentile(distances: np.ndarray, areas: np.ndarray, share: float) -> float:
    """The distance up to which a share of a surface lies."""
    order = np.argsort(distances)
    covered = np.cumsum(areas[order]) / areas.sum()
    return float(distances[order][min(int(np.searchsorted(covered, share)), len(order) - 1)])


def _boxes(labels: np.ndarray) -> dict[int, Box]:
    """The bounding box of each label."""
    from scipy.ndimage import find_objects

    names, ranks = np.unique(labels, return_inverse=True)
    return dict(zip(names.tolist(), find_objects(ranks.reshape(labels.shape) + 1), strict=True))


def _hull(a: Box, b: Box) -> Box:
    """The smallest box around two."""
    return tuple(slice(min(s.start, t.start), max(s.stop, t.stop)) for s, t in zip(a, b, strict=True))


def _same_lattice(a: LabelMap, b: LabelMap) -> tuple[Tensor, Tensor]:
    for labels in (a, b):
        if not isinstance(labels, np.ndarray):
            check_tensor("a label map", labels, "or an array (*lattice)", least_axes=1)
    if a.shape != b.shape:
        raise ValueError(f"label maps of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared")
    b = _integers(b)
    return _integers(a).to(b.device), b


def _integers(labels: LabelMap) -> Tensor:
    if isinstance(labels, np.ndarray):
        if labels.dtype.kind not in "iub":
            raise ValueError(f"labels are integers; got an array of {labels.dtype}")
        return torch.from_numpy(labels.astype(np.int64))
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels are integers; got a tensor of {labels.dtype}")
    return labels.long()


def _sizes(labels: Tensor) -> dict[int, int]:
    """How many voxels each label has."""
    if labels.numel() and int(labels.min()) >= 0 and int(labels.max()) < 2**20:
        every = torch.bincount(labels.flatten())
        names = every.nonzero().flatten()
        counts = every[names]
    else:
        names, counts = torch.unique(labels, return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _labels_to_judge(fixed: Iterable[int], labels: Iterable[int] | None, moving: LabelMap | None) -> list[int]:
    chosen = [label for label in fixed if label != 0] if labels is None else [int(label) for label in labels]
    if moving is None:
        return chosen
    present = set(fixed) & set(_sizes(_integers(moving)))
    return [label for label in chosen if label in present]
