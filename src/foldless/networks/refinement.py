"""Kuang's residual module, which follows a displacement."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from foldless.networks.layers import CONVOLUTION, Image, Prediction, joined, last, same, zero


class Refinement(nn.Module):
    """Kuang's residual module: R(u) = u + conv(LeakyReLU(conv(u))), 3-wide, slope 0.2; u is a displacement in voxels.

    As published, a LeakyReLU follows the last convolution too, which lets corrections towards larger coordinates
    through whole and others at a fifth. With `channels` of images the module sees the warped and the fixed image
    beside u: our own variant. It starts at the identity, and computes in u's dtype: u is made of coordinates.

    Args:
        dim: number of spatial dimensions.
        hidden: width between the two convolutions.
        leaky: whether a LeakyReLU comes last, as published.
        channels: channels of both images together; 0 for a module that sees u alone.
    """

    def __init__(self, dim: int, hidden: int = 16, leaky: bool = True, channels: int = 0) -> None:
        super().__init__()
        self.leaky = leaky
        self.channels = channels
        self.hidden = CONVOLUTION[dim](dim + channels, hidden, 3, padding=1)
        self.last = zero(CONVOLUTION[dim](hidden, dim, 3, padding=1))

    def forward(self, displacement: Prediction, warped: Image, fixed: Image) -> Prediction:
        seen = joined(displacement, warped, fixed) if self.channels else joined(displacement)
        correction = last(self.last, F.leaky_relu(same(self.hidden, seen), 0.2))
        return displacement + (F.leaky_relu(correction, 0.2) if self.leaky else correction)
