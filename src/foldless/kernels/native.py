"""The compiled kernels, C++ or Triton, as torch operators that autograd, autocast and `torch.compile` see."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from foldless.kernels import plain
from foldless.kernels.derivatives import SECOND, has_tangent
from foldless.kernels.gpu import triton_status
from foldless.kernels.library import call, native_status, pointer, threads_for

SCHEMA = "(Tensor values, Tensor points, bool with_jacobian) -> (Tensor, Tensor)"
BACKWARD_SCHEMA = (
    "(Tensor values, Tensor points, Tensor? g_value, Tensor? g_jacobian, bool for_values, bool for_points)"
    " -> (Tensor, Tensor)"
)
_TYPES = {torch.float32: "f32", torch.float64: "f64"}


def sample(values: Tensor, points: Tensor, with_jacobian: bool) -> tuple[Tensor, Tensor | None]:
    """See `plain.sample`; compiled for float32 and float64 in 1, 2 and 3 dimensions, plain elsewhere.

    The GPU's kernel adds in any order, so where torch is asked for deterministic algorithms it is not used.
    """
    compiled = points.dtype in _TYPES and _meet(values, points) and _has_kernel(points.device.type)
    compiled = compiled and not has_tangent(values, points)  # which torch would leave out
    if not compiled or (points.is_cuda and torch.are_deterministic_algorithms_enabled()):
        return plain.sample(values, points, with_jacobian)
    run = _sample_on_cpu if _nobody_looks_on(values, points) else _sample
    value, jacobian = run(values, points, with_jacobian)
    return value, jacobian if with_jacobian else None


def _meet(values: Tensor, points: Tensor) -> bool:
    """Whether the points, of one to three dimensions, lie in the values' lattice and are of their batch and type."""
    alike = values.dtype == points.dtype and values.device == points.device and len(values) == len(points)
    return alike and points.ndim == 3 and 1 <= points.shape[1] == values.ndim - 2 <= 3


def _has_kernel(device: str) -> bool:
    """Whether tensors of a device have a kernel here."""
    return (device == "cpu" and native_status()[0]) or (device == "cuda" and triton_status()[0])


# What torch.compiler.assume_constant_result does, without importing the compiler.
_has_kernel._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _nobody_looks_on(values: Tensor, points: Tensor) -> bool:
    """Whether the kernel can be called past torch, whose way to an operator first imports its compiler, for seconds."""
    if points.device.type != "cpu" or not type(values) is type(points) is Tensor or torch.compiler.is_compiling():
        return False
    wanted = torch.is_grad_enabled() and (values.requires_grad or points.requires_grad)
    transformed = torch._C._are_functorch_transforms_active() or _get_current_dispatch_mode() is not None
    return not (wanted or transformed or torch._C._get_tracing_state() is not None)


def _sample_on_cpu(values: Tensor, points: Tensor, with_jacobian: bool) -> tuple[Tensor, Tensor]:
    values, points = _dense(values), _dense(points)
    (batch, dim, count), channels = points.shape, values.shape[1]
    value = points.new_empty(batch, channels, count)
    jacobian = points.new_empty((batch, channels, dim, count) if with_jacobian else (0,))
    _call("sample", values, points, value, jacobian if with_jacobian else None)
    return value, jacobian


_sample = torch.library.custom_op("foldless::sample", mutates_args=(), schema=SCHEMA)(_sample_on_cpu)


@_sample.register_kernel("cuda")
def _sample_on_gpu(values: Tensor, points: Tensor, with_jacobian: bool) -> tuple[Tensor, Tensor]:
    from foldless.kernels import triton_sample

    return triton_sample.sample(_dense(values), _dense(points), with_jacobian)


@_sample.register_fake
def _(values: Tensor, points: Tensor, with_jacobian: bool) -> tuple[Tensor, Tensor]:
    (batch, dim, count), channels = points.shape, values.shape[1]
    jacobian = points.new_empty((batch, channels, dim, count) if with_jacobian else (0,))
    return points.new_empty(batch, channels, count), jacobian


