"""Registrations: modules that take two images and return a map, `phi_AB = registration(A, B)` with A ∘ phi_AB ≈ B."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foldless.arguments import check_tensor
from foldless.errors import NotFiniteError
from foldless.grid import Grid, in_voxels, sample
from foldless.maps import Displacement, Map

Image = Float[Tensor, "batch channels *lattice"]


@dataclass(frozen=True)
class Expected:
    """Images that a trained registration was made for: `channels` of `dim` axes, intensities from `low` to `high`."""

    dim: int
    channels: int = 1
    low: float = 0.0
    high: float = 1.0

    def check(self, *images: Image) -> None:
        """Warn of intensities that reach beyond by the whole range.

        Raises:
            NotFiniteError: intensities that are not finite.
            ValueError: other channels or axes, or intensities that reach beyond by nine times the range.
        """
        span = self.high - self.low
        for image in images:
            if (image.shape[1], image.ndim - 2) != (self.channels, self.dim):
                raise ValueError(
                    f"this registration takes images (batch, {self.channels}, *lattice) in {self.dim}-D; "
                    f"got {tuple(image.shape)}"
                )
            low, high = (extreme.item() for extreme in torch.aminmax(image.detach()))
            if not (isfinite(low) and isfinite(high)):
                raise NotFiniteError("an image holds values that are not finite, so it cannot be registered")
            said = (
                f"this registration was trained on intensities from {self.low:g} to {self.high:g}; got {low:g} to "
                f"{high:g}: prepare images as in training, by model.preparation.image(volume), or scale them"
            )
            if low < self.low - 9 * span or high > self.high + 9 * span:
                raise ValueError(said)
            if low < self.low - span or high > self.high + span:
                warnings.warn(said, stacklevel=3)


class Registration(nn.Module):
    """Predicts phi_AB, which takes points of B's space to points of A's: A ∘ phi_AB ≈ B.

    Images are (batch, channels, *lattice); both lattices span the unit cube.
    """

    expects: Expected | None = None
    """What the images were in training; None where anything may be right."""

    @abstractmethod
    def forward(self, image_A: Image, image_B: Image) -> Map: ...

    def __call__(self, image_A: Image, image_B: Image) -> Map:
        """phi_AB.

        Raises:
            TypeError: an image is no tensor of floats.
            ValueError: the images do not pair up, or are not what the registration `expects`.
        """
        for name, image in (("image_A", image_A), ("image_B", image_B)):
            check_tensor(name, image, "(batch, channels, *lattice)")
            if not image.is_floating_point():
                raise TypeError(f"{name} holds floats; got {image.dtype}: scale it as in training, mostly to 0 ... 1")
        if image_A.shape[:2] != image_B.shape[:2] or image_A.ndim != image_B.ndim or image_A.device != image_B.device:
            raise ValueError(
                "two images of as many samples, channels and axes on one device are registered; got "
                f"{' and '.join(f'{tuple(x.shape)} on {x.device}' for x in (image_A, image_B))}"
            )
        if self.expects is not None:
            self.expects.check(image_A, image_B)
        phi: Map = super().__call__(image_A, image_B)
        return phi

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
        if image_A.shape[2:] != image_B.shape[2:]:
            raise ValueError(
                "a network sees both images on one lattice; got "
                f"{' and '.join(str(tuple(x.shape[2:])) for x in (image_A, image_B))}: lay both on one, as "
                "model.preparation.image(volume) does"
            )
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
        first = self.first(image_A, image_B)
        return first @ self.second(warp(image_A, first, Grid.of(image_B)), image_B)


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
        return self.inner(average_pool(image_A, self.factor), average_pool(image_B, self.factor))


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
