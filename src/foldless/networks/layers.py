"""What networks are made of: layers that compute in the dtype of their input, and the layout of what goes between."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from foldless.kernels import convolution
from foldless.kernels.library import own_types
from foldless.kernels.planar import add_convolved
from foldless.kernels.thin import thin

Image = Float[Tensor, "batch channels *lattice"]
Prediction = Float[Tensor, "batch dim *lattice"]

CONVOLUTION: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
ADAPTIVE_POOL: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}
_LAYOUT = {4: torch.channels_last, 5: torch.channels_last_3d}


def zero(layer: nn.Module) -> nn.Module:
    """The layer with nothing but zeros: where a network that answers nothing starts."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def lay_out(network: nn.Module, dim: int) -> None:
    """Weights in the memory layout that convolutions prefer, so that no step has to turn them around."""
    if layout := _LAYOUT.get(dim + 2):
        network.to(memory_format=layout)  # type: ignore[call-overload]


def last(
    layer: nn.Module,
    x: Tensor,
    beside: Tensor | None = None,
    factor: float = 1.0,
    thinned: Callable[[Tensor, Tensor, Tensor], Tensor] = thin,
) -> Tensor:
    """The last layer times a factor, in its parameters' own dtype: bfloat16's 8 bits are 1/256 of a displacement.

    Few more channels `beside` those of x are read where they are, which spares joining them; `thinned` may do more to
    x than a thin convolution.
    """
    weight, bias = (layer.get_parameter(name) * factor for name in ("weight", "bias"))
    with own_types(x):
        if isinstance(layer, nn.Linear):
            return F.linear(x.to(weight.dtype), weight, bias)
        if beside is None:
            return thin(x, weight, bias)
        own, others = weight[:, : x.shape[1]], weight[:, x.shape[1] :]
        return add_convolved(thinned(x, own, bias), beside, others)


def same(layer: nn.Module, x: Tensor) -> Tensor:
    """A convolution that keeps the lattice, in the dtype of its input; odd width, padding to match."""
    return convolution.keep(x, layer.get_parameter("weight"), layer.get_parameter("bias"))


def halve(layer: nn.Module, x: Tensor) -> Tensor:
    """A 3-wide convolution with stride 2, in the dtype of its input."""
    return convolution.halve(x, layer.get_parameter("weight"), layer.get_parameter("bias"))


def double(layer: nn.Module, x: Tensor) -> Tensor:
    """A transposed 4-wide convolution with stride 2, in the dtype of its input."""
    return convolution.double(x, layer.get_parameter("weight"), layer.get_parameter("bias"))


def cast(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's weight and bias in the dtype of its input."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    return weight.to(x.dtype), bias.to(x.dtype)


def joined(*images: Tensor) -> Tensor:
    """Images as the channels of one, in the memory layout that convolutions prefer."""
    image = torch.cat(images, dim=1)
    layout = _LAYOUT.get(image.ndim)
    return image if layout is None else image.contiguous(memory_format=layout)


def laid_out_as(x: Tensor, like: Tensor) -> Tensor:
    """x in the memory layout of another tensor."""
    layout = _LAYOUT.get(like.ndim)
    return x.contiguous(memory_format=layout) if layout and like.is_contiguous(memory_format=layout) else x


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """The first nodes of every axis."""
    for axis, n in enumerate(size, start=2):
        x = x.narrow(axis, 0, n) if x.shape[axis] > n else x
    return x


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zeros after the last node of every axis: nodes keep their index, so all levels stay aligned."""
    missing = [-n % multiple for n in x.shape[2:]]
    return F.pad(x, [side for n in reversed(missing) for side in (0, n)])
