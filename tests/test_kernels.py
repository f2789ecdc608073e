"""The compiled form against the plain one, and against autograd's own checks."""

from math import prod

import pytest
import torch
from tables import DIMS, SHAPES, random_points
from torch.testing import assert_close

from foldless import kernels
from foldless.grid import Grid, sample, sample_with_jacobian
from foldless.kernels import convolution, native, plain, windows
from foldless.kernels.consistency import consistency, gradient_consistency
from foldless.kernels.doubling import residual_double
from foldless.kernels.halving import residual_halve
from foldless.kernels.jitter import Jittered, jittered, normal, normal_by_polynomials, plain_jittered
from foldless.kernels.library import lanes
from foldless.kernels.norm import normalise
from foldless.kernels.planar import add_convolved
from foldless.kernels.squaring import squared
from foldless.kernels.thin import normalised_thin, thin
from foldless.maps import Displacement, Exponential, compose, matrix_product
from foldless.maps.matrices import plain_matrix_product
from foldless.networks.layers import double, halve, same
from foldless.regularity import (
    ICON,
    GradICON,
    _both_orders,
    _plain_product_error,
    _product_error,
    _product_errors,
    gradient_inverse_consistency,
    inverse_consistency,
)

compiled = pytest.mark.skipif(
    not kernels.native_status()[0], reason=f"no compiled kernel: {kernels.native_status()[1]}"
)
DTYPES = (torch.float32, torch.float64)
# The same sums in another order, of terms about 1; derivatives are larger by the lattice, gradients by the points.
CLOSE = {torch.float32: {"rtol": 2e-5, "atol": 5e-4}, torch.float64: {"rtol": 1e-11, "atol": 1e-10}}
LATTICES = [(9,), (1,), (2,), (6, 7), (1, 5), (4, 2), (5, 4, 6), (1, 3, 2)]


def places(kind: str, shape: tuple[int, ...], batch: int) -> torch.Tensor:
    """Points (batch, dim, count) of one kind."""
    dim = len(shape)
    nodes = Grid(shape).points(torch.zeros((), dtype=torch.float64)).flatten(2).expand(batch, -1, -1)
    inner = random_points(dim, batch)
    return {
        "inside": inner,
        "outside": random_points(dim, batch, low=-1, high=2),
        "on nodes": nodes,
        "at the border": torch.where(torch.rand_like(inner) < 0.5, inner.round(), inner),
        "far": 1e6 * (inner - 0.5),
    }[kind]


def everything(function, values, points, with_jacobian):
    """Value, derivative, and the gradients of a random functional of both."""
    values, points = values.detach().requires_grad_(), points.detach().requires_grad_()
    value, jacobian = function(values, points, with_jacobian)
    torch.manual_seed(1)
    total = (value * torch.randn_like(value)).sum()
    if jacobian is not None:
        total = total + (jacobian * torch.randn_like(jacobian)).sum()
    return value, jacobian, *torch.autograd.grad(total, [values, points])


def assert_forms_agree(values, points, with_jacobian=True):
    got = everything(native.sample, values, points, with_jacobian)
    expected = everything(plain.sample, values, points, with_jacobian)
    for name, ours, referee in zip(("value", "jacobian", "by values", "by points"), got, expected, strict=True):
        if referee is not None:
            assert_close(ours, referee, equal_nan=True, **CLOSE[points.dtype], msg=lambda m, name=name: f"{name}: {m}")
        else:
            assert ours is None


# Both forms agree


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", LATTICES)
@pytest.mark.parametrize("kind", ["inside", "outside", "on nodes", "at the border", "far"])
def test_the_compiled_form_equals_the_plain_one(kind, shape, dtype):
    if dtype == torch.float32 and kind == "on nodes":
        shape = tuple({1: 1, 2: 2}.get(n, 5) for n in shape)  # k / 4 is exact: both forms agree on which side a node is
    values = torch.randn(2, 3, *shape, dtype=dtype)
    points = places(kind, shape, 2).to(dtype)
    assert_forms_agree(values, points, with_jacobian=True)
    assert_forms_agree(values, points, with_jacobian=False)


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 4, 5, 9])
@pytest.mark.parametrize("dim", DIMS)
def test_any_number_of_channels(dim, channels, dtype):
    """They are scattered by groups of four, the last of which need not be full."""
    values = torch.randn(2, channels, *SHAPES[dim], dtype=dtype)
    assert_forms_agree(values, random_points(dim, batch=2, count=130, low=-0.1, high=1.1).to(dtype))


@compiled
@pytest.mark.parametrize("count", [1, 63, 64, 65, 4097])
@pytest.mark.parametrize("dim", DIMS)
def test_any_number_of_points(dim, count):
    """They are read by blocks of 64 and shared among threads by blocks of those."""
    values = torch.randn(1, 3, *SHAPES[dim], dtype=torch.float64)
    assert_forms_agree(values, random_points(dim, count=count))


@compiled
@pytest.mark.parametrize("dim", DIMS)
def test_few_points_leave_most_values_without_gradient(dim):
    shape = {1: (3000,), 2: (60, 50), 3: (14, 15, 16)}[dim]
    values = torch.randn(1, 3, *shape, dtype=torch.float64, requires_grad=True)
    points = random_points(dim, count=2)
    (got,) = torch.autograd.grad(native.sample(values, points, False)[0].sum(), values)
    (expected,) = torch.autograd.grad(plain.sample(values, points, False)[0].sum(), values)
    assert_close(got, expected, **CLOSE[torch.float64])
    assert (got == 0).sum() >= got.numel() - 2 * 3 * 2**dim


