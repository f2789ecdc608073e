"""Convolutions with as many outputs as dimensions, float32 out of float32 or bfloat16: the last layer of a network."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foldless.kernels.library import lanes, library, pointer

_TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}


def thin(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution that keeps the lattice: x (batch, channels, *lattice), weight (outputs, channels, *odd kernel).

    Compiled for one to three outputs on the CPU with float32 weights and enough channels; torch's own elsewhere. Half
    as many channels as lanes or more are filled up with zeros: torch is slow at them, above all in small batches.
    """
    native = x.device.type == "cpu" and x.dtype in _TYPES and weight.dtype == torch.float32 and weight.shape[0] <= 3
    if native and x.numel() and 0 < lanes() <= 2 * x.shape[1]:
        missing = max(lanes() - x.shape[1], 0)
        result: Tensor = _Thin.apply(_filled(x, missing), _filled(weight, missing), bias)  # type: ignore[no-untyped-call]
        return result
    dim, padding = x.ndim - 2, [n // 2 for n in weight.shape[2:]]
    return torch.convolution(x.to(weight.dtype), weight, bias, [1] * dim, padding, [1] * dim, False, [0] * dim, 1)


def _filled(x: Tensor, more: int) -> Tensor:
    """x with so many more channels of zeros, (batch, channels + more, *lattice), channels-last."""
    return F.pad(x.movedim(1, -1), (0, more)).movedim(-1, 1) if more else x


class _Thin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        nodes = x.movedim(1, -1).contiguous()
        channel, first = _blocks(weight.shape[1])
        packed = weight.flatten(2).permute(2, 0, 1)[:, :, channel].contiguous()
        ctx.save_for_backward(nodes, packed)
        ctx.weight_shape = weight.shape
        y = weight.new_empty(x.shape[0], weight.shape[0], *x.shape[2:])
        _call("thin", nodes, weight.shape, nodes, packed * first, bias.contiguous(), y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        nodes, packed = ctx.saved_tensors
        gradient, g_nodes, g_packed = gradient.contiguous(), None, torch.empty_like(packed)
        if ctx.needs_input_grad[0]:
            g_nodes = torch.empty_like(nodes).movedim(-1, 1)
            _call("thin_backward_x", nodes, ctx.weight_shape, gradient, packed, g_nodes)
        _call("thin_backward_weights", nodes, ctx.weight_shape, nodes, gradient, g_packed)
        channel, first = _blocks(nodes.shape[-1])
        g_weight = packed.new_empty(*packed.shape[:2], nodes.shape[-1])
        g_weight[:, :, channel[first]] = g_packed[:, :, first]
        g_bias = gradient.sum([0, *range(2, gradient.ndim)])
        return g_nodes, g_weight.permute(1, 2, 0).reshape(ctx.weight_shape), g_bias


def _blocks(channels: int) -> tuple[Tensor, Tensor]:
    """The channel of every lane (blocks, lanes), and whether no block before holds it: the last may overlap."""
    width = lanes()
    starts = torch.arange(0, channels, width, device="cpu")
    channel = starts.clamp_max(channels - width)[:, None] + torch.arange(width, device="cpu")
    return channel, channel >= starts[:, None]


def _call(name: str, nodes: Tensor, weight_shape: torch.Size, *tensors: Tensor) -> None:
    compiled = library()[0]
    assert compiled is not None
    function = getattr(compiled, f"foldless_{name}_{_TYPES[nodes.dtype]}")
    ones = [1] * (5 - nodes.ndim)
    shape = (ctypes.c_int64 * 8)(nodes.shape[0], *ones, *nodes.shape[1:], *ones, *weight_shape[2:])
    function(*map(pointer, tensors), shape, ctypes.c_int(weight_shape[0]), ctypes.c_int(torch.get_num_threads()))
