"""What a training is made of while it runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from foldless.objective import Objective


@dataclass
class State:
    """Everything that changes from step to step, but for torch's random state."""

    objective: Objective
    optimiser: torch.optim.Optimizer
    step: int = 0
    best: float = float("inf")
