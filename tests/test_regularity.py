"""Penalties on maps against closed forms, autograd, NumPy and ICON's own package."""

import itertools

import numpy as np
import pytest
import torch
from tables import (
    DIMS,
    INVERSE_CONSISTENCIES,
    LARGE,
    REGULARITIES,
    SHAPES,
    SLACK,
    WITHOUT_JITTER,
    every_map,
    random_affine,
    random_points,
    smooth,
)
from torch import nn
from torch.testing import assert_close

from foldless.grid import Grid, per_axis
from foldless.kernels import bernstein
from foldless.kernels.bernstein import coefficients
from foldless.maps import Affine, Displacement, Exponential, Identity, invert
from foldless.metrics import certify
from foldless.regularity import (
    Certified,
    diffusion,
    gradient_inverse_consistency,
    inverse_consistency,
    noisy_inverse_consistency,
    unproven,
)

BATCH = 2
NO_ERROR = 1e-20  # squares of float64's rounding
AS_ICON = 1e-4  # relative; their coordinates are float32
BY_DIFFERENCES = 0.02  # relative; one-sided differences over 1e-3 of the cube, in float32
IN_VOXELS = 1e-8  # squared displacements in voxels, float64

every_dim = pytest.mark.parametrize("dim", DIMS)
every_regularity = pytest.mark.parametrize("name", REGULARITIES)


def pair(dim, kind="displacement"):
    return every_map(dim, BATCH)[kind], every_map(dim, BATCH)[kind]


def points_of(dim):
    return Grid(SHAPES[dim]).jittered(BATCH, torch.zeros((), dtype=torch.float64))


# Laws


@every_dim
@every_regularity
def test_the_identity_costs_nothing(dim, name):
    for phi in (Identity(dim), Displacement(torch.zeros(BATCH, dim, *SHAPES[dim], dtype=torch.float64))):
        score = REGULARITIES[name](phi, phi, Grid(SHAPES[dim]))
        assert score.shape == ()
        assert score < 1e-13  # rounding of float32, squared


@every_dim
@every_regularity
def test_irregular_maps_cost_something(dim, name):
    assert REGULARITIES[name](*pair(dim), Grid(SHAPES[dim])) > 1e-6


@every_dim
@pytest.mark.parametrize("name", INVERSE_CONSISTENCIES)
def test_exact_inverses_cost_nothing(dim, name):
    phi = random_affine(dim, BATCH)
    assert REGULARITIES[name](phi, phi.inverse, Grid(SHAPES[dim])) < NO_ERROR
    assert REGULARITIES[name](phi, phi, Grid(SHAPES[dim])) > 1e-6


@every_dim
def test_inverses_up_to_interpolation_cost_little(dim):
    phi = Exponential(smooth(LARGE[dim], 1.0))
    grid = Grid(LARGE[dim])
    points = random_points(dim, count=500, low=0.2, high=0.8)
    inverse = invert(phi, grid)
    for cost in (inverse_consistency, gradient_inverse_consistency):
        assert cost(phi, inverse, points) < 0.05 * cost(phi, Identity(dim), points)


@every_dim
@every_regularity
def test_the_two_maps_are_treated_alike(dim, name):
    phi, psi = pair(dim)
    score = REGULARITIES[name]
    torch.manual_seed(1)
    one = score(phi, psi, Grid(SHAPES[dim]))
    torch.manual_seed(1)  # the same jitter
    assert_close(one, score(psi, phi, Grid(SHAPES[dim])), rtol=1e-12, atol=0)


@every_dim
@every_regularity
def test_a_batch_costs_the_mean_of_its_samples(dim, name):
    if name not in WITHOUT_JITTER:
        pytest.skip("jitter is drawn anew")
    (phi, psi), grid = pair(dim), Grid(SHAPES[dim])
    alone = torch.stack([REGULARITIES[name](phi[i : i + 1], psi[i : i + 1], grid) for i in range(BATCH)])
    assert_close(REGULARITIES[name](phi, psi, grid), alone.mean(), rtol=1e-12, atol=0)


@every_dim
@every_regularity
def test_gradients_reach_both_maps(dim, name):
    leaves = [part.field.clone().requires_grad_() for part in pair(dim)]
    score = REGULARITIES[name](*[Displacement(leaf) for leaf in leaves], Grid(SHAPES[dim]))
    gradients = torch.autograd.grad(score, leaves)
    assert all(torch.isfinite(g).all() and (g != 0).float().mean() > 0.5 for g in gradients)


