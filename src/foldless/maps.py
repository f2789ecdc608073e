"""Maps: values that carry points of the unit cube to points; frozen, composable, differentiable.

A map phi_AB takes points of image B's space to points of image A's, so that `A ∘ phi_AB ≈ B`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from math import log2

import torch
from jaxtyping import Float
from torch import Tensor

from foldless.errors import NotFiniteError
from foldless.grid import Grid, Points, per_axis, sample, sample_with_jacobian
from foldless.kernels.product import can_multiply, product

Jacobian = Float[Tensor, "#batch dim dim *at"]

CONTRACTION = 0.125
"""Largest Lipschitz constant of a factor's displacement in scaling and squaring.

Below 1 every factor is invertible; at 1/8 a factor, taken by the midpoint rule, is off by a quarter of a
percent of its displacement.
"""


class ConvergenceError(RuntimeError):
    """An iteration did not reach its tolerance."""


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
        return self(grid.points(_some_tensor(self)))

    def __matmul__(self, other: Map) -> Map:
        return compose(self, other)

    def __getitem__(self, batch: slice) -> Map:
        """The same map for some samples of the batch; samples shared by the whole batch stay shared."""
        return self.of_tensors(lambda tensor: tensor if tensor.shape[0] == 1 else tensor[batch])

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
        _check_dim(self, points)
        return points

    def with_jacobian(self, points: Points) -> tuple[Points, Jacobian]:
        _check_dim(self, points)
        ones = [1] * (points.ndim - 2)
        eye = torch.eye(self.dim, dtype=points.dtype, device=points.device).reshape(1, self.dim, self.dim, *ones)
        return points, eye.expand(points.shape[0], -1, -1, *points.shape[2:])

    @property
    def inverse(self) -> Map:
        return self


@dataclass(frozen=True, eq=False)
class Affine(Map):
    """phi(x) = linear · x + shift, about the origin of the unit cube.

    `linear` is (batch, dim, dim), `shift` (batch, dim).
    """

    linear: Float[Tensor, "batch dim dim"]
    shift: Float[Tensor, "batch dim"]

    @classmethod
    def from_matrix(cls, matrix: Float[Tensor, "batch dim columns"]) -> Affine:
        """An affine map from its (batch, dim, dim + 1) matrix, the shift in the last column."""
        if matrix.ndim != 3 or matrix.shape[2] != matrix.shape[1] + 1:
            raise ValueError(f"an affine matrix is (batch, dim, dim + 1); got {tuple(matrix.shape)}")
        return cls(matrix[:, :, :-1], matrix[:, :, -1])

    @classmethod
    def from_deviation(cls, matrix: Float[Tensor, "batch dim columns"]) -> Affine:
        """The map x -> c + (I + L)(x - c) + t about the cube's centre c; `matrix` is [L t], zero for the identity."""
        deviation = cls.from_matrix(matrix)
        centre = torch.full_like(deviation.shift, 0.5)
        linear = deviation.linear + torch.eye(deviation.dim, dtype=matrix.dtype, device=matrix.device)
        return cls(linear, centre + deviation.shift - contract("bij,bj->bi", linear, centre))

    @classmethod
    def from_generator(cls, matrix: Float[Tensor, "batch dim columns"]) -> Affine:
        """The flow at time 1 of the velocity L(x - c) + t about the cube's centre c; `matrix` is [L t].

        An exponential, so it keeps orientation and -[L t] makes the exact inverse: of a prediction that changes sign
        with the order of the images (`Antisymmetric`), the map is inverse consistent by construction.
        """
        batch, dim, columns = matrix.shape
        square = torch.cat([matrix, matrix.new_zeros(batch, 1, columns)], dim=1)
        with torch.autocast(matrix.device.type, enabled=False):
            flow = torch.linalg.matrix_exp(square)[:, :dim]
        eye = torch.eye(dim, columns, dtype=matrix.dtype, device=matrix.device)
        return cls.from_deviation(flow - eye)

    @property
    def dim(self) -> int:
        return self.linear.shape[-1]

    def __call__(self, points: Points) -> Points:
        _check_dim(self, points)
        ones = [1] * (points.ndim - 2)
        return contract("bij,bj...->bi...", self.linear, points) + self.shift.reshape(*self.shift.shape, *ones)

    def with_jacobian(self, points: Points) -> tuple[Points, Jacobian]:
        image = self(points)
        ones = [1] * (points.ndim - 2)
        constant = self.linear.reshape(*self.linear.shape, *ones)
        return image, constant.expand(image.shape[0], -1, -1, *image.shape[2:])

    @property
    def inverse(self) -> Map:
        linear = torch.linalg.inv(self.linear)
        return Affine(linear, -contract("bij,bj->bi", linear, self.shift))


