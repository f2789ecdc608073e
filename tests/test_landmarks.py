"""Landmarks as forces: their derivative, and that they bring together what intensities cannot."""

from dataclasses import replace

import pytest
import torch
from test_halfway import QUICK, smooth_images

from foldless.grid import Grid, in_voxels
from foldless.halfway import register_halfway
from foldless.landmarks import Landmarks
from foldless.maps import Exponential
from foldless.metrics import folds
from foldless.similarity import MSE


def points(dim, count=7, seed=2):
    """Places well inside, and where something moves them to: up to three tenths of a tenth of the cube."""
    generator = torch.Generator().manual_seed(seed)
    there = 0.25 + 0.5 * torch.rand(count, dim, generator=generator, dtype=torch.float64)
    return there, there + 0.06 * torch.sin(6 * there.flip(-1))


def missed(phi, landmarks, lattice):
    """Voxels between A's points and where the map takes B's, the mean."""
    axes = torch.tensor([n - 1.0 for n in lattice])
    found = phi(landmarks.fixed.float().T[None])[0].T
    return ((found - landmarks.moving) * axes).norm(dim=1).mean().item()


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_pull_is_the_scores_derivative_by_a_velocity_that_is_still_small(dim):
    """An exponential of a velocity v is x + v + O(v²): autograd through it, in float64, is the referee."""
    lattice = (9, 8, 7)[:dim]
    landmarks, extent = Landmarks(*points(dim), weight=3.0), [n - 1.0 for n in lattice]
    matrices = torch.eye(dim, dim + 1, dtype=torch.float64).repeat(2, 1, 1)
    matrices = matrices + 0.03 * torch.randn(2, dim, dim + 1, dtype=torch.float64)
    velocity = (1e-7 * torch.randn(1, dim, *lattice, dtype=torch.float64)).requires_grad_()
    b, a = landmarks.halfway(matrices)
    there, back = Exponential(velocity)(b[None])[0], Exponential(-velocity)(a[None])[0]
    score = (landmarks.score(there - a, extent, 50) + landmarks.score(back - b, extent, 50)) / 2
    (expected,) = torch.autograd.grad(score, velocity)
    got = landmarks.pull(torch.cat([velocity, -velocity]), matrices, extent, 50)
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("dim", [2, 3])
def test_affine_maps_are_drawn_by_the_scores_derivative(dim):
    landmarks, extent = Landmarks(*points(dim)), [10.0] * dim
    matrices = torch.eye(dim, dim + 1, dtype=torch.float64) + 0.1 * torch.rand(2, dim, dim + 1, dtype=torch.float64)

    def score(halves):
        b, a = landmarks.halfway(halves)
        return landmarks.score(b - a, extent, 70)

    (expected,) = torch.autograd.grad(score(matrices.requires_grad_()), matrices)
    assert torch.equal(landmarks.by_matrices(matrices, extent, 70), expected)


@pytest.mark.parametrize("lattice", [(40, 44), (28, 30, 26)])
@pytest.mark.parametrize("affine_steps", [0, 15])
def test_landmarks_alone_bring_points_together_without_folds_and_both_ways(lattice, affine_steps):
    """Images without anything to see; swapping them swaps the maps."""
    landmarks = Landmarks(*points(len(lattice)))
    flat = torch.full((1, 1, *lattice), 0.5)
    forces = replace(QUICK, affine_steps=affine_steps)
    phi, back = register_halfway(flat, flat, MSE(), forces, landmarks=landmarks)
    before = missed(lambda x: x, landmarks, lattice)
    assert before > 1
    assert missed(phi, landmarks, lattice) < 0.25 * before
    grid = Grid(lattice)
    assert folds(in_voxels(phi.on(grid), grid) - in_voxels(grid.points(), grid), "ten").sum() == 0
    swapped = Landmarks(landmarks.fixed, landmarks.moving)
    psi, _ = register_halfway(flat, flat, MSE(), forces, landmarks=swapped)
    places = Grid(lattice).points()
    assert (psi(places) - back(places)).abs().max() * max(lattice) < 1e-3


def test_landmarks_help_where_images_are_alike_elsewhere_too():
    image_A, image_B = smooth_images((40, 44))
    in_B, _ = points(2)
    in_A = in_B + 3 / 43
    landmarks = Landmarks(in_A, in_B)
    plain, _ = register_halfway(image_A, image_B, forces=QUICK)
    drawn, _ = register_halfway(image_A, image_B, forces=QUICK, landmarks=landmarks)
    assert missed(drawn, landmarks, (40, 44)) < 0.5 * missed(plain, landmarks, (40, 44))


@pytest.mark.parametrize(
    ("in_A", "in_B", "weight"),
    [(torch.zeros(2, 3), torch.zeros(3, 3), 1.0), (torch.zeros(0, 3), torch.zeros(0, 3), 1.0), (*points(2), -1.0)],
)
def test_landmarks_that_are_none_are_refused(in_A, in_B, weight):
    with pytest.raises(ValueError, match="as many points in A as in B"):
        Landmarks(in_A, in_B, weight)
