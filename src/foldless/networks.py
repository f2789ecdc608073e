"""Networks: two images (batch, channels, *lattice) in, one tensor (batch, dim, *lattice) out; of `AffineNet` a matrix.

What the tensor means (a displacement, a velocity) is decided by `Predict`. Every last layer starts at zero, so that
maps start at the identity. A network computes in the dtype of its images (bfloat16 where that is
fast), but its last layer in the dtype of its parameters: coordinates never pass through bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from foldless.kernels.convolution import double, halve
from foldless.kernels.doubling import add_doubled
from foldless.kernels.norm import normalise
from foldless.kernels.thin import thin

Image = Float[Tensor, "batch channels *lattice"]
Prediction = Float[Tensor, "batch dim *lattice"]
Normalisation = Literal["batch", "instance", "none"]

_CONVOLUTION: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, type[nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_AVERAGE_POOL: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE_POOL: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}
_LAYOUT = {4: torch.channels_last, 5: torch.channels_last_3d}


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation in any dimension; torch's parameters, buffers and result."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any dimension will do."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        y, mean, variance = normalise(x, self.weight, self.bias, self.eps, by_sample=False)
        count = x.numel() // x.shape[1]
        with torch.no_grad():
            for running, now in ((self.running_mean, mean), (self.running_var, variance * count / max(count - 1, 1))):
                assert running is not None
                running.lerp_(now[0].to(running.dtype), self.momentum or 0.1)
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
        return y


class InstanceNorm(nn.Module):
    """Each channel of each sample to mean 0 and variance 1, then scaled; nothing depends on the batch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return normalise(x, self.weight, self.bias, 1e-5, by_sample=True)[0]


class MLP(nn.Module):
    """ICON's multilayer perceptron: both images flattened, two hidden layers with ReLU; §4.2.

    Args:
        shape: the lattice it is made for; the only network that is bound to one.
        hidden: widths of the hidden layers.
        channels: channels of both images together.
    """

    def __init__(self, shape: Sequence[int], hidden: Sequence[int] = (8000, 3000), channels: int = 2) -> None:
        super().__init__()
        self.shape = tuple(shape)
        widths = [channels * prod(shape), *hidden]
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))
        self.last = _zero(nn.Linear(widths[-1], len(self.shape) * prod(shape)))

    def forward(self, image_A: Image, image_B: Image) -> Prediction:
        if tuple(image_A.shape[2:]) != self.shape:
            raise ValueError(
                f"this MLP was made for images of {self.shape}; got {tuple(image_A.shape[2:])}; the other networks "
                "take any size"
            )
        x = torch.cat([image_A, image_B], dim=1).flatten(1)
        for layer in self.hidden:
            x = F.relu(F.linear(x, *_cast(layer, x)))
        return _last(self.last, x).reshape(-1, len(self.shape), *self.shape)


class EncoderDecoder(nn.Module):
    """ICON's convolutional encoder and decoder, no skip connections; §4.2 and the supplement. Output divided by 10."""

    def __init__(
        self, dim: int, down: Sequence[int] = (2, 16, 32, 64, 256, 512), up: Sequence[int] = (512, 256, 128, 64, 32, 16)
    ) -> None:
        super().__init__()
        self.down = nn.ModuleList(_CONVOLUTION[dim](i, o, 3, stride=2, padding=1) for i, o in pairwise(down))
        self.up = nn.ModuleList(_TRANSPOSED[dim](i, o, 4, stride=2, padding=1) for i, o in pairwise(up))
        self.last = _zero(_CONVOLUTION[dim](up[-1], dim, 3, padding=1))

    def forward(self, image_A: Image, image_B: Image) -> Prediction:
        x = _joined(image_A, image_B)
        sizes = []
        for layer in self.down:
            sizes.append(x.shape[2:])
            x = F.relu(_halve(layer, x))
        for layer, size in zip(self.up, reversed(sizes), strict=True):
            x = _crop(F.relu(_double(layer, x)), size)
        return _last(self.last, x) / 10


