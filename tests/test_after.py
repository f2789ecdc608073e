"""Warps that end in a turn: what is proven, repaired and measured is the deformation before it."""

import numpy as np
import pytest
import torch
from tables import smooth

from foldless.io import Geometry, Linear, inverse_consistency_of_files
from foldless.proofs import care_for, certify_warp, deformation, repair_warp

SHAPES = {2: (14, 17), 3: (9, 10, 11)}
SPACING = (1.5, 0.8, 2.0)
FLOAT32 = 2e-5  # of volumes: displacements of 100 mm stored in float32


def lattice(dim):
    axes, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(dim, dim)))
    return Geometry(SHAPES[dim][::-1], SPACING[:dim], (30.0, -70.0, 5.0)[:dim], tuple(axes.ravel().tolist()))


def turn(dim, degrees, scale=1.0):
    """In the plane of the first two axes, and a shift."""
    angle = np.deg2rad(degrees)
    matrix = np.eye(dim)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return Linear(np.column_stack([scale * matrix, [12.5, -3.25, 60.0][:dim]]))


def small(dim, voxels):
    """A deformation, mm."""
    torch.manual_seed(3)
    last = np.array(SHAPES[dim]) - 1
    waves = np.moveaxis(smooth(SHAPES[dim], voxels)[0].numpy(), 0, -1) * last
    return waves[..., ::-1] @ lattice(dim).matrix.T


def turned(v, dim, after):
    """The warp that is the deformation and the affine map after it, float32."""
    here = np.moveaxis(lattice(dim).voxel_centres, 0, -1)
    return np.float32((here + v) @ after.matrix[:, :-1].T + after.matrix[:, -1] - here)


@pytest.mark.parametrize("dim", SHAPES)
@pytest.mark.parametrize(("degrees", "scale"), [(0, 1.0), (90, 1.0), (180, 0.7), (133, 1.2)])
def test_a_turn_that_is_named_is_no_fold(dim, degrees, scale):
    v, after = small(dim, 0.6), turn(dim, degrees, scale)
    warp, plain = turned(v, dim, after), certify_warp(v, lattice(dim))
    found = certify_warp(warp, lattice(dim), after)
    assert plain.proven
    assert found.proven
    assert found.cells == plain.cells
    np.testing.assert_allclose([*found.bounds, *found.nodes], [*plain.bounds, *plain.nodes], atol=FLOAT32)
    assert found.digest == certify_warp(warp, lattice(dim)).digest, "the numbers in the file are what is judged"
    np.testing.assert_allclose(deformation(warp, lattice(dim), after), v, atol=FLOAT32)
    assert certify_warp(warp, lattice(dim)).proven == (degrees == 0), "beyond the lattice the displacement goes on"


@pytest.mark.parametrize("dim", SHAPES)
def test_folds_are_shown_through_a_turn(dim):
    v, after = small(dim, 4.0), turn(dim, 90)
    plain, found = certify_warp(v, lattice(dim)), certify_warp(turned(v, dim, after), lattice(dim), after)
    assert plain.state == found.state == "refuted"
    assert found.refuted == pytest.approx(plain.refuted, abs=1)
    assert found.witness == plain.witness
    assert found.determinant == pytest.approx(plain.determinant, abs=10 * FLOAT32)


@pytest.mark.parametrize("dim", SHAPES)
def test_folds_are_opened_through_a_turn_and_all_else_stays(dim):
    v, after = small(dim, 0.3), turn(dim, 90)
    v[(4,) * dim] += 1.4 * lattice(dim).matrix[:, 0]
    warp = turned(v, dim, after)
    care = care_for(np.ones(SHAPES[dim]))
    mended, repair = repair_warp(warp, lattice(dim), care, after=after)
    assert not certify_warp(warp, lattice(dim), after).proven
    assert repair.proven
    assert mended.dtype == np.float32
    assert certify_warp(mended, lattice(dim), after).proven
    assert (mended != warp).any(-1).sum() == repair.nodes < warp[..., 0].size / 4
    plain, _ = repair_warp(np.float32(v), lattice(dim), care)
    np.testing.assert_allclose(deformation(mended, lattice(dim), after), plain, atol=1e-3)


def test_what_is_lost_by_taking_off_is_no_proof():
    """A field that lacks less than rounding of being flat: proven as it is, undecided through a turn."""
    geometry = Geometry((5, 6), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    index = np.moveaxis(geometry.voxel_centres, 0, -1)
    v = np.zeros((6, 5, 2))
    v[..., 0] = -index[..., 0] * (1 - 2.0**-46)
    half = Linear(np.array([[-1.0, 0, 0], [0, -1, 0]]))
    warp = -2 * index - v
    assert certify_warp(v, geometry).proven
    assert certify_warp(warp, geometry, half).state == "undecided"
    assert certify_warp(warp, geometry, half).bounds[0] < 0
    v[..., 0] = -index[..., 0] * (1 - 2.0**-36)
    assert certify_warp(-2 * index - v, geometry, half).proven


@pytest.mark.parametrize("dim", SHAPES)
def test_the_way_back_goes_on_beyond_its_lattice(dim):
    """A turn and its inverse undo each other everywhere, on lattices that show little of each other."""
    after, here = turn(dim, 90), lattice(dim)
    there = Geometry(here.size, here.spacing, tuple(o + 9 for o in here.origin), here.direction)
    forward = turned(np.zeros((*SHAPES[dim], dim)), dim, after)
    nodes = np.moveaxis(there.voxel_centres, 0, -1)
    inverse = nodes @ after.inverse.matrix[:, :-1].T + after.inverse.matrix[:, -1] - nodes
    assert inverse_consistency_of_files(forward, here, inverse, there, after.inverse).max() < 1e-4
    assert inverse_consistency_of_files(forward, here, inverse, there).max() > 1
