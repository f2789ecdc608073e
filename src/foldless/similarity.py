"""Similarities: (warped, target, mask) -> scalar, lower is better, 0 for equal images that are not constant (but NMI).

Images are (batch, channels, *lattice); a mask (batch, 1, *lattice) in [0, 1] weighs every voxel. Each similarity is a
mean over voxels, so that it means the same on every lattice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from foldless.kernels.correlation import Windows, can_correlate, mean_correlation
from foldless.kernels.derivatives import Reverse

Image = Float[Tensor, "batch channels *lattice"]
Mask = Float[Tensor, "#batch 1 *lattice"]
Score = Float[Tensor, ""]


@runtime_checkable
class Similarity(Protocol):
    """How unlike two images are."""

    def __call__(self, warped: Image, target: Image, mask: Mask | None = None) -> Score: ...


@dataclass(frozen=True)
class MSE:
    """Mean squared difference; ICON, Eq. (14)."""

    def __call__(self, warped: Image, target: Image, mask: Mask | None = None) -> Score:
        return _mean((warped - target).square(), mask)


@dataclass(frozen=True)
class NCC:
    """1 - normalised cross correlation over the whole image, mean over batch and channels.

    `epsilon` is added to both variances, which makes constant images score 1 instead of NaN.
    """

    epsilon: float = 1e-6

    def __call__(self, warped: Image, target: Image, mask: Mask | None = None) -> Score:
        axes = list(range(2, warped.ndim))
        weight = torch.ones_like(target[:, :1]) if mask is None else mask.expand_as(target[:, :1])
        total = weight.sum(axes, keepdim=True).clamp_min(1e-12)

        def average(x: Tensor) -> Tensor:
            return (x * weight).sum(axes, keepdim=True) / total

        a, b = warped - average(warped), target - average(target)
        correlation = average(a * b) / ((average(a * a) + self.epsilon) * (average(b * b) + self.epsilon)).sqrt()
        return (1 - correlation).mean()


@dataclass(frozen=True)
class LNCC:
    """1 - normalised cross correlation in a window around every voxel, averaged.

    Either a box of `window` voxels a side or, with `sigma` (voxels), a Gaussian; both see zeros outside the image.
    A mask restricts both the windows and the average.

    Args:
        window: side of the box, odd.
        sigma: standard deviation of the Gaussian window instead, cut at three of them.
        squared: the square of the correlation, as VoxelMorph and Kuang use it.
        epsilon: with a plain correlation added to both local variances; squared, to the product of the variances
            summed over the window, as VoxelMorph does. For intensities in [0, 1].
    """

    window: int = 9
    sigma: float | None = None
    squared: bool = False
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if self.sigma is None and (self.window < 1 or self.window % 2 == 0):
            raise ValueError(f"a box window has a centre voxel, so its side is odd; got {self.window}")

    def __call__(self, warped: Image, target: Image, mask: Mask | None = None) -> Score:
        if can_correlate(warped, target, mask):
            return 1 - mean_correlation(warped, target, mask, self._windows(target.ndim - 2))
        return self.plain(warped, target, mask)

    def plain(self, warped: Image, target: Image, mask: Mask | None = None) -> Score:
        """The same in torch: where there is no kernel, and as the kernel's referee."""
        if mask is None:
            mean_a, mean_b, aa, bb, ab = self._local(warped, target)
        else:
            weight = mask.expand_as(target)
            inside = self._average(weight).clamp_min(1e-6)
            mean_a, mean_b, aa, bb, ab = (m / inside for m in self._local(warped, target, weight))
        covariance = ab - mean_a * mean_b
        variance_a = (aa - mean_a.square()).clamp_min(0)
        variance_b = (bb - mean_b.square()).clamp_min(0)
        if self.squared:
            epsilon = self._epsilon(target.ndim - 2)
            correlation = covariance.square() / (variance_a * variance_b + epsilon)
        else:
            correlation = covariance * ((variance_a + self.epsilon) * (variance_b + self.epsilon)).rsqrt()
        return 1 - _mean(correlation, mask)

    def _local(self, a: Image, b: Image, weight: Tensor | None = None) -> Sequence[Tensor]:
        maps = torch.cat([a, b, a * a, b * b, a * b], dim=1)
        if weight is not None:
            maps = maps * weight.repeat(1, 5, *[1] * (a.ndim - 2))
        return self._average(maps).chunk(5, dim=1)

    def _average(self, maps: Tensor) -> Tensor:
        if self.sigma is not None:
            return gaussian_average(maps, self.sigma)
        return box_sum(maps, self.window) / self._volume(maps.ndim - 2)

    def _windows(self, dim: int) -> Windows:
        if self.sigma is None:
            return Windows([1.0] * self.window, 1 / self.window, self._epsilon(dim), self.squared)
        return Windows(_gaussian(self.sigma).tolist(), 1.0, self._epsilon(dim), self.squared)

    def _epsilon(self, dim: int) -> float:
        """What is added to the variances, as averages, or to their product."""
        return self.epsilon / self._volume(dim) ** 2 if self.squared else self.epsilon

    def _volume(self, dim: int) -> float:
        """Voxels that count in a window; of a Gaussian, as if it were the box of the same variance."""
        side = float(self.window) if self.sigma is None else (12 * self.sigma**2 + 1) ** 0.5
        return side**dim


