"""A VoxelMorph-1 training step out of MONAI's blocks and losses, both directions of a pair in one batch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from monai.losses import DiffusionLoss, LocalNormalizedCrossCorrelationLoss
from monai.networks.blocks import Convolution, Warp
from torch import Tensor, nn
from torch.nn import functional as F


class VoxelMorph1(nn.Module):
    """The layers of foldless' `VoxelMorphUNet`, for sizes that are multiples of 16; a displacement in voxels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(_block(dim, i, o, 2) for i, o in pairwise((2, 16, 32, 32, 32)))
        self.decoder = nn.ModuleList(_block(dim, i, 32) for i in (32, 64, 64, 48))
        self.before, self.after = _block(dim, 32, 8), _block(dim, 10, 8)
        self.last = Convolution(dim, 8, dim, conv_only=True)

    def forward(self, images: Tensor) -> Tensor:
        x, skips = images, []
        for layer in self.encoder:
            skips.append(x)
            x = layer(x)
        for level, layer in enumerate(self.decoder):
            x = layer(torch.cat([F.interpolate(x, scale_factor=2), skips[-level]], dim=1) if level else x)
        x = F.interpolate(self.before(x), scale_factor=2)
        return self.last(self.after(torch.cat([x, images], dim=1)))


def _block(dim: int, channels: int, out: int, stride: int = 1) -> Convolution:
    return Convolution(dim, channels, out, stride, act=("leakyrelu", {"negative_slope": 0.2}), norm=None)


def monai_step(shape: tuple[int, ...], batch: int, weight: float, rate: float, device: str) -> Callable[[], None]:
    dim = len(shape)
    net, warp = VoxelMorph1(dim).to(device), Warp()
    similarity = LocalNormalizedCrossCorrelationLoss(spatial_dims=dim, kernel_size=9, kernel_type="rectangular")
    regularity = DiffusionLoss()
    optimiser = torch.optim.Adam(net.parameters(), rate)
    image_A, image_B = torch.rand(2, batch, 1, *shape, device=device)

    def step() -> None:
        optimiser.zero_grad()
        moving, fixed = torch.cat([image_A, image_B]), torch.cat([image_B, image_A])
        field = net(torch.cat([moving, fixed], dim=1))
        loss = 2 * similarity(warp(moving, field), fixed) + weight * 2 * regularity(field)
        loss.backward()
        optimiser.step()

    return step