@dataclass(frozen=True, eq=False)
class Displacement(Map):
    """phi(x) = x + u(x), with u interpolated from a lattice and continued outside by its border; ICON, Eq. (11).

    `field` is (batch, dim, *lattice), in unit-cube units.
    """

    field: Float[Tensor, "batch dim *lattice"]

    def __post_init__(self) -> None:
        if self.field.shape[1] != self.field.ndim - 2:
            raise ValueError(
                f"a displacement field is (batch, dim, *lattice) with one component an axis; "
                f"got {tuple(self.field.shape)}"
            )

    @classmethod
    def from_voxels(cls, field: Float[Tensor, "batch dim *lattice"]) -> Displacement:
        """A displacement given in voxels of its own lattice."""
        grid = cls(field).grid  # refuses what is no displacement
        return cls(field * per_axis(grid.voxel, field))

    @property
    def voxels(self) -> Float[Tensor, "batch dim *lattice"]:
        """The field in voxels of its own lattice."""
        return self.field / per_axis(self.grid.voxel, self.field)

    @property
    def dim(self) -> int:
        return self.field.shape[1]

    @property
    def grid(self) -> Grid:
        """The lattice that the displacement is stored on."""
        return Grid.of(self.field)

    def __call__(self, points: Points) -> Points:
        return points + sample(self.field, points)

    def with_jacobian(self, points: Points) -> tuple[Points, Jacobian]:
        value, slope = sample_with_jacobian(self.field, points)
        return points + value, slope + Identity(self.dim).jacobian(points)

    def on(self, grid: Grid) -> Points:
        return grid.points(self.field) + self.field if grid == self.grid else super().on(grid)