@compiled
@pytest.mark.parametrize("dim", DIMS)
def test_points_that_are_not_numbers_come_back_as_nan(dim):
    values = torch.randn(2, 3, *SHAPES[dim], dtype=torch.float64)
    points = random_points(dim, batch=2)
    points[0, 0, 3] = torch.nan
    points[1, -1, 5] = torch.nan
    assert_forms_agree(values, points)
    value, _ = native.sample(values, points, True)
    assert torch.isnan(value[0, :, 3]).all()
    assert torch.isnan(value[1, :, 5]).all()
    assert torch.isnan(value).sum() == 6


@compiled
@pytest.mark.parametrize("dim", DIMS)
def test_infinite_points_are_the_border(dim):
    values = torch.randn(1, 2, *SHAPES[dim], dtype=torch.float64)
    points = random_points(dim)
    points[:, 0, ::2], points[:, 0, 1::2] = torch.inf, -torch.inf
    value, jacobian = native.sample(values, points, True)
    assert_close(value, native.sample(values, points.clamp(0, 1), False)[0], rtol=0, atol=0)
    assert (jacobian[:, :, 0] == 0).all()


@compiled
@pytest.mark.parametrize("dim", DIMS)
def test_memory_may_have_any_layout(dim):
    shape = SHAPES[dim]
    values = torch.randn(*shape[::-1], 3, 2, dtype=torch.float64).permute(*range(dim + 1, -1, -1))
    points = random_points(dim, batch=4, count=60)[::2, :, 1::3]
    assert not values.is_contiguous()
    assert not points.is_contiguous()
    assert_forms_agree(values, points)
    strided = torch.randn(2, 3, *[2 * n for n in shape], dtype=torch.float64)[(..., *[slice(None, None, 2)] * dim)]
    assert_forms_agree(strided, points)


@compiled
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("which", ["values", "points", "both"])
def test_a_sample_may_stand_for_a_whole_batch(dim, which):
    values = torch.randn(3, 2, *SHAPES[dim], dtype=torch.float64)
    points = random_points(dim, batch=3)
    if which != "points":
        values = values[:1].expand(3, *values.shape[1:])
    if which != "values":
        points = points[:1].expand(3, -1, -1)
    assert 0 in (values.stride(0), points.stride(0))
    assert_forms_agree(values, points)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(("batch", "count"), [(0, 5), (2, 0), (0, 0)])
def test_nothing_in_nothing_out(dim, batch, count):
    values = torch.randn(batch, 2, *SHAPES[dim], requires_grad=True)
    points = torch.rand(batch, dim, count, requires_grad=True)
    value, jacobian = kernels.sample(values, points, True)
    assert value.shape == (batch, 2, count)
    assert jacobian.shape == (batch, 2, dim, count)
    by_values, by_points = torch.autograd.grad(value.sum() + jacobian.sum(), [values, points])
    assert (by_values == 0).all()
    assert by_points.shape == points.shape


@compiled
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("batch", [1, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_many_threads_compute_what_one_does(dim, batch, channels):
    values = torch.randn(batch, channels, *SHAPES[dim], dtype=torch.float64)
    points = random_points(dim, batch, count=10_001)  # more than one chunk, and no multiple of a thread's share
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = everything(native.sample, values, points, True)
        torch.set_num_threads(4)
        many = everything(native.sample, values, points, True)
    finally:
        torch.set_num_threads(before)
    for alone, together in zip(one[:2], many[:2], strict=True):
        assert torch.equal(alone, together)
    for alone, together in zip(one[2:], many[2:], strict=True):
        assert_close(alone, together, **CLOSE[torch.float64])


@compiled
def test_the_plain_form_answers_where_the_compiled_one_cannot():
    values, points = torch.randn(1, 1, 4, 4).half(), torch.rand(1, 2, 5).half()
    assert native.sample(values, points, False)[0].dtype == torch.float16
    values, points = torch.randn(1, 1, 2, 3, 2, 3), torch.rand(1, 4, 5)
    assert native.sample(values, points, True)[1].shape == (1, 1, 4, 5)


def test_the_status_says_why():
    built, why = kernels.native_status()
    assert isinstance(built, bool)
    assert why


# Derivatives


def away_from_kinks(shape, batch):
    """Points in the middle six tenths of random cells."""
    dim = len(shape)
    cells = torch.tensor([n - 1 for n in shape], dtype=torch.float64)[:, None]
    low = (torch.rand(batch, dim, 4, dtype=torch.float64) * cells).floor()
    return (low + random_points(dim, batch, count=4, low=0.2, high=0.8)) / cells


@pytest.mark.parametrize("form", [pytest.param(native.sample, marks=compiled), plain.sample], ids=["compiled", "plain"])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (3, 2, 4)])
@pytest.mark.parametrize("with_jacobian", [False, True])
def test_gradients_are_the_derivatives(form, shape, with_jacobian):
    values = torch.randn(2, 2, *shape, dtype=torch.float64, requires_grad=True)
    points = away_from_kinks(shape, 2).requires_grad_()
    some = (lambda v, p: form(v, p, True)) if with_jacobian else (lambda v, p: form(v, p, False)[0])
    assert torch.autograd.gradcheck(some, (values, points), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (3, 2, 4)])
