"""Judges of the lattice and of sampling: closed forms, torch's grid_sample, SciPy, ITK's idea of inside."""

import numpy as np
import pytest
import scipy.ndimage
import SimpleITK
import torch
from tables import DIMS, SHAPES, SLACK, SLACK_32, random_points
from torch.testing import assert_close

from foldless.grid import Grid, per_axis, sample, sample_labels, sample_with_jacobian

ODD_SHAPES = [(1,), (2,), (9,), (1, 5), (2, 7), (6, 5), (1, 1), (2, 1, 4), (2, 2, 2), (4, 5, 6)]
SPREAD = 0.03  # relative error allowed of a standard deviation over about 20 000 numbers: six of its own


def values_of(shape, batch=1, channels=3):
    return torch.randn(batch, channels, *shape, dtype=torch.float64)


def torch_sample(values, points):
    """grid_sample on (batch, dim, count) points; one dimension as two with a single column."""
    dim = points.shape[1]
    if dim == 1:
        values, points = values[..., None], torch.cat([points, torch.zeros_like(points)], dim=1)
    places = 2 * points.flip(1).movedim(1, -1) - 1
    places = places.reshape(places.shape[0], *[1] * (places.shape[-1] - 1), -1, places.shape[-1])
    got = torch.nn.functional.grid_sample(values, places, mode="bilinear", padding_mode="border", align_corners=True)
    return got.reshape(*got.shape[:2], -1)


def scipy_sample(values, points, **how):
    index = points.numpy() * (np.array(values.shape)[:, None] - 1)
    return scipy.ndimage.map_coordinates(values.numpy(), index, **how)


# The lattice


@pytest.mark.parametrize("dim", DIMS)
def test_nodes_lie_at_zero_and_one_inclusive(dim):
    points = Grid(SHAPES[dim]).points()
    assert points.shape == (1, dim, *SHAPES[dim])
    assert points.dtype == torch.float32
    for axis, n in enumerate(SHAPES[dim]):
        along = points[0, axis].movedim(axis, 0).reshape(n, -1)
        assert (along[0] == 0).all()
        assert (along[-1] == 1).all()
        expected = torch.linspace(0, 1, n)[:, None].expand_as(along)
        assert_close(along, expected, rtol=0, atol=1e-7)  # one rounding in float32


def test_a_voxel_is_each_axis_own():
    assert Grid((5, 3, 11)).voxel == (0.25, 0.5, 0.1)


def test_points_follow_the_dtype_of_their_model():
    assert Grid((3,)).points(torch.zeros((), dtype=torch.float64)).dtype == torch.float64


def test_grids_of_equal_shape_are_equal():
    assert Grid((3, 4)) == Grid((3, 4)) == Grid.of(torch.zeros(2, 1, 3, 4))
    assert Grid((3, 4)) != Grid((4, 3))
    assert Grid(torch.Size([3, 4])).dim == 2


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (4, -1)])
def test_a_grid_without_nodes_is_refused(shape):
    with pytest.raises(ValueError, match="at least one node"):
        Grid(shape)


def test_per_axis_multiplies_each_coordinate():
    points = random_points(3)
    scaled = points * per_axis((2.0, 3.0, 5.0), points)
    assert torch.equal(scaled, torch.stack([points[:, 0] * 2, points[:, 1] * 3, points[:, 2] * 5], dim=1))


# Jitter


@pytest.mark.parametrize("shape", [(20_001,), (201, 101), (21, 41, 31)])
def test_jitter_has_one_voxel_of_deviation_on_each_axis(shape):
    grid = Grid(shape)
    like = torch.zeros((), dtype=torch.float64)
    noise = grid.jittered(1, like) - grid.points(like)
    deviation = noise.std(dim=tuple(range(2, noise.ndim)))[0] / torch.tensor(grid.voxel, dtype=torch.float64)
    assert_close(deviation, torch.ones_like(deviation), rtol=0, atol=SPREAD)


def test_jitter_is_each_sample_own():
    grid = Grid((101, 201))
    like = torch.zeros((), dtype=torch.float64)
    noise = (grid.jittered(3, like) - grid.points(like)).flatten(1)
    correlation = torch.corrcoef(noise)
    assert (correlation - torch.eye(3)).abs().max() < SPREAD


def test_jitter_repeats_with_its_generator():
    grid, like = Grid((5, 6)), torch.zeros((), dtype=torch.float64)
    first = grid.jittered(2, like, torch.Generator().manual_seed(3))
    again = grid.jittered(2, like, torch.Generator().manual_seed(3))
    assert torch.equal(first, again)
    assert not torch.equal(first, grid.jittered(2, like, torch.Generator().manual_seed(4)))


# Sampling


@pytest.mark.parametrize("shape", ODD_SHAPES)
def test_nodes_return_their_values(shape):
    values = values_of(shape, batch=2)
    assert_close(sample(values, Grid(shape).points(values)), values, rtol=0, atol=SLACK)


@pytest.mark.parametrize("dim", DIMS)
def test_linear_functions_are_reproduced(dim):
    grid = Grid(SHAPES[dim])
    slope = torch.randn(2, dim, dtype=torch.float64)  # two channels
    shift = torch.randn(2, dtype=torch.float64)

    def linear(x):
        return torch.einsum("cd,bd...->bc...", slope, x) + shift.reshape(1, 2, *[1] * (x.ndim - 2))

    points = random_points(dim)
    value, jacobian = sample_with_jacobian(linear(grid.points(points)), points)
    assert_close(value, linear(points), rtol=0, atol=SLACK)
    assert_close(jacobian, slope[None, :, :, None].expand_as(jacobian), rtol=0, atol=20 * SLACK)


