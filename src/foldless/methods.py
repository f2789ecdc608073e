"""Published ways to train, as recipes: ICON's networks in stages, and Kuang's methods on VoxelMorph's network."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from foldless.errors import InputError
from foldless.recipe import Recipe, Stage

Method = Literal[
    "default",
    "baseline",
    "cycle",
    "bidirectional",
    "three-images",
    "icon",
    "gradicon",
    "refinement",
    "linear-refinement",
    "image-refinement",
    "cycle-refinement",
]
METHODS: tuple[str, ...] = get_args(Method)

ROUNDS = 4
"""How often the phases of a refinement take turns; Kuang, §4.1."""
STRICTER = 4.0
"""The weight of the phases that train the refinement; Kuang, §4.1."""

BASELINE = Recipe(
    network="voxelmorph",
    objective="one-way",
    similarity="lncc-squared",
    regularity="diffusion",
    weight=1.0,
    batch=3,
    rate=1e-4,
    schedule="constant",
    steps=5740,
)
"""VoxelMorph-1 as Kuang trains it: 10 epochs of 574 steps."""

PHASE_SHARE = 0.3
"""A phase of a refinement against a whole training: 3 epochs against 10; Kuang, §4.1."""


def lasting(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with so many steps; of one with a refinement a phase takes its share of them."""
    return replace(recipe, steps=steps if recipe.refinement == "none" else max(round(PHASE_SHARE * steps), 1))


_KUANG: dict[str, Recipe] = {
    "baseline": BASELINE,
    "cycle": replace(BASELINE, objective="image-cycle"),
    "bidirectional": replace(BASELINE, objective="symmetric"),
    "three-images": replace(BASELINE, objective="three-images", regularity="gradicon", weight=1.5),
    "icon": replace(BASELINE, objective="symmetric", regularity="icon", weight=1000.0),
    "gradicon": replace(BASELINE, objective="symmetric", regularity="gradicon", weight=1.5),
    "refinement": lasting(replace(BASELINE, refinement="leaky"), BASELINE.steps),
    "linear-refinement": lasting(replace(BASELINE, refinement="linear"), BASELINE.steps),
    "image-refinement": lasting(replace(BASELINE, refinement="images"), BASELINE.steps),
    "cycle-refinement": lasting(replace(BASELINE, objective="image-cycle", refinement="leaky"), BASELINE.steps),
}


def method_recipe(method: str, default: Recipe) -> Recipe:
    """The settings of a method, still without its stages; those of "default" are given."""
    return _KUANG.get(method, default)


def network_levels(recipe: Recipe, stages: int) -> Recipe:
    """The recipe with one network more than stages, as ICON: two at half its finest level, the others at that.

    One stage leaves it alone.
    """
    if stages == 1:
        return recipe
    fine = recipe.levels[-1]
    return replace(recipe, levels=(2 * fine, 2 * fine, *[fine] * (stages - 1)))


def planned(recipe: Recipe, method: str = "default", stages: int = 1, pool: int = 1) -> Recipe:
    """The recipe with the stages of its method, on images pooled by `pool`; stages that it has already it keeps.

    Raises:
        InputError: more stages than networks, stages of a method that has its own, or less than one.
    """
    if min(stages, pool) < 1:
        raise InputError(f"stages and pool are 1 or more; got {stages} and {pool}")
    if not recipe.stages and "refinement" in method:
        if stages != 1:
            raise InputError(f"the method {method} has phases of its own; leave --stages out")
        recipe = replace(recipe, stages=alternating(recipe))
    elif not recipe.stages and stages > 1:
        recipe = replace(recipe, stages=one_by_one(recipe, stages))
    return recipe if pool == 1 else pooled_by(recipe, pool)


def pooled_by(recipe: Recipe, factor: int) -> Recipe:
    """The same training on images pooled by `factor`, its similarity and its weight in voxels included.

    The model still takes whole images, and its map serves their lattice.
    """
    stages = tuple(replace(stage, level=stage.level * factor) for stage in recipe.plan)
    return replace(recipe, levels=tuple(level * factor for level in recipe.levels), stages=stages)


def one_by_one(recipe: Recipe, stages: int) -> tuple[Stage, ...]:
    """The first stage trains all steps but stages - 1; each further one freezes what there is and adds a network.

    Every stage sees images pooled by the level of its last network; ICON, §4.3.
    """
    levels = recipe.step_levels
    if not 1 < stages <= len(recipe.levels):
        raise InputError(
            f"each stage but the first adds a network: {stages} stages do not fit {len(recipe.levels)} levels"
        )
    first = len(levels) - stages + 1
    begin = Stage(parts=first, level=levels[first - 1])
    more = [Stage(parts=k, trained=(k,), level=levels[k - 1]) for k in range(first + 1, len(levels) + 1)]
    return (begin, *more)


def alternating(recipe: Recipe, rounds: int = ROUNDS) -> tuple[Stage, ...]:
    """Phases of the networks and of the refinement by turns, the other frozen; Kuang, §2.2.

    As published, the networks learn without the refinement. Ours, which sees the images, stays in place: the networks'
    gradient flows through it, so that they learn what it will not have to correct.
    """
    if recipe.refinement == "none":
        raise InputError("the phases take turns with a refinement, and the recipe has none")
    networks = len(recipe.step_levels)
    at_work = recipe.parts if recipe.refinement == "images" else networks
    generate = Stage(parts=at_work, trained=tuple(range(1, networks + 1)))
    refine = Stage(parts=recipe.parts, trained=(recipe.parts,), weight=STRICTER)
    return (generate, refine) * rounds
