"""Cycles: of exact maps they close, of perfect pairs they cost nothing, and the gradient goes all the way around."""

import numpy as np
import pytest
import torch
from tables import (
    AS_MAP,
    DIMS,
    SHAPES,
    SLACK,
    every_network,
    random_affine,
    random_points,
    smooth,
    smooth_image,
    stirred,
)
from torch.testing import assert_close

from foldless.build import objective_of
from foldless.cycle import ImageCycle, OneWay, ThreeImages
from foldless.data.images import ImageSet, RandomPairs
from foldless.errors import InputError
from foldless.grid import Grid
from foldless.maps import Affine, Displacement, Exponential, Identity
from foldless.objective import Objective
from foldless.recipe import Recipe
from foldless.registration import Predict, Registration, warp
from foldless.regularity import (
    Diffusion,
    cycle_consistency,
    diffusion,
    gradient_cycle_consistency,
    gradient_inverse_consistency,
    inverse_consistency,
)
from foldless.similarity import LNCC, MSE
from foldless.weighting import Constant

SAME = 1e-10  # float64: convolutions may add in another order for another batch
READ = 2e-3  # squared unit-cube error of exp(v) ∘ exp(-v) read off a lattice, relative to the displacement's square
SLOPE = 1e-4  # relative error of central differences of step 1e-7: interpolation and ReLU have kinks

every_dim = pytest.mark.parametrize("dim", DIMS)


class Recorded(Registration):
    """Answers with the maps that it was given, one a call, and remembers what it was shown."""

    def __init__(self, *maps):
        super().__init__()
        self.maps, self.seen = list(maps), []

    def forward(self, image_A, image_B):
        self.seen.append((image_A, image_B))
        return self.maps[len(self.seen) - 1]


def shift(voxels, shape):
    """The same translation everywhere, in whole voxels."""
    field = torch.tensor(voxels, dtype=torch.float64).reshape(1, -1, *[1] * len(shape))
    return Displacement.from_voxels(field.expand(1, -1, *shape).contiguous())


