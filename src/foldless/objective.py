"""What training makes small: how unlike the images are plus how irregular the maps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foldless.grid import Grid, in_voxels, sample
from foldless.maps import Map
from foldless.metrics import folded
from foldless.registration import Registration
from foldless.regularity import Regularity
from foldless.similarity import Similarity
from foldless.weighting import Weight

Image = Float[Tensor, "batch channels *lattice"]


class Terms(NamedTuple):
    """The parts of an objective, scalar tensors: total = similarity + weight · regularity."""

    total: Tensor
    similarity: Tensor
    regularity: Tensor
    weight: Tensor


class Objective(nn.Module):
    """L = L_sim(A ∘ phi_AB, B) + L_sim(B ∘ phi_BA, A) + weight · L_reg(phi_AB, phi_BA); ICON, Eqs. (12-13).

    Both maps come from one pass of the network over the doubled batch. In training mode a weight that follows the
    folds is told those of phi_AB, to which it answers in the next step. Wrap this, never the registration, in
    DistributedDataParallel: its output is a tuple of tensors.
    """

    def __init__(
        self, registration: Registration, similarity: Similarity, regularity: Regularity, weight: Weight
    ) -> None:
        super().__init__()
        self.registration = registration
        self.similarity = similarity
        self.regularity = regularity
        self.weight = weight

    def forward(self, image_A: Image, image_B: Image) -> Terms:
        return self.with_maps(image_A, image_B)[0]

    def with_maps(self, image_A: Image, image_B: Image) -> tuple[Terms, Map]:
        """The terms, and phi_AB that they were computed from."""
        pairs = image_A.shape[0]
        moving, fixed = torch.cat([image_A, image_B]), torch.cat([image_B, image_A])
        phi = self.registration(moving, fixed)
        grid = Grid.of(fixed)
        nodes = phi.on(grid)
        similarity = 2 * self.similarity(sample(moving, nodes), fixed)
        regularity = self.regularity(phi[:pairs], phi[pairs:], grid)
        weight = self.weight()
        if self.training and self.weight.needs_folds:
            folds = folded(in_voxels(nodes[:pairs], grid), "forward")
            self.weight.update(folds.flatten(1).sum(1).double().mean().item(), folds[0].numel())
        return Terms(similarity + weight * regularity, similarity, regularity, weight), phi[:pairs]
