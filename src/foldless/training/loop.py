"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import cos, isfinite, pi
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from foldless.build import build_trainable
from foldless.data.images import ImageSet, RandomPairs, Split, ordered_pairs
from foldless.data.prepare import Preparation
from foldless.errors import InputError, NotFiniteError, TrainingError
from foldless.machine import CPU, Machine
from foldless.model import Model
from foldless.objective import Terms
from foldless.recipe import Recipe
from foldless.registration import Registration, average_pool
from foldless.training.checkpoints import load_checkpoint, save_checkpoint, what_is_left
from foldless.training.log import NOTHING, Log
from foldless.training.state import State, at_stage
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
    start: Model | None = None,
    first_stage: int = 1,
    stop: Callable[[], bool] = lambda: False,
    machine: Machine = CPU,
) -> Model:
    """Learn from random pairs of `split.train`, stage after stage; the model with the last stage's best validation.

    `folder` receives `log.csv`, TensorBoard's events, `last.safetensors`, `best.safetensors` and `resume.pt`, and of
    each of several stages `stage-1.safetensors` and so on. With `resume` the training goes on where `resume.pt` stands
    and ends with the same bits as if it had never stopped. `start` gives a fresh training its first weights, part by
    part, and it may skip the stages before `first_stage`. These weights are judged before the first step and are the
    best until others beat them, so that what they had learnt is not lost; rate and weight rule begin anew.
    `stop` is asked after every step whether to end there. A training may be resumed on another `machine` than it was
    begun on: with the same random numbers, but not the same bits.

    Raises:
        KeyboardInterrupt: `stop` said so; its argument is the step, of which there is a checkpoint.
        TrainingError: the objective is no longer finite, that of held-out pairs never was, or the disk is full.
        InputError: fewer than two images, images pooled to one node, nothing to resume, or no such start.
    """
    if not 1 <= first_stage <= len(recipe.plan):
        raise InputError(f"the training has stages 1 to {len(recipe.plan)}, so it cannot begin with {first_stage}")
    recipe.check_lattice(split.train.lattice)
    registration = new_registration(recipe, split.train.lattice, machine)
    state = at_stage(recipe, registration, first_stage - 1)
    size = state.objective.images
    pairs = RandomPairs(split.train, recipe.batch, recipe.mirror, recipe.affine, size, machine)
    held_out = _held_out(split.val, size)
    if resume:
        state = load_checkpoint(recipe, registration, folder)
    elif start is not None:
        take_weights(registration, start.registration)
    seen = tuple(dict.fromkeys(split.train.names + split.val.names))
    model = Model(registration, recipe, preparation, seen)
    run = Run(model, split.val, held_out, folder, on_step, on_scores, stop, machine)
    with Log(folder, from_step=state.step if resume else NOTHING) as log:
        if start is not None and not resume:
            _keep_start(state, run, log)
        for place in range(state.stage, len(recipe.plan)):
            if place != state.stage:
                state = at_stage(recipe, registration, place)
            settings = recipe.of_stage(recipe.plan[place])
            images = pooled(split.train, recipe.plan[place].level)
            _run_stage(state, settings, replace(pairs, images=images, batch=settings.batch), run, log)
    return Model.load(folder, machine)


@dataclass(frozen=True)
class Run:
    """What all stages of a training share."""

    model: Model
    images: ImageSet
    held_out: list[tuple[int, ...]]
    folder: Path
    on_step: Callable[[int, Terms], None]
    on_scores: Callable[[int, Scores], None]
    stop: Callable[[], bool]
    machine: Machine


def _keep_start(state: State, run: Run, log: Log) -> None:
    """The weights that a training begins with are its best, and its first checkpoint."""
    settings = run.model.recipe.of_stage(run.model.recipe.plan[state.stage])
    _save_stage(state, settings, run, improved=_improves(state, settings, run, log))


def _run_stage(state: State, settings: Recipe, pairs: RandomPairs, run: Run, log: Log) -> None:
    """The steps that are left of a stage, with its looks at held-out pairs and its checkpoints."""
    end = state.begun + settings.steps
    while state.step < end:
        with _finite(state.step + 1, settings, run.folder):
            terms = training_step(state, settings, *pairs.draw())
        log.step(state.step, terms)
        run.on_step(state.step, terms)
        done, last = state.step - state.begun, state.step == end
        improved = False
        if last or done % settings.validate_every == 0:
            improved = _improves(state, settings, run, log)
        stopped = run.stop()
        if stopped or last or improved or done % settings.save_every == 0:
            log.settle()
            _save_stage(state, settings, run, improved, last)
        if stopped:
            raise KeyboardInterrupt(state.step)
    if not isfinite(state.best):
        with _finite(state.step, settings, run.folder):
            raise NotFiniteError("no look at the held-out pairs found a finite objective, so there is no best")