@pytest.mark.parametrize("dim", DIMS)
def test_outside_the_border_continues(dim):
    values, points = values_of(SHAPES[dim]), random_points(dim, low=-2, high=3)
    assert_close(sample(values, points), sample(values, points.clamp(0, 1)), rtol=0, atol=SLACK)


@pytest.mark.parametrize("dim", DIMS)
def test_outside_the_derivative_is_zero_on_the_clamped_axes(dim):
    values = values_of(SHAPES[dim])
    points = random_points(dim)
    points[:, 0] += 2
    jacobian = sample_with_jacobian(values, points)[1]
    assert (jacobian[:, :, 0] == 0).all()
    if dim > 1:
        assert (jacobian[:, :, 1:] != 0).all()


@pytest.mark.parametrize("shape", ODD_SHAPES)
def test_torchs_grid_sample_agrees(shape):
    values = values_of(shape, batch=2)
    points = random_points(len(shape), batch=2, low=-0.3, high=1.3)
    assert_close(sample(values, points), torch_sample(values, points), rtol=0, atol=SLACK)


@pytest.mark.parametrize("shape", ODD_SHAPES)
def test_scipy_agrees(shape):
    values = values_of(shape, channels=1)
    points = random_points(len(shape), low=-0.3, high=1.3)
    expected = scipy_sample(values[0, 0], points[0], order=1, mode="nearest")
    assert_close(sample(values, points)[0, 0].numpy(), expected, rtol=0, atol=SLACK)


@pytest.mark.parametrize("dim", DIMS)
def test_float32_is_as_good_as_float32_allows(dim):
    values, points = values_of(SHAPES[dim]), random_points(dim)
    got = sample(values.float(), points.float())
    assert got.dtype == torch.float32
    assert_close(got.double(), sample(values, points), rtol=0, atol=SLACK_32)


def test_values_are_read_in_the_dtype_of_the_points():
    values, points = values_of((5, 6)), random_points(2)
    half = values.bfloat16()
    assert sample(half, points.float()).dtype == torch.float32
    assert_close(sample(half, points), sample(half.double(), points), rtol=0, atol=0)


@pytest.mark.parametrize("dim", DIMS)
def test_one_sample_serves_the_batch_of_the_other(dim):
    values, points = values_of(SHAPES[dim], batch=3), random_points(dim, batch=3)
    shared = sample(values, points[:1])
    assert_close(shared, sample(values, points[:1].repeat(3, 1, 1)), rtol=0, atol=0)
    shared = sample(values[:1], points)
    assert_close(shared, sample(values[:1].repeat(3, 1, *[1] * dim), points), rtol=0, atol=0)


@pytest.mark.parametrize("dim", DIMS)
def test_points_may_have_any_arrangement(dim):
    values, points = values_of(SHAPES[dim]), random_points(dim, count=24)
    value, jacobian = sample_with_jacobian(values, points)
    arranged_value, arranged_jacobian = sample_with_jacobian(values, points.reshape(1, dim, 2, 3, 4))
    assert arranged_value.shape == (1, 3, 2, 3, 4)
    assert arranged_jacobian.shape == (1, 3, dim, 2, 3, 4)
    assert torch.equal(arranged_value.flatten(2), value)
    assert torch.equal(arranged_jacobian.flatten(3), jacobian)
    assert torch.equal(value, sample(values, points))


@pytest.mark.parametrize("shape", [(1, 2, 5), (1, 1, 5), (1, 4, 5)])
def test_points_of_another_dimension_are_refused(shape):
    with pytest.raises(ValueError, match="cannot be read on a 3-D lattice"):
        sample(values_of((3, 4, 5)), torch.zeros(shape, dtype=torch.float64))


def test_batches_that_do_not_broadcast_are_refused():
    with pytest.raises((ValueError, TypeError)):  # jaxtyping's check in the tests, our own elsewhere
        sample(values_of((4,), batch=2), random_points(1, batch=3))


# Labels


@pytest.mark.parametrize("dim", DIMS)
def test_labels_come_from_the_nearest_node_as_scipy_reads_them(dim):
    labels = torch.randint(0, 9, SHAPES[dim])
    points = random_points(dim, count=400)
    expected = scipy_sample(labels, points[0], order=0)
    assert torch.equal(sample_labels(labels, points), torch.from_numpy(expected))


@pytest.mark.parametrize("dim", DIMS)
def test_labels_outside_are_background(dim):
    labels = torch.randint(1, 9, SHAPES[dim])
    voxel = per_axis(Grid(SHAPES[dim]).voxel, torch.zeros(1, dim, 1, dtype=torch.float64))
    for points in (-random_points(dim) - voxel, 1 + voxel + random_points(dim)):
        assert (sample_labels(labels, points) == 0).all()
    assert (sample_labels(labels, random_points(dim)) > 0).all()


@pytest.mark.parametrize("move", [-0.6, -0.4, 0.4, 0.6])
def test_a_border_label_reaches_half_a_voxel_out_as_in_itk(move):
    """SciPy's order 0 ends at the last node instead; ITK's voxels are boxes around their nodes."""
    labels = torch.randint(1, 9, (5, 6))
    points = Grid((5, 6)).points(torch.zeros((), dtype=torch.float64)) + move * per_axis(
        (0.25, 0.2), torch.zeros(1, 2, 1, 1)
    )
    image = SimpleITK.GetImageFromArray(labels.numpy())
    nearest, shift = SimpleITK.sitkNearestNeighbor, SimpleITK.TranslationTransform(2, (move, move))
    expected = SimpleITK.GetArrayFromImage(SimpleITK.Resample(image, image, shift, nearest, 0))
    assert torch.equal(sample_labels(labels, points), torch.from_numpy(expected))
