"""Optimisation for given pairs: known maps are found, trained weights keep every bit, no pair depends on another."""

import pytest
import torch
from tables import DIMS, MAPS, SHAPES, SLACK, every_map, every_network, random_points, smooth, smooth_image, stirred
from torch.testing import assert_close

from foldless.errors import NotFiniteError
from foldless.grid import Grid, per_axis
from foldless.maps import Affine, Displacement, Exponential, Identity
from foldless.metrics import folds
from foldless.objective import Objective
from foldless.pairwise import FreeMaps, optimise, optimise_maps, optimise_weights
from foldless.registration import Downsample, Predict, TwoStep, warp
from foldless.regularity import ICON, diffusion
from foldless.similarity import MSE
from foldless.weighting import Constant, HoldBelow

SMALL = {1: (33,), 2: (17, 20), 3: (9, 11, 10)}
FOUND = 0.1  # voxels: where Adam stands after the steps that a test can wait for

every_dim = pytest.mark.parametrize("dim", DIMS)


def eye(dim, batch=1):
    return torch.eye(dim).expand(batch, dim, dim).clone()


def starts(dim):
    """Every kind of map, at rest; batch 1."""
    still = torch.zeros(1, dim, *SMALL[dim])
    affine = Affine(eye(dim), torch.zeros(1, dim))
    return {
        "displacement": Displacement(still),
        "exponential": Exponential(still),
        "affine": affine,
        "affine of displacement": affine @ Displacement(still),
    }


def blobs(dim, batch=1):
    """Smooth images with structure everywhere."""
    return smooth_image(SMALL[dim], batch).float()


def circle_and_triangle(n=24):
    x = Grid((n, n)).points()
    centred = x - 0.5
    radius, angle = centred.norm(dim=1, keepdim=True), torch.atan2(centred[:, :1], centred[:, 1:])
    third = 2 * torch.pi / 3
    side = 0.35 * 0.5 / torch.cos(torch.remainder(angle, third) - third / 2)
    return torch.tanh(-40 * (radius - 0.2)), torch.tanh(-40 * (radius - side))


# Maps as parameters


@every_dim
@pytest.mark.parametrize("name", [name for name in MAPS if name != "identity"])
def test_free_maps_are_the_maps_they_start_from(dim, name):
    start = every_map(dim, batch=2)[name]
    free = FreeMaps(start)
    points = random_points(dim, batch=2)
    image = torch.zeros(2, 1, *SHAPES[dim], dtype=torch.float64)
    phi = free(image, image)
    assert [type(part) for part in phi.parts] == [type(part) for part in start.parts]
    assert torch.equal(phi(points), start(points))
    phi(points).sum().backward()
    assert all(bool((parameter.grad != 0).any()) for parameter in free.parameters())


@every_dim
@pytest.mark.parametrize("name", ["displacement", "exponential", "affine", "affine of displacement"])
def test_every_kind_of_map_makes_the_objective_small(dim, name):
    a, b = blobs(dim), blobs(dim)
    a = 0.5 * a + 0.5 * b  # not too far apart for any of them
    totals = []
    maps = optimise_maps(
        a,
        b,
        MSE(),
        ICON(),
        Constant(1.0),
        starts(dim)[name],
        steps=25,
        rate=5e-3,
        on_step=totals.append,
    )
    assert len(totals) == 25
    assert totals[-1].total < 0.97 * totals[0].total  # what an affine map can gain in 1-D
    for phi, moving, fixed in zip(maps, (a, b), (b, a), strict=True):
        assert [type(part) for part in phi.parts] == [type(part) for part in starts(dim)[name].parts]
        assert not phi(fixed.new_zeros(1, dim, 1)).requires_grad
        assert MSE()(warp(moving, phi), fixed) < MSE()(moving, fixed)


@every_dim
def test_a_known_affine_map_is_found(dim):
    """B = A ∘ known, both from one formula, so that nothing is interpolated on the way to the truth."""
    linear = eye(dim) + 0.05 * torch.randn(1, dim, dim)
    known = Affine(linear, 0.5 - 0.5 * linear.sum(2) + 0.03)
    x, ones = Grid(SMALL[dim]).points(), [1] * dim
    phase = torch.rand(1, 3, dim, *ones)

    def image(points):
        return torch.sin(4 * (points[:, None] + phase)).sum(2)

    maps = optimise_maps(
        image(x), image(known(x)), MSE(), ICON(), Constant(0.1), starts(dim)["affine"], steps=80, rate=1.5e-2
    )
    points = random_points(dim, low=0.2, high=0.8).float()
    voxel = per_axis(Grid(SMALL[dim]).voxel, points)
    for phi, expected in zip(maps, (known, known.inverse), strict=True):
        assert ((phi(points) - expected(points)) / voxel).abs().max() < 5 * FOUND
        assert ((phi(points) - expected(points)) / voxel).abs().mean() < FOUND


