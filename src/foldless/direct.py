"""Two volumes registered without a model: their maps are found for them alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from foldless.build import regularity_of, similarity_of, weight_of
from foldless.data.folder import fitting_preparation, world_preparation
from foldless.data.prepare import Placement, Preparation
from foldless.errors import InputError
from foldless.halfway import Forces, register_halfway
from foldless.io import Geometry, Volume, reoriented
from foldless.io.landmarks import LandmarkPairs
from foldless.io.volumes import check_overlap
from foldless.landmarks import Landmarks
from foldless.machine import CPU, Machine
from foldless.maps import Map
from foldless.pairwise import OnStep, Stiff, flow_steps, optimise_flow
from foldless.pose import Pose, Scan, as_linear, displacement_of, in_order, shared_lattices
from foldless.recipe import Recipe, direct_recipe
from foldless.registering import Fields, Seen, fields_of, quiet, sharp_similarity

Optimiser = Literal["forces", "adam"]
"""forces: greedy's update on a velocity half-way, in closed form. adam: any regularity, by autograd; slower."""


@dataclass(frozen=True)
class Direct:
    """How a pair is optimised, where a `Model` would say how it is predicted.

    Attributes:
        recipe: the similarity that scores and the affine map go by and, for Adam, regularity and weight, levels, steps
            at every level, rate and seed; `direct_recipe`.
        preparation: the lattice that both images are laid on.
        forces: how long and how stiffly forces pull; None for Adam.
        pose: by which the images are laid on each other; None where the preparation says that.
        landmark_weight: how many voxels a landmark counts for beside the intensities; 0 leaves landmarks out.
    """

    recipe: Recipe
    preparation: Preparation
    forces: Forces | None = None
    pose: Pose | None = None
    landmark_weight: float = 0.0

    @classmethod
    def of_pair(
        cls,
        moving: Volume,
        fixed: Volume,
        placement: Placement | Pose = "centre",
        optimiser: Optimiser = "forces",
        landmark_weight: float = 0.0,
        **settings: Any,
    ) -> Direct:
        """The defaults for two volumes, on a lattice that holds both or, with a pose, what both show.

        After a pose forces seek no affine part: it cost as much accuracy as it brought.

        Args:
            moving: one volume.
            fixed: the other.
            placement: how they lie to each other: centre on centre, as in the world, or by a pose.
            optimiser: what finds the map.
            landmark_weight: see above; for forces.
            settings: replace those of `Forces` or a recipe.

        Raises:
            InputError: their dimensions differ or, placed in the world, they lie apart; Adam with landmarks.
        """
        if moving.dim != fixed.dim:
            raise InputError(f"{moving.path} is {moving.dim}-D and {fixed.path} is {fixed.dim}-D; give two of one kind")
        if placement == "world":
            check_overlap(moving, fixed)
        pose = placement if isinstance(placement, Pose) else None
        preparation = _preparation(moving, fixed, placement)
        recipe = direct_recipe(preparation.lattice)
        if optimiser == "adam" and landmark_weight:
            raise InputError("Adam takes no landmarks; leave out their weight, or take forces")
        if optimiser == "adam":
            return cls(replace(recipe, **settings), preparation, None, pose)
        pulling = {name: settings.pop(name) for name in [field.name for field in fields(Forces)] if name in settings}
        pulling = {**({} if pose is None else {"affine_steps": 0}), **pulling}
        return cls(replace(recipe, **settings), preparation, Forces(**pulling), pose, landmark_weight)

    @property
    def steps(self) -> int:
        """Steps in all, the affine ones first; the most where forces end a level early."""
        if self.forces is not None:
            return self.forces.most_steps
        return flow_steps(self.recipe.levels, self.recipe.steps)

    def maps(
        self,
        image_A: Tensor,
        image_B: Tensor,
        on_step: OnStep = quiet,
        masks: tuple[Tensor | None, Tensor | None] = (None, None),
        landmarks: Landmarks | None = None,
    ) -> tuple[Map, Map]:
        """phi_AB and its inverse for prepared images (1, 1, *lattice), what counts of them, and points in both.

        Adam takes neither masks nor landmarks.
        """
        recipe, similarity = self.recipe, similarity_of(self.recipe)
        if self.forces is not None:
            sharp = sharp_similarity(recipe)
            spacing = self.preparation.spacing
            return register_halfway(
                image_A,
                image_B,
                sharp,
                self.forces,
                similarity,
                spacing,
                *masks,
                on_step=on_step,
                landmarks=landmarks,
            )
        return optimise_flow(
            image_A,
            image_B,
            similarity,
            Stiff(regularity_of(recipe)),
            weight_of(recipe),
            recipe.levels,
            recipe.steps,
            recipe.rate,
            seed=recipe.seed,
            on_step=on_step,
        )


