"""What a registration of two volumes came to: the fields that are written, and every score of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foldless.build import similarity_of
from foldless.data.prepare import normalised
from foldless.io import (
    Geometry,
    Volume,
    inverse_consistency_of_files,
    like,
    reoriented,
    sitk_transform,
    voxel_displacement,
)
from foldless.io.landmarks import LandmarkPairs
from foldless.io.volumes import on_lattice_of, through
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
from foldless.proofs import certificate_scores, certify_warp, deformation, largest_inverse_error
from foldless.registering import Field, Fields, Setting
from foldless.report import Pair

LARGE_ENOUGH = 5
"""Nodes on every axis with which every score exists; a thinner lattice lacks those whose crop it cannot hold."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """Two volumes, the fields between them and, if known, their label maps (same lattices) and landmarks."""

    moving: Volume
    fixed: Volume
    fields: Fields
    model: Setting
    moving_labels: Volume | None = None
    fixed_labels: Volume | None = None
    landmarks: LandmarkPairs | None = None

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
        return voxel_displacement(self.deformation, self.fixed.geometry)

    @cached_property
    def deformation(self) -> Field:
        """The forward field without the pose that it ends in."""
        return deformation(self.fields.forward, self.fixed.geometry, self.fields.pose)

    @cached_property
    def inverse_error(self) -> Float[np.ndarray, "*shape"]:
        """|phi_BA(phi_AB(x)) - x| at every fixed voxel, in fixed voxels, from the written fields."""
        return inverse_consistency_of_files(
            self.fields.forward, self.fixed.geometry, self.fields.inverse, self.moving.geometry, self.fields.back
        )

    @cached_property
    def common(self) -> Bool[np.ndarray, "*shape"]:
        """Fixed voxels that are carried to a place on the moving image's lattice, half a voxel around it included."""
        there = np.moveaxis(self.fixed.geometry.voxel_centres, 0, -1) + self.fields.forward
        index = self.moving.geometry.physical_to_index(there)
        inside: np.ndarray = np.all((index >= -0.5) & (index <= np.array(self.moving.geometry.size) - 0.5), -1)
        return inside

    @cached_property
    def certificates(self) -> tuple[Certificate, Certificate]:
        """What is proven of the forward and of the inverse field."""
        return (
            certify_warp(self.fields.forward, self.fixed.geometry, self.fields.pose),
            certify_warp(self.fields.inverse, self.moving.geometry, self.fields.back),
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
            **self._from_home(),
            "similarity_before": self._similarity(self._carried(self.moving, self.fields.untouched)),
            "similarity_after": self._similarity(self.warped),
            "seconds": self.fields.seconds,
        }
        return {**self._overlap(), **self._missed(), **scores, **self._within()}

    def _missed(self) -> dict[str, Any]:
        """Target registration error, mm, before and after."""
        if self.landmarks is None:
            return {}
        named = {"tre_mm": self.fields.forward, "tre_mm_before": self.fields.untouched}
        errors = {name: self.landmarks.errors(field, self.fixed.geometry) for name, field in named.items()}
        return {name: summary(torch.from_numpy(error)) for name, error in errors.items()}

    def _from_home(self) -> dict[str, Any]:
        """How far from home voxels come back: in what both images show, and elsewhere, where the border continues."""
        named = {"inverse_consistency_voxels": self.common, "inverse_consistency_elsewhere_voxels": ~self.common}
        return {
            name: summary(torch.from_numpy(self.inverse_error[where])) for name, where in named.items() if where.any()
        }

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
        field = self._turned(self.deformation, fixed)
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
