"""Steps that make a cell unprovable are halved there, and nowhere else."""

import pytest
import torch

from foldless.grid import Grid, per_axis
from foldless.maps import Affine, Displacement, Exponential
from foldless.metrics import certify
from foldless.pairwise import optimise_flow, optimise_maps
from foldless.regularity import GradICON
from foldless.similarity import MSE
from foldless.stepping import Provably, failing_nodes
from foldless.weighting import Constant

SHAPE = {1: (20,), 2: (14, 12), 3: (9, 8, 10)}
every_dim = pytest.mark.parametrize("dim", [1, 2, 3])


def adding(leap, field):
    """A step that adds a field, of any length, to another."""
    return lambda: field.add_(leap)


def proven(u):
    return all(certify(Displacement.from_voxels(one[None])).proven for one in u)


@every_dim
def test_the_nodes_that_fail_are_the_corners_of_cells_without_a_proof(dim):
    u = torch.zeros(2, dim, *SHAPE[dim])
    node = (4, 5, 6)[:dim]
    u[1, 0][node] = 1.5
    found = failing_nodes(u)
    assert not found[0].any()
    assert found[1][node]
    lower = certify(Displacement.from_voxels(u[1:])).lower
    expected = torch.zeros(SHAPE[dim], dtype=torch.bool)
    for cell in torch.nonzero(lower <= 0):
        expected[tuple(slice(max(int(c) - 1, 0), int(c) + 1) for c in cell)] = True
    assert torch.equal(found[1], expected)


@every_dim
def test_a_step_is_halved_where_it_folds_and_nowhere_else(dim):
    leap = torch.zeros(1, dim, *SHAPE[dim])
    leap[(0, 0, *(4, 5, 6)[:dim])] = 1.5
    leap[(0, 0, *[-1] * dim)] = 0.3
    field = torch.zeros_like(leap)
    Provably(adding(leap, field), [field], lambda: field)()
    assert proven(field)
    assert field[(0, 0, *[-1] * dim)] == leap[(0, 0, *[-1] * dim)]
    assert 0 < field[(0, 0, *(4, 5, 6)[:dim])] < 1.5


@every_dim
def test_no_leap_leads_out_of_what_is_provable(dim):
    torch.manual_seed(0)
    field = torch.zeros(2, dim, *SHAPE[dim])
    leap = torch.zeros_like(field)
    step = Provably(adding(leap, field), [field], lambda: field)
    for _ in range(5):
        leap.copy_(3 * torch.randn_like(leap))
        step()
        assert proven(field)
    assert field.abs().max() > 0.5


def test_what_failed_before_may_go_on():
    field = torch.zeros(1, 2, 14, 12)
    field[0, 0, 4, 5] = 1.5
    leap = torch.full_like(field, 0.25)
    Provably(adding(leap, field), [field], lambda: field)()
    assert field[0, 0, 4, 5] == 1.75


def noise(dim):
    torch.manual_seed(5)
    image = torch.rand(2, 1, *SHAPE[dim])
    return image[:1], image[1:]


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", ["displacement", "exponential", "affine of displacement"])
def test_optimised_maps_stay_provable_though_nothing_else_holds_them(dim, kind):
    a, b = noise(dim)
    still = torch.zeros(1, dim, *SHAPE[dim])
    start = {
        "displacement": Displacement(still),
        "exponential": Exponential(still),
        "affine of displacement": Affine(torch.eye(dim)[None], torch.zeros(1, dim)) @ Displacement(still),
    }[kind]
    grid, found = Grid(SHAPE[dim]), {}
    for provable in (False, True):
        maps = optimise_maps(a, b, MSE(), GradICON(), Constant(0.0), start, steps=25, rate=1e-2, provable=provable)
        found[provable] = torch.cat([phi.displacement_on(grid) for phi in maps])
    assert not proven(found[False])
    assert proven(found[True])
    assert found[True].abs().max() > 0.1


def test_a_flow_on_half_the_lattice_stays_provable():
    a, b = noise(2)
    settings = (MSE(), GradICON(), Constant(0.0), (1,), 20, 0.1)
    grid = Grid(SHAPE[2])
    loose, kept = (optimise_flow(a, b, *settings, provable=provable) for provable in (False, True))
    assert not proven(torch.cat([phi.displacement_on(grid) for phi in loose]))
    assert proven(torch.cat([phi.displacement_on(grid) for phi in kept]))
    assert (kept[0].on(grid) - grid.points()).abs().max() > 0.1 * per_axis(grid.voxel, grid.points()).max()
