"""Laws of the algebra of maps, over every kind and dimension."""

import dataclasses

import pytest
import torch
from tables import (
    DIMS,
    INVERTIBLE,
    LARGE,
    MAPS,
    NO_CLOSED_FORM,
    SHAPES,
    SLACK,
    every_map,
    random_affine,
    random_points,
    smooth,
)
from torch.testing import assert_close

from foldless import kernels
from foldless.grid import Grid, per_axis, sample
from foldless.kernels.squaring import steepest
from foldless.maps import (
    CONTRACTION,
    Affine,
    Composition,
    ConvergenceError,
    Displacement,
    Exponential,
    Identity,
    Map,
    compose,
    determinant,
    exponentiate,
    invert,
    logarithm,
)
from foldless.maps.exponential import _squarings, _steepest

BATCH = 3
BY_DIFFERENCES = 1e-7  # central differences of step 1e-6 in float64: rounding 1e-16 / 1e-6, and slopes of about 1
STEP = 1e-6
CLOSED_FORM = 1e-9  # a matrix inverted in float64
AMPLITUDE = 2.0  # voxels, one period across the image
ROUND_TRIP = AMPLITUDE / 8  # voxels a component: squares are read off a lattice that is coarse for two voxels
NODE_ROUND_TRIP = 1e-9  # invert on its own lattice, tolerance 1e-10 voxels asked

every_kind = pytest.mark.parametrize("name", MAPS)
every_dim = pytest.mark.parametrize("dim", DIMS)


def distance(a: torch.Tensor, b: torch.Tensor, grid: Grid) -> float:
    """Largest distance in voxels."""
    return ((a - b) / per_axis(grid.voxel, a)).norm(dim=1).max().item()


def away_from_kinks(phi: Map, dim: int) -> torch.Tensor:
    """Points between the nodes of every lattice of a map, their images included."""
    points = random_points(dim, BATCH, count=400, low=0.1, high=0.9)
    clear = torch.ones(points.shape[0], points.shape[2], dtype=torch.bool)
    seen = points
    for part in reversed(phi.parts):
        tensor = getattr(part, "field", getattr(part, "velocity", None))
        if tensor is not None:
            last = torch.tensor(tensor.shape[2:], dtype=torch.float64)[None, :, None] - 1
            index = seen * last
            clear &= ((index - index.round()).abs() > 1e-4).all(1)
        seen = part(seen)
    some = clear.all(0)
    assert some.sum() >= 20
    return points[:, :, some][:, :, :20]


# The algebra


@every_dim
@every_kind
def test_the_identity_is_neutral(dim, name):
    phi = every_map(dim, BATCH)[name]
    assert phi @ Identity(dim) is phi or isinstance(phi, Composition | Identity)
    points = random_points(dim, BATCH)
    expected = phi(points)
    assert torch.equal((phi @ Identity(dim))(points), expected)
    assert torch.equal((Identity(dim) @ phi)(points), expected)


@every_dim
def test_the_identity_does_nothing(dim):
    points = random_points(dim, BATCH)
    identity = Identity(dim)
    assert identity(points) is points
    assert identity.inverse is identity
    assert isinstance(identity @ identity, Identity)
    eye = torch.eye(dim, dtype=torch.float64)[None, :, :, None].expand(BATCH, -1, -1, points.shape[2])
    assert torch.equal(identity.jacobian(points), eye)


@every_dim
@pytest.mark.parametrize("outer", MAPS)
@pytest.mark.parametrize("inner", MAPS)
def test_composition_applies_the_right_map_first(dim, outer, inner):
    f, g = every_map(dim, BATCH)[outer], every_map(dim, BATCH)[inner]
    points = random_points(dim, BATCH)
    assert torch.equal((f @ g)(points), f(g(points)))


