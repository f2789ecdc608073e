"""Sampling on a GPU, in Triton: value, derivative, and the adjoint of both. `plain.py` says what it computes.

A program takes a block of points of one sample, and all its channels. The axes are x, y and z, of which a lattice of
fewer dimensions has the last; those that it lacks have one node, so that nothing depends on them. Scattering adds
atomically, so that sums are rounded in any order.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

POINTS = 128
"""Of a program."""

_SIZES = ["count", "channels", "n_x", "n_y", "n_z", "values_stride", "points_stride"]


@triton.jit
@no_type_check
def _place_on_axis(points, n, ok):
    """The lowest corner, the step to the highest, the fraction towards it, and the fraction's derivative."""
    index = tl.load(points, mask=ok, other=0)
    last = (n - 1).to(index.dtype)
    index = index * last
    clamped = tl.where(index > 0, index, 0.0)  # false for NaN
    clamped = tl.where(clamped < last, clamped, last)
    low = tl.minimum(clamped.to(tl.int32), tl.maximum(n - 2, 0))
    fraction = tl.where(index == index, clamped - low.to(index.dtype), index)
    slope = tl.where((index >= 0) & (index <= last), last, 0.0)
    return low, tl.minimum(n - 1, 1), fraction, slope


@triton.jit
@no_type_check
def _place(points, count, n_x, n_y, n_z, points_stride, DIM: tl.constexpr, POINTS: tl.constexpr):
    """A program's points: their sample, which of it, and whether they exist; where they lie.

    That is the offset of their lowest corner, and for each axis the step, the fraction and its derivative.
    """
    blocks = tl.cdiv(count, POINTS)
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    at = (tl.program_id(0) % blocks) * POINTS + tl.arange(0, POINTS)
    ok = at < count
    points = points + sample * points_stride + at
    base, step_z, f_z, s_z = _place_on_axis(points + (DIM - 1) * count, n_z, ok)
    step_x, step_y = 0, 0
    f_x, f_y = tl.zeros_like(f_z), tl.zeros_like(f_z)
    s_x, s_y = f_x, f_y
    if DIM >= 2:
        low_y, step_y, f_y, s_y = _place_on_axis(points + (DIM - 2) * count, n_y, ok)
        base += low_y * n_z
        step_y = step_y * n_z
    if DIM == 3:
        low_x, step_x, f_x, s_x = _place_on_axis(points, n_x, ok)
        base += low_x * (n_y * n_z)
        step_x = step_x * (n_y * n_z)
    return sample, at, ok, base, step_x, step_y, step_z, f_x, f_y, f_z, s_x, s_y, s_z


@triton.jit
@no_type_check
def _corner(base, step_x, step_y, step_z, f_x, f_y, f_z, NUMBER: tl.constexpr):
    """Where a corner is; for each axis how much it counts and the sign of that number's derivative."""
    x: tl.constexpr = NUMBER // 4 % 2
    y: tl.constexpr = NUMBER // 2 % 2
    z: tl.constexpr = NUMBER % 2
    place = base + x * step_x + y * step_y + z * step_z
    w_x = f_x if x else 1.0 - f_x
    w_y = f_y if y else 1.0 - f_y
    w_z = f_z if z else 1.0 - f_z
    return place, w_x, w_y, w_z, 2.0 * x - 1.0, 2.0 * y - 1.0, 2.0 * z - 1.0


@triton.jit(do_not_specialize=_SIZES)
@no_type_check
def _read(
    values,
    points,
    value,
    jacobian,
    count,
    channels,
    n_x,
    n_y,
    n_z,
    values_stride,
    points_stride,
    DIM: tl.constexpr,
    WITH_JACOBIAN: tl.constexpr,
    POINTS: tl.constexpr,
):
    sample, at, ok, base, step_x, step_y, step_z, f_x, f_y, f_z, s_x, s_y, s_z = _place(
        points, count, n_x, n_y, n_z, points_stride, DIM, POINTS
    )
    nodes = n_x.to(tl.int64) * n_y * n_z
    for c in range(channels):
        plane_of_values = values + sample * values_stride + c * nodes
        total = tl.zeros_like(f_z)
        d_x, d_y, d_z = tl.zeros_like(f_z), tl.zeros_like(f_z), tl.zeros_like(f_z)
        for number in tl.static_range(2**DIM):
            place, w_x, w_y, w_z, up_x, up_y, up_z = _corner(base, step_x, step_y, step_z, f_x, f_y, f_z, number)
            v = tl.load(plane_of_values + place, mask=ok, other=0)
            total += v * (w_x * w_y * w_z)
            if WITH_JACOBIAN:
                d_x += v * (w_y * w_z) * up_x
                d_y += v * (w_x * w_z) * up_y
                d_z += v * (w_x * w_y) * up_z
        plane = sample * channels + c
        tl.store(value + plane * count + at, total, mask=ok)
        if WITH_JACOBIAN:
            into = jacobian + plane * DIM * count + at
            if DIM == 3:
                tl.store(into, s_x * d_x, mask=ok)
            if DIM >= 2:
                tl.store(into + (DIM - 2) * count, s_y * d_y, mask=ok)
            tl.store(into + (DIM - 1) * count, s_z * d_z, mask=ok)