def _improves(state: State, settings: Recipe, run: Run, log: Log) -> bool:
    """Look at the held-out pairs: whether they were never better."""
    level = run.model.recipe.plan[state.stage].level
    with _finite(state.step, settings, run.folder):
        check_weights(state)
        scores = validate(state.objective, run.images, run.held_out, settings.weight, level, run.machine)
    log.scores(state.step, scores)
    run.on_scores(state.step, scores)
    if scores.total >= state.best:
        return False
    state.best = scores.total
    return True


def _save_stage(state: State, settings: Recipe, run: Run, improved: bool, last: bool = False) -> None:
    with _finite(state.step, settings, run.folder):
        check_weights(state)
    held = state.objective.weight().item() if settings.increase else 0.0
    _save(replace(run.model, weight=held), state, run.folder, improved, last)


def training_step(state: State, recipe: Recipe, *images: Tensor) -> Terms:
    """One step of Adam on one batch; the recipe is the stage's.

    Raises:
        NotFiniteError: the objective is no longer finite.
    """
    for group in state.optimiser.param_groups:
        group["lr"] = rate_at(recipe, state.step - state.begun)
    state.optimiser.zero_grad(set_to_none=True)  # before activations take memory of their own
    terms: Terms = state.objective(*images)
    if not isfinite(terms.total.item()):
        raise NotFiniteError(f"the objective became {terms.total.item()}")
    terms.total.backward()  # type: ignore[no-untyped-call]
    state.optimiser.step()
    state.objective.weight.advance()
    state.step += 1
    return Terms(*(term.detach() for term in terms))


def rate_at(recipe: Recipe, step: int) -> float:
    """Adam's rate after so many steps of a stage."""
    if recipe.schedule == "constant":
        return recipe.rate
    return recipe.rate * (1 + cos(pi * step / recipe.steps)) / 2


def check_weights(state: State) -> None:
    """Make sure that what is judged or saved is finite.

    Raises:
        NotFiniteError: a weight is not.
    """
    if not all(bool(parameter.isfinite().all()) for parameter in state.objective.parameters()):
        raise NotFiniteError("a weight is no longer finite")


def new_registration(recipe: Recipe, lattice: tuple[int, ...], machine: Machine = CPU) -> Registration:
    """A registration that nobody has trained: everything random comes from the recipe's seed, on all machines alike."""
    torch.manual_seed(recipe.seed)
    return build_trainable(recipe, lattice, machine)


def new_state(recipe: Recipe, lattice: tuple[int, ...], machine: Machine = CPU) -> State:
    """A training at step 0."""
    return at_stage(recipe, new_registration(recipe, lattice, machine), 0)


def take_weights(registration: Registration, trained: Registration) -> None:
    """Copy the weights of `trained`, part by part, into the first parts of a registration.

    Raises:
        InputError: it has more parts than there are, or others.
    """
    ours, theirs = registration.parts, trained.parts
    try:
        for part, other in zip(ours[: len(theirs)], theirs, strict=True):
            part.load_state_dict(other.state_dict())
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the weights to start from are of {len(theirs)} networks, which do not fit the first of these "
            f"{len(ours)}: give both trainings the same network, widths and normalisation"
        ) from error


def pooled(images: ImageSet, level: int) -> ImageSet:
    """The images, without labels, pooled by a stage's level."""
    if level == 1:
        return images
    spacing = tuple(level * s for s in images.spacing)
    return replace(images, images=average_pool(images.images, level), spacing=spacing, labels=None)


def _held_out(images: ImageSet, size: int = 2) -> list[tuple[int, ...]]:
    """Pairs of held-out images or, for cycles of three, every pair with a third image: another one if there is."""
    if len(images) < 2:
        raise InputError(f"validation takes two images; split.json names {len(images)} under val")
    pairs = ordered_pairs(len(images), VALIDATION_PAIRS)
    if size == 2:
        return list(pairs)
    others = [[k for k in range(len(images)) if k not in pair] or [pair[0]] for pair in pairs]
    return [(*pair, other[place % len(other)]) for place, (pair, other) in enumerate(zip(pairs, others, strict=True))]


@contextmanager
def _finite(step: int, recipe: Recipe, folder: Path) -> Iterator[None]:
    """Say what to do where numbers are no longer finite; maps and metrics refuse them."""
    try:
        yield
    except NotFiniteError as error:
        raise TrainingError(
            f"{error} at step {step}; {what_is_left(folder)}; train again with a smaller --rate than {recipe.rate:g}"
        ) from error


def _save(model: Model, state: State, folder: Path, improved: bool, last: bool) -> None:
    try:
        model.save(folder / "last.safetensors")
        if improved:
            model.save(folder / "best.safetensors")
        if last and len(model.recipe.plan) > 1:
            model.save(folder / f"stage-{state.stage + 1}.safetensors")
        save_checkpoint(state, folder)
    except (OSError, InputError, SafetensorError) as error:
        raise TrainingError(
            f"the checkpoint of step {state.step} could not be written ({error}); {what_is_left(folder)}: make room "
            "and go on"
        ) from error
