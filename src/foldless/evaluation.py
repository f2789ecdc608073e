"""A model judged on many pairs."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from foldless.build import similarity_of
from foldless.data.folder import case_names, label_file, split_names
from foldless.data.images import ImageSet, ordered_pairs
from foldless.data.oai import full_labels
from foldless.data.tables import read_table
from foldless.errors import InputError
from foldless.grid import Grid, in_voxels, sample, sample_labels
from foldless.io import Volume, read_volume, reoriented
from foldless.io.files import write_whole
from foldless.machine import Machine
from foldless.maps import Identity, Map
from foldless.mending import mended
from foldless.metrics import (
    Certificate,
    certify_field,
    dice,
    inverse_consistency_error,
    jacobian_determinant,
    summary,
)
from foldless.model import Model
from foldless.outcome import Outcome, field_scores, same_lattice, warped_linearly
from foldless.overlap import mean_overlap, overlap
from foldless.proofs import certificate_scores
from foldless.registering import PREDICTED, Fields, Tuning, check_dimension, check_pair, register_volumes
from foldless.report import Pair
from foldless.report.verdict import goodness, loses_dice

Scores = dict[str, Any]
PAIRS = 100


@dataclass(frozen=True, eq=False)
class Judged:
    """One pair's names and scores, and a way to draw it."""

    moving: str
    fixed: str
    scores: Scores
    draw: Callable[[], Pair] | None = None

    @property
    def name(self) -> str:
        """What the pair is called."""
        return f"{self.moving} → {self.fixed}"

    @property
    def drawn(self) -> Pair | None:
        """The pair as a report shows it, if it was kept."""
        return None if self.draw is None else self.draw()

    def without_pictures(self) -> Judged:
        """The numbers only, so that many pairs fit in memory."""
        return replace(self, draw=None)


def worst_first(judged: Iterable[Judged]) -> list[Judged]:
    """By Dice; those without it last, by how alike their images are."""
    return sorted(judged, key=lambda pair: goodness(pair.scores))


def drawing_worst(judging: Iterable[Judged], count: int, after: Callable[[Judged], None] | None = None) -> list[Judged]:
    """All pairs in their order, of which the `count` worst keep their pictures; `after` is told of each."""
    judged: list[Judged] = []
    for pair in judging:
        kept = worst_first([pair, *(one for one in judged if one.draw is not None)])[:count]
        judged = [one if one in kept else one.without_pictures() for one in (*judged, pair)]
        if after is not None:
            after(pair)
    return judged


def lost_dice(judged: Iterable[Judged]) -> list[str]:
    """The pairs whose Dice is lower than without registration."""
    return [pair.name for pair in judged if loses_dice(pair.scores)]


def folder_pairs(model: Model, folder: Path, file: Path | None) -> list[tuple[str, str]]:
    """The pairs (moving, fixed) to judge by: those of a CSV, else 100 ordered pairs drawn with seed 0.

    Drawn from the test part of split.json or, without one, from the cases that the model was not trained on.

    Raises:
        InputError: the CSV is malformed or names a case that is not there; fewer than two cases.
    """
    names = list(case_names(folder))
    if file is not None:
        return _read_pairs(file, set(names))
    known = set(model.trained_on)
    if (folder / "split.json").is_file():
        chosen = split_names(folder, names)["test"]
    else:
        chosen = [name for name in names if name not in known] or names
    if len(chosen) < 2:
        raise InputError(f"{folder} holds {len(chosen)} case to judge by; a pair takes two")
    if seen := known.intersection(chosen):
        warnings.warn(
            f"{len(seen)} of the {len(chosen)} cases to judge by were seen in training: these scores are no test; put "
            "unseen cases into the folder, or name them in split.json before training",
            stacklevel=2,
        )
    return [(chosen[i], chosen[j]) for i, j in ordered_pairs(len(chosen), PAIRS)]


