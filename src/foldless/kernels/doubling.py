"""Doubling a lattice with its shortcut, a layer of ICON's U-Net, on channels-last memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from foldless.kernels.convolution import double, doubled, doubled_backward
from foldless.kernels.library import lanes
from foldless.kernels.residual import SLOPE, Level, can_be_compiled, residual

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def residual_double(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """leaky_relu(x) doubled by `convolution.double`, plus x itself doubled by linear interpolation.

    Half-pixel centres. Where x has more channels than the result its last are dropped from the shortcut; where it has
    fewer, zeros are put before its first, as published.

    Args:
        x: (batch, channels, *lattice).
        weight: (channels, outputs, *4 an axis).
        bias: (outputs,).
    """
    have, want = x.shape[1], weight.shape[1]
    if can_be_compiled(x, weight, _UP) and have >= want and want % lanes() == 0:
        return residual(x, weight, bias, _UP)
    kept = x[:, :want] if have >= want else torch.cat([x.new_zeros(len(x), want - have, *x.shape[2:]), x], dim=1)
    shortcut = F.interpolate(kept, scale_factor=2, mode=_LINEAR[x.ndim - 2], align_corners=False)
    return double(F.leaky_relu(x, SLOPE), weight, bias) + shortcut


_UP = Level(doubled, doubled_backward, "add_doubled", "doubled_adjoint", lambda have, want: (want, have), 4)
