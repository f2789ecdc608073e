"""The lattice on the unit cube, and the one function that reads values off it.

Lattice nodes lie at 0 and 1 inclusive on every axis; coordinates are in array-axis order (i, j, k).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from foldless import kernels
from foldless.arguments import check_tensor, described

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
        check_tensor("an image", image, "(batch, channels, *lattice)")
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

        In the dtype and on the device of `like`. Every sample of the batch has noise of its own; all of it follows from
        one number of the generator, torch's own for the CPU unless another is given, and is but for rounding the same
        on every device.
        """
        return kernels.jittered(kernels.new_seed(generator), batch, self.shape, like.dtype, like.device)


def check_points(points: object) -> None:
    """Refuse what are no points (batch, dim, *at)."""
    if isinstance(points, Grid):
        raise TypeError(f"points are a tensor (batch, dim, *at); got {points}: phi.on(grid) reads a map at its nodes")
    check_tensor("points", points, "(batch, dim, *at)")


def check_grid(grid: object) -> None:
    """Refuse what is no lattice."""
    if not isinstance(grid, Grid):
        raise TypeError(f"a lattice is a Grid, such as Grid((64, 64)) or Grid.of(image); got {described(grid)}")


def in_voxels(nodes: Points, grid: Grid) -> Float[Tensor, "#batch dim *lattice"]:
    """How far a lattice's nodes were carried, in its voxels: from `phi.on(grid)`, (batch, dim, *shape)."""
    return (nodes - grid.points(nodes)) / per_axis(grid.voxel, nodes)


def per_axis(numbers: Sequence[float], like: Points) -> Float[Tensor, "1 dim *ones"]:
    """One number an axis, shaped to multiply points (batch, dim, *at)."""
    column = torch.tensor(numbers, dtype=like.dtype, device=like.device)
    return column.reshape(1, -1, *[1] * (like.ndim - 2))


def sample(values: Values, points: Points) -> Float[Tensor, "#batch channels *at"]:
    """Multilinear interpolation of `values` (batch, channels, *lattice) at `points` (batch, dim, *at), unit cube.

    Outside the cube the border value continues. Either batch may be 1 and then serves every sample of the other.

    Raises:
        TypeError: values or points are no tensors.
        ValueError: points and lattice differ in dimension or device, or the batches do not broadcast.
    """
    values, flat = _broadcast(values, points)
    value, _ = kernels.sample(values, flat, with_jacobian=False)
    return value.reshape(*value.shape[:2], *points.shape[2:])


def sample_with_jacobian(
    values: Values, points: Points
) -> tuple[Float[Tensor, "#batch channels *at"], Float[Tensor, "#batch channels dim *at"]]:
    """What `sample` returns, and its derivative by the points (batch, channels, dim, *at), from the same corners.

    The interpolant has a kink at every node: there the derivative is the one towards larger coordinates, and at
    the last node the one towards smaller. Outside the cube it is zero on the clamped axes, as the value is constant.
    """
    values, flat = _broadcast(values, points)
    value, jacobian = kernels.sample(values, flat, with_jacobian=True)
    assert jacobian is not None
    at = points.shape[2:]
    return value.reshape(*value.shape[:2], *at), jacobian.reshape(*jacobian.shape[:3], *at)


def sample_labels(labels: Integer[Tensor, "*lattice"], points: Float[Tensor, "one dim *at"]) -> Integer[Tensor, "*at"]:
    """Labels (*lattice) at points (1, dim, *at) of the unit cube, nearest neighbour.

    0 outside, and where a point is no number.
    """
    scale = per_axis([float(n - 1) for n in labels.shape], points)
    index = (points * scale).round()[0]
    inside = ((index >= 0) & (index <= scale[0])).all(0)
    places = tuple(torch.where(inside, index, 0).long())
    return torch.where(inside, labels[places], 0)


def _broadcast(values: Values, points: Points) -> tuple[Tensor, Tensor]:
    """One batch for both, points (batch, dim, count) and values of their dtype."""
    check_points(points)
    check_tensor("values", values, "(batch, channels, *lattice)")
    dim = values.ndim - 2
    if points.ndim < 3 or points.shape[1] != dim:
        raise ValueError(
            f"points of shape {tuple(points.shape)} cannot be read on a {dim}-D lattice; "
            f"points must be (batch, {dim}, *at), one coordinate an axis"
        )
    if values.device != points.device:
        raise ValueError(f"values on {values.device} cannot be read at points on {points.device}; move one of them")
    batches = {values.shape[0], points.shape[0]} - {1}
    if len(batches) > 1:
        raise ValueError(f"{values.shape[0]} samples of values and {points.shape[0]} of points; the batches must agree")
    batch = batches.pop() if batches else 1
    values = values.to(points.dtype).expand(batch, *values.shape[1:])
    return values, points.expand(batch, *points.shape[1:]).flatten(2)
