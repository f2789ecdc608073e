"""From a recipe's words to the objects they name; the only place that knows both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor, nn

from foldless.cycle import ImageCycle, OneWay, ThreeImages
from foldless.machine import CPU, Machine
from foldless.maps import Affine, Displacement, Exponential, Map
from foldless.networks import (
    MLP,
    AffineNet,
    Antisymmetric,
    ConvOnly,
    EncoderDecoder,
    Refinement,
    ResidualUNet,
    VoxelMorphUNet,
)
from foldless.objective import BaseObjective, Objective
from foldless.recipe import Recipe, Stage
from foldless.registration import Downsample, Predict, Refine, Registration, TwoStep
from foldless.regularity import (
    ICON,
    Certified,
    Diffusion,
    GradICON,
    Regularity,
    cycle_consistency,
    gradient_cycle_consistency,
)
from foldless.similarity import LNCC, MINDSSC, MSE, NCC, NMI, Similarity
from foldless.tolerance import Tolerance
from foldless.weighting import Constant, HoldBelow, Ramp, Weight


def build_objective(recipe: Recipe, lattice: tuple[int, ...], machine: Machine = CPU) -> BaseObjective:
    """What a training with this recipe makes small, networks included; of one in stages, its last stage."""
    return stage_objective(recipe, recipe.plan[-1], build_trainable(recipe, lattice, machine))


def build_trainable(recipe: Recipe, lattice: tuple[int, ...], machine: Machine = CPU) -> Registration:
    """The registration a recipe describes, on a machine, its networks in the precision that trains fastest there."""
    registration = build_registration(recipe, lattice).to(machine.device)
    registration.run_networks_in(network_dtype(recipe, machine), recipe.recompute)
    return registration


def build_registration(recipe: Recipe, lattice: tuple[int, ...]) -> Registration:
    """The registration a recipe describes, with fresh weights drawn from torch's global generator; on the CPU."""
    parts: list[nn.Module] = [] if recipe.first == "none" else [affine_step(recipe, len(lattice))]
    for level in recipe.levels:
        pooled = tuple(-(-n // level) for n in lattice)
        parts.append(Predict(network_of(recipe, pooled), map_of(recipe)))
    if recipe.refinement != "none":
        parts.append(refinement_of(recipe, len(lattice)))
    return assembled(recipe, parts)


def assembled(recipe: Recipe, parts: Sequence[nn.Module], level: int = 1) -> Registration:
    """The first so many parts of a recipe's registration put together, for images already pooled by `level`.

    In a recipe without stages every network is shown the images pooled by its own number. With stages, what is coarser
    than the next network lies inside one `Downsample` as a whole, as published: so a stage's registration on pooled
    images is, bit for bit, the inner part of the next one's.
    """
    networks: list[Registration] = [part for part in parts if isinstance(part, Registration)]
    if not recipe.stages:
        steps = [_downsampled(part, own) for part, own in zip(networks, recipe.step_levels, strict=True)]
        return _refined(reduce(TwoStep, steps), parts)
    result, reached = networks[0], recipe.step_levels[0]
    for part, own in zip(networks[1:], recipe.step_levels[1:], strict=False):
        result, reached = TwoStep(_downsampled(result, reached // own), part), own
    return _downsampled(_refined(result, parts), reached // level)


def _refined(registration: Registration, parts: Sequence[nn.Module]) -> Registration:
    last = parts[-1]
    return registration if isinstance(last, Registration) else Refine(registration, last)


def _downsampled(registration: Registration, factor: int) -> Registration:
    return Downsample(registration, factor) if factor > 1 else registration


def stage_objective(recipe: Recipe, stage: Stage, registration: Registration) -> BaseObjective:
    """What a stage makes small: it trains some parts of the recipe's registration, and freezes the others whole.

    The parts are those of `registration` itself, and are set out anew: what learns, and in which mode it is.
    """
    at_work = registration.parts[: stage.parts]
    learning = {at_work[k - 1] for k in stage.trained} if stage.trained else set(at_work)
    objective = objective_of(recipe.of_stage(stage), assembled(recipe, at_work, stage.level), stage.level)
    for part in registration.parts:
        part.requires_grad_(part in learning).train(part in learning)
    return objective


def pair_objective(recipe: Recipe, registration: Registration, weight: float = 0.0) -> BaseObjective:
    """What a trained registration makes small on one pair: the recipe's objective at its full weight.

    That is `weight` if training had come to a larger one where maps folded. Cycles of three images know no pair; such a
    registration is tuned by the symmetric objective.
    """
    settings = replace(recipe.of_stage(recipe.plan[-1]), ramp=0, increase=0.0)
    settings = replace(settings, weight=max(settings.weight, weight))
    if settings.objective == "three-images":
        settings = replace(settings, objective="symmetric")
    objective = objective_of(settings, registration)
    if recipe.tolerance:
        objective.tolerance = Tolerance(recipe.tolerance, everywhere=True)
    return objective


def objective_of(recipe: Recipe, registration: Registration, level: int = 1) -> BaseObjective:
    """The objective a recipe names, of a registration of images already pooled by `level`, and where that lies."""
    similarity, weight = similarity_of(recipe), weight_of(recipe).to(Machine.of(registration).device)
    match recipe.objective:
        case "symmetric":
            held = Tolerance(recipe.tolerance / level) if recipe.tolerance else None
            return Objective(registration, similarity, regularity_of(recipe), weight, held)
        case "one-way":
            return OneWay(registration, similarity, weight)
        case "image-cycle":
            return ImageCycle(registration, similarity, regularity_of(recipe), weight)
        case "three-images":
            if recipe.regularity == "gradicon":
                return ThreeImages(registration, similarity, weight, gradient_cycle_consistency, share=0.5)
            return ThreeImages(registration, similarity, weight, cycle_consistency)


def refinement_of(recipe: Recipe, dim: int) -> Refinement:
    """The module that corrects the displacement, as the recipe names it; for images of one channel."""
    return Refinement(dim, leaky=recipe.refinement == "leaky", channels=2 if recipe.refinement == "images" else 0)


def network_of(recipe: Recipe, lattice: tuple[int, ...]) -> nn.Module:
    """One network of the recipe's kind, its weights laid out channels-last, which convolutions prefer."""
    dim = len(lattice)
    match recipe.network:
        case "residual-unet":
            net: nn.Module = ResidualUNet(dim, (2, *recipe.widths), recipe.widths_up, recipe.normalisation)
        case "voxelmorph":
            net = VoxelMorphUNet(dim)
        case "encoder-decoder":
            net = EncoderDecoder(dim)
        case "conv-only":
            net = ConvOnly(dim)
        case "mlp":
            net = MLP(lattice)
    return _laid_out(net, dim)


def affine_step(recipe: Recipe, dim: int) -> Predict:
    """The network that predicts an affine map, of the kind that `recipe.first` names."""
    net = _laid_out(AffineNet(dim), dim)
    if recipe.first == "affine":
        return Predict(Antisymmetric(net), Affine.from_generator)
    return Predict(net, Affine.from_deviation)


def _laid_out(net: nn.Module, dim: int) -> nn.Module:
    formats = {2: torch.channels_last, 3: torch.channels_last_3d}
    return net.to(memory_format=formats[dim]) if dim in formats else net  # type: ignore[call-overload]


def map_of(recipe: Recipe) -> Callable[[Tensor], Map]:
    """What the networks' output means."""
    return {"displacement": Displacement, "exponential": Exponential}[recipe.as_map]


def similarity_of(recipe: Recipe) -> Similarity:
    """The similarity a recipe names."""
    match recipe.similarity:
        case "mse":
            return MSE()
        case "ncc":
            return NCC()
        case "lncc":
            return LNCC(sigma=recipe.sigma)
        case "lncc-squared":
            return LNCC(window=recipe.window, squared=True)
        case "nmi":
            return NMI()
        case "mind-ssc":
            return MINDSSC()


def regularity_of(recipe: Recipe) -> Regularity:
    """The regularity a recipe names."""
    match recipe.regularity:
        case "icon":
            return ICON()
        case "gradicon":
            return GradICON()
        case "diffusion":
            return Diffusion()
        case "certified":
            return Certified()


def weight_of(recipe: Recipe) -> Weight:
    """The weight rule a recipe describes."""
    if recipe.ramp:
        return Ramp(recipe.weight / 10, recipe.weight, recipe.ramp)
    if recipe.increase:
        return HoldBelow(recipe.weight, recipe.increase, recipe.threshold, recipe.per_voxel)
    return Constant(recipe.weight)


def settled(recipe: Recipe, machine: Machine = CPU) -> Recipe:
    """The recipe with "auto" precision replaced by what the machine gains by, so that a record says what ran."""
    if recipe.precision != "auto":
        return recipe
    return replace(recipe, precision="bfloat16" if machine.gains_by_bfloat16 else "float32")


def network_dtype(recipe: Recipe, machine: Machine = CPU) -> torch.dtype | None:
    """bfloat16 or, for None, what the images have; "auto" is what the machine gains by."""
    return torch.bfloat16 if settled(recipe, machine).precision == "bfloat16" else None