def test_the_jacobian_is_the_derivative_of_the_value(shape):
    values = torch.randn(1, 2, *shape, dtype=torch.float64)
    points = away_from_kinks(shape, 1).requires_grad_()
    value, jacobian = kernels.sample(values, points, True)
    for channel in range(2):
        (expected,) = torch.autograd.grad(value[:, channel].sum(), points, retain_graph=True)
        assert_close(jacobian[:, channel], expected, **CLOSE[torch.float64])


@compiled
def test_only_wanted_gradients_are_computed():
    values, points = torch.randn(1, 2, 5, 5), torch.rand(1, 2, 7)
    for wants_values in (True, False):
        v, p = values.clone().requires_grad_(wants_values), points.clone().requires_grad_(not wants_values)
        native.sample(v, p, True)[1].sum().backward()
        assert (v.grad is not None) == wants_values
        assert (p.grad is not None) != wants_values


# As a torch operator


@compiled
@pytest.mark.parametrize("with_jacobian", [False, True])
def test_torch_finds_nothing_wrong_with_the_operator(with_jacobian):
    values = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    points = away_from_kinks((4, 5), 2).requires_grad_()
    operator = torch.ops.foldless.sample.default
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operator, (values, points, with_jacobian), test_utils=checks)
    g_value, g_jacobian = torch.randn(2, 2, 4).double(), torch.randn(2, 2, 2, 4).double() if with_jacobian else None
    backward = torch.ops.foldless.sample_backward.default
    arguments = (values.detach(), points.detach(), g_value, g_jacobian, True, True)
    torch.library.opcheck(backward, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("dim", DIMS)
def test_autocast_leaves_coordinates_alone(dim):
    phi = Displacement(0.05 * torch.randn(2, dim, *SHAPES[dim]))
    points = torch.rand(2, dim, 20)
    expected = sample(phi.field, points), *sample_with_jacobian(phi.field, points), phi(points)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = sample(phi.field, points), *sample_with_jacobian(phi.field, points), phi(points)
    for ours, referee in zip(got, expected, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, referee)


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("keep", "reach"), [(1.0, 1.0), (0.0, 0.5), (2.0, -1.0)])
@pytest.mark.parametrize("lattice", [*LATTICES, (20, 9, 31)])
def test_a_step_of_scaling_and_squaring_equals_reading_and_adding(lattice, keep, reach, dtype):
    """Of displacements of some voxels, which leave the cube at its border."""
    u = (torch.randn(3, len(lattice), *lattice, dtype=torch.float64) / max(lattice)).to(dtype)
    like = torch.randn(u.shape, dtype=dtype)

    def plain_form(u):
        points = Grid(lattice).points(u) + reach * u
        value = plain.sample(u, points.flatten(2), with_jacobian=False)[0]
        return keep * u + value.reshape(u.shape)

    got, expected = (with_gradients(form, (u,), like) for form in (lambda u: squared(u, keep, reach), plain_form))
    for ours, referee in zip(got, expected, strict=True):
        assert_close(ours, referee, **CLOSE[dtype])


@compiled
def test_squaring_is_checked_by_finite_differences():
    u = (torch.randn(2, 2, 4, 5, dtype=torch.float64) / 9).requires_grad_()
    torch.autograd.gradcheck(squared, u)


# Convolutions

SHORT = {
    torch.float64: 1e-10,
    torch.bfloat16: 0.03,
}  # relative to the largest entry: rounding; bfloat16's 8 bits, summed
PLAIN = {
    "halve": {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d},
    "double": {1: torch.conv_transpose1d, 2: torch.conv_transpose2d, 3: torch.conv_transpose3d},
}


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("few", "slab", "at_once"),
    [
        (convolution.FEW, convolution.SLAB, 2**21),
        (convolution.FEW, 1, 200),
        (0, convolution.SLAB, 1),
        (0, 40, 1),
        (0, 1, 1),
    ],
)
def test_halving_and_doubling_are_torchs_convolutions(dim, name, dtype, channels_last, few, slab, at_once, monkeypatch):
    """All nodes and channels at once, or some at a time."""
    monkeypatch.setattr(windows, "AT_ONCE", at_once)
    monkeypatch.setattr(convolution, "AT_ONCE", at_once)
    monkeypatch.setattr(convolution, "FEW", few)
    monkeypatch.setattr(convolution, "SLAB", slab)
    ours = {"halve": convolution.halve, "double": convolution.double}[name]
    x = torch.randn(2, 3, *SHAPES[dim], dtype=torch.float64)
    weight = torch.randn(*((5, 3) if name == "halve" else (3, 5)), *[3 if name == "halve" else 4] * dim).double()
    inputs = [tensor.to(dtype) for tensor in (x, weight, torch.randn(5).double())]
    if channels_last and dim > 1:
        inputs[0] = inputs[0].contiguous(memory_format={2: torch.channels_last, 3: torch.channels_last_3d}[dim])

    def value_and_gradients(function, inputs):
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        value = function(*leaves)
        torch.manual_seed(1)
        return value, *torch.autograd.grad(value, leaves, torch.randn(value.shape).to(value.dtype))

    def plain_form(x, weight, bias):
        return PLAIN[name][dim](x, weight, bias, stride=2, padding=1)

    expected = value_and_gradients(plain_form, [tensor.double() for tensor in inputs])
    for got, referee in zip(value_and_gradients(ours, inputs), expected, strict=True):
        assert got.dtype == dtype
        assert_close(got.double(), referee, rtol=0, atol=SHORT[dtype] * referee.abs().max().item())


