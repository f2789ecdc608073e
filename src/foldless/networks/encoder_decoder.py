"""ICON's encoder and decoder without skip connections."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import nn

from foldless.networks.layers import (
    CONVOLUTION,
    TRANSPOSED,
    Image,
    Prediction,
    crop,
    double,
    halve,
    joined,
    last,
    zero,
)


class EncoderDecoder(nn.Module):
    """ICON's convolutional encoder and decoder, no skip connections; §4.2 and the supplement. Output divided by 10."""

    def __init__(
        self, dim: int, down: Sequence[int] = (2, 16, 32, 64, 256, 512), up: Sequence[int] = (512, 256, 128, 64, 32, 16)
    ) -> None:
        super().__init__()
        self.down = nn.ModuleList(CONVOLUTION[dim](i, o, 3, stride=2, padding=1) for i, o in pairwise(down))
        self.up = nn.ModuleList(TRANSPOSED[dim](i, o, 4, stride=2, padding=1) for i, o in pairwise(up))
        self.last = zero(CONVOLUTION[dim](up[-1], dim, 3, padding=1))

    def forward(self, image_A: Image, image_B: Image) -> Prediction:
        x = joined(image_A, image_B)
        sizes = []
        for layer in self.down:
            sizes.append(x.shape[2:])
            x = F.relu(halve(layer, x))
        for layer, size in zip(self.up, reversed(sizes), strict=True):
            x = crop(F.relu(double(layer, x)), size)
        return last(self.last, x, factor=0.1)
