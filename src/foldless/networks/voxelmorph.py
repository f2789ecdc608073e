"""VoxelMorph's U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from foldless.networks.layers import (
    CONVOLUTION,
    Image,
    Prediction,
    crop,
    halve,
    joined,
    last,
    pad_to_multiple,
    same,
    zero,
)


class VoxelMorphUNet(nn.Module):
    """VoxelMorph-1, Kuang's baseline: 259 675 parameters in 3-D with the published widths; output in voxels / (n - 1).

    The published network emits a displacement in voxels; here it is scaled to the unit cube, so that every network
    speaks the same units. Sizes that are not multiples of 2^depth are padded at the input and cropped at the output.

    Args:
        dim: number of spatial dimensions.
        encoder: widths of the stride-2 convolutions.
        decoder: widths after each doubling, coarsest first; the first is at the coarsest lattice.
        full: widths of the two convolutions at full resolution.
        channels: channels of both images together.
    """

    def __init__(
        self,
        dim: int,
        encoder: Sequence[int] = (16, 32, 32, 32),
        decoder: Sequence[int] = (32, 32, 32, 32),
        full: Sequence[int] = (8, 8),
        channels: int = 2,
    ) -> None:
        super().__init__()
        if len(encoder) != len(decoder):
            raise ValueError(f"{len(encoder)} encoder widths need as many decoder widths; got {len(decoder)}")
        convolution = CONVOLUTION[dim]
        self.depth = len(encoder)
        widths = [channels, *encoder]
        self.encoder = nn.ModuleList(convolution(i, o, 3, stride=2, padding=1) for i, o in pairwise(widths))
        skips = [0, *list(encoder[:-1])[::-1]]
        inputs = [encoder[-1], *decoder[:-1]]
        self.decoder = nn.ModuleList(
            convolution(i + s, o, 3, padding=1) for i, s, o in zip(inputs, skips, decoder, strict=True)
        )
        self.before = convolution(decoder[-1], full[0], 3, padding=1)
        self.after = convolution(full[0] + channels, full[1], 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=0.2)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.last = zero(convolution(full[1], dim, 3, padding=1))

    def forward(self, image_A: Image, image_B: Image) -> Prediction:
        images = joined(image_A, image_B)
        size = images.shape[2:]
        images = pad_to_multiple(images, 2**self.depth)
        x, skips = images, []
        for layer in self.encoder:
            skips.append(x)
            x = F.leaky_relu(halve(layer, x), 0.2)
        for level, layer in enumerate(self.decoder):
            if level:
                x = torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), skips[-level]], dim=1)
            x = F.leaky_relu(same(layer, x), 0.2)
        x = F.leaky_relu(same(self.before, x), 0.2)
        x = torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), images], dim=1)
        x = F.leaky_relu(same(self.after, x), 0.2)
        voxels = crop(last(self.last, x), size)
        scale = torch.tensor([1.0 / max(n - 1, 1) for n in size], dtype=voxels.dtype, device=voxels.device)
        return voxels * scale.reshape(1, -1, *[1] * len(size))
