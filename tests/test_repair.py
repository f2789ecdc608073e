"""Repaired fields: proven, without folds by the rule of ten, the rest bit for bit, hardly further than need be."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import foldless
from foldless.io import Geometry
from foldless.proofs import care_for, certify_warp, repair_field, repair_warp

SHAPES = {1: (30,), 2: (17, 19), 3: (9, 10, 11)}
SKEW = {
    1: torch.tensor([[-2.0]]),
    2: torch.tensor([[0.3, 2.0], [1.5, -0.2]]),
    3: torch.tensor([[0.1, 0.2, 3.0], [0.0, -1.5, 0.1], [0.8, 0.0, 0.1]]),
}


def folding(dim, seed, spread=0.35, dtype=torch.float32):
    """Steps of a skewed lattice and a field on it in which some cells fold, most of it at rest."""
    generator = torch.Generator().manual_seed(seed)
    voxels = torch.zeros(dim, *SHAPES[dim], dtype=torch.float64)
    inside = tuple(slice(n // 4, n // 2 + 1) for n in SHAPES[dim])
    voxels[:, *inside] = spread * torch.randn(voxels[:, *inside].shape, generator=generator, dtype=torch.float64)
    steps = SKEW[dim].double()
    return torch.einsum("a...,ac->c...", voxels, steps).to(dtype), steps


def in_voxels(u, steps):
    return torch.einsum("c...,ca->a...", u.double(), torch.linalg.inv(steps))


@pytest.mark.parametrize("dim", SHAPES)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_repaired_field_is_proven_and_free_of_folds_by_ten(dim, seed, dtype):
    u, steps = folding(dim, seed, dtype=dtype, spread=1.5 if dim == 1 else 0.35)
    assert not foldless.certify_field(u, steps).proven
    mended, repair = repair_field(u, steps)
    assert repair.proven
    assert repair.failed > 0
    assert mended.dtype == dtype
    assert foldless.certify_field(mended, steps).proven
    assert not foldless.folded(in_voxels(mended, steps)[None], "ten").any()
    moves = in_voxels(mended, steps) - in_voxels(u, steps)
    lengths = moves.norm(dim=0)
    assert repair.nodes == (mended != u).any(0).sum()
    assert repair.largest == pytest.approx(lengths.max().item(), rel=1e-4)
    assert str(repair.failed) in repair.sentence


@pytest.mark.parametrize("dim", SHAPES)
def test_what_lies_far_from_folds_stays_bit_for_bit(dim):
    u, steps = folding(dim, 0, spread=1.5 if dim == 1 else 0.35)
    mended, _ = repair_field(u, steps)
    far = tuple(slice(n // 2 + 4, None) for n in SHAPES[dim])
    assert torch.equal(mended[:, *far], u[:, *far])


@pytest.mark.parametrize("dim", SHAPES)
def test_a_field_that_is_proven_comes_back_itself(dim):
    u, steps = folding(dim, 0, spread=0.01)
    mended, repair = repair_field(u, steps)
    assert mended is u
    assert repair.failed == 0
    assert repair.proven
    assert repair.sentence == "nothing to repair"


def test_a_field_that_is_proven_but_folds_by_ten_is_opened(monkeypatch):
    """The trilinear map is fine, one tetrahedron that no interpolation knows is not."""
    for seed in range(30):
        u, steps = folding(3, seed, spread=0.6)
        with monkeypatch.context() as without:
            without.setattr("foldless.proofs.repair.CENTRAL", ())
            u, _ = repair_field(u, steps)
        if foldless.folded(in_voxels(u, steps)[None], "ten").any() and foldless.certify_field(u, steps).proven:
            break
    else:
        pytest.fail("no such field among the seeds")
    mended, repair = repair_field(u, steps)
    assert repair.failed > 0
    assert repair.proven
    assert foldless.certify_field(mended, steps).proven
    assert not foldless.folded(in_voxels(mended, steps)[None], "ten").any()


def test_a_mirrored_field_is_said_to_be_beyond_repair():
    grid = torch.stack(torch.meshgrid(*[torch.arange(6.0)] * 2, indexing="ij"))
    u = torch.zeros(2, 6, 6)
    u[0] = -2 * grid[0]
    mended, repair = repair_field(u, torch.eye(2))
    assert mended is u
    assert not repair.proven
    assert "not repaired" in repair.sentence


def test_the_change_is_hardly_larger_than_the_smallest():
    """The referee minimises the squared moves under all corner determinants, by SLSQP, from the repaired field."""
    margin, shape = 0.02, (6, 6)
    u = torch.zeros(2, *shape, dtype=torch.float64)
    u[:, 2, 2], u[:, 3, 3] = torch.tensor([0.9, 0.5]), torch.tensor([-0.4, -0.6])
    mended, repair = repair_field(u, torch.eye(2), margin=margin)
    assert repair.proven

    def determinants(moves):
        phi = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")) + u.numpy() + moves.reshape(2, *shape)
        down, right = np.diff(phi, axis=1), np.diff(phi, axis=2)
        corners = [
            down[0][:, c] * right[1][r] - down[1][:, c] * right[0][r]
            for r in (slice(None, -1), slice(1, None))
            for c in (slice(None, -1), slice(1, None))
        ]
        return np.stack(corners).ravel() - margin

    best = minimize(
        lambda m: (m**2).sum(),
        (mended - u).numpy().ravel(),
        jac=lambda m: 2 * m,
        constraints={"type": "ineq", "fun": determinants},
        method="SLSQP",
        options={"maxiter": 200},
    )
    assert best.success
    assert determinants(best.x).min() > -1e-6
    assert (mended - u).norm().item() <= 1.05 * np.sqrt(best.fun)


def test_nodes_that_are_dear_move_less():
    u = torch.zeros(2, 9, 9, dtype=torch.float64)
    u[0, 4, 4] = 1.5
    care = torch.ones(9, 9)
    care[4, 4] = 50
    alike, cheap = (repair_field(u, torch.eye(2), c)[0] - u for c in (None, care))
    assert cheap[:, 4, 4].norm() < 0.2 * alike[:, 4, 4].norm()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"margin": 0.0}, "between 0 and 1"),
        ({"margin": 1.5}, "between 0 and 1"),
        ({"care": torch.zeros(17, 19)}, "care is positive"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, says):
    with pytest.raises(ValueError, match=says.replace("(", r"\(").replace(")", r"\)")):
        repair_field(*folding(2, 0), **wrong)


def test_a_warp_in_millimetres_on_a_turned_lattice():
    direction = (0.0, 0.6, 0.8, 1.0, 0.0, 0.0, 0.0, 0.8, -0.6)
    geometry = Geometry((11, 10, 9), (0.7, 1.5, 3.0), (5.0, -3.0, 2.0), direction)
    warp = np.zeros((9, 10, 11, 3), np.float32)
    warp[4, 5, 5] = (1.25, -1.0, 2.0)
    assert not certify_warp(warp, geometry).proven
    mended, repair = repair_warp(warp, geometry, care_for(np.zeros((9, 10, 11))))
    assert repair.proven
    assert mended.shape == warp.shape
    assert mended.dtype == np.float32
    assert certify_warp(mended, geometry).proven
    assert np.array_equal(mended[0], warp[0])


def test_care_is_one_where_the_image_is_flat_and_two_on_average_slopes():
    image = np.zeros((8, 9), np.float32)
    assert np.array_equal(care_for(image), np.ones((8, 9)))
    image[:, 5:] = 100
    care = care_for(image)
    assert care.min() == 1
    assert care[:, 4:6].min() > 2
    assert care.mean() == pytest.approx(2, rel=1e-5)


def test_repairing_imports_no_computer_algebra():
    """torch.unravel_index does, for a second."""
    code = """
import sys, torch
from foldless.proofs.repair import repair_field
field = torch.zeros(3, 6, 6, 6)
field[0, 3, 3, 3] = 2.0
repair_field(field, torch.eye(3, dtype=torch.float64))
raise SystemExit("sympy" in sys.modules)
"""
    assert not subprocess.run([sys.executable, "-c", code], check=False).returncode