def spot(shape, at):
    """A bright block of two voxels an axis in the dark, far from the border."""
    image = torch.zeros(1, 1, *shape, dtype=torch.float64)
    image[(0, 0, *[slice(n // 2 + k, n // 2 + k + 2) for n, k in zip(shape, at, strict=True)])] = 1
    return image


def registration(dim):
    return Predict(stirred(every_network(dim, SHAPES[dim])["ConvOnly"], 0.02).double(), as_map=AS_MAP["Displacement"])


def images(dim, count=2, batch=2):
    return [smooth_image(SHAPES[dim], batch) for _ in range(count)]


# Cycles of maps


@every_dim
@pytest.mark.parametrize("closing", [cycle_consistency, gradient_cycle_consistency])
def test_a_cycle_of_three_exact_maps_closes(dim, closing):
    phi_12, phi_23 = random_affine(dim, 2), random_affine(dim, 2)
    phi_31 = (phi_12 @ phi_23).inverse
    x = random_points(dim, 2)
    assert closing([phi_12, phi_23, phi_31], x) < SLACK**2
    assert closing([phi_31, phi_12, phi_23], x) < SLACK**2
    assert closing([phi_12, phi_31, phi_23], x) > 1e-6 if dim > 1 else True, "affine maps do not commute"
    assert closing([phi_12, phi_23], x) > 1e-6


@every_dim
def test_a_cycle_of_exponentials_closes_as_far_as_their_lattice_allows(dim):
    v, w = (smooth((33,) * dim if dim < 3 else (17,) * dim, 1.0) for _ in range(2))
    forth, on = Exponential(v), Exponential(w)
    x = random_points(dim, low=0.2, high=0.8)
    away = cycle_consistency([forth, on], x)
    assert cycle_consistency([forth, on, on.inverse @ forth.inverse], x) < READ * away


@every_dim
def test_shifts_miss_by_their_sum(dim):
    shifts = np.random.default_rng(0).normal(size=(3, dim))
    maps = [Affine(torch.eye(dim, dtype=torch.float64)[None], torch.from_numpy(s)[None]) for s in shifts]
    missed = cycle_consistency(maps, random_points(dim))
    assert_close(missed.item(), float((shifts.sum(0) ** 2).mean()), rtol=1e-12, atol=0)
    assert gradient_cycle_consistency(maps, random_points(dim)) < SLACK


@every_dim
def test_there_and_back_is_a_cycle_of_two(dim):
    a, b, x = random_affine(dim, 2), random_affine(dim, 2), random_points(dim, 2)
    assert_close(inverse_consistency(a, b, x), cycle_consistency([a, b], x) + cycle_consistency([b, a], x))
    both = gradient_cycle_consistency([a, b], x) + gradient_cycle_consistency([b, a], x)
    assert_close(gradient_inverse_consistency(a, b, x), both / 2)


# The image cycle


@every_dim
def test_the_cycle_of_a_perfect_pair_costs_nothing(dim):
    """x moved by whole voxels is y; the way back brings x again."""
    shape, step = (16,) * dim, [2.0, -1.0, 3.0][:dim]
    x, y = spot(shape, [0] * dim), spot(shape, [-int(k) for k in step])
    there, back = shift(step, shape), shift([-k for k in step], shape)
    for similarity in (MSE(), LNCC(window=5, squared=True)):
        terms, phi = ImageCycle(Recorded(there, back), similarity, Diffusion(), Constant(1.0)).with_maps(x, y)
        nothing = similarity(y, y)  # LNCC counts windows in which nothing varies
        assert_close(terms.total, 2 * nothing, rtol=0, atol=SLACK)
        assert phi is there
        wrong = ImageCycle(Recorded(there, there), similarity, Diffusion(), Constant(1.0))(x, y)
        assert wrong.total > 2 * nothing + 1e-3
    assert ImageCycle(Recorded(there, back), MSE(), Diffusion(), Constant(1.0))(x, y).total < SLACK


@every_dim
def test_the_second_pass_takes_the_warped_image_back_and_never_sees_y(dim):
    there, back = Displacement(smooth(SHAPES[dim], 0.5, 2)), Displacement(smooth(SHAPES[dim], 0.5, 2))
    x, y = images(dim)
    asked = Recorded(there, back)
    terms = ImageCycle(asked, MSE(), Diffusion(), Constant(3.0))(x, y)
    (first_A, first_B), (second_A, second_B) = asked.seen
    assert torch.equal(first_A, x)
    assert torch.equal(first_B, y)
    assert torch.equal(second_A, warp(x, there))
    assert torch.equal(second_B, x)
    grid = Grid(SHAPES[dim])
    similarity = (warp(x, there) - y).square().mean() + (warp(warp(x, there), back) - x).square().mean()
    assert_close(terms.similarity, similarity)
    assert_close(terms.regularity, diffusion(there, grid) + diffusion(back, grid))
    assert_close(terms.total, terms.similarity + 3 * terms.regularity)


@pytest.mark.parametrize("dim", [1, 2])
def test_the_gradient_flows_through_the_warped_image(dim):
    """Against central differences of the objective along a random direction of the weights."""
    loss = ImageCycle(registration(dim), MSE(), Diffusion(), Constant(0.1))
    x, y = images(dim)
    weights = list(loss.parameters())
    directions = [torch.randn_like(p) for p in weights]
    loss(x, y).total.backward()
    analytic = sum((p.grad * d).sum() for p, d in zip(weights, directions, strict=True))

    def moved(amount):
        with torch.no_grad():
            for p, d in zip(weights, directions, strict=True):
                p += amount * d
            value = loss(x, y).total
            for p, d in zip(weights, directions, strict=True):
                p -= amount * d
        return value

    numeric = (moved(1e-7) - moved(-1e-7)) / 2e-7
    assert_close(analytic, numeric, rtol=SLOPE, atol=0)
    loss.zero_grad()
    net, grid = loss.registration, Grid(SHAPES[dim])
    warped = warp(x, phi := net(x, y))
    psi = net(warped.detach(), x)
    stopped = (warped - y).square().mean() + (warp(warped.detach(), psi) - x).square().mean()
    (stopped + 0.1 * (diffusion(phi, grid) + diffusion(psi, grid))).backward()
    halted = sum((p.grad * d).sum() for p, d in zip(weights, directions, strict=True))
    assert abs(halted - analytic) > 10 * SLOPE * abs(analytic), "stopped at the warped image, it would be another"


# One way and both ways


@every_dim
def test_bidirectional_is_one_way_and_the_other(dim):
    net = registration(dim)
    a, b = images(dim)
    forth, back = (OneWay(net, MSE(), Constant(0.5))(*pair) for pair in ((a, b), (b, a)))
    both = Objective(net, MSE(), Diffusion(), Constant(0.5))(a, b)
    assert_close(both.total, forth.total + back.total, rtol=0, atol=SAME)
    assert forth.similarity > 0
    assert forth.regularity > 0


# Three images


@every_dim
@pytest.mark.parametrize("closing", [cycle_consistency, gradient_cycle_consistency])
def test_three_images_in_a_ring(dim, closing):
    net = registration(dim)
    three = images(dim, 3)
    loss = ThreeImages(net, MSE(), Constant(2.0), closing, share=0.5)
    torch.manual_seed(5)
    terms, phi = loss.with_maps(*three)
    legs = [net(three[k], three[(k + 1) % 3]) for k in range(3)]
    assert_close(phi.on(Grid(SHAPES[dim])), legs[0].on(Grid(SHAPES[dim])), rtol=0, atol=SAME)
    similarity = sum((warp(three[k], legs[k]) - three[(k + 1) % 3]).square().mean() for k in range(3))
    assert_close(terms.similarity, similarity, rtol=0, atol=SAME)
    torch.manual_seed(5)
    points = [Grid(SHAPES[dim]).jittered(2, three[0]) for _ in range(3)]
    (a, b, c) = legs
    turns = zip(([a, b, c], [b, c, a], [c, a, b]), points, strict=True)
    regularity = sum(closing(turn, x) for turn, x in turns) / 2
    assert_close(terms.regularity, regularity, rtol=0, atol=SAME)
    assert_close(terms.total, similarity + 2 * regularity, rtol=0, atol=SAME)
    assert regularity > 1e-8


@pytest.mark.parametrize("regularity", ["icon", "gradicon"])
def test_a_weight_is_the_same_balance_for_two_images_and_for_three(regularity):
    """Of maps that all deviate by the same small eps, a closing of two is 4 eps², one of three 9 eps²."""
    deviation = 1e-3 * torch.randn(1, 2, 3, dtype=torch.float64)
    shares = []
    for objective, count in (("symmetric", 2), ("three-images", 3)):
        phi = Affine.from_deviation(deviation.expand(count, -1, -1))
        recipe = Recipe(objective=objective, regularity=regularity, similarity="mse", weight=1.5)
        example = torch.zeros(count, 1, 1, 40, 40, dtype=torch.float64)
        terms = objective_of(recipe, Recorded(phi))(*example)
        shares.append((terms.weight * terms.regularity).item() / count)
    assert shares[1] / shares[0] == pytest.approx(9 / 4, rel=0.1)


@every_dim
def test_three_images_that_are_shifts_of_one_cost_nothing(dim):
    shape = (16,) * dim
    steps = [[1.0] * dim, [2.0] * dim, [-3.0] * dim]
    fields = [shift(step, shape).field for step in steps]
    three = [spot(shape, [0] * dim), spot(shape, [-1] * dim), spot(shape, [-3] * dim)]
    loss = ThreeImages(Recorded(Displacement(torch.cat(fields))), MSE(), Constant(1.0))
    assert loss(*three).total < SLACK
    crossed = ThreeImages(Recorded(Displacement(torch.cat(fields[::-1]))), MSE(), Constant(1.0))
    assert crossed(*three).total > 1e-3


def test_examples_of_three_are_three_images():
    values = torch.arange(5.0).reshape(5, 1, 1, 1).expand(-1, -1, 4, 4).contiguous()
    pairs = RandomPairs(ImageSet(values, tuple("abcde"), (1.0, 1.0)), batch=200, size=3)
    drawn = torch.stack(pairs.draw())[:, :, 0, 0, 0].long().T.tolist()
    assert all(len(set(example)) == 3 for example in drawn)
    assert len({tuple(example) for example in drawn}) > 50, "all 60 ordered choices come up"
    with pytest.raises(InputError, match="three images"):
        RandomPairs(ImageSet(values[:2], ("a", "b"), (1.0, 1.0)), batch=1, size=3)


@every_dim
def test_identities_close_every_cycle(dim):
    assert cycle_consistency([Identity(dim)] * 3, random_points(dim)) == 0
