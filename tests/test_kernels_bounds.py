"""Kernels of any width, and arguments that do not belong together: a right result or a sentence, never other memory."""

import pytest
import torch
from tables import DIMS
from torch.testing import assert_close

from foldless import kernels
from foldless.kernels import plain, windows
from foldless.kernels.certify import can_certify
from foldless.kernels.correlation import Windows, can_correlate, mean_correlation
from foldless.kernels.doubling import residual_double
from foldless.kernels.halving import residual_halve
from foldless.kernels.jitter import jittered
from foldless.kernels.planar import add_convolved
from foldless.kernels.product import can_multiply
from foldless.kernels.simplices import can_judge, judge
from foldless.kernels.thin import normalised_thin, thin

pytestmark = pytest.mark.skipif(
    not kernels.native_status()[0], reason=f"no compiled kernel: {kernels.native_status()[1]}"
)

ODD = (1, 3, 5, 7, 13, 15)
LATTICES = {1: (23,), 2: (14, 6), 3: (13, 14, 4)}  # kernels are narrower than some axes and wider than others
CHANNELS = 16


def convolved(x, weight, bias=None):
    padding = [width // 2 for width in weight.shape[2:]]
    return getattr(torch.nn.functional, f"conv{x.ndim - 2}d")(x, weight, bias, padding=padding)


def assert_torchs(ours, referee, *tensors):
    """The value and all gradients, against float64; sums of some thousand terms in float32."""
    found = []
    for function, dtype in ((ours, torch.float32), (referee, torch.float64)):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in tensors]
        y = function(*leaves)
        torch.manual_seed(1)
        like = torch.randn(y.shape, dtype=torch.float64)
        found.append((y.detach(), *torch.autograd.grad(y, leaves, like.to(dtype))))
    for got, expected in zip(*found, strict=True):
        assert (got.double() - expected).abs().max() <= 1e-5 * expected.abs().max()


def kernels_of(dim):
    """All widths alike, and unlike ones."""
    return [(width,) * dim for width in ODD] + [(13, 1, 15)[:dim], (3, 15, 1)[:dim]] * (dim > 1)


every_kernel = pytest.mark.parametrize("kernel", [kernel for dim in DIMS for kernel in kernels_of(dim)], ids=str)


def thin_inputs(kernel):
    dim = len(kernel)
    return torch.randn(1, CHANNELS, *LATTICES[dim]), torch.randn(dim, CHANNELS, *kernel), torch.randn(dim)


@every_kernel
def test_thin_convolutions_of_any_odd_width(kernel):
    assert_torchs(thin, convolved, *thin_inputs(kernel))


@every_kernel
def test_thin_convolutions_of_what_is_normalised_of_any_odd_width(kernel):
    x, weight, bias = thin_inputs(kernel)

    def referee(x, scale, shift, weight, bias):
        return convolved(torch.nn.functional.batch_norm(x, None, None, scale, shift, training=True), weight, bias)

    def ours(x, scale, shift, weight, bias):
        return normalised_thin(x, scale, shift, 1e-5, weight, bias)[0]

    assert_torchs(ours, referee, x, torch.rand(CHANNELS) + 0.5, torch.randn(CHANNELS), weight, bias)


@every_kernel
def test_convolutions_of_few_channels_of_any_odd_width(kernel):
    lattice = LATTICES[len(kernel)]
    y, x, weight = torch.randn(2, 3, *lattice), torch.randn(2, 2, *lattice), torch.randn(3, 2, *kernel)
    assert_torchs(lambda y, x, w: add_convolved(y.clone(), x, w), lambda y, x, w: y + convolved(x, w), y, x, weight)


@pytest.mark.parametrize("kernel", [(2,), (3, 2), (1, 1, 4)], ids=str)
def test_even_widths_are_refused(kernel):
    x, weight, bias = thin_inputs(kernel)
    scale = torch.ones(CHANNELS)
    for run in (
        lambda: thin(x, weight, bias),
        lambda: normalised_thin(x, scale, scale, 1e-5, weight, bias),
        lambda: add_convolved(torch.zeros(1, len(kernel), *x.shape[2:]), x, weight),
    ):
        with pytest.raises(ValueError, match="needs a kernel of odd widths; got"):
            run()


UNFIT = {  # of a weight (2, 16, 3, 3) and a bias (2,)
    "fewer channels": lambda weight, bias: (weight[:, :8], bias),
    "more channels": lambda weight, bias: (weight.repeat(1, 2, 1, 1), bias),
    "another dimension": lambda weight, bias: (weight[..., None], bias),
    "a longer bias": lambda weight, bias: (weight, bias.repeat(2)),
    "a shorter bias": lambda weight, bias: (weight, bias[:1]),
}


@pytest.mark.parametrize("how", UNFIT)
def test_a_weight_that_does_not_fit_is_refused_by_torch(how):
    x = torch.randn(1, CHANNELS, 5, 6)
    weight, bias = UNFIT[how](torch.randn(2, CHANNELS, 3, 3), torch.randn(2))
    scale = torch.ones(CHANNELS)
    with pytest.raises(RuntimeError):
        thin(x, weight, bias)
    with pytest.raises(RuntimeError):
        normalised_thin(x, scale, scale, 1e-5, weight, bias)


