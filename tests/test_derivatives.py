"""Derivatives beyond first ones backwards: each is right, or refused with a sentence; none is left out."""

import pytest
import torch
from tables import (
    DIMS,
    NETWORKS,
    REGULARITIES,
    SHAPES,
    SIMILARITIES,
    SIMILARITY_CASES,
    every_network,
    smooth,
    smooth_image,
    stirred,
)
from torch.autograd import forward_ad

from foldless.grid import Grid, sample, sample_with_jacobian
from foldless.kernels.convolution import double, halve
from foldless.kernels.doubling import residual_double
from foldless.kernels.halving import residual_halve
from foldless.kernels.library import native_status
from foldless.kernels.norm import normalise
from foldless.kernels.planar import add_convolved
from foldless.kernels.product import can_multiply, product, product_error
from foldless.kernels.thin import normalised_thin, thin
from foldless.maps import Displacement, Exponential
from foldless.regularity import Certified, unproven
from foldless.similarity import box_sum

pytestmark = pytest.mark.filterwarnings("ignore:.*performance drop", "ignore:.*torch.jit.script.*:DeprecationWarning")

STEP = {torch.float64: 1e-6, torch.float32: 1e-2}
CLOSE = {torch.float64: 1e-5, torch.float32: 0.1}  # of the largest difference; of float32's little is left
REFUSALS = (
    "has no derivative in forward mode",
    "has no second derivative",
    "must override the setup_context",
    "vmap",
    "Cannot access data pointer of Tensor",  # how torch 2.6 refuses what later ones let come to our own sentence
)


def refused(derivative):
    """What it comes to, or None where it is refused."""
    try:
        return derivative()
    except (NotImplementedError, RuntimeError) as error:
        if not any(words in str(error) for words in REFUSALS):
            raise
        return None


def difference(function, x, along):
    step = STEP[x.dtype] * along
    return (function(x + step) - function(x - step)) / (2 * STEP[x.dtype])


def forward_mode(function, x, along):
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(function(forward_ad.make_dual(x, along))).tangent
        return torch.zeros_like(function(x)) if tangent is None else tangent


def gradient(function, x, create_graph):
    """Of the sum plus another term, whose second derivative must not be all that is left."""
    leaf = x if x.requires_grad else x.clone().requires_grad_()
    return torch.autograd.grad(function(leaf).sum() + leaf.pow(3).sum(), leaf, create_graph=create_graph)[0]


def second(function, x, along):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad((gradient(function, leaf, True) * along).sum(), leaf)[0]


def check(function, x):
    """The kinds that were refused."""
    along = torch.randn_like(x)
    wanted = {
        "forward": lambda: difference(function, x, along),
        "second": lambda: difference(lambda at: gradient(function, at, False), x, along),
        "vmap": lambda: torch.stack([function(x), function(x + 0.01 * along)]),
    }
    taken = {
        "forward": lambda: forward_mode(function, x, along),
        "second": lambda: second(function, x, along),
        "vmap": lambda: torch.vmap(function)(torch.stack([x, x + 0.01 * along])),
    }
    kinds = set()
    for kind, derivative in taken.items():
        got = refused(derivative)
        if got is None:
            kinds.add(kind)
            continue
        expected = wanted[kind]()
        assert (got - expected).abs().max() <= CLOSE[x.dtype] * expected.abs().max() + 1e-9, kind
    transformed = refused(lambda: torch.func.jvp(function, (x,), (along,))[1])
    with torch.no_grad():
        unrecorded = refused(lambda: forward_mode(function, x, along))
    for got in (transformed, unrecorded):
        if got is not None:
            assert (got - wanted["forward"]()).abs().max() <= CLOSE[x.dtype] * wanted["forward"]().abs().max() + 1e-9
    return kinds


def seeded(function):
    def run(x):
        torch.manual_seed(1)
        return function(x)

    return run


@pytest.mark.parametrize(("dim", "name"), SIMILARITY_CASES)
def test_of_similarities(name, dim):
    a, b = smooth_image(SHAPES[dim]), smooth_image(SHAPES[dim])
    check(lambda x: SIMILARITIES[name](x, b), a)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", REGULARITIES)
