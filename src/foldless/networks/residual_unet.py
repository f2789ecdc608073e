"""ICON's U-Net with residual down- and upsampling, and what only it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foldless.kernels.doubling import residual_double
from foldless.kernels.halving import residual_halve
from foldless.networks.layers import (
    CONVOLUTION,
    TRANSPOSED,
    Image,
    Prediction,
    cast,
    crop,
    joined,
    laid_out_as,
    last,
    lay_out,
    zero,
)
from foldless.networks.normalisation import BatchNorm, Normalisation, normalisation_of


class ResidualUNet(nn.Module):
    """ICON's U-Net with residual down- and upsampling, any depth and width; output divided by 10.

    Sizes that are not multiples of 2^depth are rounded up on the way down and cropped on the way up.

    Args:
        dim: number of spatial dimensions.
        down: channels on the way down, those of both images together first.
        up: channels on the way up, finest first.
        normalisation: "batch" as published; "instance" does not depend on the batch; or "none".
        bottleneck: nodes of the coarsest lattice and a width: two linear layers between the way down and the way up, as
            in the first network of ICON's knees; they bind the network to images with so many nodes down there.
    """

    def __init__(
        self,
        dim: int,
        down: Sequence[int] = (2, 16, 32, 64, 256, 512),
        up: Sequence[int] = (16, 32, 64, 128, 256),
        normalisation: Normalisation = "batch",
        bottleneck: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if len(up) != len(down) - 1:
            raise ValueError(
                f"{len(down) - 1} steps down need as many up; got {len(up)} (down begins with both images' channels)"
            )
        inputs = [coarse + skip for coarse, skip in zip(down[1:], [*up[1:], 0], strict=True)]
        self.down = nn.ModuleList(CONVOLUTION[dim](i, o, 3, stride=2, padding=1) for i, o in pairwise(down))
        self.up = nn.ModuleList(TRANSPOSED[dim](i, o, 4, stride=2, padding=1) for i, o in zip(inputs, up, strict=True))
        self.normalise = nn.ModuleList(normalisation_of(normalisation, o) for o in up)
        self.bottleneck = _Bottleneck(down[-1] * bottleneck[0], bottleneck[1]) if bottleneck else None
        self.last = zero(CONVOLUTION[dim](down[0] + up[0], dim, 3, padding=1))
        lay_out(self, dim)

    def forward(self, image_A: Image, image_B: Image) -> Prediction:
        images = x = joined(image_A, image_B)
        skips = []
        for layer in self.down:
            skips.append(x)
            x = residual_halve(x, layer.get_parameter("weight"), layer.get_parameter("bias"))
        if self.bottleneck is not None:
            x = self.bottleneck(x)
        for layer, scaled, skip in zip(reversed(self.up), reversed(self.normalise), reversed(skips), strict=True):
            doubled = residual_double(x, layer.get_parameter("weight"), layer.get_parameter("bias"))
            whole = skip is images and doubled.shape[2:] == images.shape[2:]
            if whole and isinstance(scaled, BatchNorm) and scaled.training:
                return last(self.last, doubled, images, factor=0.1, thinned=scaled.before_thin)
            x = crop(scaled(doubled), skip.shape[2:])
            if skip is not images:
                x = torch.cat([x, skip], dim=1)
        return last(self.last, x, images, factor=0.1)


class _Bottleneck(nn.Module):
    """All features of the coarsest lattice through two linear layers, back to the same shape."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(features, hidden), nn.Linear(hidden, features)])

    def forward(self, x: Tensor) -> Tensor:
        narrow, wide = self.layers
        flat = x.flatten(1)
        expected = narrow.get_parameter("weight").shape[1] // x.shape[1]
        if flat.shape[1] != expected * x.shape[1]:
            raise ValueError(
                f"this network's bottleneck was made for {expected} nodes on the coarsest lattice; the images have "
                f"{tuple(x.shape[2:])} there, so they must be of another size"
            )
        flat = F.leaky_relu(F.linear(flat, *cast(narrow, x)))
        return laid_out_as(F.linear(flat, *cast(wide, x)).reshape(x.shape), x)
