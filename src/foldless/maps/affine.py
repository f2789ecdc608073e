"""Affine maps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foldless.arguments import check_tensor
from foldless.grid import Points
from foldless.kernels.library import own_types
from foldless.maps.algebra import Map, check_dim
from foldless.maps.matrices import Jacobian, contract


@dataclass(frozen=True, eq=False)
class Affine(Map):
    """phi(x) = linear · x + shift, about the origin of the unit cube.

    `linear` is (batch, dim, dim), `shift` (batch, dim).
    """

    linear: Float[Tensor, "batch dim dim"]
    shift: Float[Tensor, "batch dim"]

    def __post_init__(self) -> None:
        check_tensor("an affine map's matrix", self.linear, "(batch, dim, dim)")
        check_tensor("an affine map's shift", self.shift, "(batch, dim)", least_axes=2)

    @classmethod
    def from_matrix(cls, matrix: Float[Tensor, "batch dim columns"]) -> Affine:
        """An affine map from its (batch, dim, dim + 1) matrix, the shift in the last column."""
        check_tensor("an affine matrix", matrix, "(batch, dim, dim + 1)")
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
        check_tensor("an affine matrix", matrix, "(batch, dim, dim + 1)")
        batch, dim, columns = matrix.shape
        square = torch.cat([matrix, matrix.new_zeros(batch, 1, columns)], dim=1)
        with own_types(matrix):
            flow = torch.linalg.matrix_exp(square)[:, :dim]
        eye = torch.eye(dim, columns, dtype=matrix.dtype, device=matrix.device)
        return cls.from_deviation(flow - eye)

    @property
    def dim(self) -> int:
        return self.linear.shape[-1]

    def __call__(self, points: Points) -> Points:
        check_dim(self, points)
        ones = [1] * (points.ndim - 2)
        return contract("bij,bj...->bi...", self.linear, points) + self.shift.reshape(*self.shift.shape, *ones)

    def with_jacobian(self, points: Points) -> tuple[Points, Jacobian]:
        image = self(points)
        ones = [1] * (points.ndim - 2)
        constant = self.linear.reshape(*self.linear.shape, *ones)
        return image, constant.expand(image.shape[0], -1, -1, *image.shape[2:])

    @property
    def inverse(self) -> Map:
        linear, singular = torch.linalg.inv_ex(self.linear)
        if bool(singular.any()):
            raise ValueError(f"an affine map whose matrix is singular has no inverse; got {self.linear.tolist()}")
        return Affine(linear, -contract("bij,bj->bi", linear, self.shift))