@dataclass(frozen=True)
class NMI:
    """2 - normalised mutual information, (H(A) + H(B)) / H(A, B), of each channel; Studholme et al. 1999.

    For images whose intensities mean different things. 1 where one image says nothing about the other; equal images
    come near 0 but do not reach it, since a voxel counts in several bins. Takes 2 · bins numbers a voxel of memory.

    Args:
        bins: of each histogram, evenly from `low` to `high`.
        low: intensities below count as this; `Preparation` scales images to [0, 1].
        high: intensities above count as this.
        width: standard deviation of the Gaussian Parzen window, in bins.
    """

    bins: int = 32
    low: float = 0.0
    high: float = 1.0
    width: float = 0.5

    def __post_init__(self) -> None:
        if self.bins < 2 or self.low >= self.high or self.width <= 0:
            raise ValueError(f"a histogram takes 2 bins, a range and a window; got {self}")

    def __call__(self, warped: Image, target: Image, mask: Mask | None = None) -> Score:
        weight = torch.ones_like(target[:, :1]) if mask is None else mask.expand_as(target[:, :1])
        weight = (weight / weight.flatten(1).sum(1).clamp_min(1e-12).reshape(-1, *[1] * (target.ndim - 1))).flatten(2)
        a, b = self._membership(warped), self._membership(target)
        with torch.autocast(target.device.type, enabled=False):  # bfloat16 counts no rare bins
            joint = (a * weight[:, :, None]) @ b.transpose(2, 3)
        entropies = _entropy(joint.sum(3), 1) + _entropy(joint.sum(2), 1)
        return (2 - entropies / _entropy(joint, 2).clamp_min(1e-12)).mean()

    def _membership(self, image: Image) -> Float[Tensor, "batch channels bins voxels"]:
        """How much of each voxel counts in each bin; sums to 1."""
        position = (image.flatten(2).clamp(self.low, self.high) - self.low) * ((self.bins - 1) / (self.high - self.low))
        bins = torch.arange(self.bins, dtype=image.dtype, device=image.device)
        return torch.softmax(-0.5 * ((position[:, :, None] - bins[:, None]) / self.width).square(), dim=2)