@every_dim
def test_pairs_of_a_batch_do_not_disturb_each_other(dim):
    a, b = blobs(dim, batch=2), blobs(dim, batch=2)

    def found(a, b):
        return optimise_maps(a, b, MSE(), ICON(at="lattice"), Constant(1.0), steps=5)[0].field

    one, other = found(a, b), found(torch.cat([a[:1], b[1:]]), torch.cat([b[:1], a[1:]]))
    assert torch.equal(one[:1], other[:1])
    assert not torch.equal(one[1:], other[1:])


def test_coarse_to_fine_ends_on_the_images_lattice_and_reaches_further():
    a, b = circle_and_triangle()
    b = b.roll(4, dims=2)
    common = {"similarity": MSE(), "regularity": ICON(noise=0.125), "weight": Constant(500.0), "rate": 4e-3}
    at_once = optimise_maps(a, b, **common, steps=90)[0]
    levels = optimise_maps(a, b, **common, steps=30, levels=(4, 2, 1))[0]
    assert levels.field.shape == at_once.field.shape == (1, 2, 24, 24)
    assert MSE()(warp(a, levels), b) < MSE()(warp(a, at_once), b)


def test_noise_makes_maps_regular():
    """ICON, Fig. 5: on the lattice alone, inverse consistency lets maps fold; noise on both maps forbids it."""
    a, b = circle_and_triangle()
    rough, calm = (
        optimise_maps(a, b, MSE(), ICON(at="lattice", noise=noise), Constant(2048.0), steps=150, rate=4e-3)[0]
        for noise in (0.0, 0.125)
    )
    grid = Grid.of(a)
    assert diffusion(calm, grid) < 0.9 * diffusion(rough, grid)
    assert folds(calm.displacement_on(grid)) < folds(rough.displacement_on(grid))


@pytest.mark.parametrize("noise_at", ["points", "lattice"])
def test_a_search_repeats_and_leaves_the_generator_alone(noise_at):
    a, b = blobs(2), blobs(2)
    weight = HoldBelow(1.0, 1.0, threshold=0.0)
    state = torch.get_rng_state()

    def found(a, b, seed=0):
        regularity = ICON(noise=0.5, noise_at=noise_at)
        return optimise_maps(a, b, MSE(), regularity, weight, steps=8, rate=0.05, seed=seed)[0].field

    one = found(a, b)
    other = found(b, a)
    assert torch.equal(found(a, b), one)
    assert not torch.equal(found(a, b, seed=1), one)
    assert not torch.equal(other, one)
    assert torch.equal(torch.get_rng_state(), state)
    assert weight() == 1


def test_the_weight_follows_the_folds_of_the_search():
    a, b = blobs(2), torch.rand(1, 1, *SMALL[2])
    weights = []
    optimise_maps(
        a, b, MSE(), ICON(), HoldBelow(1.0, 2.0, threshold=0.0), steps=40, rate=0.05,
        on_step=lambda terms: weights.append(terms.weight.item()),
    )  # fmt: skip
    assert weights[0] == 1
    assert weights == sorted(weights)
    assert weights[-1] > 1
    assert all((weight - 1) % 2 == 0 for weight in weights)


# Test-time optimisation


def trained(dim):
    """A registration of two steps that says something, as if trained."""
    first, second = (Predict(stirred(every_network(dim, SMALL[dim])["ResidualUNet"]), Displacement) for _ in range(2))
    return Objective(TwoStep(Downsample(first), second), MSE(), ICON(), Constant(1.0))


def contents(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_untouched(module, before):
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in module.parameters())


@every_dim
@pytest.mark.parametrize("training", [False, True])
def test_weights_keep_every_bit_and_the_pair_gains(dim, training):
    objective = trained(dim).train(training)
    a, b = blobs(dim), blobs(dim)
    before, mode, state = contents(objective), objective.training, torch.get_rng_state()
    totals = []
    phi_AB, phi_BA = optimise_weights(objective, a, b, steps=10, rate=1e-3, on_step=lambda t: totals.append(t.total))
    assert_untouched(objective, before)
    assert objective.training == mode
    assert torch.equal(torch.get_rng_state(), state)
    assert totals[-1] < 0.9 * totals[0]
    predicted = objective.eval().registration(a, b)
    assert MSE()(warp(a, phi_AB), b) + MSE()(warp(b, phi_BA), a) < 2 * MSE()(warp(a, predicted), b)
    assert not phi_AB.on(Grid.of(a)).requires_grad