def judge_folder(
    model: Model,
    folder: Path,
    pairs: Sequence[tuple[str, str]],
    more: Callable[[Outcome], Scores] | None = None,
    tuning: Tuning = PREDICTED,
    repair: bool = True,
) -> Iterator[Judged]:
    """Every pair of a folder, scored on the fixed image's own lattice from the fields that would be written.

    `more` adds scores of its own to each pair's; `tuning` is done for every pair anew.
    With `repair` the fields are made provable first, as `register` does.

    Raises:
        InputError: an image or its labels cannot be used, which is known before the first pair is registered.
    """
    files = case_names(folder)
    cases: dict[str, tuple[Volume, Volume | None]] = {}
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        image, label = read_volume(files[name]), label_file(folder, files[name])
        check_dimension(model, image)
        reoriented(image)  # refuses a header that cannot be turned
        cases[name] = image, None if label is None else same_lattice(read_volume(label, labels=True), image, name)
    for moving, fixed in pairs:
        check_pair(model, cases[moving][0], cases[fixed][0])
    if bare := [name for name, (_, labels) in cases.items() if labels is None]:
        _note_bare(folder, bare, len(cases))

    def register(moving: Volume, fixed: Volume) -> Fields:
        found = register_volumes(model, moving, fixed, tuning)
        return mended(found, moving, fixed, model, repair)

    return _judged(model, cases, pairs, more, register)


def _note_bare(folder: Path, bare: Sequence[str], count: int) -> None:
    """Warn where some cases have labels and others have none: Dice is then of fewer pairs than are named."""
    if len(bare) < count:
        warnings.warn(
            f"{folder}/labels lacks {len(bare)} of {count} cases ({', '.join(bare[:5])}{', …' * (len(bare) > 5)}): "
            "pairs with one of them have no Dice, and the mean is of the others",
            stacklevel=3,
        )


def _judged(
    model: Model,
    cases: Mapping[str, tuple[Volume, Volume | None]],
    pairs: Sequence[tuple[str, str]],
    more: Callable[[Outcome], Scores] | None,
    register: Callable[[Volume, Volume], Fields],
) -> Iterator[Judged]:
    for moving, fixed in pairs:
        (image_A, labels_A), (image_B, labels_B) = cases[moving], cases[fixed]
        outcome = Outcome(image_A, image_B, register(image_A, image_B), model, labels_A, labels_B)
        scores = outcome.metrics() | (more(outcome) if more else {})
        yield Judged(moving, fixed, scores, partial(outcome.drawn, f"{moving} → {fixed}", scores))


def cartilage_dice(outcome: Outcome, folder: Path) -> Scores:
    """Dice of a pair of prepared knees as ICON's Table 2: both cartilages as one, on all voxels of the fixed image.

    The map is read between the nodes of its lattice, the moving labels are warped linearly and cut at one half.
    """
    moving, fixed = (full_labels(folder, volume.path) for volume in (outcome.moving, outcome.fixed))
    carried = warped_linearly(moving, outcome.fields.forward, outcome.fixed.geometry, fixed.geometry) >= 0.5
    both = dice(carried.astype(np.int32), (fixed.array > 0).astype(np.int32), labels=[1])
    return {"dice_cartilage": both[1]}


def judge_images(
    model: Model, images: ImageSet, pairs: Sequence[tuple[int, int]], tuning: Tuning = PREDICTED
) -> Iterator[Judged]:
    """Pairs of prepared images, registered where the model lies and scored on their lattice, on the CPU."""
    machine = Machine.of(model.registration)
    find = tuning.find(model)
    for i, j in pairs:
        started = perf_counter()
        found = find(*(machine.takes(images.images[k : k + 1]) for k in (i, j)))
        phi_AB, phi_BA = (phi.of_tensors(torch.Tensor.cpu) for phi in found)
        seconds = perf_counter() - started
        scores = {**image_scores(model, images, i, j, phi_AB, phi_BA), "seconds": seconds}
        draw = partial(draw_images, images, i, j, phi_AB, phi_BA, scores)
        yield Judged(images.names[i], images.names[j], scores, draw)


