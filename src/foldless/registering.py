"""From two volumes to the two fields between them, by whatever finds maps of prepared images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from foldless.build import pair_objective, similarity_of
from foldless.data.prepare import Preparation
from foldless.errors import InputError
from foldless.halfway import SHARP, Forces, register_halfway
from foldless.io import Geometry, Linear, Volume, displacement_mm, reoriented
from foldless.io.volumes import check_overlap
from foldless.machine import CPU, Machine
from foldless.maps import Identity, Map
from foldless.model import Model
from foldless.objective import Terms
from foldless.pairwise import TEST_TIME_RATE, OnStep, optimise_weights
from foldless.proofs import Homing, Repair
from foldless.recipe import Recipe
from foldless.similarity import Similarity

Field = Float[np.ndarray, "*shape dim"]
Seen = tuple[Float[np.ndarray, "*lattice"], Geometry]
Find = Callable[[Tensor, Tensor], tuple[Map, Map]]

REFINING = Forces(steps=(40, 30, 20), affine_steps=0)
"""Forces that take a prediction further."""


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
        pose: the affine map, from fixed to moving world, that the forward field ends in, and its inverse the other:
            proofs, folds and volumes are of what is left without it. None if there is none.
    """

    forward: Field
    inverse: Float[np.ndarray, "*elsewhere dim"]
    untouched: Field
    seconds: float
    repairs: tuple[Repair, ...] = ()
    homing: Homing | None = None
    pose: Linear | None = None

    @property
    def back(self) -> Linear | None:
        """The affine map that the inverse field ends in."""
        return None if self.pose is None else self.pose.inverse


def quiet(terms: Terms) -> None:
    """Nothing is said of a step."""


@dataclass(frozen=True)
class Tuning:
    """What is done for a pair after a model has predicted its maps; by default nothing.

    Attributes:
        steps: of a copy of the network, by Adam; the model keeps every bit.
        rate: Adam's.
        forces: instead, forces take the maps from where the network left them.
    """

    steps: int = 0
    rate: float = TEST_TIME_RATE
    forces: Forces | None = None

    @property
    def most_steps(self) -> int:
        """Steps that are told of."""
        return self.steps if self.forces is None else sum(self.forces.steps)

    def find(self, model: Model, on_step: OnStep = quiet) -> Find:
        """From prepared images to the tuned maps."""
        if self.forces is not None:
            return partial(predict_refined, model, forces=self.forces, on_step=on_step)
        if self.steps:
            return partial(predict_tuned, model, steps=self.steps, rate=self.rate, on_step=on_step)
        return partial(predict, model)


PREDICTED = Tuning()


def register_volumes(
    model: Model, moving: Volume, fixed: Volume, tuning: Tuning = PREDICTED, on_step: OnStep = quiet
) -> Fields:
    """Both fields between two volumes, in whatever orientation and spacing they come, found where the model lies.

    Raises:
        InputError: see `check_pair`.
    """
    check_pair(model, moving, fixed)
    for volume in (moving, fixed):
        note_what_is_cut(model, volume)
    return fields_between(moving, fixed, model.preparation, tuning.find(model, on_step), Machine.of(model.registration))


def fields_between(
    moving: Volume, fixed: Volume, preparation: Preparation, find: Find, machine: Machine = CPU
) -> Fields:
    """Both fields between two volumes, by a function from their prepared images, on a machine, to phi_AB and phi_BA."""
    started = perf_counter()
    seen = [preparation.image(volume) for volume in (moving, fixed)]
    return fields_of(moving, fixed, seen, find, machine, started)


def fields_of(
    moving: Volume,
    fixed: Volume,
    seen: Sequence[Seen],
    find: Find,
    machine: Machine = CPU,
    started: float | None = None,
) -> Fields:
    """The same from both images as they are seen, each with its lattice; these share their unit cube."""
    started = perf_counter() if started is None else started
    (image_A, lattice_A), (image_B, lattice_B) = seen
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


def predict_refined(
    model: Model, image_A: Tensor, image_B: Tensor, forces: Forces = REFINING, on_step: OnStep = quiet
) -> tuple[Map, Map]:
    """phi_AB and phi_BA of prepared images, predicted and then drawn closer by forces."""
    start = predict(model, image_A, image_B)
    spacing = model.preparation.spacing
    return register_halfway(
        image_A, image_B, sharp_similarity(model.recipe), forces, spacing=spacing, start=start, on_step=on_step
    )


def sharp_similarity(recipe: Recipe) -> Similarity:
    """What forces draw by: the recipe's similarity, its correlation in small windows."""
    return SHARP if recipe.similarity == "lncc" else similarity_of(recipe)
