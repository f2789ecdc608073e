"""Registrations obey their equations; ITK judges what warping means."""

from copy import deepcopy

import monai.networks.blocks
import numpy as np
import pytest
import SimpleITK
import torch
from tables import AS_MAP, DIMS, NETWORKS, SHAPES, SLACK, every_network, smooth, smooth_image, stirred
from torch import nn
from torch.testing import assert_close

from foldless.grid import Grid
from foldless.maps import Affine, Composition, Displacement, Identity
from foldless.registration import Downsample, Predict, Refine, Registration, TwoStep, average_pool, warp

SAME = 1e-10  # float64: convolutions may add in another order for another batch
HALF = 0.05  # of the largest displacement: hidden layers rounded to bfloat16's 8 bits

every_dim = pytest.mark.parametrize("dim", DIMS)


class Fixed(Registration):
    """Answers with one map, and remembers what it was shown."""

    def __init__(self, phi):
        super().__init__()
        self.phi = phi

    def forward(self, image_A, image_B):
        self.seen = image_A, image_B
        return self.phi


class Bias(nn.Module):
    """The same displacement everywhere, in the images' own size."""

    def forward(self, image_A, image_B):
        return torch.full((image_A.shape[0], image_A.ndim - 2, *image_A.shape[2:]), 0.1, dtype=image_A.dtype)


def predict(name, dim, as_map="Displacement", shape=None):
    return Predict(stirred(every_network(dim, shape or SHAPES[dim])[name], 0.02).double(), as_map=AS_MAP[as_map])


def images(dim, batch=2):
    return smooth_image(SHAPES[dim], batch), smooth_image(SHAPES[dim], batch)


@every_dim
@pytest.mark.parametrize("as_map", AS_MAP)
def test_predict_makes_a_map_of_what_the_network_says(dim, as_map):
    registration = predict("ConvOnly", dim, as_map)
    a, b = images(dim)
    grid = Grid(SHAPES[dim])
    phi = registration(a, b)
    assert type(phi) is AS_MAP[as_map]
    assert torch.equal(phi.on(grid), AS_MAP[as_map](registration.net(a, b)).on(grid))


def test_predict_takes_any_constructor():
    class Matrix(nn.Module):
        def forward(self, image_A, image_B):
            return torch.eye(2, 3).expand(image_A.shape[0], 2, 3)

    phi = Predict(Matrix(), as_map=Affine.from_matrix)(torch.zeros(2, 1, 4, 5), torch.zeros(2, 1, 4, 5))
    assert isinstance(phi, Affine)
    assert torch.equal(phi.on(Grid((4, 5))), Grid((4, 5)).points().expand(2, -1, -1, -1))


@every_dim
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("as_map", AS_MAP)
def test_every_registration_starts_at_the_identity(dim, name, as_map):
    step = Predict(every_network(dim, SHAPES[dim])[name], as_map=AS_MAP[as_map])
    grid = Grid(SHAPES[dim])
    image = smooth_image(SHAPES[dim], 2).float()
    for registration in [step, TwoStep(step, step)] + ([] if name == "MLP" else [Downsample(step)]):
        registration.eval()
        moved = registration(image, image.flip(0)).on(grid)
        assert torch.equal(moved, grid.points().expand_as(moved))
        assert_close(warp(image, registration(image, image)), image, rtol=0, atol=1e-5)  # float32 at the nodes


@every_dim
@pytest.mark.parametrize("as_map", AS_MAP)
def test_two_steps_are_the_second_on_what_the_first_warped(dim, as_map):
    first, second = predict("ConvOnly", dim, as_map), predict("ResidualUNet", dim, as_map).eval()
    a, b = images(dim)
    grid = Grid(SHAPES[dim])
    phi = TwoStep(first, second)(a, b)
    one = first(a, b)
    expected = one @ second(warp(a, one), b)
    assert isinstance(phi, Composition)
    assert len(phi.parts) == 2
    assert torch.equal(phi.on(grid), expected.on(grid))
    assert_close(warp(a, phi), warp(a, expected), rtol=0, atol=0)


