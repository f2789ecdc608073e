"""The nodes of a lattice, each moved by Gaussian noise of a voxel on every axis: a function of a seed and a place."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from foldless.kernels.library import call, library, pointer

_TYPES = {torch.float32: "f32", torch.float64: "f64"}
_WORD = 0xFFFFFFFF

AT_ONCE = 2**22
"""Numbers that are made together in torch, of which each takes some 64-bit integers."""

# Giles 2010, as in jitter.h: erfinv(v) / v by w = -log(1 - v²) below 5, and by its root from there.
_INNER = (
    2.81022636e-08,
    3.43273939e-07,
    -3.5233877e-06,
    -4.39150654e-06,
    0.00021858087,
    -0.00125372503,
    -0.00417768164,
    0.246640727,
    1.50140941,
)
_OUTER = (
    -0.000200214257,
    0.000100950558,
    0.00134934322,
    -0.00367342844,
    0.00573950773,
    -0.0076224613,
    0.00943887047,
    1.00167406,
    2.83297682,
)


class Jittered(NamedTuple):
    """The points of `jittered` for as many samples as there are, not yet in memory."""

    shape: tuple[int, ...]
    seed: int

    def on(self, like: Tensor) -> Tensor:
        """(batch, dim, *shape), as many samples as `like` has, in its dtype and on its device."""
        return jittered(self.seed, len(like), self.shape, like.dtype, like.device)


def new_seed(generator: torch.Generator | None = None) -> int:
    """A seed that follows from a generator's state: torch's own for the CPU, so that no device waits, unless given."""
    device = torch.device("cpu") if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device).item())


def jittered(seed: int, batch: int, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(batch, dim, *shape), unit cube: but for rounding the same on every device, with any number of threads.

    Args:
        seed: 0 to 2^63 - 1.
        batch: samples; the noise of each is its own.
    """
    if device.type != "cpu" or dtype not in _TYPES or library()[0] is None or not 1 <= len(shape) <= 3:
        return plain_jittered(seed, batch, shape, dtype, device)
    points = torch.empty(batch, len(shape), *shape, dtype=dtype, device=device)
    size = ctypes.c_int64
    sizes = (size(batch), size(len(shape)), (size * len(shape))(*shape), ctypes.c_uint64(seed))
    call(f"jitter_{_TYPES[dtype]}", pointer(points), *sizes, ctypes.c_int(torch.get_num_threads()))
    return points


def plain_jittered(seed: int, batch: int, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same in torch: where there is no kernel, and as its referee."""
    places = torch.arange(prod(shape), device=device) & _WORD
    noise = torch.empty(batch * len(shape), prod(shape), dtype=dtype, device=device)
    planes = torch.arange(len(noise), device=device)[:, None]
    some = max(1, AT_ONCE // max(1, len(places)))
    for rows, plane in zip(torch.split(noise, some), torch.split(planes, some), strict=True):
        first = _mixed(plane ^ (seed & _WORD))
        second = _mixed((_mixed(plane ^ (seed >> 32)) + 0x9E3779B9) & _WORD)
        words = _mixed((_mixed(places ^ first) + second) & _WORD)
        rows.copy_(normal(((words >> 9) * 2 + (1 - (1 << 23))).float() * 2**-23))
    noise = noise.reshape(batch, len(shape), *shape)
    axes = [torch.arange(n, dtype=dtype, device=device) / max(n - 1, 1) for n in shape]
    voxel = torch.tensor([1 / max(n - 1, 1) for n in shape], dtype=dtype, device=device)
    nodes = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return noise.mul_(voxel.reshape(-1, *[1] * len(shape))).add_(nodes)


def normal(between: Tensor) -> Tensor:
    """sqrt(2) erfinv of float32 numbers from -1 to 1: what is even between them becomes standard normal.

    Processes that started together on a GPU crashed in torch's erfinv, which is compiled at run time there: probably
    they spoil its file for each other. So GPUs have polynomials.
    """
    return 2**0.5 * torch.erfinv(between) if between.device.type == "cpu" else normal_by_polynomials(between)


def normal_by_polynomials(between: Tensor) -> Tensor:
    """`normal` within rounding of float32."""
    w = -torch.log((1 - between) * (1 + between))
    root = torch.where(w < 5, _polynomial(_INNER, w - 2.5), _polynomial(_OUTER, w.sqrt() - 3))
    return root * between * 2**0.5


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """By Horner's rule, the highest power first."""
    first, *others = coefficients
    total = torch.full_like(x, first)
    for coefficient in others:
        total.mul_(x).add_(coefficient)
    return total


def _mixed(x: Tensor) -> Tensor:
    """Every bit of the result depends on all 32 of x, an integer."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _WORD
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _WORD
    return x ^ (x >> 16)