def register_directly(
    direct: Direct,
    moving: Volume,
    fixed: Volume,
    on_step: OnStep = quiet,
    machine: Machine = CPU,
    masks: tuple[Volume | None, Volume | None] = (None, None),
    landmarks: LandmarkPairs | None = None,
) -> Fields:
    """Both fields between two volumes, found for them alone on a machine.

    After a pose, what one image does not show, or a mask of it leaves out, counts neither for nor against. Landmarks
    draw by as much as `direct.landmark_weight` says, which by default is nothing.
    """
    started, find = perf_counter(), partial(direct.maps, on_step=on_step)
    scans = [Scan(*one) for one in zip((moving, fixed), masks, strict=True)]
    seen = _seen(direct, *scans)
    if direct.pose is not None:
        shown = [one.shown(on) for one, (_, on) in zip(scans, seen, strict=True)]
        if min(part.min() for part in shown) < 1:
            find = partial(find, masks=tuple(machine.takes(torch.from_numpy(part)[None, None]) for part in shown))
    if landmarks is not None and direct.landmark_weight:
        thick = [n > 1 for n in reoriented(fixed).array.shape]
        find = partial(find, landmarks=_drawing(landmarks, direct.landmark_weight, seen, thick, machine))
    found = fields_of(moving, fixed, seen, find, machine, started)
    return found if direct.pose is None else replace(found, pose=as_linear(direct.pose))


def _seen(direct: Direct, moving: Scan, fixed: Scan) -> list[Seen]:
    """Both images as they are compared, and where each lies."""
    if direct.pose is None:
        return [direct.preparation.image(one.volume) for one in (moving, fixed)]
    lattices = lattices_of_pair(moving.volume, fixed.volume, direct.pose)
    return [(direct.preparation.read(one.volume, on), on) for one, on in zip((moving, fixed), lattices, strict=True)]


def _drawing(
    landmarks: LandmarkPairs, weight: float, seen: Sequence[Seen], thick: Sequence[bool], machine: Machine
) -> Landmarks:
    """Landmarks in the unit cubes of both images as they are seen; along axes that are not thick nothing is drawn."""
    (_, there), (_, here) = seen
    cubes = there.physical_to_unit(landmarks.moving.T), here.physical_to_unit(landmarks.fixed.T)
    in_A, in_B = (machine.takes(torch.from_numpy((places.T * thick).astype(np.float32))) for places in cubes)
    return Landmarks(in_A, in_B, weight)


def posed(pose: Pose, moving: Volume, fixed: Volume) -> Fields:
    """Both fields of nothing but a pose."""
    forward, inverse = displacement_of(pose, fixed.geometry), displacement_of(pose.inverse, moving.geometry)
    return Fields(forward, inverse, forward, 0.0, pose=as_linear(pose))


def lattices_of_pair(moving: Volume, fixed: Volume, pose: Pose) -> tuple[Geometry, Geometry]:
    """`shared_lattices` of the pair in its own order, so that swapping the images swaps them."""
    if in_order(moving, fixed):
        return shared_lattices(moving, fixed, pose)
    there, here = shared_lattices(fixed, moving, pose.inverse)
    return here, there


def _preparation(moving: Volume, fixed: Volume, placement: Placement | Pose) -> Preparation:
    if isinstance(placement, Pose):
        _, lattice = lattices_of_pair(moving, fixed, placement)
        return Preparation(lattice.shape, lattice.spacing[::-1])
    geometries = [reoriented(volume).geometry for volume in (moving, fixed)]
    return (world_preparation if placement == "world" else fitting_preparation)(geometries)