@torch.library.custom_op("foldless::sample_backward", mutates_args=(), schema=BACKWARD_SCHEMA)
def _sample_backward(
    values: Tensor,
    points: Tensor,
    g_value: Tensor | None,
    g_jacobian: Tensor | None,
    for_values: bool,
    for_points: bool,
) -> tuple[Tensor, Tensor]:
    values, points = _dense(values), _dense(points)
    g_value = None if g_value is None else g_value.contiguous()
    g_jacobian = None if g_jacobian is None else g_jacobian.contiguous()
    clear = values.new_zeros if points.numel() == 0 else values.new_empty
    g_values = clear(values.shape) if for_values else values.new_empty(0)
    g_points = torch.empty_like(points, memory_format=torch.contiguous_format) if for_points else points.new_empty(0)
    out = (g_values if for_values else None, g_points if for_points else None)
    _call("sample_backward", values, points, g_value, g_jacobian, *out)
    return g_values, g_points


@_sample_backward.register_kernel("cuda")
def _sample_backward_on_gpu(
    values: Tensor,
    points: Tensor,
    g_value: Tensor | None,
    g_jacobian: Tensor | None,
    for_values: bool,
    for_points: bool,
) -> tuple[Tensor, Tensor]:
    from foldless.kernels import triton_sample

    g_value = None if g_value is None else g_value.contiguous()
    g_jacobian = None if g_jacobian is None else g_jacobian.contiguous()
    return triton_sample.sample_backward(_dense(values), _dense(points), g_value, g_jacobian, for_values, for_points)


@_sample_backward.register_fake
def _(
    values: Tensor,
    points: Tensor,
    g_value: Tensor | None,
    g_jacobian: Tensor | None,
    for_values: bool,
    for_points: bool,
) -> tuple[Tensor, Tensor]:
    return (
        values.new_empty(values.shape if for_values else (0,)),
        points.new_empty(points.shape if for_points else (0,)),
    )


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: tuple[Tensor, Tensor]) -> None:
    values, points, ctx.with_jacobian = inputs
    ctx.save_for_backward(values, points)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, g_value: Tensor | None, g_jacobian: Tensor | None) -> tuple[Tensor | None, ...]:
    values, points = ctx.saved_tensors
    for_values, for_points = ctx.needs_input_grad[:2]
    if not ctx.with_jacobian:
        g_jacobian = None
    if (g_value is None and g_jacobian is None) or not (for_values or for_points):
        return None, None, None
    g_values, g_points = _sample_backward(values, points, g_value, g_jacobian, for_values, for_points)
    return g_values if for_values else None, g_points if for_points else None, None


_sample.register_autograd(_differentiate, setup_context=_remember)


def _refuse(ctx: Any, *gradients: Tensor) -> None:
    raise NotImplementedError(SECOND)


_sample_backward.register_autograd(_refuse)


def _dense(tensor: Tensor) -> Tensor:
    """Contiguous samples; a batch that one sample stands for (stride 0) stays unmaterialised."""
    if tensor.shape[0] > 1 and tensor.stride(0) == 0 and tensor[0].is_contiguous():
        return tensor
    return tensor.contiguous()


def _call(name: str, values: Tensor, points: Tensor, *tensors: Tensor | None) -> None:
    if points.numel() == 0 or values.numel() == 0:
        return
    (batch, dim, count), channels = points.shape, values.shape[1]
    size = ctypes.c_int64
    call(
        f"{name}_{_TYPES[points.dtype]}",
        *map(pointer, (values, points, *tensors)),
        size(batch),
        size(channels),
        size(dim),
        (size * dim)(*values.shape[2:]),
        size(count),
        size(values.stride(0)),
        size(points.stride(0)),
        ctypes.c_int(threads_for(batch * count)),
    )