@every_dim
def test_composition_associates_and_stays_flat(dim):
    maps = every_map(dim, BATCH)
    f, g, h = maps["affine"], maps["displacement"], maps["exponential"]
    points = random_points(dim, BATCH)
    left, right = (f @ g) @ h, f @ (g @ h)
    assert left.parts == right.parts == (f, g, h)
    assert torch.equal(left(points), right(points))
    assert compose(f, Identity(dim), g @ Identity(dim), h).parts == (f, g, h)
    assert compose(Identity(dim), Identity(dim)).parts[0].dim == dim
    assert isinstance(compose(Identity(dim), Identity(dim)), Identity)


def test_maps_of_different_dimensions_do_not_compose():
    with pytest.raises(ValueError, match="one dimension"):
        Identity(2) @ Identity(3)
    with pytest.raises(ValueError, match="one dimension"):
        compose()


@every_dim
@every_kind
def test_a_map_knows_its_dimension_and_refuses_others(dim, name):
    phi = every_map(dim)[name]
    assert phi.dim == dim
    with pytest.raises((ValueError, TypeError)):
        phi(random_points(dim + 1))


@every_kind
def test_a_map_is_frozen(name):
    phi = every_map(2)[name]
    for field in dataclasses.fields(phi):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(phi, field.name, None)


# Reading a map


@every_dim
@every_kind
def test_a_lattice_is_read_as_its_points_are(dim, name):
    phi = every_map(dim, BATCH)[name]
    for shape in (SHAPES[dim], tuple(n + 2 for n in SHAPES[dim]), (1,) * dim):
        grid = Grid(shape)
        points = grid.points(torch.zeros((), dtype=torch.float64))
        got = phi.on(grid)
        if name == "identity":
            assert_close(got.double(), points, rtol=0, atol=1e-7)  # it has no dtype of its own: float32
        else:
            assert_close(got, phi(points), rtol=0, atol=SLACK)


@every_dim
@every_kind
def test_one_lattice_of_points_serves_the_batch(dim, name):
    phi, points = every_map(dim, BATCH)[name], random_points(dim)
    assert_close(phi(points).expand(BATCH, -1, -1), phi(points.expand(BATCH, -1, -1).contiguous()), rtol=0, atol=SLACK)
    jacobian = phi.jacobian(points)
    assert_close(
        jacobian.expand(BATCH, -1, -1, -1), phi.jacobian(points.expand(BATCH, -1, -1).contiguous()), rtol=0, atol=SLACK
    )


@every_dim
@every_kind
def test_some_of_a_batch_are_the_same_maps(dim, name):
    phi, points = every_map(dim, BATCH)[name], random_points(dim, BATCH)
    whole = phi(points)
    for some in (slice(0, 1), slice(1, 3), slice(2, 3)):
        assert_close(phi[some](points[some]), whole[some], rtol=0, atol=0)
    assert type(phi[:1]) is type(phi)


@every_dim
@every_kind
def test_some_of_a_shared_map_are_the_shared_map(dim, name):
    phi, points = every_map(dim, 1)[name], random_points(dim, BATCH)
    assert torch.equal(phi[1:](points[1:]), phi(points)[1:])


@every_kind
def test_tensors_change_together(name):
    phi = every_map(2)[name]
    single = phi.of_tensors(lambda tensor: tensor.float())
    points = random_points(2)
    assert single(points.float()).dtype == torch.float32
    assert_close(single(points.float()).double(), phi(points), rtol=0, atol=1e-5)  # float32


@every_dim
@every_kind
def test_the_jacobian_comes_with_the_value(dim, name):
    phi, points = every_map(dim, BATCH)[name], random_points(dim, BATCH).reshape(BATCH, dim, 2, 5, 5)
    value, jacobian = phi.with_jacobian(points)
    assert_close(value, phi(points), rtol=0, atol=SLACK)
    assert torch.equal(jacobian, phi.jacobian(points))
    assert jacobian.shape == (BATCH, dim, dim, 2, 5, 5)


