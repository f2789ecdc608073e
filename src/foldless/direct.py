"""Two volumes registered without a model: their maps are found for them alone."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

from torch import Tensor

from foldless.build import regularity_of, similarity_of, weight_of
from foldless.data.folder import fitting_preparation, world_preparation
from foldless.data.prepare import Placement, Preparation
from foldless.errors import InputError
from foldless.halfway import Forces, register_halfway
from foldless.io import Volume, reoriented
from foldless.io.volumes import check_overlap
from foldless.machine import CPU, Machine
from foldless.maps import Map
from foldless.pairwise import OnStep, Stiff, flow_steps, optimise_flow
from foldless.recipe import Recipe, direct_recipe
from foldless.registering import Fields, fields_between, quiet, sharp_similarity

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
    """

    recipe: Recipe
    preparation: Preparation
    forces: Forces | None = None

    @classmethod
    def of_pair(
        cls,
        moving: Volume,
        fixed: Volume,
        placement: Placement = "centre",
        optimiser: Optimiser = "forces",
        **settings: Any,
    ) -> Direct:
        """The defaults for two volumes, on a lattice that holds both; `settings` replace those of `Forces` or a recipe.

        Raises:
            InputError: their dimensions differ or, placed in the world, they lie apart.
        """
        if moving.dim != fixed.dim:
            raise InputError(f"{moving.path} is {moving.dim}-D and {fixed.path} is {fixed.dim}-D; give two of one kind")
        if placement == "world":
            check_overlap(moving, fixed)
        geometries = [reoriented(volume).geometry for volume in (moving, fixed)]
        preparation = (world_preparation if placement == "world" else fitting_preparation)(geometries)
        recipe = direct_recipe(preparation.lattice)
        if optimiser == "adam":
            return cls(replace(recipe, **settings), preparation)
        pulling = {name: settings.pop(name) for name in [field.name for field in fields(Forces)] if name in settings}
        return cls(replace(recipe, **settings), preparation, Forces(**pulling))

    @property
    def steps(self) -> int:
        """Steps in all, the affine ones first; the most where forces end a level early."""
        if self.forces is not None:
            return self.forces.most_steps
        return flow_steps(self.recipe.levels, self.recipe.steps)

    def maps(self, image_A: Tensor, image_B: Tensor, on_step: OnStep = quiet) -> tuple[Map, Map]:
        """phi_AB and its inverse for prepared images (1, 1, *lattice)."""
        recipe, similarity = self.recipe, similarity_of(self.recipe)
        if self.forces is not None:
            sharp = sharp_similarity(recipe)
            spacing = self.preparation.spacing
            return register_halfway(image_A, image_B, sharp, self.forces, similarity, spacing, on_step=on_step)
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
    direct: Direct, moving: Volume, fixed: Volume, on_step: OnStep = quiet, machine: Machine = CPU
) -> Fields:
    """Both fields between two volumes, found for them alone on a machine."""
    return fields_between(moving, fixed, direct.preparation, partial(direct.maps, on_step=on_step), machine)
