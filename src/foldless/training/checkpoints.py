"""Checkpoints from which a training goes on with the same bits."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import torch

from foldless.errors import InputError
from foldless.io.files import write_whole
from foldless.recipe import Recipe
from foldless.registration import Registration
from foldless.training.state import State, at_stage

CHECKPOINT = "resume.pt"
UNUSABLE = (RuntimeError, LookupError, ValueError, TypeError, AttributeError, EOFError, OSError, pickle.UnpicklingError)
"""What torch raises of a file that is no checkpoint of this training; pickles that would run code are among them."""


def save_checkpoint(state: State, folder: Path) -> None:
    """Write `resume.pt`: parameters, buffers, optimiser, stage, step, best score, random state; all or nothing."""
    content = {
        "stage": state.stage,
        "registration": state.registration.state_dict(),  # the objective's are the same tensors, stored once
        "objective": state.objective.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "step": state.step,
        "best": state.best,
        "random": torch.get_rng_state(),
    }
    write_whole(folder / CHECKPOINT, lambda file: torch.save(content, file))


def what_is_left(folder: Path) -> str:
    """What a training that cannot go on leaves to go on from, as a part of a sentence."""
    return "the last good checkpoint is intact" if (folder / CHECKPOINT).is_file() else "no checkpoint was written yet"


def load_checkpoint(recipe: Recipe, registration: Registration, folder: Path) -> State:
    """The state that `resume.pt` holds, with `registration` and torch's generator brought to where it stands.

    The registration stays on its device, whichever the checkpoint was made on.

    Raises:
        InputError: there is no checkpoint, or it does not fit.
    """
    file = folder / CHECKPOINT
    if not file.is_file():
        raise InputError(f"{folder} holds no {CHECKPOINT}, so there is nothing to resume; start again with --overwrite")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of foreign pickles, which are refused in our words
            content = torch.load(file, map_location="cpu", weights_only=True)  # it may be of another machine
        registration.load_state_dict(content["registration"])
        state = at_stage(recipe, registration, content["stage"])
        state.objective.load_state_dict(content["objective"])
        state.optimiser.load_state_dict(content["optimiser"])
        state.step, state.best = content["step"], content["best"]
        torch.set_rng_state(content["random"])
    except UNUSABLE as error:
        raise InputError(f"{file} is damaged or belongs to another training, so it cannot be resumed") from error
    return state