def test_a_pair_does_not_depend_on_the_pairs_before():
    objective = trained(2)
    one, two = (blobs(2), blobs(2)), (blobs(2), blobs(2))
    grid = Grid.of(two[0])
    alone = [phi.on(grid) for phi in optimise_weights(objective, *two, steps=3, rate=1e-3)]
    optimise_weights(objective, *one, steps=5, rate=1e-2)
    torch.rand(7)
    after = [phi.on(grid) for phi in optimise_weights(objective, *two, steps=3, rate=1e-3)]
    assert all(torch.equal(x, y) for x, y in zip(alone, after, strict=True))


@pytest.mark.parametrize("how", [optimise_weights, lambda o, a, b, **more: optimise_weights(o, a, b + torch.nan)])
def test_weights_keep_every_bit_after_an_exception(how):
    def stop(terms):
        raise InterruptedError

    objective = trained(2)
    a, b = blobs(2), blobs(2)
    before, state = contents(objective), torch.get_rng_state()
    with pytest.raises((InterruptedError, NotFiniteError)):
        how(objective, a, b, rate=0.1, on_step=stop)
    assert_untouched(objective, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_parameters_that_want_no_gradient_stay_as_they_are():
    objective = trained(2)
    objective.registration.second.requires_grad_(False)
    seen = {}
    first = objective.registration.first.inner.net.last.weight
    a, b = blobs(2), blobs(2)

    def look(module, *_):
        seen[id(module)] = contents(module)

    handle = objective.registration.second.register_forward_hook(look)
    moved = optimise_weights(objective, a, b, steps=4, rate=1e-2)[0]
    handle.remove()
    ((_, frozen),) = seen.items()
    assert all(torch.equal(value, frozen[name]) for name, value in objective.registration.second.state_dict().items())
    still = objective.eval().registration(a, b)
    assert (moved.on(Grid.of(a)) - still.on(Grid.of(a))).abs().max() > SLACK
    assert first.requires_grad


@every_dim
def test_predicted_maps_can_be_optimised_directly(dim):
    objective = trained(dim).eval()
    a, b = blobs(dim), blobs(dim)
    predicted = objective.registration(torch.cat([a, b]), torch.cat([b, a]))
    before = [part.field.clone() for part in predicted.parts]
    totals = []
    phi_AB, _ = optimise_maps(
        a, b, MSE(), ICON(), Constant(1.0), predicted, steps=20, rate=4e-3, on_step=lambda t: totals.append(t.total)
    )
    with torch.no_grad():
        torch.manual_seed(0)
        assert_close(totals[0], objective(a, b).total, rtol=1e-3, atol=0)  # it begins where the network stands
    assert totals[-1] < 0.7 * totals[0]
    assert [part.field.shape[1:] for part in phi_AB.parts] == [field.shape[1:] for field in before]
    assert all(torch.equal(part.field, field) for part, field in zip(predicted.parts, before, strict=True))


# What cannot be


def test_a_start_is_for_all_or_for_both_directions():
    a, b = blobs(2, batch=3), blobs(2, batch=3)
    start = Displacement(smooth(SMALL[2], 1.0, batch=3).float())
    with pytest.raises(ValueError, match="batch 1 or 6"):
        optimise_maps(a, b, MSE(), ICON(), Constant(1.0), start, steps=1)


def test_without_parameters_there_is_nothing_to_optimise():
    a, b = blobs(2), blobs(2)
    with pytest.raises(ValueError, match="nothing to optimise"):
        optimise_maps(a, b, MSE(), ICON(), Constant(1.0), Identity(2), steps=1)
    with pytest.raises(ValueError, match="nothing to optimise"):
        optimise(trained(2).requires_grad_(False), a, b, steps=1, rate=1e-3)


def test_numbers_that_are_not_finite_end_the_search():
    a, b = blobs(2), blobs(2)
    with pytest.raises(NotFiniteError, match="at step 1; try a smaller rate"):
        optimise_maps(a, b + torch.nan, MSE(), ICON(), Constant(1.0), steps=1)
