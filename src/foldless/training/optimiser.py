"""Adam as trainings run it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Adam(torch.optim.Adam):
    """Torch's fused Adam, which is shown every tensor in the order of its memory; the same bits.

    On a CPU torch 2.13 copies gradients that are laid out channels-last before it uses them as they are, which takes
    several times as long as the step itself.
    """

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr, fused=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What a checkpoint holds, laid out as the weights are now: the fused step reads both alike."""
        super().load_state_dict(state_dict)
        for weight, state in self.state.items():
            for name, value in state.items():
                if value.shape == weight.shape:
                    state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)

    def _init_group(self, group: dict[str, Any], weights: list[Tensor], *others: list[Tensor]) -> bool:
        result: bool = super()._init_group(group, weights, *others)  # type: ignore[no-untyped-call]
        orders = [sorted(range(w.ndim), key=w.stride, reverse=True) for w in weights]
        *alike, _ = others  # the last are the counts of steps
        for tensors in (weights, *alike):  # those of a variant of Adam that is not used are none at all
            tensors[:] = [t.permute(order) for t, order in zip(tensors, orders, strict=False)]
        return result
