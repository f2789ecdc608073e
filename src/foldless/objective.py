"""What training makes small: how unlike the images are plus how irregular the maps."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foldless.grid import Grid, Points, in_voxels, sample
from foldless.maps import Map
from foldless.metrics import folded
from foldless.registration import Registration
from foldless.regularity import Regularity
from foldless.similarity import Similarity
from foldless.tolerance import Tolerance
from foldless.weighting import Weight

Image = Float[Tensor, "batch channels *lattice"]


class Terms(NamedTuple):
    """The parts of an objective, scalars: total = similarity + weight · regularity, and what a tolerance adds."""

    total: Tensor
    similarity: Tensor
    regularity: Tensor
    weight: Tensor


class BaseObjective(nn.Module):
    """What every objective has: a registration, a similarity, a weight, and terms of so and so many images.

    Wrap an objective, never the registration, in DistributedDataParallel: its output is a tuple of tensors.
    """

    images = 2
    """How many images make one example."""

    def __init__(self, registration: Registration, similarity: Similarity, weight: Weight) -> None:
        super().__init__()
        if not isinstance(weight, Weight):
            raise TypeError(f"the weight is a rule, such as Constant({weight}); got {weight!r}")
        self.registration = registration
        self.similarity = similarity
        self.weight = weight
        self.tolerance: Tolerance | None = None

    def forward(self, *images: Image) -> Terms:
        return self.with_maps(*images)[0]

    @abstractmethod
    def with_maps(self, *images: Image) -> tuple[Terms, Map]:
        """The terms of some images (batch, channels, *lattice), and the map from the second image to the first."""

    def weighed(self, similarity: Tensor, regularity: Tensor, nodes: Points) -> Terms:
        """The terms that these two parts make under the current weight.

        In training mode a weight that follows the folds is told those of `nodes`, a lattice under phi_AB
        (batch, dim, *lattice); it answers in the next step.
        """
        weight = self.weight()
        if self.training and self.weight.needs_folds:
            folds = folded(in_voxels(nodes, Grid.of(nodes)), "forward")
            self.weight.update(folds.flatten(1).sum(1).cpu().double().mean().item(), folds[0].numel())
        return Terms(similarity + weight * regularity, similarity, regularity, weight)


class Objective(BaseObjective):
    """L = L_sim(A ∘ phi_AB, B) + L_sim(B ∘ phi_BA, A) + weight · L_reg(phi_AB, phi_BA); ICON, Eqs. (12-13).

    Both maps come from one pass of the network over the doubled batch. A `Tolerance` constrains them besides.
    """

    def __init__(
        self,
        registration: Registration,
        similarity: Similarity,
        regularity: Regularity,
        weight: Weight,
        tolerance: Tolerance | None = None,
    ) -> None:
        super().__init__(registration, similarity, weight)
        self.regularity = regularity
        self.tolerance = tolerance

    def with_maps(self, *images: Image) -> tuple[Terms, Map]:
        """The terms of a pair image_A, image_B, and phi_AB."""
        image_A, image_B = images
        pairs = image_A.shape[0]
        moving, fixed = torch.cat([image_A, image_B]), torch.cat([image_B, image_A])
        phi = self.registration(moving, fixed)
        grid = Grid.of(fixed)
        nodes = phi.on(grid)
        similarity = 2 * self.similarity(sample(moving, nodes), fixed)
        phi_AB, phi_BA = phi.parted(pairs)
        regularity = self.regularity(phi_AB, phi_BA, grid)
        terms = self.weighed(similarity, regularity, nodes[:pairs])
        if self.tolerance is not None:
            terms = terms._replace(total=terms.total + self.tolerance(nodes, fixed))
        return terms, phi_AB