@dataclass(frozen=True, eq=False)
class Exponential(Map):
    """phi = exp(v): the flow at time 1 of a stationary velocity (batch, dim, *lattice), in unit-cube units.

    Scaling and squaring: exp(v) = exp(v / 2^K)^(2^K), each square read off the velocity's own lattice. Every sample's
    K is the smallest that makes v / 2^K a contraction of `CONTRACTION`; its exponential is one midpoint step.
    `inverse` is exp(-v), exact for the flow and exact up to interpolation for its samples.
    """

    velocity: Float[Tensor, "batch dim *lattice"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_displacement", None)

    @property
    def dim(self) -> int:
        return self.velocity.shape[1]

    @property
    def displacement(self) -> Displacement:
        """The flow as a displacement on the velocity's lattice, computed once."""
        known: Displacement | None = self._displacement  # type: ignore[attr-defined]
        wants_gradient = torch.is_grad_enabled() and self.velocity.requires_grad
        if known is None or (wants_gradient and not known.field.requires_grad):
            known = Displacement(exponentiate(self.velocity))
            object.__setattr__(self, "_displacement", known)
        return known

    def __call__(self, points: Points) -> Points:
        return self.displacement(points)

    def with_jacobian(self, points: Points) -> tuple[Points, Jacobian]:
        return self.displacement.with_jacobian(points)

    def on(self, grid: Grid) -> Points:
        return self.displacement.on(grid)

    def __getitem__(self, batch: slice) -> Map:
        some = super().__getitem__(batch)
        if self._displacement is not None:  # type: ignore[attr-defined]
            object.__setattr__(some, "_displacement", self._displacement[batch])  # type: ignore[attr-defined]
        return some

    @property
    def inverse(self) -> Map:
        return Exponential(-self.velocity)


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

    def of_tensors(self, function: Callable[[Tensor], Tensor]) -> Map:
        return Composition(tuple(part.of_tensors(function) for part in self.parts))


def compose(*maps: Map) -> Map:
    """maps[0] ∘ maps[1] ∘ ..., flat, identities dropped.

    Raises:
        ValueError: no map at all, or maps of different dimensions.
    """
    if len({phi.dim for phi in maps}) != 1:
        raise ValueError(f"maps of one dimension compose; got the dimensions {[phi.dim for phi in maps]}")
    parts = [part for phi in maps for part in phi.parts if not isinstance(part, Identity)]
    if len(parts) > 1:
        return Composition(tuple(parts))
    return parts[0] if parts else Identity(maps[0].dim)


def exponentiate(velocity: Float[Tensor, "batch dim *lattice"]) -> Float[Tensor, "batch dim *lattice"]:
    """The displacement of exp(velocity) on the same lattice, by scaling and squaring; unit-cube units.

    Raises:
        NotFiniteError: the velocity is not finite.
    """
    squarings = _squarings(velocity)
    small = velocity / 2.0 ** squarings.to(velocity.dtype).reshape(-1, *[1] * (velocity.ndim - 1))
    grid = Grid.of(velocity)
    displacement, most = sample(small, Displacement(small / 2).on(grid)), int(squarings.max())
    for left in range(most, 0, -1):
        squared = displacement + sample(displacement, Displacement(displacement).on(grid))
        waits = (squarings < left).reshape(-1, *[1] * (velocity.ndim - 1))
        displacement = torch.where(waits, displacement, squared)
    return displacement


def invert(phi: Map, grid: Grid, tolerance: float = 0.01, iterations: int = 50) -> Displacement:
    """The numerical inverse of `phi` on a lattice: psi with phi(psi(x)) = x at every node, by damped Newton steps.

    Args:
        phi: any map; its displacement continues outside the unit cube, so that the inverse exists there as well.
        grid: the lattice on which the inverse is wanted.
        tolerance: largest |phi(psi(x)) - x| allowed at a node, in voxels of `grid`.
        iterations: how many steps to try.

    Raises:
        ConvergenceError: the tolerance was not reached; the map folds or changes too fast for the lattice.
    """
    with torch.no_grad():
        target = grid.points(_some_tensor(phi))
        voxel = per_axis(grid.voxel, target)
        at = target
        step = torch.ones_like(target[:, :1])
        image, slope = phi.with_jacobian(at)
        error = _length((image - target) / voxel)
        for _ in range(iterations):
            if bool((error <= tolerance).all()):
                return Displacement(at - target)
            trial = at - step * _solve(slope, image - target)
            trial_image, trial_slope = phi.with_jacobian(trial)
            trial_error = _length((trial_image - target) / voxel)
            better = trial_error < error
            at, image, error = (
                torch.where(better, new, old) for new, old in ((trial, at), (trial_image, image), (trial_error, error))
            )
            slope = torch.where(better[:, :, None], trial_slope, slope)
            step = torch.where(better, (step * 2).clamp_max(1.0), step / 2)
    if bool((error <= tolerance).all()):
        return Displacement(at - target)
    far = (error > tolerance).sum().item()
    raise ConvergenceError(
        f"the inverse did not converge at {far} of {error.numel()} nodes after {iterations} steps: the largest "
        f"error is {error.max().item():.3g} voxels, wanted {tolerance:g}; the map probably folds there"
    )


def _squarings(velocity: Tensor) -> Tensor:
    """Squarings each sample needs; the row-sum norm of the largest differences bounds the interpolant's slope."""
    with torch.no_grad():
        if not bool(torch.isfinite(velocity).all()):
            raise NotFiniteError("the velocity holds values that are not finite; exp(velocity) does not exist")
        rows = torch.zeros(velocity.shape[:2], dtype=velocity.dtype, device=velocity.device)
        for axis in range(2, velocity.ndim):
            n = velocity.shape[axis]
            if n > 1:
                rows = rows + velocity.diff(dim=axis).abs().flatten(2).amax(2) * (n - 1)
        bound = rows.amax(1).clamp_min(1e-30)
        return (torch.log2(bound) - log2(CONTRACTION)).ceil().clamp_min(0).long()


def _solve(matrix: Jacobian, vector: Points) -> Points:
    """matrix⁻¹ · vector at every point; where the matrix is nearly singular, the vector itself."""
    eye = Identity(vector.shape[1]).jacobian(vector)
    safe = determinant(matrix).abs() > 0.05
    matrix = torch.where(safe[:, None, None], matrix, eye)
    rows = matrix.movedim((1, 2), (-2, -1))
    solution: Tensor = torch.linalg.solve(rows, vector.movedim(1, -1))
    return solution.movedim(-1, 1)


def matrix_product(a: Jacobian, b: Jacobian) -> Jacobian:
    """a · b at every point, (batch, dim, dim, *at)."""
    return product(a, b) if can_multiply(a, b) else plain_matrix_product(a, b)


def plain_matrix_product(a: Jacobian, b: Jacobian) -> Jacobian:
    """In torch, elementwise, which beats batching such small matrices; the kernel's referee."""
    total = a[:, :, 0, None] * b[:, None, 0]
    for j in range(1, a.shape[2]):
        total = total + a[:, :, j, None] * b[:, None, j]
    return total


def determinant(matrix: Jacobian) -> Float[Tensor, "#batch *at"]:
    """Determinant of (batch, dim, dim, *at) for dim 1, 2 or 3, written out."""
    dim = matrix.shape[1]
    m = [[matrix[:, i, j] for j in range(dim)] for i in range(dim)]
    if dim == 1:
        return m[0][0]
    if dim == 2:
        return m[0][0] * m[1][1] - m[0][1] * m[1][0]
    if dim == 3:
        return (
            m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
            - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
            + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
        )
    raise ValueError(f"determinants are written out for 1, 2 and 3 dimensions; got {dim}")


def contract(equation: str, *tensors: Tensor) -> Tensor:
    """`torch.einsum` in the tensors' own precision: autocast would round coordinates to bfloat16."""
    with torch.autocast(tensors[0].device.type, enabled=False):
        result: Tensor = torch.einsum(equation, *tensors)
    return result


def _length(vector: Points) -> Tensor:
    return vector.square().sum(1, keepdim=True).sqrt()


def _some_tensor(phi: Map) -> Tensor | None:
    """A tensor of the map: its dtype and device are the map's own."""
    for part in phi.parts:
        for f in fields(part):  # type: ignore[arg-type]
            if isinstance(value := getattr(part, f.name), Tensor):
                return value
    return None


def _check_dim(phi: Map, points: Points) -> None:
    if points.shape[1] != phi.dim:
        raise ValueError(f"a {phi.dim}-D map takes points (batch, {phi.dim}, *at); got {tuple(points.shape)}")