class ConvOnly(nn.Module):
    """ICON's six 5-wide convolutions without any change of resolution, densely connected; §4.2."""

    def __init__(self, dim: int, channels: int = 2, features: int = 10, layers: int = 6) -> None:
        super().__init__()
        widths = [channels + features * layer for layer in range(layers)]
        self.hidden = nn.ModuleList(_CONVOLUTION[dim](i, features, 5, padding=2) for i in widths[:-1])
        self.last = _zero(_CONVOLUTION[dim](widths[-1], dim, 5, padding=2))

    def forward(self, image_A: Image, image_B: Image) -> Prediction:
        x = _joined(image_A, image_B)
        for layer in self.hidden:
            x = torch.cat([x, F.relu(_same(layer, x))], dim=1)
        return _last(self.last, x)


class ResidualUNet(nn.Module):
    """ICON's U-Net with residual down- and upsampling, any depth and width; output divided by 10.

    Sizes that are not multiples of 2^depth are rounded up on the way down and cropped on the way up.

    Args:
        dim: number of spatial dimensions.
        down: channels on the way down, those of both images together first.
        up: channels on the way up, finest first.
        normalisation: "batch" as published; "instance" does not depend on the batch; or "none".
        bottleneck: nodes of the coarsest lattice and a width: two linear layers between the way down and the way up, as
            in the first network of ICON's knees; they bind the network to images with so many nodes down there.
    """

    def __init__(
        self,
        dim: int,
        down: Sequence[int] = (2, 16, 32, 64, 256, 512),
        up: Sequence[int] = (16, 32, 64, 128, 256),
        normalisation: Normalisation = "batch",
        bottleneck: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if len(up) != len(down) - 1:
            raise ValueError(f"{len(down) - 1} steps down need as many up; got {len(up)}")
        inputs = [coarse + skip for coarse, skip in zip(down[1:], [*up[1:], 0], strict=True)]
        self.down = nn.ModuleList(_CONVOLUTION[dim](i, o, 3, stride=2, padding=1) for i, o in pairwise(down))
        self.up = nn.ModuleList(_TRANSPOSED[dim](i, o, 4, stride=2, padding=1) for i, o in zip(inputs, up, strict=True))
        self.normalise = nn.ModuleList(_normalisation(normalisation, o) for o in up)
        self.bottleneck = _Bottleneck(down[-1] * bottleneck[0], bottleneck[1]) if bottleneck else None
        self.last = _zero(_CONVOLUTION[dim](down[0] + up[0], dim, 3, padding=1))

    def forward(self, image_A: Image, image_B: Image) -> Prediction:
        x = _joined(image_A, image_B)
        skips = []
        for layer in self.down:
            skips.append(x)
            pooled = _pooled(x)
            x = _add_matching(_halve(layer, F.leaky_relu(x)), pooled)
        if self.bottleneck is not None:
            x = self.bottleneck(x)
        for layer, scaled, skip in zip(reversed(self.up), reversed(self.normalise), reversed(skips), strict=True):
            active, kept = _fork(x, layer.get_parameter("weight").shape[1])
            x = scaled(add_doubled(_double(layer, active), kept))
            x = torch.cat([_crop(x, skip.shape[2:]), skip], dim=1)
        return _last(self.last, x) / 10


class _Bottleneck(nn.Module):
    """All features of the coarsest lattice through two linear layers, back to the same shape."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(features, hidden), nn.Linear(hidden, features)])

    def forward(self, x: Tensor) -> Tensor:
        narrow, wide = self.layers
        flat = x.flatten(1)
        expected = narrow.get_parameter("weight").shape[1] // x.shape[1]
        if flat.shape[1] != expected * x.shape[1]:
            raise ValueError(
                f"this network's bottleneck was made for {expected} nodes on the coarsest lattice; the images have "
                f"{tuple(x.shape[2:])} there, so they must be of another size"
            )
        flat = F.leaky_relu(F.linear(flat, *_cast(narrow, x)))
        return _laid_out_as(F.linear(flat, *_cast(wide, x)).reshape(x.shape), x)


class VoxelMorphUNet(nn.Module):
    """VoxelMorph-1, Kuang's baseline: 259 675 parameters in 3-D with the published widths; output in voxels / (n - 1).

    The published network emits a displacement in voxels; here it is scaled to the unit cube, so that every network
    speaks the same units. Sizes that are not multiples of 2^depth are padded at the input and cropped at the output.

    Args:
        dim: number of spatial dimensions.
        encoder: widths of the stride-2 convolutions.
        decoder: widths after each doubling, coarsest first; the first is at the coarsest lattice.
        full: widths of the two convolutions at full resolution.
        channels: channels of both images together.
    """

    def __init__(
        self,
        dim: int,
        encoder: Sequence[int] = (16, 32, 32, 32),
        decoder: Sequence[int] = (32, 32, 32, 32),
        full: Sequence[int] = (8, 8),
        channels: int = 2,
    ) -> None:
        super().__init__()
        if len(encoder) != len(decoder):
            raise ValueError(f"{len(encoder)} encoder widths need as many decoder widths; got {len(decoder)}")
        convolution = _CONVOLUTION[dim]
        self.depth = len(encoder)
        widths = [channels, *encoder]
        self.encoder = nn.ModuleList(convolution(i, o, 3, stride=2, padding=1) for i, o in pairwise(widths))
        skips = [0, *list(encoder[:-1])[::-1]]
        inputs = [encoder[-1], *decoder[:-1]]
        self.decoder = nn.ModuleList(
            convolution(i + s, o, 3, padding=1) for i, s, o in zip(inputs, skips, decoder, strict=True)
        )
        self.before = convolution(decoder[-1], full[0], 3, padding=1)
        self.after = convolution(full[0] + channels, full[1], 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=0.2)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.last = _zero(convolution(full[1], dim, 3, padding=1))

    def forward(self, image_A: Image, image_B: Image) -> Prediction:
        images = _joined(image_A, image_B)
        size = images.shape[2:]
        images = _pad_to_multiple(images, 2**self.depth)
        x, skips = images, []
        for layer in self.encoder:
            skips.append(x)
            x = F.leaky_relu(_halve(layer, x), 0.2)
        for level, layer in enumerate(self.decoder):
            if level:
                x = torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), skips[-level]], dim=1)
            x = F.leaky_relu(_same(layer, x), 0.2)
        x = F.leaky_relu(_same(self.before, x), 0.2)
        x = torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), images], dim=1)
        x = F.leaky_relu(_same(self.after, x), 0.2)
        voxels = _crop(_last(self.last, x), size)
        scale = torch.tensor([1.0 / max(n - 1, 1) for n in size], dtype=voxels.dtype, device=voxels.device)
        return voxels * scale.reshape(1, -1, *[1] * len(size))


class Refinement(nn.Module):
    """Kuang's residual module: R(u) = u + conv(LeakyReLU(conv(u))), 3-wide, slope 0.2; u is a displacement in voxels.

    As published, a LeakyReLU follows the last convolution too, which lets corrections towards larger coordinates
    through whole and others at a fifth. With `channels` of images the module sees the warped and the fixed image
    beside u: our own variant. It starts at the identity, and computes in u's dtype: u is made of coordinates.

    Args:
        dim: number of spatial dimensions.
        hidden: width between the two convolutions.
        leaky: whether a LeakyReLU comes last, as published.
        channels: channels of both images together; 0 for a module that sees u alone.
    """

    def __init__(self, dim: int, hidden: int = 16, leaky: bool = True, channels: int = 0) -> None:
        super().__init__()
        self.leaky = leaky
        self.channels = channels
        self.hidden = _CONVOLUTION[dim](dim + channels, hidden, 3, padding=1)
        self.last = _zero(_CONVOLUTION[dim](hidden, dim, 3, padding=1))

    def forward(self, displacement: Prediction, warped: Image, fixed: Image) -> Prediction:
        seen = _joined(displacement, warped, fixed) if self.channels else _joined(displacement)
        correction = _last(self.last, F.leaky_relu(_same(self.hidden, seen), 0.2))
        return displacement + (F.leaky_relu(correction, 0.2) if self.leaky else correction)


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
        self.down = nn.ModuleList(_CONVOLUTION[dim](i, o, 3, stride=2, padding=1) for i, o in pairwise(down))
        self.hidden = nn.Linear(down[-1] * pooled**dim, hidden)
        self.last = _zero(nn.Linear(hidden, dim * (dim + 1)))

    def forward(self, image_A: Image, image_B: Image) -> Float[Tensor, "batch dim columns"]:
        x = _joined(image_A, image_B)
        for layer in self.down:
            x = F.leaky_relu(_halve(layer, x))
        x = _ADAPTIVE_POOL[self.dim](x.to(self.hidden.weight.dtype), self.pooled).flatten(1)
        x = F.leaky_relu(self.hidden(x))
        return _last(self.last, x).reshape(-1, self.dim, self.dim + 1)


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


def _zero(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _last(layer: nn.Module, x: Tensor) -> Tensor:
    """The last layer, in its parameters' own dtype: bfloat16's 8 bits are 1/256 of a displacement."""
    with torch.autocast(x.device.type, enabled=False):
        if isinstance(layer, nn.Linear):
            return F.linear(x.to(layer.weight.dtype), layer.weight, layer.bias)
        return thin(x, layer.get_parameter("weight"), layer.get_parameter("bias"))


def _same(layer: nn.Module, x: Tensor) -> Tensor:
    """A convolution that keeps the lattice, in the dtype of its input; odd width, padding to match."""
    if x.dtype == torch.bfloat16 and max(x.shape[2:]) <= 2:  # torch 2.13's backward there reads what nobody wrote
        return _same(layer, x.float()).to(x.dtype)
    weight, bias = _cast(layer, x)
    dim, padding = x.ndim - 2, [n // 2 for n in weight.shape[2:]]
    return torch.convolution(x, weight, bias, [1] * dim, padding, [1] * dim, False, [0] * dim, 1)


def _halve(layer: nn.Module, x: Tensor) -> Tensor:
    return halve(x, layer.get_parameter("weight"), layer.get_parameter("bias"))


def _double(layer: nn.Module, x: Tensor) -> Tensor:
    return double(x, layer.get_parameter("weight"), layer.get_parameter("bias"))


def _cast(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's weight and bias in the dtype of its input."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    return weight.to(x.dtype), bias.to(x.dtype)


def _normalisation(name: Normalisation, channels: int) -> nn.Module:
    match name:
        case "batch":
            return BatchNorm(channels)
        case "instance":
            return InstanceNorm(channels)
        case "none":
            return nn.Identity()
    raise ValueError(f'normalisation is "batch", "instance" or "none"; got {name!r}')


def _joined(*images: Tensor) -> Tensor:
    """Images as the channels of one, in the memory layout that convolutions prefer."""
    joined = torch.cat(images, dim=1)
    layout = _LAYOUT.get(joined.ndim)
    return joined if layout is None else joined.contiguous(memory_format=layout)


def _laid_out_as(x: Tensor, like: Tensor) -> Tensor:
    layout = _LAYOUT.get(like.ndim)
    return x.contiguous(memory_format=layout) if layout and like.is_contiguous(memory_format=layout) else x


def _pooled(x: Tensor) -> Tensor:
    """Means of 2-wide blocks; torch pools no volumes in bfloat16."""
    block = [min(2, n) for n in x.shape[2:]]
    wide = x.float() if x.dtype == torch.bfloat16 and x.ndim != 4 else x
    return _AVERAGE_POOL[x.ndim - 2](wide, block, ceil_mode=True).to(x.dtype)


def _fork(x: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """leaky_relu(x), and x with its channels matched: the last dropped, or zeros put before the first, as published."""
    have = x.shape[1]
    if have < channels:
        return F.leaky_relu(x), torch.cat([x.new_zeros(x.shape[0], channels - have, *x.shape[2:]), x], dim=1)
    active, kept = _Fork.apply(x, channels)  # type: ignore[no-untyped-call]
    return active, kept


class _Fork(torch.autograd.Function):
    """Both uses of x in one backward, which spares a tensor of zeros and two passes over memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, channels: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.channels = channels
        return F.leaky_relu(x), _laid_out_as(x[:, :channels].clone(), x)

    @staticmethod
    def backward(ctx: Any, active: Tensor, kept: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        gradient: Tensor = torch.ops.aten.leaky_relu_backward(active, x, 0.01, False)
        gradient[:, : ctx.channels] += kept
        return gradient, None


def _add_matching(x: Tensor, y: Tensor) -> Tensor:
    """x + y, y's channels matched to x's."""
    have, want = y.shape[1], x.shape[1]
    if have >= want:
        return x + y[:, :want]
    return torch.cat([x[:, : want - have], x[:, want - have :] + y], dim=1)


def _crop(x: Tensor, size: Sequence[int]) -> Tensor:
    for axis, n in enumerate(size, start=2):
        x = x.narrow(axis, 0, n)
    return x


def _pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zeros after the last node of every axis: nodes keep their index, so all levels stay aligned."""
    missing = [-n % multiple for n in x.shape[2:]]
    return F.pad(x, [side for n in reversed(missing) for side in (0, n)])
