"""Objectives beside the symmetric one: VoxelMorph's, Kuang's cycle through the warped image, cycles of three images.

The family of cycles that a training can ask for:

================ ========================================== =========================================
cycle            what must come back                        objective
================ ========================================== =========================================
through the image the image: x -> y~ -> x~                   `ImageCycle` (Kuang, Eq. 1)
with the target  the image, from the true y                 `Objective` with `Diffusion`: bidirectional
of two maps      every point: phi_AB ∘ phi_BA               `Objective` with `ICON` or `GradICON`
of three maps    every point: phi_12 ∘ phi_23 ∘ phi_31      `ThreeImages`
================ ========================================== =========================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from foldless.grid import Grid, Points, sample
from foldless.maps import Map
from foldless.objective import BaseObjective, Image, Terms
from foldless.registration import Registration
from foldless.regularity import Regularity, cycle_consistency, diffusion
from foldless.similarity import Similarity
from foldless.weighting import Weight

Closing = Callable[[Sequence[Map], Points], Tensor]


class OneWay(BaseObjective):
    """L = L_sim(A ∘ phi_AB, B) + weight · diffusion(phi_AB): VoxelMorph, and Kuang's baseline."""

    def with_maps(self, *images: Image) -> tuple[Terms, Map]:
        """The terms of a pair image_A, image_B, and phi_AB."""
        image_A, image_B = images
        grid = Grid.of(image_B)
        phi: Map = self.registration(image_A, image_B)
        nodes = phi.on(grid)
        similarity = self.similarity(sample(image_A, nodes), image_B)
        return self.weighed(similarity, diffusion(phi, grid), nodes), phi


class ImageCycle(BaseObjective):
    """L_sim(y~, y) + L_sim(x~, x) + weight · L_reg(phi, psi); Kuang, Eq. (1), with `Diffusion`.

    y~ = x ∘ phi with phi = registration(x, y), and x~ = y~ ∘ psi with psi = registration(y~, x): the same network
    takes the warped image back. The gradient flows through y~ into the first pass; the second never sees y.
    """

    def __init__(
        self, registration: Registration, similarity: Similarity, regularity: Regularity, weight: Weight
    ) -> None:
        super().__init__(registration, similarity, weight)
        self.regularity = regularity

    def with_maps(self, *images: Image) -> tuple[Terms, Map]:
        """The terms of a pair x, y, and the map phi that carries x onto y."""
        x, y = images
        grid = Grid.of(y)
        phi: Map = self.registration(x, y)
        nodes = phi.on(grid)
        warped = sample(x, nodes)
        psi: Map = self.registration(warped, x)
        similarity = self.similarity(warped, y) + self.similarity(sample(warped, psi.on(grid)), x)
        return self.weighed(similarity, self.regularity(phi, psi, grid), nodes), phi


class ThreeImages(BaseObjective):
    """Three images in a ring: L_sim of the three neighbours + weight · share · closing of phi_12 ∘ phi_23 ∘ phi_31.

    `closing` is `cycle_consistency` or `gradient_cycle_consistency`, added over the three images to start from, at
    jittered points. All three maps come from one pass over the tripled batch.

    With `share` 1 there is a whole closing for each similarity, as ICON's two orders for its two. `GradICON` averages
    its orders, half a closing for each: a share of 1/2, which recipes have with gradients, keeps its weights' meaning.
    """

    images = 3

    def __init__(
        self,
        registration: Registration,
        similarity: Similarity,
        weight: Weight,
        closing: Closing = cycle_consistency,
        share: float = 1.0,
    ) -> None:
        super().__init__(registration, similarity, weight)
        self.closing = closing
        self.share = share

    def with_maps(self, *images: Image) -> tuple[Terms, Map]:
        """The terms of three images, and phi_12."""
        first, second, third = images
        moving, fixed = torch.cat([first, second, third]), torch.cat([second, third, first])
        phi: Map = self.registration(moving, fixed)
        grid, count = Grid.of(fixed), first.shape[0]
        nodes = phi.on(grid)
        similarity = 3 * self.similarity(sample(moving, nodes), fixed)
        ring = [phi[k * count : (k + 1) * count] for k in range(3)]
        turns = [self.closing([*ring[k:], *ring[:k]], grid.jittered(count, nodes)) for k in range(3)]
        return self.weighed(similarity, self.share * torch.stack(turns).sum(), nodes[:count]), ring[0]
