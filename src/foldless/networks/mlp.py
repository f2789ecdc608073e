"""ICON's multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import nn

from foldless.networks.layers import Image, Prediction, cast, last, zero


class MLP(nn.Module):
    """ICON's multilayer perceptron: both images flattened, two hidden layers with ReLU; §4.2.

    Args:
        shape: the lattice it is made for; the only network that is bound to one.
        hidden: widths of the hidden layers.
        channels: channels of both images together.
    """

    def __init__(self, shape: Sequence[int], hidden: Sequence[int] = (8000, 3000), channels: int = 2) -> None:
        super().__init__()
        self.shape = tuple(shape)
        widths = [channels * prod(shape), *hidden]
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))
        self.last = zero(nn.Linear(widths[-1], len(self.shape) * prod(shape)))

    def forward(self, image_A: Image, image_B: Image) -> Prediction:
        if tuple(image_A.shape[2:]) != self.shape:
            raise ValueError(
                f"this MLP was made for images of {self.shape}; got {tuple(image_A.shape[2:])}; the other networks "
                "take any size"
            )
        x = torch.cat([image_A, image_B], dim=1).flatten(1)
        for layer in self.hidden:
            x = F.relu(F.linear(x, *cast(layer, x)))
        return last(self.last, x).reshape(-1, len(self.shape), *self.shape)