@pytest.mark.parametrize("kind", [Displacement, Exponential])
def test_of_regularities(name, dim, kind):
    grid, one, other = Grid(SHAPES[dim]), smooth(SHAPES[dim], 0.7), kind(smooth(SHAPES[dim], 0.7))
    regularity = REGULARITIES[name]
    if isinstance(regularity, Certified):  # above every coefficient: a difference across the hinge is no derivative
        regularity = lambda phi_AB, phi_BA, on: unproven(phi_AB, on, 50.0) + unproven(phi_BA, on, 50.0)  # noqa: E731
    check(seeded(lambda x: regularity(kind(x), other, grid)), one)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", [Displacement, Exponential])
def test_of_maps(dim, kind):
    grid, field = Grid(SHAPES[dim]), smooth(SHAPES[dim], 0.7)
    points = 0.1 + 0.8 * torch.rand(1, dim, 20, dtype=torch.float64)
    inner = Displacement(smooth(SHAPES[dim], 0.7))
    for function in (
        lambda x: kind(x)(points),
        lambda x: kind(x).on(grid),
        lambda x: kind(x).jacobian(points),
        lambda x: (kind(x) @ inner)(points),
    ):
        check(function, field)
    check(lambda x: kind(field)(x), points)


@pytest.mark.parametrize("dim", DIMS)
def test_of_reading(dim):
    """What a kernel reads has derivatives in forward mode."""
    values, points = smooth(SHAPES[dim], 0.7), 0.1 + 0.8 * torch.rand(1, dim, 20, dtype=torch.float64)
    for function, x in (
        (lambda x: sample(x, points), values),
        (lambda x: sample(values, x), points),
        (lambda x: sample_with_jacobian(values, x)[1], points),
    ):
        assert check(function, x) <= {"second"}


@pytest.mark.parametrize("dim", DIMS)
def test_of_linear_kernels(dim):
    """Their second derivatives are there."""
    x = smooth(SHAPES[dim], 0.7)
    down, up, bias = (torch.randn(*s, dtype=torch.float64) for s in ((3, dim, *[3] * dim), (dim, 3, *[4] * dim), (3,)))
    for function in (
        lambda x: halve(x, down, bias).square(),
        lambda x: double(x, up, bias).square(),
        lambda x: box_sum(x, 3).square(),
    ):
        assert "second" not in check(function, x)


@pytest.mark.parametrize("dim", DIMS)
def test_of_products(dim):
    a, b = torch.randn(2, 1, dim, dim, *SHAPES[dim], dtype=torch.float64)
    if can_multiply(a, b):
        assert "second" not in check(lambda x: product(x, b).square(), a)
        assert "second" in check(lambda x: product_error(x, b), a)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.skipif(not native_status()[0], reason="nothing was compiled")
def test_of_the_layers_of_networks(dim):
    """Compiled for float32 alone, whose differences say little: all are refused but what torch computes."""
    x, shape = torch.randn(1, 16, *SHAPES[dim]), [3] * dim
    weight, bias, ones = torch.randn(dim, 16, *shape), torch.randn(dim), torch.ones(16)
    down, up, wide = torch.randn(16, 16, *shape), torch.randn(16, 16, *[4] * dim), torch.randn(16)
    y, beside = torch.randn(1, dim, *SHAPES[dim]), torch.randn(1, 2, *SHAPES[dim])
    few = torch.randn(dim, 2, *shape)
    for function, at in (
        (lambda x: thin(x, weight, bias), x),
        (lambda x: normalised_thin(x, ones, ones, 1e-5, weight, bias)[0], x),
        (lambda x: normalise(x, ones, ones, 1e-5, by_sample=True)[0], x),
        (lambda x: residual_halve(x, down, wide), x),
        (lambda x: residual_double(x, up, wide), x),
        (lambda x: add_convolved(y.clone(), x, few), beside),
    ):
        assert check(function, at) == {"forward", "second", "vmap"}


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_of_networks(name, dim):
    net = stirred(every_network(dim, SHAPES[dim])[name]).double()
    a, b = smooth_image(SHAPES[dim]), smooth_image(SHAPES[dim])
    check(lambda x: net.eval()(x, b), a)
