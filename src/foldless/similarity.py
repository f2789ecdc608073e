"""Similarities: (warped, target, mask) -> scalar, lower is better, 0 for equal images that are not constant (but NMI).

Images are (batch, channels, *lattice), of one shape; a mask (batch or 1, 1, *lattice) in [0, 1] weighs every voxel.
Each similarity is a mean over voxels, so that it means the same on every lattice.

Images hold real numbers of any type and range. Halves, bools and integers of 8 and 16 bits are compared as float32,
which holds them exactly, longer integers as float64; the score has that type. A mask of bools or integers counts where
it is not zero, and images may hold anything, NaN included, where a mask is zero.

Raises, all of them: TypeError for what is no tensor, or complex; ValueError for shapes or devices that do not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from foldless.arguments import check_flag, check_number, check_tensor, check_whole
from foldless.kernels.correlation import Windows, can_correlate, mean_correlation
from foldless.kernels.library import own_types
from foldless.kernels.local_sums import box_sum, gaussian, gaussian_average, share_outside

Image = Shaped[Tensor, "batch channels *lattice"]
Mask = Shaped[Tensor, "#batch 1 *lattice"]
Score = Float[Tensor, ""]

FLOAT32_HOLDS = 1.01
"""Intensities up to which float32 leaves of local variances what `LNCC.epsilon` needs; interpolation may round up."""


@runtime_checkable
class Similarity(Protocol):
    """How unlike two images are."""

    def __call__(self, warped: Image, target: Image, mask: Mask | None = None) -> Score: ...


@dataclass(frozen=True)
class MSE:
    """Mean squared difference; ICON, Eq. (14)."""

    def __call__(self, warped: Image, target: Image, mask: Mask | None = None) -> Score:
        warped, target, mask = _numbers(warped, target, mask)
        return _mean((warped - target).square(), mask)


@dataclass(frozen=True, kw_only=True)
class NCC:
    """1 - normalised cross correlation over the whole image, mean over batch and channels.

    `epsilon` is added to both variances, which makes constant images score 1 instead of NaN.
    """

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        check_number("epsilon", self.epsilon, least=0.0)

    def __call__(self, warped: Image, target: Image, mask: Mask | None = None) -> Score:
        warped, target, mask = _numbers(warped, target, mask)
        axes = list(range(2, warped.ndim))
        weight = torch.ones_like(target[:, :1]) if mask is None else mask.expand_as(target[:, :1])
        total = weight.sum(axes, keepdim=True).clamp_min(1e-12)

        def average(x: Tensor) -> Tensor:
            return (x * weight).sum(axes, keepdim=True) / total

        a, b = warped - average(warped), target - average(target)
        a, b = a - average(a).detach(), b - average(b).detach()  # what rounding left
        deviations = [(average(x * x) + self.epsilon).sqrt() for x in (a, b)]
        correlation = average(a * b) / deviations[0] / deviations[1]
        return (1 - correlation).mean()


@dataclass(frozen=True, kw_only=True)
class LNCC:
    """1 - normalised cross correlation in a window around every voxel, averaged.

    Either a box of `window` voxels a side or, with `sigma` (voxels), a Gaussian; both see zeros outside the image.
    A mask restricts both the windows and the average.

    Local variances are differences that cancel where intensities are far from zero. Images beyond -1 ... 1 are
    therefore compared in float64, at twice the time, and about their means: raw CT and large offsets serve.

    Args:
        window: side of the box, odd.
        sigma: standard deviation of the Gaussian window instead, cut at three of them.
        squared: the square of the correlation, as VoxelMorph and Kuang use it.
        epsilon: with a plain correlation added to both local variances; squared, to the product of the variances
            summed over the window, as VoxelMorph does. For intensities in [0, 1]; of others, windows that are nearly
            constant count for what they are.

    Raises:
        TypeError: an argument of another kind.
        ValueError: a window without a centre, or numbers that are not positive.
    """

    window: int = 9
    sigma: float | None = None
    squared: bool = False
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        check_whole("window", self.window, least=1)
        if self.sigma is not None:
            check_number("sigma", self.sigma, above=0.0)
        check_flag("squared", self.squared)
        check_number("epsilon", self.epsilon, least=0.0)
        if self.window % 2 == 0:
            raise ValueError(f"a box window has a centre voxel, so its side is odd; got {self.window}")

    def __call__(self, warped: Image, target: Image, mask: Mask | None = None) -> Score:
        warped, target, mask = _numbers(warped, target, mask)
        dtype = torch.float64 if _beyond(FLOAT32_HOLDS, warped, target) else warped.dtype
        a, b, weight = warped.to(dtype), target.to(dtype), None if mask is None else mask.to(dtype)
        if can_correlate(a, b, weight):
            score = 1 - mean_correlation(a, b, weight, self._windows(target.ndim - 2))
        else:
            score = self.plain(a, b, weight)
        return score.to(warped.dtype)

    def plain(self, warped: Image, target: Image, mask: Mask | None = None) -> Score:
        """The same in torch, of images of one float type: where there is no kernel, and as the kernel's referee."""
        at_a, at_b = _middle(warped, mask), _middle(target, mask)
        a, b = warped - at_a, target - at_b
        if mask is None:
            mean_a, mean_b, aa, bb, ab = self._local(a, b)
            outside = share_outside(target, self._windows(1).kernel)
            mean_a, mean_b = mean_a - outside * at_a, mean_b - outside * at_b
            aa, bb, ab = aa + outside * at_a.square(), bb + outside * at_b.square(), ab + outside * at_a * at_b
        else:
            weight = mask.expand_as(target)
            inside = self._average(weight).clamp_min(1e-6)
            mean_a, mean_b, aa, bb, ab = (m / inside for m in self._local(a, b, weight))
        variance_a, variance_b = _variance(mean_a, aa), _variance(mean_b, bb)
        covariance = ab - mean_a * mean_b
        if target.dtype == torch.float64:
            covariance = torch.where(variance_a + variance_b > 0, covariance, 0)
            covariance = covariance - torch.where(variance_a * variance_b > 0, 0, covariance).detach()
        if self.squared:
            epsilon = self._epsilon(target.ndim - 2)
            square, product = covariance.square(), variance_a * variance_b
            square = square - (square - product).detach().clamp_min(0)  # what rounding has above Cauchy and Schwarz
            correlation = square / (product + epsilon)
        else:
            correlation = covariance * ((variance_a + self.epsilon) * (variance_b + self.epsilon)).rsqrt()
            correlation = correlation - (correlation - correlation.clamp(-1, 1)).detach()
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
        return Windows(gaussian(self.sigma).tolist(), 1.0, self._epsilon(dim), self.squared)

    def _epsilon(self, dim: int) -> float:
        """What is added to the variances, as averages, or to their product."""
        return self.epsilon / self._volume(dim) ** 2 if self.squared else self.epsilon

    def _volume(self, dim: int) -> float:
        """Voxels that count in a window; of a Gaussian, as if it were the box of the same variance."""
        side = float(self.window) if self.sigma is None else (12 * self.sigma**2 + 1) ** 0.5
        return side**dim


