"""What a registration of two volumes came to: the fields that are written, and every score of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from foldless.build import pair_objective, similarity_of
from foldless.data.prepare import Preparation, normalised
from foldless.errors import InputError
from foldless.io import (
    Geometry,
    Volume,
    displacement_mm,
    inverse_consistency_of_files,
    like,
    opening_lines,
    reoriented,
    sitk_transform,
    voxel_displacement,
)
from foldless.io.volumes import check_overlap, on_lattice_of, through
from foldless.machine import CPU, Machine
from foldless.maps import Identity, Map
from foldless.metrics import (
    FOLD_RULES,
    Certificate,
    dice,
    folds,
    folds_percent,
    jacobian_determinant,
    ndv_percent,
    sdlogj,
    sdlogj_learn2reg,
    summary,
)
from foldless.model import Model
from foldless.objective import Terms
from foldless.pairwise import TEST_TIME_RATE, OnStep, optimise_weights
from foldless.proofs import (
    Homing,
    Repair,
    certificate_scores,
    certify_warp,
    largest_inverse_error,
)
from foldless.recipe import Recipe
from foldless.report import Pair

Field = Float[np.ndarray, "*shape dim"]
Find = Callable[[Tensor, Tensor], tuple[Map, Map]]

LARGE_ENOUGH = 5
"""Nodes on every axis with which every score exists; a thinner lattice lacks those whose crop it cannot hold."""


@runtime_checkable
class Setting(Protocol):
    """What scores are computed with: a `Model`, or a `Direct` optimisation."""

    @property
    def recipe(self) -> Recipe: ...

    @property
    def preparation(self) -> Preparation: ...


@dataclass(frozen=True, eq=False)
class Fields:
    """Both displacements as they are written: (*shape, dim) in LPS mm, float32.

    Attributes:
        forward: on the fixed image's lattice; takes fixed to moving space and so carries the moving image over.
        inverse: on the moving image's lattice.
        untouched: the forward field of doing nothing but laying the two lattices on each other, as before training.
        seconds: what finding the maps, reading them off and repairing them took.
        repairs: what was done to the forward and to the inverse field to make them provable; none if nobody asked.
        homing: what was done to both so that they keep a tolerance; None if nobody asked.
    """

    forward: Field
    inverse: Float[np.ndarray, "*elsewhere dim"]
    untouched: Field
    seconds: float
    repairs: tuple[Repair, ...] = ()
    homing: Homing | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """Two volumes, the fields between them and, if known, their label maps (same lattices)."""

    moving: Volume
    fixed: Volume
    fields: Fields
    model: Setting
    moving_labels: Volume | None = None
    fixed_labels: Volume | None = None

    @cached_property
    def warped(self) -> Volume:
        """The moving image on the fixed lattice, resampled by SimpleITK through the forward field."""
        return self._carried(self.moving, self.fields.forward)

    @cached_property
    def warped_labels(self) -> Volume | None:
        """The moving labels on the fixed lattice, nearest neighbour."""
        return None if self.moving_labels is None else self._carried(self.moving_labels, self.fields.forward)

    @cached_property
    def displacement_voxels(self) -> Float[np.ndarray, " dim *shape"]:
        """The forward field in voxels of the fixed lattice, array order: what folds are counted from."""
        return voxel_displacement(self.fields.forward, self.fixed.geometry)

    @cached_property
    def inverse_error(self) -> Float[np.ndarray, "*shape"]:
        """|phi_BA(phi_AB(x)) - x| at every fixed voxel, in fixed voxels, from the written fields."""
        return inverse_consistency_of_files(
            self.fields.forward, self.fixed.geometry, self.fields.inverse, self.moving.geometry
        )

    @cached_property
    def certificates(self) -> tuple[Certificate, Certificate]:
        """What is proven of the forward and of the inverse field."""
        return (
            certify_warp(self.fields.forward, self.fixed.geometry),
            certify_warp(self.fields.inverse, self.moving.geometry),
        )

    @cached_property
    def largest_inverse_error(self) -> float:
        """How far from home a voxel of either body comes back at most, in its image's voxels."""
        fields, percentiles = self.fields, self.model.preparation.percentiles
        return largest_inverse_error(self.moving, self.fixed, fields.forward, fields.inverse, percentiles)

    def metrics(self) -> dict[str, Any]:
        """Every score, under the names of `metrics.json`; a score that does not apply is left out."""
        scores = {
            "certificate": certificate_scores(self.certificates, self.fields.repairs),
            **field_scores(torch.from_numpy(self.displacement_voxels.copy())[None]),
            "inverse_consistency_voxels": summary(torch.from_numpy(self.inverse_error)),
            "similarity_before": self._similarity(self._carried(self.moving, self.fields.untouched)),
            "similarity_after": self._similarity(self.warped),
            "seconds": self.fields.seconds,
        }
        return {**self._overlap(), **scores, **self._within()}

    def _within(self) -> dict[str, Any]:
        tolerance = self.model.recipe.tolerance
        if not tolerance:
            return {}
        kept = float(self.largest_inverse_error <= tolerance)
        return {"tolerance": {"voxels": tolerance, "largest_error": self.largest_inverse_error, "kept": kept}}

    def drawn(self, name: str, metrics: Mapping[str, Any] | None = None) -> Pair:
        """The pair as the report draws it, on the fixed image's lattice turned to the common orientation."""
        fixed = reoriented(self.fixed)
        moving = reoriented(self.moving)
        on = fixed.geometry
        field = self._turned(self.fields.forward, fixed)
        voxels = voxel_displacement(field, on)
        least = reoriented(like(self.certificates[0].least_at_nodes.float().numpy(), self.fixed)).array
        labels: dict[str, Any] = {}
        if self.warped_labels is not None and self.fixed_labels is not None and self.moving_labels is not None:
            labels = {
                "moving_labels": reoriented(self.moving_labels).array,
                "fixed_labels": reoriented(self.fixed_labels).array,
                "warped_labels": reoriented(self.warped_labels).array,
            }
        return Pair(
            name=name,
            moving=moving.array,
            fixed=fixed.array,
            warped=reoriented(self.warped).array,
            displacement_voxels=voxels,
            spacing=on.spacing[::-1],
            inverse_error=reoriented(like(self.inverse_error.astype(np.float32), self.fixed)).array,
            moving_spacing=moving.geometry.spacing[::-1],
            orientation="SPL" if self.fixed.dim == 3 else "",
            metrics=metrics if metrics is not None else self.metrics(),
            determinant=_drawn_determinant(torch.from_numpy(voxels.copy())[None]),
            folded=least <= 0,
            folded_rule="certificate",
            least_volume=least,
            **labels,
        )

    def opening_lines(self, warp: Path) -> list[str]:
        """Lines that open the written warp in other programs."""
        return opening_lines(self.moving.path, self.fixed.path, warp, self.fixed.dim)

    def _turned(self, field: Field, onto: Volume) -> Field:
        """A field of the fixed lattice read on the same lattice in the common orientation; LPS components stay."""
        components = [
            reoriented(like(np.ascontiguousarray(field[..., c]).astype(np.float32), self.fixed)).array
            for c in range(onto.dim)
        ]
        return np.stack(components, -1)

    def _overlap(self) -> dict[str, Any]:
        if self.moving_labels is None or self.fixed_labels is None or self.warped_labels is None:
            return {}
        before = self._carried(self.moving_labels, self.fields.untouched)
        return overlap_scores(self.warped_labels.array, before.array, self.fixed_labels.array, self.moving_labels.array)

    def _similarity(self, warped: Volume) -> float:
        percentiles = self.model.preparation.percentiles
        a = normalised(warped.array, self.moving.array, percentiles)
        b = normalised(self.fixed.array, self.fixed.array, percentiles)
        score = similarity_of(self.model.recipe)(torch.from_numpy(a)[None, None], torch.from_numpy(b)[None, None])
        return score.item()

    def _carried(self, volume: Volume, field: Field) -> Volume:
        transform = sitk_transform(field, self.fixed.geometry)
        return through(transform, volume, self.fixed.geometry, order=0 if volume.holds_labels else 1)


