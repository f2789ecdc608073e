"""Networks that predict matrices, and the one around any network that makes its answer change sign with the order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from foldless.networks.layers import ADAPTIVE_POOL, CONVOLUTION, Image, halve, joined, last, zero


class AffineNet(nn.Module):
    """Predicts an affine map: (batch, dim, dim + 1), zero for the identity; images of any size.

    For `Predict(AffineNet(dim), as_map=Affine.from_deviation)` or, with an inverse in closed form and no reflections,
    `as_map=Affine.from_generator`; inverse consistent by construction with `Antisymmetric(AffineNet(dim))`.

    Args:
        dim: number of spatial dimensions.
        down: channels on the way down, those of both images together first; each step halves the lattice.
        pooled: nodes an axis of what the convolutions found, averaged over blocks; 1 would forget where it was.
        hidden: width of the linear layer between the pooled features and the matrix.
    """

    def __init__(
        self, dim: int, down: Sequence[int] = (2, 16, 32, 64, 128), pooled: int = 3, hidden: int = 128
    ) -> None:
        super().__init__()
        self.dim = dim
        self.pooled = pooled
        self.down = nn.ModuleList(CONVOLUTION[dim](i, o, 3, stride=2, padding=1) for i, o in pairwise(down))
        self.hidden = nn.Linear(down[-1] * pooled**dim, hidden)
        self.last = zero(nn.Linear(hidden, dim * (dim + 1)))

    def forward(self, image_A: Image, image_B: Image) -> Float[Tensor, "batch dim columns"]:
        x = joined(image_A, image_B)
        for layer in self.down:
            x = F.leaky_relu(halve(layer, x))
        x = ADAPTIVE_POOL[self.dim](x.to(self.hidden.weight.dtype), self.pooled).flatten(1)
        x = F.leaky_relu(self.hidden(x))
        return last(self.last, x).reshape(-1, self.dim, self.dim + 1)


class Antisymmetric(nn.Module):
    """net(A, B) - net(B, A): what changes sign with the order of the images, whatever the network.

    Read as a generator or a velocity it makes maps that are inverse consistent by construction, up to the interpolation
    of velocities: phi_AB = exp(v), phi_BA = exp(-v); ConstrICON.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image_A: Image, image_B: Image) -> Tensor:
        there, back = self.net(torch.cat([image_A, image_B]), torch.cat([image_B, image_A])).chunk(2)
        difference: Tensor = there - back
        return difference