@dataclass(frozen=True)
class MINDSSC:
    """Mean squared difference of two images' MIND-SSC descriptors, which images of any modality share.

    Heinrich et al. 2013: every voxel is described by how unlike the patches around it are among themselves, for each
    pair of next neighbours at right angles: 12 pairs in 3-D, 4 in 2-D. Images continue outside by their border. A mask
    restricts the patches and the average.

    Args:
        radius: half the side of a patch, voxels; 2 for 5 voxels a side.
        dilation: how far the neighbours are, voxels.
    """

    radius: int = 2
    dilation: int = 2

    def __call__(self, warped: Image, target: Image, mask: Mask | None = None) -> Score:
        difference = self.descriptor(warped, mask) - self.descriptor(target, mask)
        return _mean(difference.square().flatten(1, 2), mask)

    def descriptor(self, image: Image, mask: Mask | None = None) -> Float[Tensor, "batch channels pairs *lattice"]:
        """exp(-unlikeness of the two patches / its mean over the pairs) at every voxel; the most alike have 1.

        Raises:
            ValueError: a 1-D image, in which no two neighbours are at right angles.
        """
        if image.ndim < 4:
            raise ValueError("MIND-SSC compares neighbours at right angles, so images are 2-D or 3-D; got a 1-D image")
        weight = torch.ones_like(image[:, :1]) if mask is None else mask.expand_as(image[:, :1])
        pairs = self._pairs(image.ndim - 2)
        unlikeness = torch.stack([self._unlikeness(image, weight, *pair) for pair in pairs], dim=2)
        unlikeness = unlikeness - unlikeness.amin(2, keepdim=True)
        spread = unlikeness.mean(2, keepdim=True)
        axes = list(range(3, spread.ndim))
        total = weight[:, :, None].sum(axes, keepdim=True).clamp_min(1e-12)
        usual = (spread * weight[:, :, None]).sum(axes, keepdim=True) / total
        spread = spread.maximum(1e-3 * usual).minimum(1e3 * usual)
        return torch.exp(-unlikeness / spread.clamp_min(1e-12))

    def _pairs(self, dim: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Next neighbours, as offsets in voxels, two by two along different axes."""
        steps = [
            (axis, tuple(sign * self.dilation if axis == other else 0 for other in range(dim)))
            for axis in range(dim)
            for sign in (-1, 1)
        ]
        return [(one, other) for (i, one), (j, other) in combinations(steps, 2) if i != j]

    def _unlikeness(self, image: Image, weight: Tensor, one: Sequence[int], other: Sequence[int]) -> Image:
        """Mean squared difference of the patches around two neighbours of every voxel."""
        difference = (self._shifted(image, one) - self._shifted(image, other)).square()
        both = self._shifted(weight, one) * self._shifted(weight, other)
        return self._patch_sum(difference * both) / self._patch_sum(both).clamp_min(1e-6)

    def _shifted(self, image: Image, offset: Sequence[int]) -> Image:
        padded = F.pad(image, [self.dilation] * 2 * (image.ndim - 2), mode="replicate")
        start = [self.dilation + step for step in offset]
        there = tuple(slice(at, at + n) for at, n in zip(start, image.shape[2:], strict=True))
        return padded[:, :, *there]

    def _patch_sum(self, image: Image) -> Image:
        padded = F.pad(image, [self.radius] * 2 * (image.ndim - 2), mode="replicate")
        inner = tuple(slice(self.radius, self.radius + n) for n in image.shape[2:])
        return box_sum(padded, 2 * self.radius + 1)[:, :, *inner]


def box_sum(image: Image, window: int) -> Image:
    """Sums over a box of `window` (odd) voxels a side around every voxel, zeros outside; a few passes over memory."""
    result: Tensor = _BoxSum.apply(image, window)  # type: ignore[no-untyped-call]
    return result


def gaussian_average(image: Image, sigma: float) -> Image:
    """Averages under a Gaussian of `sigma` voxels, cut at three of them and normalised; zeros outside."""
    for axis in range(2, image.ndim):
        n = image.shape[axis]
        index = torch.arange(n, dtype=image.dtype, device=image.device)
        distance = (index[:, None] - index[None, :]).abs()
        weights = _gaussian(sigma, image)
        reach = len(weights) // 2
        kernel = torch.where(distance <= reach, weights[(distance.long() + reach).clamp_max(2 * reach)], 0.0)
        with torch.autocast(image.device.type, enabled=False):  # bfloat16 would leave nothing of a local variance
            image = (image.movedim(axis, -1) @ kernel).movedim(-1, axis)
    return image


def _gaussian(sigma: float, like: Tensor | None = None) -> Tensor:
    """Weights that add to one, (2 reach + 1,), up to three `sigma` on either side; float64 unless like a tensor."""
    reach = int(3 * sigma + 0.5)
    dtype, device = (torch.float64, torch.device("cpu")) if like is None else (like.dtype, like.device)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=dtype, device=device) / sigma).square())
    return weights / weights.sum()


class _BoxSum(Reverse):
    """A centred box is its own adjoint, so the backward is the forward."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, window: int) -> Tensor:
        ctx.window = window
        for axis in range(2, image.ndim):
            image = _running_sum(image, window, axis)
        return image

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return box_sum(gradient, ctx.window), None


def _running_sum(x: Tensor, window: int, axis: int) -> Tensor:
    """Sums of `window` neighbours by doubling: log2(window) additions, and no cancellation as in a cumulative sum."""
    half = window // 2
    n = x.shape[axis]
    padding = [0, 0] * (x.ndim - 1 - axis) + [half, half]
    ready = torch.nn.functional.pad(x, padding)
    result: Tensor | None = None
    start, width = 0, 1
    while width <= window:
        if window & width:
            piece = ready.narrow(axis, start, n)
            result = piece if result is None else result + piece
            start += width
        if 2 * width <= window:
            length = ready.shape[axis] - width
            ready = ready.narrow(axis, 0, length) + ready.narrow(axis, width, length)
        width *= 2
    assert result is not None
    return result


def _entropy(probability: Tensor, axes: int) -> Tensor:
    """Of the last axes, in nats; what is never seen adds nothing."""
    return -(probability * (probability + 1e-12).log()).flatten(-axes).sum(-1)


def _mean(x: Tensor, mask: Mask | None) -> Score:
    if mask is None:
        return x.mean()
    weight = mask.expand(x.shape)
    return (x * weight).sum() / weight.sum().clamp_min(1e-12)