@every_dim
@pytest.mark.parametrize("cost", [inverse_consistency, gradient_inverse_consistency])
def test_gradients_are_the_derivatives(dim, cost):
    shape = {1: (4,), 2: (3, 4), 3: (2, 3, 2)}[dim]
    fields = [(0.05 * torch.randn(1, dim, *shape, dtype=torch.float64)).requires_grad_() for _ in range(2)]
    points = random_points(dim, count=5, low=0.1, high=0.9)
    assert torch.autograd.gradcheck(lambda a, b: cost(Displacement(a), Displacement(b), points), fields, atol=1e-6)


@every_dim
@pytest.mark.parametrize("name", ["ICON", "GradICON"])
def test_jitter_is_drawn_anew_and_repeats_with_the_seed(dim, name):
    (phi, psi), grid = pair(dim), Grid(SHAPES[dim])
    torch.manual_seed(5)
    one, two = (REGULARITIES[name](phi, psi, grid) for _ in range(2))
    torch.manual_seed(5)
    assert one == REGULARITIES[name](phi, psi, grid) != two
    lattice = REGULARITIES[f"{name} on the lattice"]
    assert lattice(phi, psi, grid) == lattice(phi, psi, grid)


@every_dim
@pytest.mark.parametrize(
    "cost",
    [
        inverse_consistency,
        gradient_inverse_consistency,
        lambda phi, psi, points: noisy_inverse_consistency(phi, psi, points, [0.01] * points.shape[1]),
    ],
)
def test_bare_displacements_are_maps_of_the_unit_cube(dim, cost):
    phi, points = pair(dim)[0], points_of(dim)
    scores = []
    psi = Displacement(smooth(tuple(n + 2 for n in SHAPES[dim]), 0.5))  # a lattice and a batch of its own
    for one, other in ((phi, psi), (phi.field, psi.field), (phi.field, psi)):
        torch.manual_seed(2)  # the same noise
        scores.append(cost(one, other, points))
    ones = [1] * dim
    voxels = [
        part.field * (torch.tensor(part.field.shape[2:], dtype=torch.float64) - 1).reshape(1, dim, *ones)
        for part in (phi, psi)
    ]
    torch.manual_seed(2)
    scores.append(cost(*[Displacement.from_voxels(u) for u in voxels], points))
    assert scores[0] == scores[1] == scores[2]
    assert_close(scores[3], scores[0], rtol=1e-10, atol=0)


@pytest.mark.parametrize("cost", [inverse_consistency, gradient_inverse_consistency])
def test_what_is_no_displacement_is_refused(cost):
    three = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match="one component an axis"):
        cost(three, three, torch.rand(1, 3, 5))
    with pytest.raises(ValueError, match="one component an axis"):
        Displacement.from_voxels(three)


# Inverse consistency


@pytest.mark.parametrize("dim", [1, 2])
def test_two_nodes_that_swap_are_seen_off_the_lattice_only(dim):
    """ICON, Figs. 3 and 4: a swap is its own inverse on the nodes, and folds between them."""
    shape = (6,) if dim == 1 else (6, 5)
    voxels = torch.zeros(1, dim, *shape, dtype=torch.float64)
    voxels[:, 0, 2], voxels[:, 0, 3] = 1, -1
    swap, grid = Displacement.from_voxels(voxels), Grid(shape)
    assert swap.jacobian(torch.full((1, dim, 1), 0.5, dtype=torch.float64))[0, 0, 0, 0] < 0
    assert REGULARITIES["ICON on the lattice"](swap, swap, grid) < NO_ERROR
    assert inverse_consistency(swap, swap, grid.points(voxels) + 0.3 * per_axis(grid.voxel, voxels)) > 1e-3
    assert REGULARITIES["ICON"](swap, swap, grid) > 1e-3
    assert REGULARITIES["GradICON on the lattice"](swap, swap, grid) > 1e-3


@every_dim
def test_inverse_consistency_of_shifts_is_their_sum(dim):
    eye = torch.eye(dim, dtype=torch.float64)[None]
    one, other = (torch.randn(1, dim, dtype=torch.float64) for _ in range(2))
    got = inverse_consistency(Affine(eye, one), Affine(eye, other), points_of(dim))
    assert_close(got, 2 * (one + other).square().mean(), rtol=1e-12, atol=0)


@every_dim
def test_inverse_consistency_adds_the_two_orders(dim):
    phi, psi = random_affine(dim, BATCH), random_affine(dim, BATCH)
    points = points_of(dim)
    forth, back = (phi @ psi)(points) - points, (psi @ phi)(points) - points
    expected = np.mean(forth.numpy() ** 2) + np.mean(back.numpy() ** 2)
    assert_close(inverse_consistency(phi, psi, points).item(), expected, rtol=1e-12, atol=0)


class Answer(nn.Module):
    """A network that says one field for (A, B) and another for (B, A)."""

    def __init__(self, forth, back):
        super().__init__()
        self.forth, self.back = forth, back

    def forward(self, image_A, image_B):
        return self.forth if image_A.mean() < image_B.mean() else self.back


