"""ICON's convolutions at one resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from foldless.networks.layers import CONVOLUTION, Image, Prediction, joined, last, same, zero


class ConvOnly(nn.Module):
    """ICON's six 5-wide convolutions without any change of resolution, densely connected; §4.2."""

    def __init__(self, dim: int, channels: int = 2, features: int = 10, layers: int = 6) -> None:
        super().__init__()
        widths = [channels + features * layer for layer in range(layers)]
        self.hidden = nn.ModuleList(CONVOLUTION[dim](i, features, 5, padding=2) for i in widths[:-1])
        self.last = zero(CONVOLUTION[dim](widths[-1], dim, 5, padding=2))

    def forward(self, image_A: Image, image_B: Image) -> Prediction:
        x = joined(image_A, image_B)
        for layer in self.hidden:
            x = torch.cat([x, F.relu(same(layer, x))], dim=1)
        return last(self.last, x)
