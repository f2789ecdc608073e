"""Registrations: modules that take two images and return a map, `phi_AB = registration(A, B)` with A ∘ phi_AB ≈ B."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foldless.grid import Grid, in_voxels, sample
from foldless.maps import Displacement, Map

Image = Float[Tensor, "batch channels *lattice"]


class Registration(nn.Module):
    """Predicts phi_AB, which takes points of B's space to points of A's: A ∘ phi_AB ≈ B.

    Images are (batch, channels, *lattice); both lattices span the unit cube.
    """

    @abstractmethod
    def forward(self, image_A: Image, image_B: Image) -> Map: ...

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        """The modules with weights that it is made of, in the order in which they work."""
        return (self,)

    def run_networks_in(self, dtype: torch.dtype | None, recompute: bool = False) -> None:
        """Let every network inside compute in `dtype`, None for that of its images; maps keep the parameters'.

        With `recompute` a network keeps nothing for its gradient but its images, and computes again on the way back:
        of several networks only one holds its activations at a time. Results are the same bits.
        """
        for module in self.modules():
            if isinstance(module, Predict):
                module.dtype = dtype
                module.recompute = recompute


class Predict(Registration):
    """A network and what its output means: `Predict(net, as_map=Displacement)`."""

    def __init__(self, net: nn.Module, as_map: Callable[[Tensor], Map]) -> None:
        super().__init__()
        self.net = net
        self.as_map = as_map
        self.dtype: torch.dtype | None = None
        self.recompute = False

    def forward(self, image_A: Image, image_B: Image) -> Map:
        images = [image.to(self.dtype or image.dtype) for image in (image_A, image_B)]
        prediction: Tensor
        if self.recompute and torch.is_grad_enabled():
            contexts = partial(_once_and_again, self.net)
            prediction = checkpoint(self.net, *images, use_reentrant=False, context_fn=contexts)
        else:
            prediction = self.net(*images)
        return self.as_map(prediction.contiguous())


def _once_and_again(net: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What a network is run in at first, and on the way back, where running statistics must not move again."""
    return nullcontext(), _unmoved(net)


@contextmanager
def _unmoved(net: nn.Module) -> Iterator[None]:
    kept = [buffer.clone() for buffer in net.buffers()]
    try:  # torch leaves by an exception as soon as it has what it needs
        yield
    finally:
        with torch.no_grad():
            for buffer, before in zip(net.buffers(), kept, strict=True):
                buffer.copy_(before)


class TwoStep(Registration):
    """first, then second on the image that first has warped: first[A, B] ∘ second[A ∘ first[A, B], B]."""

    def __init__(self, first: Registration, second: Registration) -> None:
        super().__init__()
        self.first = first
        self.second = second

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        return (*self.first.parts, *self.second.parts)

    def forward(self, image_A: Image, image_B: Image) -> Map:
        first: Map = self.first(image_A, image_B)
        phi: Map = first @ self.second(warp(image_A, first, Grid.of(image_B)), image_B)
        return phi


class Downsample(Registration):
    """A registration that sees both images pooled by `factor`; its map serves any lattice.

    Average pooling in ceil mode, as the published weights expect: pooled nodes are read up to half a coarse voxel off
    at the border.
    """

    def __init__(self, inner: Registration, factor: int = 2) -> None:
        super().__init__()
        self.inner = inner
        self.factor = factor

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        return self.inner.parts

    def forward(self, image_A: Image, image_B: Image) -> Map:
        phi: Map = self.inner(average_pool(image_A, self.factor), average_pool(image_B, self.factor))
        return phi


class Refine(Registration):
    """A registration whose displacement u is corrected: phi(x) = x + R(u)(x) on the lattice of B; Kuang, §2.2.

    `refinement` takes u in voxels (batch, dim, *lattice), the warped image and B, and returns u's better.
    """

    def __init__(self, base: Registration, refinement: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.refinement = refinement

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        return (*self.base.parts, self.refinement)

    def forward(self, image_A: Image, image_B: Image) -> Map:
        grid = Grid.of(image_B)
        nodes = self.base(image_A, image_B).on(grid)
        return Displacement.from_voxels(self.refinement(in_voxels(nodes, grid), sample(image_A, nodes), image_B))


def warp(image: Image, phi: Map, grid: Grid | None = None) -> Float[Tensor, "#batch channels *grid"]:
    """image ∘ phi on a lattice, (batch, channels, *grid): the image's own lattice unless another is given."""
    return sample(image, phi.on(grid or Grid.of(image)))


def average_pool(image: Image, factor: int) -> Float[Tensor, "batch channels *coarse"]:
    """Means of `factor`-wide blocks on every axis; incomplete blocks at the end average what they hold."""
    pool = {1: nn.functional.avg_pool1d, 2: nn.functional.avg_pool2d, 3: nn.functional.avg_pool3d}[image.ndim - 2]
    return pool(image, [min(factor, n) for n in image.shape[2:]], ceil_mode=True)