@every_dim
@pytest.mark.parametrize("factor", [2, 3])
def test_downsampling_shows_both_images_pooled(dim, factor):
    inner = Fixed(Identity(dim))
    a, b = images(dim)
    assert Downsample(inner, factor)(a, b) is inner.phi
    assert torch.equal(inner.seen[0], average_pool(a, factor))
    assert torch.equal(inner.seen[1], average_pool(b, factor))


@every_dim
def test_a_downsampled_map_serves_the_full_lattice(dim):
    a, b = images(dim)
    phi = Downsample(Predict(Bias(), as_map=Displacement))(a, b)
    assert phi.grid.shape == tuple(-(-n // 2) for n in SHAPES[dim])
    points = Grid(SHAPES[dim]).points(a)
    assert_close(phi.on(Grid(SHAPES[dim])), (points + 0.1).expand(2, *points.shape[1:]), rtol=0, atol=SLACK)


@every_dim
@pytest.mark.parametrize("factor", [1, 2, 3, 10])
def test_pooling_averages_blocks_and_what_is_left_at_the_end(dim, factor):
    image = smooth_image(SHAPES[dim])
    pooled = average_pool(image, factor)
    assert pooled.shape[2:] == tuple(-(-n // factor) for n in SHAPES[dim])
    for place in np.ndindex(*pooled.shape[2:]):
        block = image[(0, 0, *[slice(k * factor, (k + 1) * factor) for k in place])]
        assert_close(pooled[(0, 0, *place)], block.mean(), rtol=0, atol=SLACK)


@every_dim
@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_is_its_pairs(dim, name):
    step = predict(name, dim)
    registration = TwoStep(step, predict(name, dim)).eval()
    a, b = images(dim, batch=3)
    grid = Grid(SHAPES[dim])
    whole = registration(a, b)
    for i in range(3):
        alone = registration(a[i : i + 1], b[i : i + 1])
        assert_close(whole[i : i + 1].on(grid), alone.on(grid), rtol=0, atol=SAME)


@pytest.mark.parametrize("dim", [2, 3])
def test_networks_may_compute_in_bfloat16_and_maps_may_not(dim):
    registration = TwoStep(predict("ConvOnly", dim), Downsample(predict("VoxelMorphUNet", dim))).float().eval()
    a, b = (image.float() for image in images(dim))
    expected = registration(a, b).on(Grid(SHAPES[dim])) - Grid(SHAPES[dim]).points()
    registration.run_networks_in(torch.bfloat16)
    phi = registration(a, b)
    got = phi.on(Grid(SHAPES[dim])) - Grid(SHAPES[dim]).points()
    assert all(part.field.dtype == torch.float32 for part in phi.parts)
    assert not torch.equal(got, expected)
    assert_close(got, expected, rtol=0, atol=HALF * expected.abs().max().item())
    registration.run_networks_in(torch.float32)
    assert torch.equal(registration(a, b).on(Grid(SHAPES[dim])) - Grid(SHAPES[dim]).points(), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_computing_again_on_the_way_back_changes_no_bit(name):
    registration = TwoStep(predict(name, 2), predict(name, 2)).train()
    other = deepcopy(registration)
    other.run_networks_in(None, recompute=True)
    a, b = images(2)
    toward = torch.randn(2, 2, *SHAPES[2], dtype=torch.float64)
    kept = []
    for module in (registration, other):
        held = 0

        def hold(tensor):
            nonlocal held
            held += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
            nodes = module(a, b).on(Grid(SHAPES[2]))
        kept.append(held)
        (nodes * toward).sum().backward()
    assert kept[1] < kept[0]
    for mine, its in zip(other.parameters(), registration.parameters(), strict=True):
        assert torch.equal(mine.grad, its.grad)
    for mine, its in zip(other.buffers(), registration.buffers(), strict=True):
        assert torch.equal(mine, its)


# Refining


@every_dim
@pytest.mark.parametrize("as_map", AS_MAP)
def test_refining_corrects_the_displacement_in_voxels(dim, as_map):
    base = predict("ConvOnly", dim, as_map)
    a, b = images(dim)
    grid = Grid(SHAPES[dim])
    asked = []

    class Doubled(nn.Module):
        def forward(self, displacement, warped, fixed):
            asked.append((displacement, warped, fixed))
            return 2 * displacement

    registration = Refine(TwoStep(base, base), Doubled())
    phi, before = registration(a, b), TwoStep(base, base)(a, b)
    points = grid.points(a)
    voxels = torch.tensor([n - 1.0 for n in SHAPES[dim]], dtype=torch.float64).reshape(1, -1, *[1] * dim)
    assert_close(asked[0][0], (before.on(grid) - points) * voxels, rtol=0, atol=SAME)
    assert_close(asked[0][1], warp(a, before), rtol=0, atol=SAME)
    assert torch.equal(asked[0][2], b)
    assert isinstance(phi, Displacement)
    assert_close(phi.on(grid) - points, 2 * (before.on(grid) - points), rtol=0, atol=SAME)
    assert [type(part) for part in registration.parts] == [Predict, Predict, Doubled]


# Warping


def itk_warp(image, voxels):
    """SimpleITK's linear resampling under a displacement in voxels, spacing 1."""
    dim = image.ndim
    vectors = np.ascontiguousarray(np.moveaxis(voxels, 0, -1)[..., ::-1])  # ITK counts axes from the fastest
    field = SimpleITK.GetImageFromArray(vectors, isVector=True)
    transform = SimpleITK.DisplacementFieldTransform(SimpleITK.Cast(field, SimpleITK.sitkVectorFloat64))
    assert transform.GetDimension() == dim
    moving = SimpleITK.GetImageFromArray(image)
    return SimpleITK.GetArrayFromImage(SimpleITK.Resample(moving, moving, transform, SimpleITK.sitkLinear, -1.0))


@pytest.mark.parametrize("dim", [2, 3])
def test_itk_warps_the_same_way(dim):
    image = smooth_image(SHAPES[dim])
    phi = Displacement(smooth(SHAPES[dim], 1.5))
    expected = itk_warp(image[0, 0].numpy(), phi.voxels[0].numpy())
    got = warp(image, phi)[0, 0].numpy()
    inside = expected >= 0
    assert inside.mean() > 0.4  # ITK reads nothing outside
    assert np.abs(got - image[0, 0].numpy())[inside].max() > 0.05
    np.testing.assert_allclose(got[inside], expected[inside], rtol=0, atol=1e-9)  # ITK's own rounding


@every_dim
def test_an_image_is_moved_against_the_displacement(dim):
    """A ∘ phi with phi(x) = x + one voxel reads the next node: the image moves one node back."""
    image = smooth_image(SHAPES[dim])
    voxels = torch.zeros(1, dim, *SHAPES[dim], dtype=torch.float64)
    voxels[:, 0] = 1
    warped = warp(image, Displacement.from_voxels(voxels))
    assert_close(warped[:, :, :-1], image[:, :, 1:], rtol=0, atol=SLACK)
    assert_close(warped[:, :, -1], image[:, :, -1], rtol=0, atol=SLACK)


@every_dim
def test_warping_onto_another_lattice_is_resampling(dim):
    image = smooth_image(SHAPES[dim], channels=2)
    finer = Grid(tuple(2 * n - 1 for n in SHAPES[dim]))
    fine = warp(image, Identity(dim), finer)
    assert fine.shape == (1, 2, *finer.shape)
    every_second = (..., *[slice(None, None, 2)] * dim)
    assert_close(fine[every_second].double(), image, rtol=0, atol=1e-5)  # the identity's points are float32


@pytest.mark.parametrize("dim", [2, 3])
def test_monai_warps_by_the_same_voxels(dim):
    """What MONAI's and VoxelMorph's networks emit is `Displacement.from_voxels`, to the letter."""
    image = smooth_image(SHAPES[dim], 2)
    voxels = 2 * torch.randn(2, dim, *SHAPES[dim], dtype=torch.float64)
    expected = monai.networks.blocks.Warp(mode="bilinear", padding_mode="border")(image, voxels)
    assert_close(warp(image, Displacement.from_voxels(voxels)), expected, rtol=0, atol=SLACK)