@pytest.mark.parametrize("name", PLAIN)
def test_halving_and_doubling_can_be_differentiated_twice(name):
    ours = {"halve": convolution.halve, "double": convolution.double}[name]
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(*((2, 3) if name == "halve" else (3, 2)), *[3 if name == "halve" else 4] * 2).double()
    arguments = x, weight.requires_grad_(), torch.randn(2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradgradcheck(ours, arguments)


@compiled
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("at_once", [1, 500, 2**21])
@pytest.mark.parametrize("width", [3, 4])
@pytest.mark.parametrize("lattice", [(1,), (7,), (6, 5), (1, 4), (5, 2, 6), (3, 1, 7)])
def test_windows_are_those_that_torch_unfolds(lattice, width, at_once, dtype, monkeypatch):
    """Lattices of odd size are halved to what rounds up, of which windows reach beyond the end."""
    monkeypatch.setattr(windows, "AT_ONCE", at_once)
    nodes = [(n + 1) // 2 for n in lattice]
    for x in (torch.randn(3, 2, *lattice).to(dtype), in_rows(3, 2, *lattice).to(dtype)):
        seen, found = [], []
        with torch.no_grad():
            for part, met in windows.windows(x, nodes, width):
                seen += range(part.start, part.stop)
                found.append(met.clone())
        assert seen == list(range(3 * prod(nodes)))
        assert torch.equal(torch.cat(found), windows._plain(x, nodes, width))


@pytest.mark.parametrize("name", ["same", "halve", "double"])
@pytest.mark.parametrize("lattice", [(2, 9), (5, 1), (2, 2, 7), (3, 1, 4), (1, 9, 9), (5, 2, 6), (4, 4, 4)])
@pytest.mark.parametrize(("few", "slab"), [(convolution.FEW, convolution.SLAB), (0, convolution.SLAB), (0, 1)])
def test_thin_lattices_have_right_gradients_in_bfloat16(lattice, name, few, slab, monkeypatch):
    """Among torch's own are some that read memory which nobody wrote."""
    monkeypatch.setattr(convolution, "FEW", few)
    monkeypatch.setattr(convolution, "SLAB", slab)
    dim = len(lattice)
    layer = (torch.nn.Conv2d if dim == 2 else torch.nn.Conv3d)(32, 32, 4 if name == "double" else 3, padding=1)
    layout = torch.channels_last if dim == 2 else torch.channels_last_3d
    x = torch.randn(2, 32, *lattice).bfloat16().contiguous(memory_format=layout)
    ours = {"same": same, "halve": halve, "double": double}[name]
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        leaf = x.to(dtype).requires_grad_()
        torch.manual_seed(1)
        y = ours(layer, leaf)
        gradients = torch.autograd.grad(y, (leaf, layer.weight), torch.randn(y.shape).to(dtype))
        found.append((y.detach(), *gradients))
    for short, wide in zip(*found, strict=True):
        assert (short.float() - wide).abs().max() <= SHORT[torch.bfloat16] * wide.abs().max()


ROUNDED = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # of the largest value: sums in float32, results in 8 bits


def assert_close_to_largest(got, expected, dtype, roundings=1):
    for a, b in zip(got, expected, strict=True):
        assert (a.double() - b.double()).abs().max() <= roundings * ROUNDED[dtype] * b.abs().max().clamp_min(1e-6)


def with_gradients(function, tensors, like):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    result = function(*leaves)
    return result.detach(), *torch.autograd.grad(result, leaves, like.to(result.dtype))


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize(("channels", "side"), [(16, 7), (16, 1), (16, 3), (18, 3), (8, 3), (4, 3), (52, 5)])
@pytest.mark.parametrize("dim", DIMS)
def test_the_last_layers_convolution_is_torchs(dim, channels, side, dtype):
    x = torch.randn(2, channels, *SHAPES[dim]).to(dtype)
    weight, bias = torch.randn(dim, channels, *[side] * dim), torch.randn(dim)
    like = torch.randn(2, dim, *SHAPES[dim])
    reference = getattr(torch.nn.functional, f"conv{dim}d")
    got = with_gradients(thin, (x, weight, bias), like)
    expected = with_gradients(
        lambda x, weight, bias: reference(x, weight, bias, padding=side // 2),
        (x.double(), weight.double(), bias.double()),
        like,
    )
    assert got[0].dtype == torch.float32
    assert_close_to_largest(got, expected, dtype)


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("channels", [16, 48, 5])
@pytest.mark.parametrize("by_sample", [False, True])
@pytest.mark.parametrize("dim", DIMS)
def test_normalisation_is_torchs(dim, by_sample, channels, dtype):
    x = (3 * torch.randn(3, channels, *SHAPES[dim]) + 2).to(dtype)
    weight, bias, like = torch.rand(channels) + 0.5, torch.randn(channels), torch.randn(x.shape)

    def reference(x, weight, bias):
        if by_sample:
            return torch.nn.functional.group_norm(x, channels, weight, bias)
        return torch.nn.functional.batch_norm(x, None, None, weight, bias, training=True)

    got = with_gradients(
        lambda x, weight, bias: normalise(x, weight, bias, 1e-5, by_sample)[0], (x, weight, bias), like
    )
    expected = with_gradients(reference, (x.double(), weight.double(), bias.double()), like.to(dtype))
    assert_close_to_largest(got, expected, dtype)
    axes = [*([] if by_sample else [0]), *range(2, x.ndim)]
    mean, variance = normalise(x, weight, bias, 1e-5, by_sample)[1:]
    wanted_variance, wanted_mean = torch.var_mean(x.double(), axes, correction=0)
    assert_close_to_largest((mean, variance), (wanted_mean, wanted_variance), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [5, 16, 32])
@pytest.mark.parametrize("width", [1, 3, 5])
@pytest.mark.parametrize("dim", DIMS)
def test_a_normalised_thin_convolution_is_torchs(dim, width, channels, dtype):
    """Kernels wider than the lattice included; channels that fill no register take both steps apart."""
    shape = {1: (17,), 2: (2, 19), 3: (4, 3, 9)}[dim]
    x = (3 * torch.randn(3, channels, *shape) + 2).to(dtype)
    weight, bias = torch.randn(dim, channels, *[width] * dim), torch.randn(dim)
    inputs = (x, torch.rand(channels) + 0.5, torch.randn(channels), weight, bias)
    like = torch.randn(3, dim, *shape)

    def ours(x, scale, shift, weight, bias):
        return normalised_thin(x, scale, shift, 1e-5, weight, bias)[0]

    def reference(x, scale, shift, weight, bias):
        y = torch.nn.functional.batch_norm(x, None, None, scale, shift, training=True)
        return getattr(torch.nn.functional, f"conv{dim}d")(y, weight, bias, padding=width // 2)

    expected = with_gradients(reference, [t.double() for t in inputs], like.double())
    apart = lanes() == 0 or channels % lanes() > 0  # then what lies between is rounded too
    assert_close_to_largest(with_gradients(ours, inputs, like), expected, dtype, roundings=1 + apart)
    wanted_variance, wanted_mean = torch.var_mean(x.double(), [0, *range(2, x.ndim)], correction=0)
    assert_close_to_largest(
        normalised_thin(*inputs[:3], 1e-5, weight, bias)[1:], (wanted_mean[None], wanted_variance[None]), torch.float32
    )


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("dim", DIMS)
def test_single_nodes_are_halved_and_doubled_as_by_torch(dim, nodes):
    x, bias = torch.randn(3, 5, *[nodes] * dim), torch.randn(7)
    down, up = torch.randn(7, 5, *[3] * dim), torch.randn(5, 7, *[4] * dim)
    halved = getattr(torch.nn.functional, f"conv{dim}d")(x, down, bias, stride=2, padding=1)
    doubled = getattr(torch.nn.functional, f"conv_transpose{dim}d")(x, up, bias, stride=2, padding=1)
    assert_close_to_largest((convolution.halve(x, down, bias),), (halved,), torch.float32)
    assert_close_to_largest((convolution.double(x, up, bias),), (doubled,), torch.float32)


def test_bfloat16_rounds_as_torch_does():
    """A 1-wide convolution with weights 1 hands its gradient through: nearest, ties to even, what is not finite."""
    values = torch.cat([torch.randn(61), 1 + torch.arange(64) / 512, torch.tensor([torch.inf, -torch.inf, torch.nan])])
    x = torch.zeros(1, 32, 1, 128, dtype=torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
    thin(x, torch.ones(1, 32, 1, 1), torch.zeros(1)).backward(values[None, None, None])
    assert torch.equal(x.grad[0, :, 0].isnan(), values.isnan().expand(32, -1))
    finite = ~values.isnan()
    assert torch.equal(x.grad[0, :, 0, finite], values.bfloat16()[finite].expand(32, -1))


# Products of Jacobians


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 50, 2051])
@pytest.mark.parametrize("dim", DIMS)
def test_products_equal_the_plain_ones(dim, count, dtype):
    a, b = torch.randn(2, 2, dim, dim, count, dtype=dtype)
    like = torch.randn(2, dim, dim, count, dtype=dtype)
    got = with_gradients(matrix_product, (a, b), like)
    expected = with_gradients(plain_matrix_product, (a, b), like)
    for ours, referee in zip(got, expected, strict=True):
        assert_close(ours, referee, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-13)


@compiled
@pytest.mark.parametrize("dim", DIMS)
def test_products_have_gradients_of_any_order(dim):
    a, b = torch.randn(2, 2, dim, dim, 2, dtype=torch.float64)
    turned = a.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    assert torch.autograd.gradcheck(matrix_product, (turned, b.requires_grad_()))
    assert torch.autograd.gradgradcheck(matrix_product, (turned, b))


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 50, 2051])
@pytest.mark.parametrize("dim", DIMS)
def test_the_error_of_a_product_equals_the_plain_one(dim, count, dtype):
    a, b = torch.randn(2, 2, dim, dim, count, dtype=dtype)
    points = torch.rand(2, dim, count, dtype=dtype)
    like = torch.tensor(3.0)
    got = with_gradients(lambda a, b: _product_error(a, b, points), (a, b), like)
    expected = with_gradients(lambda a, b: _plain_product_error(a, b, points), (a, b), like)
    for ours, referee in zip(got, expected, strict=True):
        assert ours.dtype == dtype
        assert_close(
            ours,
            referee,
            rtol=ROUNDED[torch.float32] if dtype == torch.float32 else 1e-12,
            atol=1e-6 if dtype == torch.float32 else 1e-12,
        )


@compiled
@pytest.mark.parametrize("dim", DIMS)
def test_the_error_of_a_product_has_its_gradient(dim):
    a, b = torch.randn(2, 2, dim, dim, 3, dtype=torch.float64)
    turned = a.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    points = torch.rand(2, dim, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: _product_error(a, b, points), (turned, b.requires_grad_()))


# Doubling


def in_rows(*shape, dtype=torch.float32):
    """Random numbers whose channels lie side by side."""
    return torch.randn(*shape).to(dtype).movedim(1, -1).contiguous().movedim(-1, 1)


def plain_residual_double(x, weight, bias):
    """The layer in torch's own words, ICON's order of channels."""
    dim, have, want = x.ndim - 2, x.shape[1], weight.shape[1]
    kept = x[:, :want] if have >= want else torch.cat([x.new_zeros(len(x), want - have, *x.shape[2:]), x], dim=1)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[dim]
    active = torch.nn.functional.leaky_relu(x)
    doubled = PLAIN["double"][dim](active, weight, bias, stride=2, padding=1)
    return doubled + torch.nn.functional.interpolate(kept, scale_factor=2, mode=mode)


def assert_level_equals(ours, plain_form, inputs, like):
    """Value and gradients; weights stay float32."""
    x, weight, bias = inputs
    like = like.to(x.dtype)
    got = with_gradients(ours, inputs, like)
    expected = with_gradients(plain_form, [tensor.to(x.dtype).double() for tensor in (x, weight, bias)], like)
    assert got[0].dtype == x.dtype
    assert all(gradient.dtype == torch.float32 for gradient in got[2:])
    assert_close_to_largest(got, expected, x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("have", "want"), [(32, 32), (48, 16), (37, 16), (16, 32), (7, 5)])
@pytest.mark.parametrize("lattice", [(1,), (5,), (4, 3), (1, 6), (3, 1, 4), (2, 5, 3)])
def test_doubling_with_the_shortcut_equals_torchs(dtype, have, want, lattice):
    x, like = in_rows(2, have, *lattice, dtype=dtype), in_rows(2, want, *(2 * n for n in lattice))
    weight, bias = torch.randn(have, want, *[4] * len(lattice)) / have, torch.randn(want)
    assert_level_equals(residual_double, plain_residual_double, (x, weight, bias), like)


def plain_residual_halve(x, weight, bias):
    """In torch, as `residual_halve` promises."""
    dim, have, want = x.ndim - 2, x.shape[1], weight.shape[0]
    pool = getattr(torch.nn.functional, f"avg_pool{dim}d")
    means = pool(x, [min(2, n) for n in x.shape[2:]], ceil_mode=True)[:, :want]
    kept = torch.cat([means.new_zeros(len(x), max(want - have, 0), *means.shape[2:]), means], dim=1)
    return PLAIN["halve"][dim](torch.nn.functional.leaky_relu(x), weight, bias, stride=2, padding=1) + kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("have", "want"), [(16, 48), (32, 32), (2, 16), (37, 40), (40, 16), (7, 5)])