def test_a_bias_of_another_type_is_that_bias():
    x, weight, bias = thin_inputs((3, 3))
    assert_close(thin(x, weight, bias.double()), thin(x, weight, bias), check_dtype=False, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("how", ["fewer channels", "more channels", "another dimension"])
def test_a_weight_of_few_channels_that_does_not_fit_is_refused_by_torch(how):
    weight, _ = UNFIT[how](torch.randn(2, CHANNELS, 3, 3), torch.randn(2))
    with pytest.raises(RuntimeError):
        add_convolved(torch.zeros(1, 2, 5, 6), torch.randn(1, CHANNELS, 5, 6), weight)


def test_a_convolution_is_added_to_its_own_lattice_alone():
    x, weight = torch.randn(1, 2, 9, 8), torch.randn(3, 2, 3, 3)
    with pytest.raises(RuntimeError):
        add_convolved(torch.zeros(1, 3, 5, 6), x, weight)


@pytest.mark.parametrize("run", [residual_halve, residual_double])
@pytest.mark.parametrize("width", [1, 2, 5, 6, 7, 13])
def test_levels_of_another_width_are_refused_by_torch(run, width):
    with pytest.raises(RuntimeError):
        run(torch.randn(1, 16, 8, 10), torch.randn(16, 16, width, width), torch.randn(16))


@pytest.mark.parametrize("width", [1, 2, 3, 5, 7, 13, 15])
@pytest.mark.parametrize("dim", DIMS)
def test_windows_of_any_width(dim, width):
    x, nodes = torch.randn(2, 3, *LATTICES[dim]), [(n + 1) // 2 for n in LATTICES[dim]]
    with torch.no_grad():
        got = torch.cat([part.clone() for _, part in windows.windows(x, nodes, width)])
    assert torch.equal(got, windows._plain(x, nodes, width))


def simplices_of(dim, edges):
    """As many simplices as edges, of so many different ones."""
    side = [(n % 5, n // 5 % 5, n // 25)[:dim] for n in range(1, edges + 1)]
    return [[side[(n + 7 * k) % edges] for k in range(dim)] for n in range(edges)]


@pytest.mark.parametrize("edges", [3, 32, 33, 120])
@pytest.mark.parametrize("dim", [2, 3])
def test_simplices_may_have_any_number_of_edges(dim, edges):
    edges = min(edges, 5**dim - 1)
    field = torch.randn(2, dim, *(9, 8, 25)[-dim:], dtype=torch.float64)
    simplices, signs = simplices_of(dim, edges), [1 - 2 * (n % 2) for n in range(edges)]
    folded, negative = judge(field, simplices, signs, (0, 4), zero_folds=True)
    places = [n - 4 for n in field.shape[2:]]

    def edge(offset):
        moved = field[(..., *(slice(o, o + n) for o, n in zip(offset, places, strict=True)))]
        still = field[(..., *map(slice, places))]
        return (moved - still).movedim(1, -1) + torch.tensor(offset)

    volumes = torch.stack(
        [
            sign * torch.linalg.det(torch.stack([edge(offset) for offset in simplex], -1))
            for simplex, sign in zip(simplices, signs, strict=True)
        ]
    )
    clear = volumes.abs().amin(0) > 1e-9
    assert torch.equal(folded[clear], (volumes <= 0).any(0)[clear])
    assert_close(negative, (-volumes).clamp_min(0).sum(0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("simplices", "signs", "crop", "match"),
    [
        ([[(0, 1), (2, 0)]], [1], (0, 1), "between 0 and 1, what is cropped; got \\(2, 0\\)"),
        ([[(0, 1), (-1, 0)]], [1], (0, 1), "got \\(-1, 0\\)"),
        ([[(0, 1), (1, 0)]], [], (0, 1), "2 offsets of 2 numbers and a sign each"),
        ([[(0, 1)]], [1], (0, 1), "2 offsets"),
        ([[(0, 1, 0), (1, 0, 0)]], [1], (0, 1), "2 offsets"),
    ],
)
def test_simplices_outside_of_the_lattice_are_refused(simplices, signs, crop, match):
    with pytest.raises(ValueError, match=match):
        judge(torch.randn(1, 2, 5, 6), simplices, signs, crop, zero_folds=True)


@pytest.mark.parametrize("weights", [0, 2, 14])
def test_windows_without_a_middle_are_refused(weights):
    image = torch.randn(1, 1, 8, 9)
    with pytest.raises(ValueError, match=f"odd number of weights; got {weights}"):
        mean_correlation(image, image, None, Windows([1.0] * weights, 1.0, 1e-5, squared=False))


def test_what_does_not_belong_together_is_left_to_torch():
    image = torch.randn(3, 2, 5, 6)
    assert can_correlate(image, image, image[:1, :1])
    assert not can_correlate(image, image, image[:2, :1])
    assert not can_correlate(image, image, image)
    assert not can_judge(torch.randn(1, 3, 5, 6))
    assert not can_certify(torch.randn(2, 5, 6))
    assert not can_certify(torch.randn(3, 0, 5, 6))
    assert not can_multiply(torch.randn(2, 2, 3, 5), torch.randn(2, 2, 3, 5))


@pytest.mark.parametrize(("values", "points"), [(torch.float64, torch.float32), (torch.float32, torch.float64)])
def test_values_of_another_type_are_read_as_in_torch(values, points):
    v, p = torch.randn(2, 3, 5, 6, dtype=values), torch.rand(2, 2, 7, dtype=points)
    for got, expected in zip(kernels.sample(v, p, True), plain.sample(v, p, True), strict=True):
        assert_close(got, expected)


def test_points_of_another_dimension_or_batch_are_refused():
    values = torch.randn(2, 3, 5, 6)
    for shape in ((2, 3, 7), (2, 1, 7), (4, 2, 7)):
        with pytest.raises((RuntimeError, ValueError)):
            kernels.sample(values, torch.rand(*shape), False)


def test_a_lattice_of_no_axis_is_refused_by_torch():
    with pytest.raises(RuntimeError):
        jittered(1, 2, (), torch.float32, torch.device("cpu"))
