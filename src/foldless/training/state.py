"""What a training is made of while it runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from foldless.build import stage_objective
from foldless.objective import BaseObjective
from foldless.recipe import Recipe
from foldless.registration import Registration
from foldless.training.optimiser import Adam


@dataclass
class State:
    """Everything that changes from step to step, but for torch's random state.

    Attributes:
        registration: the whole of it.
        objective: of this stage; its registration is made of parts of the whole.
        optimiser: of what learns in this stage.
        stage: counted from 0.
        begun: the step at which the stage began.
        step: steps done, of all stages together.
        best: the lowest validation score of the stage.
    """

    registration: Registration
    objective: BaseObjective
    optimiser: torch.optim.Optimizer
    stage: int = 0
    begun: int = 0
    step: int = 0
    best: float = float("inf")


def at_stage(recipe: Recipe, registration: Registration, place: int) -> State:
    """The start of a stage: its parts set out, a new Adam for those that learn. Nothing random is drawn."""
    stage = recipe.plan[place]
    objective = stage_objective(recipe, stage, registration)
    learning = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimiser = Adam(learning, recipe.of_stage(stage).rate)
    begun = (0, *recipe.ends())[place]
    return State(registration, objective, optimiser, place, begun, begun)