@pytest.mark.parametrize("lattice", [(1,), (5,), (4, 3), (1, 6), (2, 1), (3, 1, 4), (2, 2, 2), (2, 5, 6)])
def test_halving_with_the_shortcut_equals_torchs(dtype, have, want, lattice):
    x, like = in_rows(2, have, *lattice, dtype=dtype), in_rows(2, want, *((n + 1) // 2 for n in lattice))
    weight, bias = torch.randn(want, have, *[3] * len(lattice)) / have, torch.randn(want)
    assert_level_equals(residual_halve, plain_residual_halve, (x, weight, bias), like)


@pytest.mark.parametrize("nodes", [1, 2, 6])
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", ["halve", "double", "residual_halve", "residual_double"])
def test_autocast_leaves_levels_alone(name, dim, nodes):
    functions = {"residual_halve": residual_halve, "residual_double": residual_double}
    ours = functions.get(name) or getattr(convolution, name)
    width = 3 if "halve" in name else 4
    tensors = in_rows(3, 16, *[nodes] * dim), torch.randn(16, 16, *[width] * dim), torch.randn(16)
    like = torch.ones(3, 16, *[(nodes + 1) // 2 if width == 3 else 2 * nodes] * dim)
    expected = with_gradients(ours, tensors, like)
    with torch.autocast("cpu", torch.bfloat16):
        got = with_gradients(ours, tensors, like)
    for mine, referee in zip(got, expected, strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, referee)


@pytest.mark.parametrize("name", ["halve", "double", "residual_halve", "residual_double"])
def test_levels_of_no_sample_have_gradients(name):
    functions = {"residual_halve": residual_halve, "residual_double": residual_double}
    ours = functions.get(name) or getattr(convolution, name)
    x = torch.zeros(0, 16, 6, 7, requires_grad=True)
    weight = torch.randn(16, 16, *[3 if "halve" in name else 4] * 2, requires_grad=True)
    y = ours(x, weight, torch.zeros(16))
    g_x, g_weight = torch.autograd.grad(y.sum(), (x, weight))
    assert g_x.shape == x.shape
    assert torch.equal(g_weight, torch.zeros_like(weight))


@compiled
def test_a_kernel_says_that_it_cannot_be_traced():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with (
        FakeTensorMode(),
        pytest.warns(UserWarning, match="data pointer"),
        pytest.raises(TypeError, match="FOLDLESS_NATIVE=0"),
    ):
        residual_halve(torch.zeros(1, 16, 4, 4), torch.zeros(16, 16, 3, 3), torch.zeros(16))


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("dim", DIMS)
def test_doubling_node_by_node_equals_the_convolution(dim, nodes, dtype):
    x, like = in_rows(40, 6, *[nodes] * dim, dtype=dtype), in_rows(40, 5, *[2 * nodes] * dim)
    weight, bias = torch.randn(6, 5, *[4] * dim), torch.randn(5)

    def plain(x, weight, bias):
        return PLAIN["double"][dim](x, weight, bias, stride=2, padding=1)

    got = with_gradients(convolution.double, (x, weight, bias), like.to(dtype))
    rounded = (x.double(), weight.to(dtype).double(), bias.to(dtype).double())
    expected = with_gradients(plain, rounded, like.to(dtype))
    for ours, referee in zip(got, expected, strict=True):  # of up to four products, each rounded
        allowed = 4 * ROUNDED[dtype] * referee.abs().max()
        assert (ours.double() - referee.double()).abs().max() <= allowed


# Channels beside those of the last layer


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize(
    ("lattice", "side"), [((70,), 3), ((5, 37), 5), ((4, 5, 67), 3), ((1, 2, 3), 3), ((1, 1, 1), 3)]
)
@pytest.mark.parametrize(("channels", "outputs"), [(2, 3), (1, 1), (4, 2), (2, 5)])
def test_adding_a_convolution_of_few_channels_equals_torchs(lattice, side, channels, outputs, dtype):
    dim = len(lattice)
    x, y = torch.randn(2, channels, *lattice).to(dtype), torch.randn(2, outputs, *lattice)
    weight, like = torch.randn(outputs, channels, *[side] * dim), torch.randn(y.shape)
    reference = getattr(torch.nn.functional, f"conv{dim}d")
    got = with_gradients(lambda y, x, w: add_convolved(y.clone(), x, w), (y, x, weight), like)
    expected = with_gradients(
        lambda y, x, w: y + reference(x, w, padding=side // 2), (y.double(), x.double(), weight.double()), like
    )
    assert_close_to_largest(got, expected, dtype)


# Inverse consistency in one pass

CONSISTENCIES = {
    "icon": (inverse_consistency, _both_orders),
    "gradicon": (gradient_inverse_consistency, _product_errors),
}


def two_fields(dim, shape, batch, dtype):
    return torch.randn(2, batch, dim, *shape, dtype=dtype) * 0.1


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 3, 17])
@pytest.mark.parametrize(
    ("shape", "count"), [((6,), 77), ((1,), 3), ((5, 9), 200), ((20, 1), 64), ((6, 7, 8), 300), ((2, 3, 1), 130)]
)
@pytest.mark.parametrize("name", CONSISTENCIES)
def test_consistency_in_one_pass_is_the_plain_one(name, shape, count, batch, dtype):
    ours, plain = CONSISTENCIES[name]
    dim = len(shape)
    fields = two_fields(dim, shape, batch, dtype)
    points = torch.rand(batch, dim, count, dtype=dtype) * 1.4 - 0.2  # some of them outside
    like = torch.tensor(3.0, dtype=dtype)
    got = with_gradients(lambda a, b: ours(a, b, points), tuple(fields), like)
    expected = with_gradients(lambda a, b: plain(Displacement(a), Displacement(b), points), tuple(fields), like)
    for mine, referee in zip(got, expected, strict=True):
        assert mine.dtype == dtype
        slack = 2e-5 if dtype == torch.float32 else 1e-12  # sums of many terms in the type's own rounding
        assert (mine - referee).abs().max() <= slack * referee.abs().max() + 1e-12


CHAINS = {1: [(6,), (9,), (5,)], 2: [(5, 9), (6, 4), (5, 9)], 3: [(4, 5, 3), (6, 7, 8), (1, 3, 2)]}


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 3, 16])
@pytest.mark.parametrize(("in_AB", "in_BA"), [(2, 2), (3, 3), (1, 3), (3, 2)])
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", CONSISTENCIES)
def test_consistency_of_compositions_in_one_pass_is_the_plain_one(name, dim, in_AB, in_BA, batch, dtype):
    ours, plain = CONSISTENCIES[name]
    shapes = CHAINS[dim][:in_AB] + CHAINS[dim][:in_BA]
    fields = [torch.randn(batch, dim, *shape, dtype=dtype) * 0.1 for shape in shapes]
    points, like = torch.rand(batch, dim, 300, dtype=dtype) * 1.4 - 0.2, torch.tensor(3.0, dtype=dtype)

    def composed(function):
        def of_fields(*fields):
            maps = [Displacement(field) for field in fields]
            return function(compose(*maps[:in_AB]), compose(*maps[in_AB:]), points)

        return of_fields

    got, expected = (with_gradients(composed(function), fields, like) for function in (ours, plain))
    for mine, referee in zip(got, expected, strict=True):
        slack = 2e-5 if dtype == torch.float32 else 1e-11  # sums of many terms in the type's own rounding
        assert (mine - referee).abs().max() <= slack * referee.abs().max() + 1e-12


@compiled
@pytest.mark.parametrize("name", CONSISTENCIES)
@pytest.mark.parametrize("dim", DIMS)
def test_consistency_of_compositions_in_one_pass_has_its_gradient(name, dim):
    fields = [torch.randn(2, dim, *shape, dtype=torch.float64) * 0.1 for shape in 2 * CHAINS[dim]]
    points = torch.rand(2, dim, 9, dtype=torch.float64) * 1.2 - 0.1

    def of_fields(*fields):
        maps = [Displacement(field) for field in fields]
        return CONSISTENCIES[name][0](compose(*maps[:3]), compose(*maps[3:]), points)

    assert torch.autograd.gradcheck(of_fields, [field.requires_grad_() for field in fields], fast_mode=dim == 3)


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 3, 17])
@pytest.mark.parametrize(("shape", "finer"), [((6,), (5000,)), ((5, 9), (90, 70)), ((6, 7, 8), (21, 20, 19))])
@pytest.mark.parametrize("name", CONSISTENCIES)
def test_consistency_at_jittered_nodes_is_that_at_the_same_points_in_memory(name, shape, finer, batch, dtype):
    fused = {"icon": consistency, "gradicon": gradient_consistency}[name]
    fields, places = two_fields(len(shape), shape, batch, dtype), Jittered(finer, 123456789012345678)
    points, like = places.on(fields[0]), torch.tensor(3.0, dtype=dtype)
    assert points.shape == (batch, len(shape), *finer)
    got = with_gradients(lambda a, b: fused([a], [b], places), tuple(fields), like)
    expected = with_gradients(lambda a, b: fused([a], [b], points), tuple(fields), like)
    for mine, referee in zip(got, expected, strict=True):
        slack = 2e-5 if dtype == torch.float32 else 1e-12  # sums in another order
        if name == "gradicon" and dtype == torch.float32:
            slack = 1e-4  # slopes on the other side of a node that rounding moves a point across
        assert (mine - referee).abs().max() <= slack * referee.abs().max()


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (9000,), (5, 1), (70, 80), (3, 1, 4), (21, 20, 19)])
@pytest.mark.parametrize("seed", [0, 5, 2**63 - 2])
def test_jitter_is_the_plain_one_whatever_the_threads(shape, dtype, seed):
    arguments = seed, 2, shape, dtype, torch.device("cpu")
    voxel = torch.tensor(Grid(shape).voxel, dtype=dtype).reshape(-1, *[1] * len(shape))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(jittered(*arguments))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
    # Two ways to a quantile in float32, of up to 5.3 voxels; and coordinates near 1 in the points' own type.
    allowed = 5e-6 * voxel + 2 * torch.finfo(dtype).eps
    assert ((found[0] - plain_jittered(*arguments)).abs() <= allowed).all()