@triton.jit(do_not_specialize=_SIZES)
@no_type_check
def _adjoint(
    values,
    points,
    g_value,
    g_jacobian,
    g_values,
    g_points,
    count,
    channels,
    n_x,
    n_y,
    n_z,
    values_stride,
    points_stride,
    DIM: tl.constexpr,
    OF_VALUE: tl.constexpr,
    OF_JACOBIAN: tl.constexpr,
    FOR_VALUES: tl.constexpr,
    FOR_POINTS: tl.constexpr,
    POINTS: tl.constexpr,
):
    sample, at, ok, base, step_x, step_y, step_z, f_x, f_y, f_z, s_x, s_y, s_z = _place(
        points, count, n_x, n_y, n_z, points_stride, DIM, POINTS
    )
    nodes = n_x.to(tl.int64) * n_y * n_z
    by_x, by_y, by_z = tl.zeros_like(f_z), tl.zeros_like(f_z), tl.zeros_like(f_z)
    for c in range(channels):
        plane = sample * channels + c
        g, g_x, g_y, g_z = tl.zeros_like(f_z), tl.zeros_like(f_z), tl.zeros_like(f_z), tl.zeros_like(f_z)
        if OF_VALUE:
            g = tl.load(g_value + plane * count + at, mask=ok, other=0)
        if OF_JACOBIAN:
            arriving = g_jacobian + plane * DIM * count + at
            if DIM == 3:
                g_x = s_x * tl.load(arriving, mask=ok, other=0)
            if DIM >= 2:
                g_y = s_y * tl.load(arriving + (DIM - 2) * count, mask=ok, other=0)
            g_z = s_z * tl.load(arriving + (DIM - 1) * count, mask=ok, other=0)
        for number in tl.static_range(2**DIM):
            place, w_x, w_y, w_z, up_x, up_y, up_z = _corner(base, step_x, step_y, step_z, f_x, f_y, f_z, number)
            h_x, h_y, h_z = up_x * g_x, up_y * g_y, up_z * g_z
            if FOR_VALUES:
                share = g * (w_x * w_y * w_z) + h_x * (w_y * w_z) + h_y * (w_x * w_z) + h_z * (w_x * w_y)
                tl.atomic_add(g_values + plane * nodes + place, share, mask=ok, sem="relaxed")
            if FOR_POINTS:
                v = tl.load(values + sample * values_stride + c * nodes + place, mask=ok, other=0)
                by_x += v * (g * (w_y * w_z) + h_y * w_z + h_z * w_y) * up_x
                by_y += v * (g * (w_x * w_z) + h_x * w_z + h_z * w_x) * up_y
                by_z += v * (g * (w_x * w_y) + h_x * w_y + h_y * w_x) * up_z
    if FOR_POINTS:
        into = g_points + sample * DIM * count + at
        if DIM == 3:
            tl.store(into, s_x * by_x, mask=ok)
        if DIM >= 2:
            tl.store(into + (DIM - 2) * count, s_y * by_y, mask=ok)
        tl.store(into + (DIM - 1) * count, s_z * by_z, mask=ok)


def sample(values: Tensor, points: Tensor, with_jacobian: bool) -> tuple[Tensor, Tensor]:
    """Value and derivative (empty where it is not wanted); each sample's numbers lie densely, shapes as in `plain`."""
    (batch, dim, count), channels = points.shape, values.shape[1]
    value = points.new_empty(batch, channels, count)
    jacobian = points.new_empty((batch, channels, dim, count) if with_jacobian else (0,))
    _launch(_read, values, points, value, jacobian, DIM=dim, WITH_JACOBIAN=with_jacobian)
    return value, jacobian


def sample_backward(
    values: Tensor,
    points: Tensor,
    g_value: Tensor | None,
    g_jacobian: Tensor | None,
    for_values: bool,
    for_points: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients by the values and by the points, empty where they are not wanted."""
    g_values = values.new_zeros(values.shape if for_values else (0,))
    g_points = points.new_empty(points.shape if for_points else (0,))
    arriving = [points.new_empty(0) if g is None else g for g in (g_value, g_jacobian)]
    _launch(
        _adjoint,
        values,
        points,
        *arriving,
        g_values,
        g_points,
        DIM=points.shape[1],
        OF_VALUE=g_value is not None,
        OF_JACOBIAN=g_jacobian is not None,
        FOR_VALUES=for_values,
        FOR_POINTS=for_points,
    )
    return g_values, g_points


@no_type_check
def _launch(kernel, values, points, *tensors, **constants):
    batch, dim, count = points.shape
    if points.numel() == 0 or values.numel() == 0:
        return
    sizes = [1] * (3 - dim) + list(values.shape[2:])
    with torch.cuda.device_of(points):
        kernel[(batch * triton.cdiv(count, POINTS),)](
            values,
            points,
            *tensors,
            count,
            values.shape[1],
            *sizes,
            values.stride(0),
            points.stride(0),
            **constants,
            POINTS=POINTS,
            enable_fp_fusion=True,
        )