@dataclass(frozen=True, kw_only=True)
class NMI:
    """2 - normalised mutual information, (H(A) + H(B)) / H(A, B), of each channel; Studholme et al. 1999.

    For images whose intensities mean different things. 1 where one image says nothing about the other; equal images
    come near 0 but do not reach it, since a voxel counts in several bins. Takes 2 · bins numbers a voxel of memory.

    Args:
        bins: of each histogram, evenly from `low` to `high`.
        low: intensities below count as this; `Preparation` scales images to [0, 1].
        high: intensities above count as this.
        width: standard deviation of the Gaussian Parzen window, in bins.

    Raises:
        TypeError: an argument of another kind.
        ValueError: fewer than two bins, an empty range or window.
    """

    bins: int = 32
    low: float = 0.0
    high: float = 1.0
    width: float = 0.5

    def __post_init__(self) -> None:
        check_whole("bins", self.bins, least=2)
        for name in ("low", "high"):
            check_number(name, getattr(self, name))
        check_number("width", self.width, above=0.0)
        if self.low >= self.high:
            raise ValueError(f"a histogram takes 2 bins, a range and a window; got {self}")

    def __call__(self, warped: Image, target: Image, mask: Mask | None = None) -> Score:
        warped, target, mask = _numbers(warped, target, mask)
        weight = torch.ones_like(target[:, :1]) if mask is None else mask.expand_as(target[:, :1])
        weight = (weight / weight.flatten(1).sum(1).clamp_min(1e-12).reshape(-1, *[1] * (target.ndim - 1))).flatten(2)
        a, b = self._membership(warped), self._membership(target)
        with own_types(target):  # bfloat16 counts no rare bins
            joint = (a * weight[:, :, None]) @ b.transpose(2, 3)
        entropies = _entropy(joint.sum(3), 1) + _entropy(joint.sum(2), 1)
        return (2 - entropies / _entropy(joint, 2).clamp_min(1e-12)).mean()

    def _membership(self, image: Image) -> Float[Tensor, "batch channels bins voxels"]:
        """How much of each voxel counts in each bin; sums to 1."""
        position = (image.flatten(2).clamp(self.low, self.high) - self.low) * ((self.bins - 1) / (self.high - self.low))
        bins = torch.arange(self.bins, dtype=image.dtype, device=image.device)
        return torch.softmax(-0.5 * ((position[:, :, None] - bins[:, None]) / self.width).square(), dim=2)