def test_the_polynomials_of_gpus_are_normal_quantiles():
    """At every eighth number that there is, the outermost among them: 5.3 deviations."""
    between = torch.arange(1 - 2**23, 2**23, 16).float() * 2**-23
    between[-1] = -between[0]
    exact = 2**0.5 * torch.erfinv(between.double())
    assert exact.max() > 5.2
    for found in (normal(between), normal_by_polynomials(between)):
        assert ((found - exact).abs() <= 5e-6).all()


def test_gpus_are_not_asked_for_erfinv(monkeypatch):
    """Whose code torch compiles at run time, in a file for all processes: those that start together spoil it."""
    monkeypatch.setattr(torch, "erfinv", lambda x: pytest.fail("erfinv on a GPU"))
    points = plain_jittered(3, 2, (5, 6, 7), torch.float32, torch.device("meta"))
    assert (points.shape, points.device.type) == ((2, 3, 5, 6, 7), "meta")


@compiled
@pytest.mark.parametrize("name", CONSISTENCIES)
@pytest.mark.parametrize("dim", DIMS)
def test_consistency_in_one_pass_has_its_gradient(name, dim):
    ours = CONSISTENCIES[name][0]
    fields = two_fields(dim, SHAPES[dim], 2, torch.float64).requires_grad_()
    points = torch.rand(2, dim, 9, dtype=torch.float64) * 1.2 - 0.1
    assert torch.autograd.gradcheck(lambda f: ours(f[0], f[1], points), fields, fast_mode=dim == 3)


