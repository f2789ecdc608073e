"""Affine steps: matrices against SciPy and closed forms, inverse consistency by construction, what training finds."""

import numpy as np
import pytest
import scipy.linalg
import torch
from tables import DIMS, SHAPES, SLACK, every_network, random_points, smooth_image, stirred
from torch.testing import assert_close

from foldless.grid import Grid, per_axis
from foldless.maps import Affine, Displacement, Exponential
from foldless.networks import AffineNet, Antisymmetric
from foldless.objective import Objective
from foldless.pairwise import optimise
from foldless.registration import Downsample, Predict, TwoStep
from foldless.regularity import ICON, inverse_consistency
from foldless.similarity import MSE
from foldless.weighting import Constant

SAME = 1e-10  # float64: convolutions may add in another order for another batch
ODD = {1: [(29,), (5,), (1,)], 2: [(29, 31), (7, 18), (1, 9)], 3: [(17, 13, 19), (9, 8, 5), (1, 2, 6)]}
AS_MAP = {"deviation": Affine.from_deviation, "generator": Affine.from_generator}

every_dim = pytest.mark.parametrize("dim", DIMS)
every_reading = pytest.mark.parametrize("reading", AS_MAP)


def network(dim):
    return AffineNet(dim, down=(2, 6, 8), pooled=2, hidden=10)


def images(dim, batch=2):
    return smooth_image(SHAPES[dim], batch), smooth_image(SHAPES[dim], batch)


def matrix(dim, batch=2, size=0.3):
    return size * torch.randn(batch, dim, dim + 1, dtype=torch.float64)


# Matrices


@every_dim
def test_a_deviation_is_about_the_centre(dim):
    deviation, points = matrix(dim), random_points(dim, batch=2)
    phi = Affine.from_deviation(deviation)
    for x, y, m in zip(points.numpy(), phi(points).numpy(), deviation.numpy(), strict=True):
        expected = 0.5 + (np.eye(dim) + m[:, :-1]) @ (x - 0.5) + m[:, -1:]
        assert np.abs(y - expected).max() < SLACK


@every_dim
def test_a_generator_is_scipys_exponential(dim):
    generator, points = matrix(dim, size=0.8), random_points(dim, batch=2)
    phi = Affine.from_generator(generator)
    for x, y, m in zip(points.numpy(), phi(points).numpy(), generator.numpy(), strict=True):
        flow = scipy.linalg.expm(np.vstack([m, np.zeros(dim + 1)]))
        expected = flow @ np.vstack([x - 0.5, np.ones(x.shape[1])])
        assert np.abs(y - 0.5 - expected[:-1]).max() < SAME


@every_dim
def test_minus_the_generator_makes_the_inverse(dim):
    generator, points = matrix(dim, size=0.8), random_points(dim, batch=2)
    phi, psi = Affine.from_generator(generator), Affine.from_generator(-generator)
    assert_close((phi @ psi)(points), points, rtol=0, atol=SAME)
    assert_close(psi(points), phi.inverse(points), rtol=0, atol=SAME)
    assert (torch.linalg.det(phi.linear) > 0).all()


@every_dim
@every_reading
def test_zero_is_the_identity_bit_for_bit(dim, reading):
    phi = AS_MAP[reading](torch.zeros(2, dim, dim + 1))
    assert torch.equal(phi.linear, torch.eye(dim).expand(2, dim, dim))
    assert torch.equal(phi.shift, torch.zeros(2, dim))


