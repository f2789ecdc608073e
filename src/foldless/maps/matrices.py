"""Small matrices, one at every point: products, determinants, contractions."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from foldless.kernels.library import own_types
from foldless.kernels.product import can_multiply, product

Jacobian = Float[Tensor, "#batch dim dim *at"]


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
    with own_types(tensors[0]):
        result: Tensor = torch.einsum(equation, *tensors)
    return result
