"""Settings are plain values that survive a record, and refuse what makes no sense."""

import json
from dataclasses import asdict, replace

import pytest

from foldless.build import build_objective, build_registration, stage_objective, weight_of
from foldless.errors import InputError
from foldless.maps import Affine
from foldless.methods import method_recipe, planned
from foldless.recipe import Recipe, Source, recipe_for
from foldless.registration import Predict, average_pool

INVERSE = 1e-5  # float32: two exponentials of a matrix and their product


@pytest.mark.parametrize(
    "recipe",
    [Recipe(), recipe_for(None), recipe_for((48, 64, 48)), recipe_for((160, 192, 224)), recipe_for((128, 128))],
)
def test_a_recipe_survives_its_record(recipe):
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_a_source_survives_its_record():
    source = Source("mnist:there", "world", (2.0, 98.0), 30, 7)
    assert Source.from_dict(json.loads(json.dumps(asdict(source)))) == source


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch": 0},
        {"validate_every": 0},
        {"save_every": -1},
        {"levels": ()},
        {"levels": (0,)},
        {"widths": ()},
        {"widths": (4, 0), "widths_up": (4, 4)},
        {"widths": (4, 4), "widths_up": (4, 0)},
        {"widths": (4,), "widths_up": (4, 4)},
        {"rate": 0.0},
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"sigma": -1.0},
        {"weight": -1.0},
        {"weight": float("nan")},
        {"ramp": -1},
        {"affine": -0.1},
        {"affine": 0.5},
        {"window": 4},
        {"window": -1},
        {"seed": -1},
        {"seed": 2**64},
    ],
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(InputError):
        Recipe(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"strange": 1},
        {"steps": "many"},
        {"steps": 1.5},
        {"steps": True},
        {"rate": "fast"},
        {"network": "resnet"},
        {"network": ["mlp"]},
        {"widths": [4.5, 4]},
        {"widths": 4},
        {"widths": ["a"]},
        {"levels": None},
    ],
)
def test_a_record_with_other_kinds_of_values(wrong):
    with pytest.raises(InputError):
        Recipe.from_dict(wrong)


@pytest.mark.parametrize("wrong", [{"percentiles": [1]}, {"percentiles": [9, 1]}, {"data": 3}, {"placement": "here"}])
def test_a_source_with_other_kinds_of_values(wrong):
    with pytest.raises(InputError):
        Source.from_dict(wrong)


@pytest.mark.parametrize(
    "settings",
    [{"network": network} for network in ("residual-unet", "voxelmorph", "encoder-decoder", "conv-only", "mlp")]
    + [{"similarity": similarity} for similarity in ("mse", "ncc", "lncc", "lncc-squared", "nmi", "mind-ssc")]
    + [{"regularity": regularity} for regularity in ("icon", "gradicon", "diffusion", "certified")]
    + [{"normalisation": normalisation} for normalisation in ("batch", "instance", "none")]
    + [{"refinement": refinement} for refinement in ("leaky", "linear", "images")]
    + [{"objective": "one-way", "regularity": "diffusion"}, {"objective": "image-cycle"}]
    + [{"objective": "three-images", "regularity": regularity} for regularity in ("icon", "gradicon")]
    + [{"first": first} for first in ("none", "affine", "affine-free")]
    + [{"as_map": "exponential"}, {"levels": (4, 2, 1)}, {"ramp": 10}, {"precision": "bfloat16"}],
)
def test_every_word_names_something_that_trains(settings):
    import torch

    objective = build_objective(replace(Recipe(widths=(4, 8), widths_up=(4, 4)), **settings), (12, 10))
    terms = objective(*(torch.rand(2, 1, 12, 10) for _ in range(objective.images)))
    terms.total.backward()
    assert terms.total.isfinite()
    assert terms.total.item() == pytest.approx((terms.similarity + terms.weight * terms.regularity).item())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())