def warped_linearly(labels: Volume, field: Field, lattice: Geometry, on: Geometry) -> Float[np.ndarray, "*on"]:
    """The share of any label at the voxels of `on`, through a field (*shape, dim) on `lattice` that is read between."""
    foreground = like((labels.array > 0).astype(np.float32), labels)
    return through(sitk_transform(field, lattice), foreground, on, order=1).array


def headline(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The few numbers that a report opens with."""
    certificate = metrics.get("certificate", {})
    nested = {
        "proven": certificate.get("proven"),
        "folds, % (ten)": metrics.get("folds_percent", {}).get("ten"),
        "inverse consistency, voxels": metrics.get("inverse_consistency_voxels", {}).get("mean"),
    }
    named = {"Dice before": metrics.get("dice_before"), "Dice": metrics.get("dice"), **nested}
    return {name: value for name, value in named.items() if value is not None}


def quiet(terms: Terms) -> None:
    """Nothing is said of a step."""


def register_volumes(
    model: Model, moving: Volume, fixed: Volume, steps: int = 0, rate: float = TEST_TIME_RATE, on_step: OnStep = quiet
) -> Fields:
    """Both fields between two volumes, in whatever orientation and spacing they come, found where the model lies.

    With `steps` of test-time optimisation for this pair, by Adam at `rate`; the model keeps every bit.

    Raises:
        InputError: see `check_pair`.
    """
    check_pair(model, moving, fixed)
    for volume in (moving, fixed):
        note_what_is_cut(model, volume)
    find: Find = partial(predict, model)
    if steps:
        find = partial(predict_tuned, model, steps=steps, rate=rate, on_step=on_step)
    return fields_between(moving, fixed, model.preparation, find, Machine.of(model.registration))


def fields_between(
    moving: Volume, fixed: Volume, preparation: Preparation, find: Find, machine: Machine = CPU
) -> Fields:
    """Both fields between two volumes, by a function from their prepared images, on a machine, to phi_AB and phi_BA."""
    started = perf_counter()
    image_A, lattice_A = preparation.image(moving)
    image_B, lattice_B = preparation.image(fixed)
    phi_AB, phi_BA = find(*(machine.takes(torch.from_numpy(image)[None, None]) for image in (image_A, image_B)))

    def written(phi: Map, source: Geometry, target: Geometry, on: Geometry) -> Field:
        return displacement_mm(phi, source, target, on).astype(np.float32)

    forward = written(phi_AB, lattice_A, lattice_B, fixed.geometry)
    inverse = written(phi_BA, lattice_B, lattice_A, moving.geometry)
    seconds = perf_counter() - started
    untouched = written(Identity(fixed.dim), lattice_A, lattice_B, fixed.geometry)
    return Fields(forward, inverse, untouched, seconds)


def check_pair(model: Model, moving: Volume, fixed: Volume) -> None:
    """Make sure that a model can register two volumes.

    Raises:
        InputError: it was trained on another dimension, or they lie apart in the world by which it places them.
    """
    for volume in (moving, fixed):
        check_dimension(model, volume)
    if model.preparation.placement == "world":
        check_overlap(moving, fixed)


def check_dimension(model: Model, volume: Volume) -> None:
    """Make sure that a model can register a volume.

    Raises:
        InputError: it was trained on images of another dimension.
    """
    if volume.dim != model.preparation.dim:
        raise InputError(
            f"{volume.path} is {volume.dim}-D, but the model was trained on {model.preparation.dim}-D images"
        )


def note_what_is_cut(model: Model, volume: Volume) -> None:
    """Warn where a volume is larger than the lattice that the network sees."""
    straight = reoriented(volume).geometry
    lattice = model.preparation.geometry(straight)
    index = lattice.physical_to_index(straight.corners)
    outside = np.maximum(-index, index - (np.array(lattice.size) - 1)).max()
    if model.preparation.placement == "centre" and outside > 1:
        sizes = [" x ".join(map(str, g.size)) for g in (straight, lattice)]
        warnings.warn(
            f"{volume.path} ({sizes[0]} voxels) reaches beyond the lattice that the model sees ({sizes[1]}): what lies "
            "outside is carried along with the border; crop the image, or train on images of its size",
            stacklevel=2,
        )


def predict(model: Model, image_A: Tensor, image_B: Tensor) -> tuple[Map, Map]:
    """phi_AB and phi_BA of prepared images (batch, 1, *lattice), from one pass of the network."""
    model.registration.eval()
    count = image_A.shape[0]
    with torch.no_grad():
        phi: Map = model.registration(torch.cat([image_A, image_B]), torch.cat([image_B, image_A]))
    return phi.parted(count)


def predict_tuned(
    model: Model, image_A: Tensor, image_B: Tensor, steps: int, rate: float = TEST_TIME_RATE, on_step: OnStep = quiet
) -> tuple[Map, Map]:
    """phi_AB and phi_BA of prepared images after some steps on them alone, taken by a copy of the network."""
    objective = pair_objective(model.recipe, model.registration, model.weight)
    return optimise_weights(objective, image_A, image_B, steps, rate, 0, on_step)


def field_scores(voxels: Float[Tensor, "one dim *lattice"]) -> dict[str, Any]:
    """Folds under every rule and the spread of volume change of one displacement in voxels of its lattice.

    A score that the lattice is too thin for is left out.
    """
    percents = _scores(voxels, {rule: partial(folds_percent, rule=rule) for rule in FOLD_RULES})
    measures: dict[str, Callable[[Tensor], Tensor]] = {
        "ndv_percent": ndv_percent,
        "sdlogj": sdlogj,
        "sdlogj_learn2reg": sdlogj_learn2reg,
    }
    return {
        **_scores(voxels, {"folds_forward": folds}),
        **({"folds_percent": percents} if percents else {}),
        **_scores(voxels, measures),
    }


def _scores(voxels: Tensor, measures: Mapping[str, Callable[[Tensor], Tensor]]) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    for name, measure in measures.items():
        try:
            scores[name] = measure(voxels).item()
        except ValueError:
            if min(voxels.shape[2:]) >= LARGE_ENOUGH:
                raise
    return scores


def _drawn_determinant(voxels: Tensor) -> np.ndarray | None:
    """The determinant that a report draws; a lattice too thin for it is left to the report's own differences."""
    if min(voxels.shape[2:]) < LARGE_ENOUGH:
        return None
    return np.asarray(jacobian_determinant(voxels, "central")[0].numpy())


def overlap_scores(
    warped: Int[np.ndarray, "*lattice"],
    before: Int[np.ndarray, "*lattice"],
    fixed: Int[np.ndarray, "*lattice"],
    moving: Int[np.ndarray, "*other"],
) -> dict[str, Any]:
    """Dice per label and its mean, before and after; labels that either original lacks are left out (Learn2Reg)."""
    after, earlier = dice(warped, fixed, moving=moving), dice(before, fixed, moving=moving)
    if not after:
        return {}
    return {
        "dice": float(np.mean(list(after.values()))),
        "dice_before": float(np.mean(list(earlier.values()))),
        "dice_per_label": {str(label): score for label, score in after.items()},
        "dice_per_label_before": {str(label): score for label, score in earlier.items()},
    }


def same_lattice(labels: Volume, image: Volume, what: str) -> Volume:
    """`labels` voxel by voxel on their image's lattice.

    Raises:
        InputError: they lie on another one.
    """
    return on_lattice_of(image, labels, f"the {what} labels")