def icon(name, forth, back):
    """Their objective for fixed fields, and the points at which their next call, at seed 3, will look."""
    losses = pytest.importorskip("icon_registration.losses", reason="the optional icon_registration")
    wrappers = pytest.importorskip("icon_registration.network_wrappers")
    shape = (1, 1, *forth.shape[2:])
    theirs = getattr(losses, name)(wrappers.FunctionFromVectorField(Answer(forth, back)), losses.SSD(), 1.0)
    theirs.assign_identity_map(shape)
    torch.manual_seed(3)
    points = theirs.identity_map + torch.randn(*shape[:1], len(shape) - 2, *shape[2:]) / shape[-1]
    image = torch.zeros(1, 1, *shape[2:])
    torch.manual_seed(3)
    return theirs(image, image + 1), points


@pytest.mark.parametrize("shape", [(12, 12), (9, 14), (7, 8, 9)])
def test_icons_own_objective_says_the_same(shape):
    forth, back = (smooth(shape, 1.0).float() for _ in range(2))
    theirs, points = icon("InverseConsistentNet", forth, back)
    ours = inverse_consistency(Displacement(forth), Displacement(back), points)
    assert theirs.inverse_consistency_loss > 1e-4
    assert_close(ours, theirs.inverse_consistency_loss, rtol=AS_ICON, atol=0)


# The gradient of inverse consistency


def composed_by_autograd(outer, inner, points):
    """D(outer ∘ inner) at the points, (batch, dim, dim, *at)."""
    points = points.detach().requires_grad_()
    image = outer(inner(points))
    rows = [torch.autograd.grad(image[:, i].sum(), points, retain_graph=True)[0] for i in range(points.shape[1])]
    return torch.stack(rows, dim=1)


@every_dim
@pytest.mark.parametrize("kind", ["affine", "displacement", "exponential", "composition"])
def test_gradient_inverse_consistency_is_autograds(dim, kind):
    (phi, psi), points = pair(dim, kind), points_of(dim)
    eye = torch.eye(dim, dtype=torch.float64).reshape(1, dim, dim, *[1] * dim)
    orders = [composed_by_autograd(*maps, points) - eye for maps in ((phi, psi), (psi, phi))]
    expected = sum(error.square().sum((1, 2)).mean() / dim for error in orders) / 2
    assert_close(gradient_inverse_consistency(phi, psi, points), expected, rtol=1e-10, atol=0)


@every_dim
def test_gradient_inverse_consistency_of_affine_maps_is_a_frobenius_norm(dim):
    phi, psi = random_affine(dim), random_affine(dim)
    a, b, eye = phi.linear[0].numpy(), psi.linear[0].numpy(), np.eye(dim)
    expected = (np.linalg.norm(a @ b - eye) ** 2 + np.linalg.norm(b @ a - eye) ** 2) / 2 / dim
    assert_close(gradient_inverse_consistency(phi, psi, points_of(dim)).item(), expected, rtol=1e-12, atol=0)


@every_dim
def test_gradient_inverse_consistency_does_not_see_shifts(dim):
    eye = torch.eye(dim, dtype=torch.float64)[None]
    shift = Affine(eye, torch.full((1, dim), 0.2, dtype=torch.float64))
    assert gradient_inverse_consistency(shift, shift, points_of(dim)) < NO_ERROR


@pytest.mark.parametrize("shape", [(12, 12), (9, 14), (7, 8, 9)])
def test_gradicons_own_objective_says_nearly_the_same(shape):
    """Theirs is one order, by finite differences across kinks: the mean of two calls is our mean of both orders."""
    forth, back = (smooth(shape, 1.0).float() for _ in range(2))
    one, points = icon("GradientICON", forth, back)
    other, _ = icon("GradientICON", back, forth)
    ours = gradient_inverse_consistency(Displacement(forth), Displacement(back), points)
    theirs = (one.inverse_consistency_loss + other.inverse_consistency_loss) / 2
    assert theirs > 1e-2
    assert_close(ours, theirs, rtol=BY_DIFFERENCES, atol=0)


# Diffusion


@every_dim
def test_diffusion_is_numpys_differences_in_voxels(dim):
    phi = Displacement.from_voxels(torch.randn(BATCH, dim, *SHAPES[dim], dtype=torch.float64))
    voxels = phi.voxels.numpy()
    expected = np.mean([np.mean(np.diff(voxels, axis=axis) ** 2) for axis in range(2, 2 + dim)])
    assert_close(diffusion(phi, Grid(SHAPES[dim])).item(), expected, rtol=1e-10, atol=0)


