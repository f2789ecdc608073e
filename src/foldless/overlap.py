"""How far the structures of two prepared images overlap after a map."""

from __future__ import annotations

from foldless.data.images import ImageSet
from foldless.grid import Grid, sample, sample_labels
from foldless.maps import Map
from foldless.metrics import dice


def overlap(phi: Map, images: ImageSet, moving: int, fixed: int) -> dict[int, float]:
    """Dice by label of one pair on the set's lattice, `phi` a map of one sample.

    Labels are read by nearest neighbour. Without labels, warped pixels above the foreground are label 1 (ICON's Dice);
    without either there is nothing to compare, nor where neither image has a label.
    """
    nodes = phi.on(Grid(images.lattice)).to(images.images.dtype)
    if images.labels is not None:
        labels_A, labels_B = images.labels[[moving, fixed]].to(nodes.device)
        return dice(sample_labels(labels_A, nodes), labels_B, moving=labels_A)
    if images.foreground is None:
        return {}
    image_A, image_B = images.images[[moving, fixed]].to(nodes.device)
    warped = sample(image_A[None], nodes)[0, 0] > images.foreground
    scores = dice(warped.int(), (image_B[0] > images.foreground).int(), labels=[1])
    return {label: score for label, score in scores.items() if score == score}


def mean_overlap(phi: Map, images: ImageSet, moving: int, fixed: int) -> float:
    """Mean of `overlap` over its labels; NaN where there is none."""
    scores = overlap(phi, images, moving, fixed).values()
    return sum(scores) / len(scores) if scores else float("nan")
