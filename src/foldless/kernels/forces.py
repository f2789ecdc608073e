"""Images read through a map with their gradients, and the force on the map's displacement."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from foldless.kernels.bands import Bands, along
from foldless.kernels.library import call, library, pointer, threads_for
from foldless.kernels.native import sample

_TYPES = {torch.float32: "f32", torch.float64: "f64"}


def _compiled(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype in _TYPES and tensor.ndim <= 5 and library()[0] is not None


def read_through(images: Tensor, u: Tensor, matrices: Tensor) -> tuple[Tensor, Tensor]:
    """images at matrix · (x + u(x)) for all nodes x of their lattice, and the derivative of that by u(x).

    Args:
        images: (batch, channels, *lattice); outside the cube the border continues, with derivative zero.
        u: (batch, dim, *coarse), unit-cube units, read multilinearly.
        matrices: (batch, dim, dim + 1), of affine maps of the unit cube.

    Returns:
        (batch, channels, *lattice) and (batch, channels, dim, *lattice).
    """
    (batch, channels, *lattice), dim, size = images.shape, u.shape[1], ctypes.c_int64
    if not _compiled(images):
        return _read_plainly(images, u, matrices)
    images, u = images.contiguous(), u.to(images.dtype).contiguous()
    numbers = matrices.detach().to("cpu", torch.float64).contiguous()
    value, gradient = torch.empty_like(images), images.new_empty(batch, channels, dim, *lattice)
    call(
        f"halfway_{_TYPES[images.dtype]}",
        *map(pointer, (images, u, numbers, value, gradient)),
        *map(size, (batch, channels, dim)),
        (size * dim)(*lattice),
        (size * dim)(*u.shape[2:]),
        ctypes.c_int(threads_for(images.numel())),
    )
    return value, gradient


def _read_plainly(images: Tensor, u: Tensor, matrices: Tensor) -> tuple[Tensor, Tensor]:
    batch, dim, lattice = len(images), u.shape[1], images.shape[2:]
    axes = [torch.arange(n, dtype=u.dtype, device=u.device) / max(n - 1, 1) for n in lattice]
    x = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1).expand(batch, -1, -1)
    y = x + sample(u, x.contiguous(), with_jacobian=False)[0]
    linear, shift = matrices[..., :-1].to(u), matrices[..., -1:].to(u)
    value, slope = sample(images.to(u.dtype), linear @ y + shift, with_jacobian=True)
    assert slope is not None
    gradient = torch.einsum("bed,bcen->bcdn", linear, slope)
    return value.reshape(images.shape), gradient.reshape(*images.shape[:2], dim, *lattice)


def pulled(g: Tensor, gradient: Tensor, signs: Sequence[float], bands: Sequence[Bands]) -> Tensor:
    """Σ over samples and channels of sign · g · gradient, with one banded matrix an axis applied: (1, dim, *coarse).

    Args:
        g: (batch, channels, *lattice), the derivative of a score by every voxel.
        gradient: (batch, channels, dim, *lattice), as of `read_through`.
        signs: one a sample.
        bands: of every axis of the lattice.
    """
    (batch, channels, dim), lattice, size = gradient.shape[:3], gradient.shape[3:], ctypes.c_int64
    if not _compiled(g):
        force = torch.einsum("b,bc...,bcd...->d...", g.new_tensor(signs), g, gradient)[None]
        return along(bands, force)
    last, rows = bands[-1], lattice[:-1].numel()
    out = g.new_empty(1, dim, *lattice[:-1], len(last.start))
    call(
        f"pull_{_TYPES[g.dtype]}",
        pointer(g.contiguous()),
        pointer(gradient),
        (ctypes.c_double * batch)(*signs),
        pointer(out),
        *last.arguments,
        *map(size, (batch, channels, dim, rows)),
        ctypes.c_int(threads_for(g.numel())),
    )
    return along(bands[:-1], out)