@every_dim
@every_kind
def test_the_jacobian_is_autograds(dim, name):
    phi = every_map(dim, BATCH)[name]
    points = away_from_kinks(phi, dim).requires_grad_()
    image = phi(points)
    if name == "identity":
        image = image + 0  # autograd of a leaf
    rows = [torch.autograd.grad(image[:, i].sum(), points, retain_graph=True)[0] for i in range(dim)]
    assert_close(phi.jacobian(points), torch.stack(rows, dim=1), rtol=0, atol=1e-10)


@every_dim
@every_kind
def test_the_jacobian_is_what_differences_say(dim, name):
    phi = every_map(dim, BATCH)[name]
    points = away_from_kinks(phi, dim)
    jacobian = phi.jacobian(points)
    for j in range(dim):
        step = torch.zeros(1, dim, 1, dtype=torch.float64)
        step[0, j] = STEP
        difference = (phi(points + step) - phi(points - step)) / (2 * STEP)
        assert_close(jacobian[:, :, j], difference, rtol=0, atol=BY_DIFFERENCES)


@every_dim
def test_the_jacobian_of_an_affine_map_is_its_matrix(dim):
    phi = random_affine(dim, BATCH)
    jacobian = phi.jacobian(random_points(dim, BATCH))
    assert_close(jacobian, phi.linear[..., None].expand_as(jacobian), rtol=0, atol=0)
    if dim > 1:
        assert not torch.allclose(phi.linear, phi.linear.mT)  # or a transposed answer would pass


@every_dim
def test_the_determinant_is_linear_algebras(dim):
    matrix = torch.randn(BATCH, dim, dim, 4, 5, dtype=torch.float64)
    expected = torch.linalg.det(matrix.movedim((1, 2), (-2, -1)))
    assert_close(determinant(matrix), expected, rtol=0, atol=10 * SLACK)
    with pytest.raises(ValueError, match="1, 2 and 3"):
        determinant(torch.zeros(1, 4, 4, 1))


@every_dim
@every_kind
def test_gradients_reach_every_tensor(dim, name):
    if name == "identity":
        pytest.skip("the identity has no tensors")
    leaves = []

    def leaf(tensor):
        leaves.append(tensor.detach().requires_grad_())
        return leaves[-1]

    phi = every_map(dim, BATCH)[name].of_tensors(leaf)
    value, jacobian = phi.with_jacobian(random_points(dim, BATCH))
    gradients = torch.autograd.grad(value.square().sum() + jacobian.square().sum(), leaves)
    assert all((g != 0).any() and torch.isfinite(g).all() for g in gradients)


@every_dim
@every_kind
def test_autocast_leaves_maps_alone(dim, name):
    phi = every_map(dim, BATCH)[name].of_tensors(lambda tensor: tensor.float())
    points = random_points(dim, BATCH).float()
    expected = phi.with_jacobian(points)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = phi.with_jacobian(points)
    for ours, referee in zip(got, expected, strict=True):
        assert ours.dtype == torch.float32
        assert_close(ours, referee, rtol=0, atol=1e-5)  # float32, not the 1/256 of bfloat16


# Displacements


@every_dim
def test_a_displacement_continues_outside_by_its_border(dim):
    phi = every_map(dim)["displacement"]
    points = random_points(dim, low=-1, high=2)
    moved = phi(points) - points
    nearest = points.clamp(0, 1)
    assert_close(moved, phi(nearest) - nearest, rtol=0, atol=SLACK)
    far = torch.full_like(points[:, :, :1], 3.0)
    corner = phi.field[(..., *[-1] * dim)][..., None]
    assert_close(phi(far) - far, corner, rtol=0, atol=SLACK)


