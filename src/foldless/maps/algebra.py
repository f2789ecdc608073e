"""What a map is, the one that does nothing, and how maps compose."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from foldless.arguments import described
from foldless.grid import Grid, Points, check_grid, check_points, in_voxels
from foldless.maps.matrices import Jacobian, matrix_product


class Map(ABC):
    """A function from points to points: `phi(points)`, (batch, dim, *at) to (batch, dim, *at), unit cube."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Number of spatial dimensions."""

    @abstractmethod
    def __call__(self, points: Points) -> Points:
        """The points' images, (batch, dim, *at)."""

    @abstractmethod
    def with_jacobian(self, points: Points) -> tuple[Points, Jacobian]:
        """The points' images and the derivative there, from one reading of the map."""

    @property
    def inverse(self) -> Map:
        """The map that undoes this one, where a closed form exists.

        Raises:
            TypeError: there is no closed form.
        """
        raise TypeError(f"{type(self).__name__} has no inverse in closed form; invert(map, grid) finds a numerical one")

    @property
    def parts(self) -> tuple[Map, ...]:
        """What the map is made of, outermost first."""
        return (self,)

    def jacobian(self, points: Points) -> Jacobian:
        """Analytic derivative, (batch, dim, dim, *at): entry [i, j] is ∂phi_i/∂x_j, in unit-cube units."""
        return self.with_jacobian(points)[1]

    def on(self, grid: Grid) -> Points:
        """Images of the lattice's nodes, (batch, dim, *shape)."""
        check_grid(grid)
        return self(grid.points(some_tensor(self)))

    def displacement_on(self, grid: Grid) -> Points:
        """How far the nodes of a lattice are carried, (batch, dim, *shape), voxels: what folds are counted of."""
        return in_voxels(self.on(grid), grid)

    def __matmul__(self, other: Map) -> Map:
        return compose(self, other)

    def __getitem__(self, batch: slice) -> Map:
        """The same map for some samples of the batch; samples shared by the whole batch stay shared."""
        return self.of_tensors(lambda tensor: tensor if tensor.shape[0] == 1 else tensor[batch])

    def parted(self, count: int) -> tuple[Map, Map]:
        """The map of the first `count` samples, and that of the others."""
        return self[:count], self[count:]

    def of_tensors(self, function: Callable[[Tensor], Tensor]) -> Map:
        """The same kind of map with `function` applied to every tensor it is made of (`.to`, `.detach`, ...)."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        changed = {name: function(value) for name, value in tensors.items() if isinstance(value, Tensor)}
        return replace(self, **changed)  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class Identity(Map):
    """phi(x) = x."""

    dimension: int

    @property
    def dim(self) -> int:
        return self.dimension

    def __call__(self, points: Points) -> Points:
        check_dim(self, points)
        return points

    def with_jacobian(self, points: Points) -> tuple[Points, Jacobian]:
        check_dim(self, points)
        ones = [1] * (points.ndim - 2)
        eye = torch.eye(self.dim, dtype=points.dtype, device=points.device).reshape(1, self.dim, self.dim, *ones)
        return points, eye.expand(points.shape[0], -1, -1, *points.shape[2:])

    @property
    def inverse(self) -> Map:
        return self


@dataclass(frozen=True, eq=False)
class Composition(Map):
    """phi = parts[0] ∘ parts[1] ∘ ...: the last part sees the points first. Made by `@`, which keeps it flat."""

    maps: tuple[Map, ...]

    @property
    def parts(self) -> tuple[Map, ...]:
        return self.maps

    @property
    def dim(self) -> int:
        return self.maps[0].dim

    def __call__(self, points: Points) -> Points:
        for part in reversed(self.parts):
            points = part(points)
        return points

    def with_jacobian(self, points: Points) -> tuple[Points, Jacobian]:
        points, total = self.parts[-1].with_jacobian(points)
        for part in reversed(self.parts[:-1]):
            points, slope = part.with_jacobian(points)
            total = matrix_product(slope, total)
        return points, total

    def on(self, grid: Grid) -> Points:
        points = self.parts[-1].on(grid)
        for part in reversed(self.parts[:-1]):
            points = part(points)
        return points

    @property
    def inverse(self) -> Map:
        return Composition(tuple(part.inverse for part in reversed(self.parts)))

    def __getitem__(self, batch: slice) -> Map:
        return Composition(tuple(part[batch] for part in self.parts))

    def parted(self, count: int) -> tuple[Map, Map]:
        first, others = zip(*(part.parted(count) for part in self.parts), strict=True)
        return Composition(first), Composition(others)

    def of_tensors(self, function: Callable[[Tensor], Tensor]) -> Map:
        return Composition(tuple(part.of_tensors(function) for part in self.parts))


def compose(*maps: Map) -> Map:
    """maps[0] ∘ maps[1] ∘ ..., flat, identities dropped.

    Raises:
        TypeError: what is no map.
        ValueError: no map at all, or maps of different dimensions.
    """
    check_maps(*maps)
    if len({phi.dim for phi in maps}) != 1:
        raise ValueError(f"maps of one dimension compose; got the dimensions {[phi.dim for phi in maps]}")
    parts = [part for phi in maps for part in phi.parts if not isinstance(part, Identity)]
    if len(parts) > 1:
        return Composition(tuple(parts))
    return parts[0] if parts else Identity(maps[0].dim)


def check_maps(*maps: object) -> None:
    """Refuse what is no map."""
    for phi in maps:
        if not isinstance(phi, Map):
            raise TypeError(
                f"a map was expected, such as Displacement(field) or Displacement.from_voxels(field); "
                f"got {described(phi)}"
            )


def some_tensor(phi: Map) -> Tensor | None:
    """A tensor of the map: its dtype and device are the map's own."""
    for part in phi.parts:
        for f in fields(part):  # type: ignore[arg-type]
            if isinstance(value := getattr(part, f.name), Tensor):
                return value
    return None


def check_dim(phi: Map, points: Points) -> None:
    """Refuse what are no points, or of another dimension than the map's."""
    check_points(points)
    if points.shape[1] != phi.dim:
        raise ValueError(f"a {phi.dim}-D map takes points (batch, {phi.dim}, *at); got {tuple(points.shape)}")