@every_dim
def test_diffusion_of_a_linear_displacement_is_its_slopes(dim):
    """u_i = Σ_j s_ij k_j voxels: every forward difference along j is s_ij."""
    slopes = 0.1 * torch.randn(dim, dim, dtype=torch.float64)
    grid = Grid(SHAPES[dim])
    x = grid.points(slopes)
    index = x / per_axis(grid.voxel, x)
    phi = Displacement.from_voxels(torch.einsum("ij,bj...->bi...", slopes, index))
    assert_close(diffusion(phi, grid), slopes.square().mean(), rtol=0, atol=IN_VOXELS)


@every_dim
def test_diffusion_does_not_see_shifts(dim):
    phi = Affine(torch.eye(dim, dtype=torch.float64)[None], torch.full((1, dim), 0.2, dtype=torch.float64))
    assert diffusion(phi, Grid(SHAPES[dim])) < NO_ERROR


def test_diffusion_skips_axes_of_one_node():
    field = torch.randn(1, 2, 6, 1, dtype=torch.float64)
    expected = (field[:, :, :, 0].diff(dim=2) * torch.tensor([5.0, 1.0])[None, :, None]).square().mean()
    assert_close(diffusion(Displacement(field), Grid((6, 1))), expected, rtol=SLACK, atol=SLACK)


# Certified

every_shape = pytest.mark.parametrize("shape", [(9,), (6, 7), (4, 5, 6), (1, 6, 5)])


def rough(shape, spread, batch=BATCH):
    """Displacements in voxels of random nodes."""
    return spread * torch.randn(batch, len(shape), *shape, dtype=torch.float64)


def shortages_one_by_one(u, margin):
    """From the definition: every cell, those outside of the lattice included, one after the other."""
    dim, *shape = u.shape
    total, cells = 0.0, list(itertools.product(*[range(-1, n) if n > 1 else range(1) for n in shape]))
    for cell in cells:
        corners = []
        for far in itertools.product((0, 1), repeat=3):
            at = [c + f for c, f in zip(cell, far[3 - dim :], strict=True)]
            moved = u[:, *[min(max(a, 0), n - 1) for a, n in zip(at, shape, strict=True)]].tolist()
            corners.append([f + m for f, m in zip(far, [0.0] * (3 - dim) + moved, strict=True)])
        total += sum(max(0.0, margin - c) for c in coefficients(corners))
    return total / len(cells)


@every_shape
@pytest.mark.parametrize("margin", [0.02, 0.5])
def test_what_cells_lack_is_counted_one_by_one(shape, margin, monkeypatch):
    monkeypatch.setattr(bernstein, "AT_ONCE", 7)
    u = rough(shape, 0.6)
    expected = np.mean([shortages_one_by_one(one, margin) for one in u])
    assert expected > 1e-3
    assert unproven(Displacement.from_voxels(u), Grid(shape), margin).item() == pytest.approx(expected, rel=1e-10)


@every_shape
def test_gradients_of_what_cells_lack_are_the_derivatives(shape):
    torch.manual_seed(4)
    fields = [rough(shape, 0.6, 1).requires_grad_() for _ in range(2)]

    def cost(a, b):
        return Certified(margin=0.3)(Displacement.from_voxels(a), Displacement.from_voxels(b), Grid(shape))

    assert cost(*fields) > 1e-3
    assert torch.autograd.gradcheck(cost, fields, atol=1e-6, fast_mode=len(shape) == 3)


@every_shape
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_lacks_nothing_is_proven_and_what_is_refuted_lacks_something(shape, dtype):
    torch.manual_seed(0)
    seen = set()
    for spread in np.linspace(0.02, 0.35, 12):
        for u in rough(shape, spread, 8).to(dtype):
            phi = Displacement.from_voxels(u[None])
            nothing, proven = unproven(phi, Grid(shape), 0.01).item() == 0, certify(phi).proven
            assert proven or not nothing
            seen.add((nothing, proven))
    assert {(True, True), (False, False)} <= seen


@pytest.mark.parametrize("shape", [(8, 9), (6, 6, 7)])
def test_descent_on_what_cells_lack_ends_at_a_proof(shape):
    torch.manual_seed(1)
    u = rough(shape, 0.4, 1)
    assert certify(Displacement.from_voxels(u)).state == "refuted"
    field = u.clone().requires_grad_()
    optimiser = torch.optim.Adam([field], 0.02)
    for _ in range(300):
        optimiser.zero_grad()
        cost = unproven(Displacement.from_voxels(field), Grid(shape), 0.1)
        if cost == 0:
            break
        cost.backward()
        optimiser.step()
    assert certify(Displacement.from_voxels(field.detach())).proven


@pytest.mark.parametrize(("margin", "kind"), [(0.0, ValueError), (1.0, ValueError)])
def test_a_margin_is_a_share(margin, kind):
    with pytest.raises(kind, match="margin is a"):
        Certified(margin=margin)
