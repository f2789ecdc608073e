"""Where a map takes points from: in every field that is proven fold-free, however steep, every point is found."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from scipy.ndimage import gaussian_filter
from transform_cases import nodes

from foldless.io import Geometry, Transform, Warped
from foldless.io.formats.itk import parts_of_itk
from foldless.io.world import Foreign
from foldless.maps import Affine, Composition, Displacement, solve
from foldless.proofs import certify_warp

ARRIVED = 1e-4
"""Voxels."""


def steep(shape, seed, blur=0.8):
    """A random field (*shape, dim) in mm, as high as is still proven fold-free; and its lattice of 1 mm."""
    dim = len(shape)
    noise = np.random.default_rng(seed).normal(size=(dim, *shape))
    field = np.stack([gaussian_filter(one, blur) for one in noise], -1)
    field = (field / np.abs(field).max()).astype(np.float32)
    on = Geometry(shape[::-1], (1.0,) * dim, (0.0,) * dim, tuple(np.eye(dim).ravel().tolist()))
    proven, folds = 0.0, 8.0
    for _ in range(12):
        height = (proven + folds) / 2
        proven, folds = (height, folds) if certify_warp(height * field, on).proven else (proven, height)
    return proven * field, on


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(24, 30), (12, 14, 13)])
def test_every_point_of_a_proven_field_has_a_way_back(shape, seed):
    field, on = steep(shape, seed)
    certificate = certify_warp(field, on)
    assert certificate.proven
    assert certificate.bounds[0] < 0.01
    squeezed = nodes(on) + field.reshape(-1, on.dim)  # where cells are small, points are many
    spread = np.random.default_rng(seed).uniform(-3, np.array(on.size) + 2, (4000, on.dim))
    _, missed = Transform((Warped(field, on),)).back(np.vstack([squeezed, spread]))
    assert missed.max() < ARRIVED


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_sample_of_a_batch_is_solved_by_itself(dtype):
    phi = Displacement.from_voxels(0.4 * torch.rand(3, 2, 9, 8, dtype=dtype))
    target = torch.rand(1, 2, 5, 4, dtype=dtype)
    at, error = solve(phi, target, torch.ones((), dtype=dtype), 1e-5)
    assert at.shape == (3, 2, 5, 4)
    assert error.shape == (3, 1, 5, 4)
    assert (phi(at) - target).abs().max() < 1e-5
    alone, _ = solve(phi[1:2], target, torch.ones((), dtype=dtype), 1e-5)
    assert torch.equal(at[1:2], alone)


def test_a_composition_is_walked_back_through():
    field, _ = steep((12, 14, 13), 9)
    unit = torch.from_numpy(np.ascontiguousarray(np.moveaxis(field, -1, 0)[::-1])).double()[None]
    turn = Affine.from_matrix(torch.tensor([[[0.9, 0.2, 0, 0], [-0.2, 0.9, 0, 0], [0, 0, 1, 0.1]]]).double())
    phi = Composition((turn, Displacement.from_voxels(unit)))
    target = torch.rand(1, 3, 1000, dtype=torch.float64)
    _, error = solve(phi, target, torch.full((), 1 / 13, dtype=torch.float64), ARRIVED / 10)
    assert error.max() < ARRIVED


def test_what_has_no_inverse_is_told_by_its_error():
    shrunk = Displacement(-torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64)[None])  # onto one point
    _, error = solve(shrunk, torch.tensor([[[0.0, 0.5]]]).double(), torch.ones(()).double(), 1e-6)
    assert error[0, 0, 0] < 1e-6 < error[0, 0, 1]
    _, error = solve(shrunk, torch.full((1, 1, 1), torch.nan).double(), torch.ones(()).double(), 1e-6)
    assert error.isnan().all()


def test_a_map_that_only_simpleitk_evaluates_is_undone():
    spline = sitk.BSplineTransform(3, 2)  # of order 2, which no map here is
    spline.SetTransformDomainPhysicalDimensions((10.0, 10.0, 10.0))
    spline.SetTransformDomainMeshSize((4, 4, 4))
    spline.SetParameters(np.random.default_rng(0).uniform(-1, 1, len(spline.GetParameters())).tolist())
    (part,) = parts_of_itk(spline)
    assert isinstance(part, Foreign)
    points = np.random.default_rng(1).uniform(3, 7, (60, 3))
    there = np.array([spline.TransformPoint(point) for point in points.tolist()])
    found, missed = Transform((part,)).back(there)
    assert missed.max() < ARRIVED
    np.testing.assert_allclose(found, points, atol=1e-2)
