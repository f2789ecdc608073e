"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import cos, isfinite, pi
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from foldless.build import build_objective
from foldless.data.images import ImageSet, RandomPairs, Split, ordered_pairs
from foldless.data.prepare import Preparation
from foldless.errors import InputError, TrainingError
from foldless.model import Model
from foldless.objective import Terms
from foldless.recipe import Recipe
from foldless.training.checkpoints import load_checkpoint, save_checkpoint, what_is_left
from foldless.training.log import Log
from foldless.training.state import State
from foldless.training.validation import Scores, validate

VALIDATION_PAIRS = 16


def train(
    recipe: Recipe,
    split: Split,
    preparation: Preparation,
    folder: Path,
    resume: bool = False,
    on_step: Callable[[int, Terms], None] = lambda step, terms: None,
    on_scores: Callable[[int, Scores], None] = lambda step, scores: None,
) -> Model:
    """Learn from random pairs of `split.train` until the recipe's last step; the model with the best validation.

    `folder` receives `log.csv`, TensorBoard's events, `last.safetensors`, `best.safetensors` and `resume.pt`. With
    `resume` the training goes on where `resume.pt` stands and ends with the same bits as if it had never stopped.

    Raises:
        TrainingError: the objective is no longer finite, or the disk is full.
        InputError: fewer than two images, or nothing to resume.
    """
    state = new_state(recipe, split.train.lattice)
    pairs, held_out = RandomPairs(split.train, recipe.batch, recipe.mirror, recipe.affine), _held_out(split.val)
    if resume:
        load_checkpoint(state, folder)
    seen = tuple(dict.fromkeys(split.train.names + split.val.names))
    model = Model(state.objective.registration, recipe, preparation, seen)
    with Log(folder, from_step=state.step) as log:
        while state.step < recipe.steps:
            with _finite(state.step + 1, recipe, folder):
                terms = training_step(state, recipe, *pairs.draw())
            log.step(state.step, terms)
            on_step(state.step, terms)
            last = state.step == recipe.steps
            improved = False
            if last or state.step % recipe.validate_every == 0:
                with _finite(state.step, recipe, folder):
                    check_weights(state)
                    scores = validate(state.objective, split.val, held_out, recipe.weight)
                log.scores(state.step, scores)
                on_scores(state.step, scores)
                if improved := scores.total < state.best:
                    state.best = scores.total
            if last or improved or state.step % recipe.save_every == 0:
                log.flush()
                with _finite(state.step, recipe, folder):
                    check_weights(state)
                _save(model, state, folder, improved)
    return Model.load(folder)


def training_step(state: State, recipe: Recipe, image_A: Tensor, image_B: Tensor) -> Terms:
    """One step of Adam on one batch of pairs.

    Raises:
        FloatingPointError: the objective is no longer finite.
    """
    for group in state.optimiser.param_groups:
        group["lr"] = recipe.rate * (1 + cos(pi * state.step / recipe.steps)) / 2
    terms: Terms = state.objective(image_A, image_B)
    if not isfinite(terms.total.item()):
        raise FloatingPointError(f"the objective became {terms.total.item()}")
    state.optimiser.zero_grad(set_to_none=True)
    terms.total.backward()  # type: ignore[no-untyped-call]
    state.optimiser.step()
    state.objective.weight.advance()
    state.step += 1
    return Terms(*(term.detach() for term in terms))


def check_weights(state: State) -> None:
    """Make sure that what is judged or saved is finite.

    Raises:
        FloatingPointError: a weight is not.
    """
    if not all(bool(parameter.isfinite().all()) for parameter in state.objective.parameters()):
        raise FloatingPointError("a weight is no longer finite")


def new_state(recipe: Recipe, lattice: tuple[int, ...]) -> State:
    """A training at step 0: everything random comes from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    objective = build_objective(recipe, lattice)
    return State(objective, torch.optim.Adam(objective.parameters(), recipe.rate, fused=True))


def _held_out(images: ImageSet) -> list[tuple[int, int]]:
    if len(images) < 2:
        raise InputError(f"validation takes two images; split.json names {len(images)} under val")
    return ordered_pairs(len(images), VALIDATION_PAIRS)


@contextmanager
def _finite(step: int, recipe: Recipe, folder: Path) -> Iterator[None]:
    """Say what to do where numbers are no longer finite; maps and metrics refuse them with a ValueError."""
    try:
        yield
    except (FloatingPointError, ValueError) as error:
        if isinstance(error, ValueError) and "not finite" not in str(error):
            raise
        raise TrainingError(
            f"{error} at step {step}; {what_is_left(folder)}; train again with a smaller --rate than {recipe.rate:g}"
        ) from error


def _save(model: Model, state: State, folder: Path, improved: bool) -> None:
    try:
        model.save(folder / "last.safetensors")
        if improved:
            model.save(folder / "best.safetensors")
        save_checkpoint(state, folder)
    except (OSError, InputError, SafetensorError) as error:
        raise TrainingError(
            f"the checkpoint of step {state.step} could not be written ({error}); {what_is_left(folder)}: make room "
            "and go on"
        ) from error
