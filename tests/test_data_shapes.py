"""Shapes are what ICON's definition says, and nobody draws the same ones twice by accident."""

from math import pi, sqrt

import numpy as np
import pytest
import torch

from foldless.data.shapes import shapes
from foldless.data.source import open_source
from foldless.errors import InputError
from foldless.recipe import Source

HALF_A_PIXEL = 0.02  # relative area that a boundary through 200² pixels can hide, and some


def small(size=28, seed=0):
    return shapes(size, seed, train=20, test=20)


def test_the_same_seed_draws_the_same_shapes():
    one, same, other = small(seed=3), small(seed=3), small(seed=4)
    for part in ("train", "val", "test"):
        assert torch.equal(getattr(one, part).images, getattr(same, part).images)
        assert not torch.equal(getattr(one, part).images, getattr(other, part).images)


def test_no_shape_is_in_two_parts():
    split = small()
    images = torch.cat([split.train.images, split.val.images, split.test.images]).flatten(1)
    assert len(torch.unique(images, dim=0)) == len(images)


@pytest.mark.parametrize("size", [8, 28, 33])
def test_any_size(size):
    split = small(size)
    assert split.train.lattice == (size, size)
    assert split.train.images.shape[1] == 1


def test_training_knows_the_size_and_the_range():
    split, preparation = open_source(Source(data="shapes", size=12))
    assert preparation.lattice == split.train.lattice == (12, 12)
    assert preparation.intensities == (-1.0, 1.0)
    assert (len(split.train), len(split.test)) == (6000, 6000)


def test_inside_is_one_and_outside_is_minus_one():
    images = small(64).train.images
    assert images.max() > 0.999
    assert images.min() < -0.999
    assert (images.abs() > 0.9).float().mean() > 0.7  # tanh(40 d) turns within 0.04


def boundary_distance(mask, step):
    """Signed distance to a mask's boundary by brute force, negative inside; another way than the definition's."""
    inside, outside = np.argwhere(mask), np.argwhere(~mask)
    result = np.empty(mask.shape)
    for points, others, sign in ((inside, outside, -1), (outside, inside, 1)):
        for p in points:
            result[tuple(p)] = sign * (np.sqrt(((others - p) ** 2).sum(1).min()) - 0.5) * step
    return result


def test_intensity_is_tanh_of_the_signed_distance():
    image = next(image[0].numpy() for image, name in zip(*_named(small(96)), strict=True) if name.endswith("circle"))
    distance = boundary_distance(image > 0, 1 / 95)
    near = np.abs(distance) < 0.1
    assert np.abs(image - np.tanh(-40 * distance))[near].max() < 0.35  # half a pixel of 1/95, 40 times steeper


def _named(split):
    return split.train.images, split.train.names


@pytest.mark.parametrize("kind", ["circle", "triangle"])
def test_areas_are_those_of_circles_and_equilateral_triangles(kind):
    """r from 0.2 to 0.4 and a centre from 0.4 to 0.7: those that lie inside the picture have an area of c · r²."""
    seen = 0
    for image, name in zip(*_named(small(200)), strict=True):
        mask = image[0].numpy() > 0
        if not name.endswith(kind) or mask[[0, -1]].any() or mask[:, [0, -1]].any():
            continue
        inside = np.argwhere(mask) / 199
        centre = inside.mean(0)
        radius = np.sqrt(((inside - centre) ** 2).sum(1)).max()
        wanted = (pi if kind == "circle" else 3 * sqrt(3) / 4) * radius**2
        assert mask.mean() * (200 / 199) ** 2 == pytest.approx(wanted, rel=5 * HALF_A_PIXEL)
        assert (centre > 0.38).all()
        assert (centre < 0.72).all()
        assert 0.19 < radius < 0.41
        seen += 1
    assert seen > 1


def test_half_are_circles():
    names = shapes(8, train=2000, test=2).train.names
    assert 0.45 < np.mean([name.endswith("circle") for name in names]) < 0.55


def test_fewer_than_eight_pixels_are_refused():
    with pytest.raises(InputError, match="8 pixels"):
        Source(data="shapes", size=4)