@every_dim
def test_voxels_and_the_unit_cube_are_two_names_of_one_field(dim):
    voxels = torch.randn(2, dim, *SHAPES[dim], dtype=torch.float64)
    phi = Displacement.from_voxels(voxels)
    assert_close(phi.voxels, voxels, rtol=0, atol=SLACK)
    assert_close(phi.displacement_on(phi.grid), voxels, rtol=0, atol=SLACK)
    grid = Grid(tuple(2 * n - 1 for n in SHAPES[dim]))  # every other node is one of the field's own
    twice = (phi @ Identity(dim)).displacement_on(grid)[(..., *[slice(None, None, 2)] * dim)]
    assert_close(twice, 2 * voxels, rtol=0, atol=SLACK)
    for axis, n in enumerate(SHAPES[dim]):
        assert_close(phi.field[:, axis], voxels[:, axis] / (n - 1), rtol=0, atol=SLACK)


def test_one_voxel_of_displacement_reaches_the_next_node():
    phi = Displacement.from_voxels(torch.tensor([0.0, 1.0, 2.0]).reshape(1, 3, 1, 1, 1).expand(1, 3, 4, 5, 6))
    grid = Grid((4, 5, 6))
    nodes = grid.points()
    assert_close(phi.on(grid)[:, :, 1, 1, 1], nodes[:, :, 1, 2, 3])


@pytest.mark.parametrize("shape", [(1, 2, 5), (1, 1, 5, 5), (1, 2, 3, 4, 5)])
def test_a_displacement_has_one_component_an_axis(shape):
    with pytest.raises(ValueError, match="one component an axis"):
        Displacement(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 3, 3), (2, 3)])
def test_an_affine_matrix_carries_its_shift_in_the_last_column(shape):
    with pytest.raises((ValueError, TypeError)):
        Affine.from_matrix(torch.zeros(shape))


@every_dim
def test_an_affine_map_is_its_matrix_on_homogeneous_points(dim):
    phi, points = random_affine(dim, BATCH), random_points(dim, BATCH)
    matrix = torch.cat([phi.linear, phi.shift[..., None]], dim=2)
    homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], dim=1)
    assert_close(Affine.from_matrix(matrix)(points), matrix @ homogeneous, rtol=0, atol=SLACK)


# Inverses


def invertible(dim: int, name: str) -> Map:
    smooth_flow = Exponential(smooth(LARGE[dim], AMPLITUDE, BATCH))
    return {
        "identity": Identity(dim),
        "affine": random_affine(dim, BATCH),
        "exponential": smooth_flow,
        "affine of exponential": random_affine(dim, BATCH) @ smooth_flow,
    }[name]


@every_dim
@pytest.mark.parametrize("name", INVERTIBLE)
def test_the_inverse_undoes_the_map(dim, name):
    phi, grid = invertible(dim, name), Grid(LARGE[dim])
    points = random_points(dim, BATCH, count=500, low=0.25, high=0.75)  # a flow is undone inside the cube only
    tolerance = ROUND_TRIP * dim**0.5 if "exponential" in name else CLOSED_FORM
    assert distance((phi.inverse @ phi)(points), points, grid) < tolerance
    assert distance((phi @ phi.inverse)(points), points, grid) < tolerance
    assert name == "identity" or distance(phi(points), points, grid) > 3 * tolerance  # there was something to undo


@every_dim
@pytest.mark.parametrize("name", NO_CLOSED_FORM)
def test_without_a_closed_form_the_error_names_the_way_out(dim, name):
    with pytest.raises(TypeError, match="invert\\(map, grid\\)"):
        _ = every_map(dim)[name].inverse


@every_dim
@every_kind
@pytest.mark.parametrize("tolerance", [0.01, 1e-10])
def test_invert_reaches_its_tolerance(dim, name, tolerance):
    phi, grid = every_map(dim, BATCH)[name], Grid(SHAPES[dim])
    points = grid.points(torch.zeros((), dtype=torch.float64))
    psi = invert(phi, grid, tolerance=tolerance)
    assert psi.grid == grid
    if name != "identity":
        assert distance(phi(psi.on(grid)), points, grid) <= tolerance + NODE_ROUND_TRIP


