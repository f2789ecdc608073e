"""From a recipe's words to the objects they name; the only place that knows both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from foldless.maps import Displacement, Exponential, Map
from foldless.networks import MLP, ConvOnly, EncoderDecoder, ResidualUNet, VoxelMorphUNet
from foldless.objective import Objective
from foldless.recipe import Recipe
from foldless.registration import Downsample, Predict, Registration, TwoStep
from foldless.regularity import ICON, Diffusion, GradICON, Regularity
from foldless.similarity import LNCC, MSE, NCC, Similarity
from foldless.weighting import Constant, Ramp, Weight


def build_objective(recipe: Recipe, lattice: tuple[int, ...]) -> Objective:
    """What a training with this recipe makes small, networks included."""
    registration = build_registration(recipe, lattice)
    registration.run_networks_in(network_dtype(recipe))
    return Objective(registration, similarity_of(recipe), regularity_of(recipe), weight_of(recipe))


def build_registration(recipe: Recipe, lattice: tuple[int, ...]) -> Registration:
    """The registration a recipe describes, with fresh weights drawn from torch's global generator."""
    result: Registration | None = None
    for level in recipe.levels:
        pooled = tuple(-(-n // level) for n in lattice)
        step: Registration = Predict(network_of(recipe, pooled), map_of(recipe))
        if level > 1:
            step = Downsample(step, level)
        result = step if result is None else TwoStep(result, step)
    assert result is not None
    return result


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


def regularity_of(recipe: Recipe) -> Regularity:
    """The regularity a recipe names."""
    penalties: dict[str, Regularity] = {"icon": ICON(), "gradicon": GradICON(), "diffusion": Diffusion()}
    return penalties[recipe.regularity]


def weight_of(recipe: Recipe) -> Weight:
    """The weight rule a recipe describes."""
    if recipe.ramp:
        return Ramp(recipe.weight / 10, recipe.weight, recipe.ramp)
    return Constant(recipe.weight)


def settled(recipe: Recipe) -> Recipe:
    """The recipe with "auto" precision replaced by what this processor gains by, so that a record says what ran."""
    if recipe.precision != "auto":
        return recipe
    return replace(recipe, precision="bfloat16" if multiplies_bfloat16() else "float32")


def network_dtype(recipe: Recipe) -> torch.dtype | None:
    """bfloat16 or, for None, what the images have; "auto" is what the processor gains by."""
    return torch.bfloat16 if settled(recipe).precision == "bfloat16" else None


def multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively; elsewhere it would be slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported())