@dataclass(frozen=True, kw_only=True)
class MINDSSC:
    """Mean squared difference of two images' MIND-SSC descriptors, which images of any modality share.

    Heinrich et al. 2013: every voxel is described by how unlike the patches around it are among themselves, for each
    pair of next neighbours at right angles: 12 pairs in 3-D, 4 in 2-D. Images continue outside by their border. A mask
    restricts the patches and the average.

    Args:
        radius: half the side of a patch, voxels; 2 for 5 voxels a side.
        dilation: how far the neighbours are, voxels.

    Raises:
        TypeError: an argument of another kind.
        ValueError: a radius below 0, a dilation below 1.
    """

    radius: int = 2
    dilation: int = 2

    def __post_init__(self) -> None:
        check_whole("radius", self.radius, least=0)
        check_whole("dilation", self.dilation, least=1)

    def __call__(self, warped: Image, target: Image, mask: Mask | None = None) -> Score:
        warped, target, mask = _numbers(warped, target, mask)
        difference = self.descriptor(warped, mask) - self.descriptor(target, mask)
        return _mean(difference.square().flatten(1, 2), mask)

    def descriptor(self, image: Image, mask: Mask | None = None) -> Float[Tensor, "batch channels pairs *lattice"]:
        """exp(-unlikeness of the two patches / its mean over the pairs) at every voxel; the most alike have 1.

        Raises:
            ValueError: a 1-D image, in which no two neighbours are at right angles.
        """
        if image.ndim < 4:
            raise ValueError("MIND-SSC compares neighbours at right angles, so images are 2-D or 3-D; got a 1-D image")
        image, _, mask = _numbers(image, image, mask)
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


def _numbers(warped: Image, target: Image, mask: Mask | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The images and the mask in one float type, at least float32, the images 0 where the mask is."""
    for name, image in (("the warped image", warped), ("the target", target)):
        check_tensor(name, image, "(batch, channels, *lattice)")
    if not target.numel():
        raise ValueError(f"images have voxels to compare; got the shape {tuple(target.shape)}")
    if warped.shape != target.shape or warped.device != target.device:
        raise ValueError(
            "images of one shape on one device are compared; got "
            f"{' and '.join(f'{tuple(x.shape)} on {x.device}' for x in (warped, target))}: warp one onto the other"
        )
    dtype = torch.promote_types(_float_type(warped), _float_type(target))
    warped, target = warped.to(dtype), target.to(dtype)
    if mask is None:
        return warped, target, None
    check_tensor("a mask", mask, "(batch or 1, 1, *lattice)")
    lattice, alike = target.shape[2:], mask.shape[0] in (1, len(target)) and mask.device == target.device
    if mask.shape[1:] != (1, *lattice) or not alike:
        raise ValueError(
            f"a mask for images of shape {tuple(target.shape)} on {target.device} is ({len(target)} or 1, 1, "
            f"{', '.join(map(str, lattice))}); got {tuple(mask.shape)} on {mask.device}"
        )
    weight = (mask if mask.is_floating_point() else mask != 0).to(dtype)
    if not weight.requires_grad:  # its own gradient looks at what it leaves out
        left_out = weight <= 0
        warped, target = warped.masked_fill(left_out, 0), target.masked_fill(left_out, 0)
    return warped, target, weight


def _float_type(x: Tensor) -> torch.dtype:
    """The float type, at least float32, that holds every number of a tensor exactly; of 64 bits, nearly."""
    wide = x.dtype == torch.float64 if x.is_floating_point() else x.dtype.itemsize > 2
    return torch.float64 if wide else torch.float32


def _beyond(limit: float, *images: Tensor) -> bool:
    """Whether an image has intensities outside -limit ... limit."""
    extremes = [extreme for image in images for extreme in torch.aminmax(image.detach())]
    return bool(torch.stack(extremes).abs().max() > limit)


def _variance(mean: Tensor, square: Tensor) -> Tensor:
    """From the mean and the mean square; in float64, which serves large intensities, 0 where it is but rounding."""
    variance = square - mean.square()
    if variance.dtype == torch.float64:
        variance = torch.where(variance > 16 * torch.finfo(torch.float64).eps * square, variance, 0)
    return variance.clamp_min(0)


def _middle(image: Image, mask: Mask | None) -> Tensor:
    """A mean of each image, (batch, channels, *ones), to take moments about; any number near would do."""
    image, axes = image.detach(), list(range(2, image.ndim))
    if mask is None:
        return image.mean(axes, keepdim=True)
    weight = mask.detach()
    return (image * weight).sum(axes, keepdim=True) / weight.sum(axes, keepdim=True).clamp_min(1e-12)


def _entropy(probability: Tensor, axes: int) -> Tensor:
    """Of the last axes, in nats; what is never seen adds nothing."""
    return -(probability * (probability + 1e-12).log()).flatten(-axes).sum(-1)


def _mean(x: Tensor, mask: Mask | None) -> Score:
    if mask is None:
        return x.mean()
    weight = mask.expand(x.shape)
    return (x * weight).sum() / weight.sum().clamp_min(1e-12)