@every_dim
def test_invert_finds_the_closed_form(dim):
    phi, grid = random_affine(dim, BATCH), Grid(SHAPES[dim])
    assert distance(invert(phi, grid, tolerance=1e-10).on(grid), phi.inverse.on(grid), grid) < NODE_ROUND_TRIP


@every_dim
def test_invert_refuses_a_map_that_folds(dim):
    folding = Displacement.from_voxels(3 * torch.randn(1, dim, *SHAPES[dim], dtype=torch.float64))
    assert (determinant(folding.jacobian(random_points(dim))) < 0).any()
    with pytest.raises(ConvergenceError, match=r"did not converge at [0-9]+ of [0-9]+ nodes"):
        invert(folding, Grid(SHAPES[dim]))


@every_dim
def test_invert_refuses_a_map_onto_one_point(dim):
    point = Affine(torch.zeros(1, dim, dim, dtype=torch.float64), torch.zeros(1, dim, dtype=torch.float64))
    with pytest.raises(ConvergenceError, match=r"voxels, wanted 0\.01; the map probably folds"):
        invert(point, Grid(SHAPES[dim]))


# Exponentials


def linear_velocity(dim: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """M and v(x) = M (x - 1/2) on a lattice, with M unlike its transpose."""
    matrix = scale * torch.randn(BATCH, dim, dim, dtype=torch.float64)
    x = Grid(LARGE[dim]).points(torch.zeros((), dtype=torch.float64)).expand(BATCH, *[-1] * (dim + 1))
    return matrix, torch.einsum("bij,bj...->bi...", matrix, x - 0.5)


@every_dim
@pytest.mark.parametrize("scale", [0.02, 0.2, 0.5])
def test_the_exponential_of_a_linear_velocity_is_the_matrix_exponential(dim, scale):
    matrix, velocity = linear_velocity(dim, scale)
    points = random_points(dim, BATCH, low=0.4, high=0.6)  # their path stays inside
    expected = 0.5 + torch.linalg.matrix_exp(matrix) @ (points - 0.5)
    moved = (expected - points).norm(dim=1).max().item()
    error = (Exponential(velocity)(points) - expected).norm(dim=1).max().item()
    assert error <= CONTRACTION**2 / 4 * moved  # 1 + a + a² / 2 stands for exp(a) up to a³ / 6


@every_dim
def test_squaring_is_exact_for_a_linear_velocity(dim):
    """(1 + a + a² / 2)^(2^K) with a = M / 2^K, in matrices: interpolation loses nothing of a linear field inside."""
    matrix, velocity = linear_velocity(dim, 0.2)
    points = random_points(dim, BATCH, low=0.45, high=0.55)
    got = Exponential(velocity)(points)
    for b in range(BATCH):
        bound = matrix[b].abs().sum(1).max()
        squarings = max(0, int(torch.ceil(torch.log2(bound / CONTRACTION - 1e-9))))
        small = matrix[b] / 2**squarings
        factor = torch.eye(dim, dtype=torch.float64) + small + small @ small / 2
        expected = 0.5 + torch.linalg.matrix_power(factor, 2**squarings) @ (points[b] - 0.5)
        assert_close(got[b], expected, rtol=0, atol=1e-10)


@every_dim
def test_every_factor_is_a_contraction(dim):
    """Rough velocities of very different sizes: v / 2^K has slopes below CONTRACTION, v / 2^(K-1) may not."""
    velocity = torch.randn(5, dim, *SHAPES[dim], dtype=torch.float64)
    velocity *= torch.tensor([1e-4, 1e-2, 0.1, 1, 10.0], dtype=torch.float64).reshape(-1, *[1] * (dim + 1))
    squarings = _squarings(velocity)
    assert (squarings.diff() >= 0).all()
    assert squarings[0] == 0
    factor = Displacement(velocity / 2.0 ** squarings.reshape(-1, *[1] * (dim + 1)))
    points = random_points(dim, 5, count=2000)
    slopes = factor.jacobian(points) - Identity(dim).jacobian(points)
    assert slopes.abs().sum(2).max() <= CONTRACTION * (1 + SLACK)  # row sums bound the norm
    assert (determinant(factor.jacobian(points)) > 0).all()


@every_dim
def test_the_exponential_of_a_batch_is_the_exponential_of_each(dim):
    velocity = torch.randn(4, dim, *SHAPES[dim]) * torch.tensor([0.0, 0.003, 0.05, 1.0]).reshape(-1, *[1] * (dim + 1))
    whole = exponentiate(velocity)
    for b in range(4):
        assert torch.equal(whole[b : b + 1], exponentiate(velocity[b : b + 1]))
    assert (whole[0] == 0).all()


@every_dim
def test_a_rough_exponential_does_not_fold(dim):
    flow = Exponential(torch.randn(1, dim, *SHAPES[dim], dtype=torch.float64) * 0.02)
    displacement = (flow.displacement.voxels**2).sum(1).sqrt().max()
    assert displacement > 0.1
    assert (determinant(flow.jacobian(random_points(dim, count=2000))) > 0).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_velocity_that_is_not_finite_is_refused(bad):
    velocity = torch.zeros(1, 2, 4, 4)
    velocity[0, 0, 1, 1] = bad
    with pytest.raises(ValueError, match="not finite"):
        exponentiate(velocity)


def test_an_exponential_is_computed_once_and_sliced_with_its_flow():
    phi = Exponential(torch.randn(3, 2, 5, 6))
    assert phi.displacement is phi.displacement
    assert torch.equal(phi[1:].displacement.field, phi.displacement.field[1:])


@every_dim
def test_an_exponential_is_its_displacement(dim):
    phi, points = every_map(dim, BATCH)["exponential"], random_points(dim, BATCH)
    assert torch.equal(phi(points), points + sample(phi.displacement.field, points))
    assert torch.equal(phi.displacement.field, exponentiate(phi.velocity))


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 2, 7), (2, 4, 5, 5, 5), (1, 1, 5, 5)])
def test_only_fields_with_a_component_an_axis_have_an_exponential(shape):
    with pytest.raises(ValueError, match="one component an axis"):
        exponentiate(torch.zeros(shape))