def image_scores(model: Model, images: ImageSet, i: int, j: int, phi_AB: Map, phi_BA: Map) -> Scores:
    """Every score of one pair of prepared images and its maps."""
    grid, target = Grid(images.lattice), images.images[j : j + 1]
    nodes = phi_AB.on(grid)
    similarity = similarity_of(model.recipe)
    start = images.images[i : i + 1]
    after = overlap(phi_AB, images, i, j)
    scores: Scores = {}
    if after:
        scores["dice"] = float(np.mean(list(after.values())))
        scores["dice_before"] = mean_overlap(Identity(grid.dim), images, i, j)
        scores["dice_per_label"] = {str(label): score for label, score in after.items()}
    return {
        **scores,
        "certificate": certificate_scores([_certificate(phi, grid) for phi in (phi_AB, phi_BA)]),
        **field_scores(in_voxels(nodes, grid)),
        "inverse_consistency_voxels": summary(inverse_consistency_error(phi_AB, phi_BA, grid)),
        "similarity_before": similarity(start, target).item(),
        "similarity_after": similarity(sample(start, nodes), target).item(),
    }


def _certificate(phi: Map, grid: Grid) -> Certificate:
    """What is proven of the field that a map is at the nodes of a grid."""
    return certify_field(in_voxels(phi.on(grid), grid)[0], torch.eye(grid.dim))


def draw_images(images: ImageSet, i: int, j: int, phi_AB: Map, phi_BA: Map, scores: Scores) -> Pair:
    """One pair of prepared images as a report shows it."""
    grid = Grid(images.lattice)
    nodes = phi_AB.on(grid)
    voxels = in_voxels(nodes, grid)
    least = _certificate(phi_AB, grid).least_at_nodes.float().numpy()
    labels: dict[str, Any] = {}
    if images.labels is not None:
        warped_labels = sample_labels(images.labels[i], nodes).numpy()
        labels = {"moving_labels": images.labels[i].numpy(), "fixed_labels": images.labels[j].numpy()}
        labels["warped_labels"] = warped_labels
    return Pair(
        name=f"{images.names[i]} → {images.names[j]}",
        moving=images.images[i, 0].numpy(),
        fixed=images.images[j, 0].numpy(),
        warped=sample(images.images[i : i + 1], nodes)[0, 0].numpy(),
        displacement_voxels=voxels[0].numpy(),
        spacing=images.spacing,
        determinant=jacobian_determinant(voxels, "central")[0].numpy(),
        folded=least <= 0,
        folded_rule="certificate",
        least_volume=least,
        inverse_error=inverse_consistency_error(phi_AB, phi_BA, grid)[0].numpy(),
        metrics=scores,
        **labels,
    )


def mean_scores(judged: Sequence[Mapping[str, Any]]) -> Scores:
    """Means over pairs, name by name and nested name by nested name.

    A pair that lacks a score (not there, None, or a label that neither map has) does not count. One whose score is not
    finite does: then the mean is not finite either.
    """
    names = dict.fromkeys(name for scores in judged for name in scores)
    means: Scores = {}
    for name in names:
        values = [scores[name] for scores in judged if scores.get(name) is not None]
        if not values:
            means[name] = None
        elif isinstance(values[0], Mapping):
            means[name] = mean_scores(values)
        else:
            means[name] = float(np.mean(values))
    return means


def write_table(judged: Sequence[Judged], path: Path) -> None:
    """A CSV with a row per pair; nested scores get dotted names."""
    rows = [{"moving": pair.moving, "fixed": pair.fixed, **flat(pair.scores)} for pair in judged]
    columns = list(dict.fromkeys(name for row in rows for name in row))

    def fill(file: Path) -> None:
        with file.open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, columns)
            writer.writeheader()
            writer.writerows(rows)

    write_whole(path, fill)


def flat(scores: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested scores as one level with dotted names."""
    result: dict[str, Any] = {}
    for name, value in scores.items():
        result |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return result


def _read_pairs(file: Path, names: set[str]) -> list[tuple[str, str]]:
    pairs = [(row["moving"], row["fixed"]) for row in read_table(file, ("moving", "fixed"))]
    for name in (name for pair in pairs for name in pair):
        if name not in names:
            raise InputError(f"{file} names the case {name}, but images/ has no such case")
    return pairs