@pytest.mark.parametrize("lattice", [(16,), (16, 12), (4, 16, 12)])
@pytest.mark.parametrize("method", ["baseline", "refinement", "gradicon"])
def test_images_may_be_pooled_to_two_nodes_and_not_to_one(method, lattice):
    import torch

    most, more = (planned(method_recipe(method, Recipe()), method, pool=pool) for pool in (15, 16))
    most.check_lattice(lattice)
    objective = stage_objective(most, most.plan[0], build_registration(most, lattice))
    images = [average_pool(torch.rand(1, 1, *lattice), 15) for _ in range(objective.images)]
    assert objective(*images).total.isfinite()
    with pytest.raises(InputError, match="pooled by 16 are a single node; pool them by 15 at most"):
        more.check_lattice(lattice)


def test_levels_are_what_the_networks_see():
    import torch

    seen = []
    objective = build_objective(Recipe(widths=(4, 8), widths_up=(4, 4), levels=(4, 2, 1)), (16, 12))
    for module in objective.modules():
        if isinstance(module, Predict):
            module.net.register_forward_pre_hook(lambda net, images: seen.append(tuple(images[0].shape[2:])))
    objective(torch.rand(1, 1, 16, 12), torch.rand(1, 1, 16, 12))
    assert seen == [(4, 3), (8, 6), (16, 12)]


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_an_affine_first_step_is_undone_by_its_reverse(dim):
    """As the recipe's word promises: the map of the swapped pair is the inverse, whatever the weights."""
    import torch

    recipe = Recipe(widths=(4, 8), widths_up=(4, 4), first="affine", levels=(2, 1), precision="float32")
    registration = build_objective(recipe, (12, 10, 8)[:dim]).registration
    step = registration.parts[0]
    assert len(registration.parts) == recipe.parts == 3
    torch.nn.init.normal_(step.net.net.last.weight, std=2.0)
    A, B = torch.rand(2, 2, 1, *(6, 5, 4)[:dim])
    there, back = step(A, B), step(B, A)
    assert isinstance(there, Affine)
    points = torch.rand(2, dim, 20)
    assert (there(points) - points).abs().max() > 100 * INVERSE
    assert (there(back(points)) - points).abs().max() < INVERSE


def test_what_the_affine_step_sees_and_that_stages_count_it():
    import torch

    seen = []
    recipe = Recipe(widths=(4, 8), widths_up=(4, 4), first="affine-free", levels=(2, 2, 1))
    recipe = planned(recipe, stages=2)
    assert [stage.parts for stage in recipe.stages] == [3, 4]
    assert recipe.stages[1].trained == (4,)
    registration = build_objective(recipe, (16, 12)).registration
    registration.parts[0].net.register_forward_pre_hook(lambda net, images: seen.append(tuple(images[0].shape[2:])))
    registration(torch.rand(1, 1, 16, 12), torch.rand(1, 1, 16, 12))
    assert seen == [(8, 6)]


def test_records_from_before_the_affine_step():
    old = Recipe(levels=(2, 1)).as_dict()
    del old["first"]
    assert Recipe.from_dict(old) == Recipe(levels=(2, 1))


def test_a_ramp_grows_from_a_tenth_to_the_weight():
    weight = weight_of(Recipe(weight=3.0, ramp=10))
    assert weight().item() == pytest.approx(0.3)
    for _ in range(10):
        weight.advance()
    assert weight().item() == 3.0


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((Recipe, name) for name in ("network", "normalisation", "as_map", "first", "refinement", "objective")),
        *((Recipe, name) for name in ("similarity", "regularity", "schedule", "precision")),
        (Source, "placement"),
    ],
)
def test_a_word_that_names_nothing_is_refused_with_those_that_do(kind, name):
    record = kind()
    known = getattr(record, name)
    object.__setattr__(record, name, "nccc")  # the tests' own type checker would refuse it as an argument
    with pytest.raises(InputError, match=rf"{name.replace('_', '-')} is one of .*{known}.*got 'nccc'"):
        record.__post_init__()