def test_autocast_leaves_matrices_alone():
    generator = matrix(3).float()
    for as_map in AS_MAP.values():
        expected = as_map(generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = as_map(generator)
        assert torch.equal(got.linear, expected.linear)
        assert torch.equal(got.shift, expected.shift)


# The network


@every_dim
@every_reading
def test_an_affine_step_starts_at_the_identity_in_any_composition(dim, reading):
    step = Predict(AffineNet(dim), as_map=AS_MAP[reading])
    consistent = Predict(Antisymmetric(AffineNet(dim)), as_map=AS_MAP[reading])
    second = Predict(every_network(dim, SHAPES[dim])["ResidualUNet"], as_map=Displacement)
    a, b = (image.float() for image in images(dim))
    grid = Grid(SHAPES[dim])
    for first in (step, consistent, Downsample(step)):
        phi = TwoStep(first, second).eval()(a, b)
        assert [type(part) for part in phi.parts] == [Affine, Displacement]
        assert torch.equal(phi.on(grid), grid.points().expand(2, -1, *grid.shape))


@every_dim
@pytest.mark.parametrize("which", range(3))
def test_images_of_any_size(dim, which):
    shape = ODD[dim][which]
    net = stirred(network(dim))
    out = net(torch.rand(2, 1, *shape), torch.rand(2, 1, *shape))
    assert out.shape == (2, dim, dim + 1)
    assert torch.isfinite(out).all()
    assert (out != 0).all()


@every_dim
def test_a_batch_is_its_samples_and_the_order_matters(dim):
    net = stirred(network(dim)).double()
    a, b = images(dim, batch=3)
    whole = net(a, b)
    for i in range(3):
        assert_close(whole[i : i + 1], net(a[i : i + 1], b[i : i + 1]), rtol=0, atol=SAME)
    assert (whole - net(b, a)).abs().max() > 1e-6


def test_in_bfloat16_the_linear_layers_stay_in_float32():
    net = stirred(network(2))
    a, b = (image.float() for image in images(2))
    got, expected = net(a.bfloat16(), b.bfloat16()), net(a, b)
    assert got.dtype == torch.float32
    assert not torch.equal(got, expected)
    assert_close(got, expected, rtol=0, atol=0.05 * expected.abs().max().item())


@every_dim
def test_gradients_reach_every_parameter(dim):
    loss = Objective(Predict(stirred(network(dim)), Affine.from_generator), MSE(), ICON(), Constant(1.0)).double()
    loss(*images(dim)).total.backward()
    assert all(bool((parameter.grad != 0).any()) for parameter in loss.parameters())


# Inverse consistency by construction


@every_dim
@pytest.mark.parametrize("training", [False, True])
def test_an_antisymmetric_network_changes_sign_with_the_order(dim, training):
    net = Antisymmetric(stirred(every_network(dim, SHAPES[dim])["ResidualUNet"])).double().train(training)
    a, b = images(dim)
    inner = net.net.eval()(a, b) - net.net(b, a)
    assert_close(net.eval()(a, b), inner, rtol=0, atol=SAME)
    net.train(training)
    there, back = net(a, b), net(b, a)
    assert there.abs().max() > 1e-6
    assert_close(there, -back, rtol=0, atol=SAME)


@every_dim
def test_affine_steps_are_inverse_consistent_by_construction(dim):
    step = Predict(Antisymmetric(stirred(network(dim), 0.3)), as_map=Affine.from_generator).double()
    a, b = images(dim)
    points = random_points(dim, batch=2)
    phi, psi = step(a, b), step(b, a)
    assert (phi(points) - points).abs().max() > 1e-3
    assert inverse_consistency(phi, psi, points) < SAME**2


@every_dim
def test_velocities_make_each_others_inverse_by_construction(dim):
    net = Antisymmetric(stirred(every_network(dim, SHAPES[dim])["ConvOnly"], 0.02))
    step = Predict(net, as_map=Exponential).double()
    a, b = images(dim)
    points = random_points(dim, batch=2)
    phi, psi = step(a, b), step(b, a)
    assert (phi(points) - points).abs().max() > 1e-4
    assert_close(psi(points), phi.inverse(points), rtol=0, atol=SAME)


# Training


@every_reading
@pytest.mark.parametrize("consistent", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
def test_training_finds_a_known_affine_map(dim, reading, consistent):
    """B = A ∘ known from one formula: blobs that are turned, stretched and shifted; judged where they are."""
    shape = {2: (28, 25), 3: (13, 15, 12)}[dim]
    generator = 0.1 * torch.randn(1, dim, dim + 1)
    flow = torch.from_numpy(scipy.linalg.expm(np.vstack([generator[0].numpy(), np.zeros(dim + 1)]))).float()[None]
    centre = torch.full((1, dim), 0.5)
    known = Affine(flow[:, :dim, :dim], centre + flow[:, :dim, dim] - centre @ flow[0, :dim, :dim].T)
    x = Grid(shape).points()

    def image(points):
        wide = torch.tensor([6.0, 14.0, 9.0][:dim]).reshape(1, -1, *[1] * dim)
        return torch.exp(-(wide * (points - 0.55).square()).sum(1, keepdim=True)) + 0.3 * points.sum(1, keepdim=True)

    net = AffineNet(dim, down=(2, 8, 16), pooled=3, hidden=32)
    step = Predict(Antisymmetric(net) if consistent else net, as_map=AS_MAP[reading])
    loss = Objective(step, MSE(), ICON(), Constant(0.1))
    optimise(loss, image(x), image(known(x)), steps=80, rate=3e-3)
    points = random_points(dim, low=0.25, high=0.75).float()
    voxel = per_axis(Grid(shape).voxel, points)
    with torch.no_grad():
        found = step(image(x), image(known(x)))(points)
    before, after = ((y - known(points)).div(voxel).abs().mean() for y in (points, found))
    assert after < 0.3 * before