@compiled
@pytest.mark.parametrize("name", CONSISTENCIES)
def test_consistency_in_one_pass_depends_on_threads_by_rounding_alone(name):
    ours = CONSISTENCIES[name][0]
    fields, points = two_fields(3, (9, 8, 7), 1, torch.float32), torch.rand(1, 3, 5000)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(with_gradients(lambda a, b: ours(a, b, points), tuple(fields), torch.tensor(1.0)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())


@pytest.mark.parametrize("name", CONSISTENCIES)
@pytest.mark.parametrize("dims", [(3, 2), (2, 3)])
def test_points_and_grids_of_another_dimension_are_refused(name, dims):
    ours, regularity = CONSISTENCIES[name][0], {"icon": ICON(), "gradicon": GradICON()}[name]
    dim, other = dims
    maps = [Displacement(field) for field in two_fields(dim, (4, 5, 6)[:dim], 1, torch.float32)]
    for points in (torch.rand(1, other, 10), Jittered((5,) * other, 1)):
        with pytest.raises(ValueError, match=f"{dim}-D|{dim} dim|{dim}-dim"):
            ours(*maps, points)
    with pytest.raises(ValueError, match=f"maps of {dim} dimensions"):
        regularity(*maps, Grid((5,) * other))


@compiled
@pytest.mark.parametrize("name", CONSISTENCIES)
def test_what_one_pass_cannot_do_is_done_plainly(name):
    """Points that want a gradient, maps whose batches differ, and maps that are no displacements."""
    ours, plain = CONSISTENCIES[name]
    a, b = (Displacement(field) for field in two_fields(2, (5, 6), 2, torch.float64))
    points = torch.rand(2, 2, 30, dtype=torch.float64)
    wanted = points.clone().requires_grad_()
    slope = torch.autograd.grad(ours(a, b, wanted), wanted)[0]
    assert slope.abs().max() > 0
    assert_close(ours(a[:1], b, points), plain(a[:1], b, points))
    bent = Exponential(a.field)
    assert_close(ours(a @ bent, b, points), plain(a @ bent, b, points))
