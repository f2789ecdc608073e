"""The lattice on the unit cube, and the one function that reads values off it.

Lattice nodes lie at 0 and 1 inclusive on every axis; coordinates are in array-axis order (i, j, k).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Values = Float[Tensor, "#batch channels *lattice"]
Points = Float[Tensor, "#batch dim *at"]


@dataclass(frozen=True)
class Grid:
    """A lattice of `shape` nodes on the unit cube, corner-aligned: node k of n lies at k / (n - 1)."""

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"a grid needs at least one node on every axis; got the shape {self.shape}")

    @classmethod
    def of(cls, image: Float[Tensor, "batch channels *lattice"]) -> Grid:
        """The lattice that the image (batch, channels, *lattice) lives on."""
        return cls(tuple(image.shape[2:]))

    @property
    def dim(self) -> int:
        return len(self.shape)

    @property
    def voxel(self) -> tuple[float, ...]:
        """The side of a voxel on each axis, in the unit cube: 1 / (n - 1)."""
        return tuple(1.0 / max(n - 1, 1) for n in self.shape)

    def points(self, like: Tensor | None = None) -> Float[Tensor, "1 dim *lattice"]:
        """Coordinates of the nodes, (1, dim, *shape), in the dtype and on the device of `like` (float32, CPU)."""
        dtype = torch.float32 if like is None else like.dtype
        device = None if like is None else like.device
        axes = [torch.arange(n, dtype=dtype, device=device) / max(n - 1, 1) for n in self.shape]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]

    def jittered(self, batch: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The nodes moved by Gaussian noise of one voxel per axis, (batch, dim, *shape); ICON, Eq. (16).

        Every sample of the batch has noise of its own.
        """
        shape = (batch, self.dim, *self.shape)
        noise = torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
        return self.points(like) + noise * per_axis(self.voxel, noise)


def per_axis(numbers: Sequence[float], like: Points) -> Float[Tensor, "1 dim *ones"]:
    """One number an axis, shaped to multiply points (batch, dim, *at)."""
    column = torch.tensor(numbers, dtype=like.dtype, device=like.device)
    return column.reshape(1, -1, *[1] * (like.ndim - 2))


def sample(values: Values, points: Points) -> Float[Tensor, "#batch channels *at"]:
    """Multilinear interpolation of `values` (batch, channels, *lattice) at `points` (batch, dim, *at), unit cube.

    Outside the cube the border value continues. Either batch may be 1 and then serves every sample of the other.

    Raises:
        ValueError: points and lattice differ in dimension, or the batches do not broadcast.
    """
    values, points = _broadcast(values, points)
    batch, channels = values.shape[:2]
    at = points.shape[2:]
    torch_points, torch_values = _as_grid_sample_wants(values, points)
    result = F.grid_sample(torch_values, torch_points, mode="bilinear", padding_mode="border", align_corners=True)
    return result.reshape(batch, channels, *at)


def sample_with_jacobian(
    values: Values, points: Points
) -> tuple[Float[Tensor, "#batch channels *at"], Float[Tensor, "#batch channels dim *at"]]:
    """What `sample` returns, and its derivative by the points (batch, channels, dim, *at), from the same corners.

    The interpolant has a kink at every node: there the derivative is the one towards larger coordinates, and at
    the last node the one towards smaller. Outside the cube it is zero on the clamped axes, as the value is constant.
    """
    values, points = _broadcast(values, points)
    lattice, dim = values.shape[2:], points.shape[1]
    scale = per_axis([float(n - 1) for n in lattice], points)
    index = points * scale
    last = per_axis([max(n - 2, 0) for n in lattice], points)
    low = index.detach().floor().clamp_min(0).minimum(last)
    inside = ((index >= 0) & (index <= scale)).to(points.dtype)
    fraction = index.clamp_min(0).minimum(scale) - low
    slope = (inside * scale).flatten(2)
    fraction = fraction.flatten(2)
    strides = [prod(lattice[axis + 1 :]) for axis in range(dim)]
    steps = [stride if n > 1 else 0 for stride, n in zip(strides, lattice, strict=True)]
    base = sum(low[:, axis].long() * strides[axis] for axis in range(dim)).flatten(1)

    value: Tensor | float = 0.0
    derivative: list[Tensor | float] = [0.0] * dim
    flat = values.flatten(2)
    for corner in itertools.product((0, 1), repeat=dim):
        offset = sum(bit * step for bit, step in zip(corner, steps, strict=True))
        at_corner = flat.gather(2, (base + offset)[:, None].expand(-1, flat.shape[1], -1))
        weights = [fraction[:, a] if bit else 1 - fraction[:, a] for a, bit in enumerate(corner)]
        value = value + at_corner * prod(weights, start=1.0)[:, None]
        for axis, bit in enumerate(corner):
            others = prod(weights[:axis] + weights[axis + 1 :], start=1.0)
            weight = slope[:, axis] * others * (1 if bit else -1)
            derivative[axis] = derivative[axis] + at_corner * weight[:, None]
    at = points.shape[2:]
    jacobian = torch.stack([torch.as_tensor(d) for d in derivative], dim=2)
    return value.unflatten(2, at), jacobian.unflatten(3, at)


def resize(values: Values, grid: Grid) -> Float[Tensor, "batch channels *grid"]:
    """`values` read at the nodes of another lattice on the same unit cube."""
    return sample(values, grid.points(values)) if tuple(values.shape[2:]) != grid.shape else values


def _broadcast(values: Values, points: Points) -> tuple[Tensor, Tensor]:
    dim = values.ndim - 2
    if points.ndim < 3 or points.shape[1] != dim:
        raise ValueError(
            f"points of shape {tuple(points.shape)} cannot be read on a {dim}-D lattice; "
            f"points must be (batch, {dim}, *at), one coordinate an axis"
        )
    batches = {values.shape[0], points.shape[0]} - {1}
    if len(batches) > 1:
        raise ValueError(f"{values.shape[0]} samples of values and {points.shape[0]} of points; the batches must agree")
    batch = batches.pop() if batches else 1
    return values.expand(batch, *values.shape[1:]), points.expand(batch, *points.shape[1:])


def _as_grid_sample_wants(values: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The only place that knows torch's order: last axis first, -1 ... 1, two or three dimensions."""
    dim = points.shape[1]
    x = (points.flatten(2).flip(1) * 2 - 1).movedim(1, -1)
    if dim == 1:
        values = values[:, :, None]
        x = torch.cat([x, torch.zeros_like(x)], dim=-1)
    if values.dtype != x.dtype:
        values = values.to(x.dtype)
    ones = [1] * (max(dim, 2) - 1)
    return x.unflatten(1, (*ones, -1)), values