@every_dim
def test_the_logarithm_is_the_velocity(dim):
    grid = Grid(tuple((24, 21, 18)[:dim]))
    velocity = smooth(grid.shape, 1.5)
    there = Exponential(velocity)
    found = logarithm(there, there.inverse, grid)
    off = ((Exponential(found).on(grid) - there.on(grid)) / per_axis(grid.voxel, velocity)).norm(dim=1)
    assert off.mean() < 0.03  # voxels: flows are read between their nodes
    assert off.max() < 0.2  # at the border, where they leave the lattice
    assert torch.allclose(logarithm(there.inverse, there, grid), -found, atol=1e-12)
    still = logarithm(Identity(dim), Identity(dim), grid)
    assert still.abs().max() < 1e-12


@pytest.mark.skipif(not kernels.native_status()[0], reason="no compiled kernel")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(70,), (1,), (9, 33), (5, 1, 40), (7, 8, 9)])
def test_how_steep_a_velocity_is(shape, dtype):
    u = torch.randn(2, len(shape), *shape, dtype=dtype)
    assert torch.equal(steepest(u), _steepest(u))
    u[1, 0, ..., -1] = torch.nan
    for found in (steepest(u), _steepest(u)):
        assert found[1, 0].isnan().all()
        assert found[0].isfinite().all()
    u[1, 0, ..., -1] = torch.inf
    assert not steepest(u)[1, 0].isfinite().any()
