"""Registration by forces: kernels against torch, forces against autograd of the plain objective, and its laws."""

import numpy as np
import pytest
import torch
from scipy.special import ive

from foldless.errors import NotFiniteError
from foldless.grid import Grid, sample
from foldless.halfway import (
    SHARP,
    Forces,
    _between,
    _Level,
    _remembered,
    by_matrices,
    register_halfway,
)
from foldless.kernels.bands import Bands, along, banded, between, blur, gathered
from foldless.kernels.forces import _read_plainly, pulled, read_through
from foldless.metrics import folds
from foldless.similarity import LNCC, MINDSSC, MSE, NCC, NMI

LATTICES = [((9,), (5,)), ((11, 8), (6, 1)), ((70, 67), (36, 34)), ((7, 9, 6), (4, 5, 3)), ((5, 4, 71), (2, 4, 36))]
QUICK = Forces(levels=(2, 1), steps=(30, 15), affine_steps=15)


def smooth_images(lattice):
    """Two images (1, 1, *lattice) of blots, and a smooth map between them of some three voxels."""
    generator, dim = torch.Generator().manual_seed(5), len(lattice)
    grid = Grid(lattice)
    coarse = torch.rand(1, 1, *[max(4, n // 4) for n in lattice], generator=generator)
    image = sample(coarse, grid.points())
    bend = torch.randn(1, dim, *[4] * dim, generator=generator) * 1.5 / max(lattice)
    shift = torch.full((1, dim, *[1] * dim), 1.0 / max(lattice))
    return image, sample(image, grid.points() + sample(bend, grid.points()) + shift)


def setting(lattice, coarse, dtype=torch.float64, channels=2):
    """Images, a displacement and affine maps, of which some places lie outside the cube."""
    generator, dim = torch.Generator().manual_seed(3), len(lattice)
    images = torch.rand(2, channels, *lattice, dtype=dtype, generator=generator)
    u = 0.2 * torch.randn(2, dim, *coarse, dtype=dtype, generator=generator)
    matrices = torch.eye(dim, dim + 1, dtype=dtype) + 0.1 * torch.randn(
        2, dim, dim + 1, dtype=dtype, generator=generator
    )
    return images, u, matrices


@pytest.mark.parametrize(("lattice", "coarse"), LATTICES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_images_are_read_as_by_sampling_in_torch(lattice, coarse, dtype, tolerance):
    images, u, matrices = setting(lattice, coarse)
    value, gradient = read_through(images.to(dtype), u.to(dtype), matrices)
    expected, slope = _read_plainly(images, u, matrices)
    assert value.dtype == gradient.dtype == dtype
    assert (value - expected).abs().max() < tolerance * max(lattice)
    steep = (gradient - slope).abs() > tolerance * max(lattice) ** 2  # beside a node rounding may choose the other cell
    assert steep.double().mean() < (1e-12 if dtype == torch.float64 else 1e-2)


@pytest.mark.parametrize(("lattice", "coarse"), LATTICES)
def test_the_force_is_autograds_of_the_plain_objective(lattice, coarse):
    images, u, matrices = setting(lattice, coarse)
    u.requires_grad_()
    matrices.requires_grad_()
    seen = _plainly_seen(images, u, matrices)
    score = MSE()(seen[:1], seen[1:]) + 0.3 * NCC()(seen[:1], seen[1:])
    (by_u,) = torch.autograd.grad(score, u)

    value, gradient = read_through(images, u.detach(), matrices.detach())
    value.requires_grad_()
    again = MSE()(value[:1], value[1:]) + 0.3 * NCC()(value[:1], value[1:])
    (by_seen,) = torch.autograd.grad(again, value)
    adjoint = [Bands.of(between(n, m).T, torch.float64) for n, m in zip(lattice, coarse, strict=True)]
    for signs, expected in (([1.0, 0.0], by_u[:1]), ([0.0, 1.0], by_u[1:]), ([1.0, -1.0], by_u[:1] - by_u[1:])):
        assert torch.allclose(pulled(by_seen, gradient, signs, adjoint), expected, rtol=1e-9, atol=1e-12)
    value, gradient = read_through(images, torch.zeros_like(u), matrices.detach())
    still = _plainly_seen(images, torch.zeros_like(u), matrices)
    (by_affine,) = torch.autograd.grad(NCC()(still[:1], still[1:]), matrices)
    value.requires_grad_()
    (by_seen,) = torch.autograd.grad(NCC()(value[:1], value[1:]), value)
    assert torch.allclose(by_matrices(by_seen, gradient, matrices.detach()), by_affine, rtol=1e-9, atol=1e-12)


def _plainly_seen(images, u, matrices):
    """The images read where u and the matrices say, by differentiable sampling."""
    nodes = Grid.of(images).points(images)
    y = nodes + sample(u, nodes.expand(2, *nodes.shape[1:]))
    moved = torch.einsum("bij,bj...->bi...", matrices[..., :-1], y)
    return sample(images, moved + matrices[..., -1].reshape(2, -1, *[1] * (y.ndim - 2)))


def test_every_axis_has_its_matrix():
    matrices = [torch.randn(3, 5).double(), torch.randn(4, 4).double(), torch.randn(2, 6).double()]
    values = torch.randn(2, 3, 5, 4, 6, dtype=torch.float64)
    got = along([Bands.of(matrix.numpy(), torch.float64) for matrix in matrices], values)
    assert torch.allclose(got, torch.einsum("ap,bq,cr,nkpqr->nkabc", *matrices, values))


def test_bands_hold_the_whole_matrix():
    matrix = np.zeros((4, 7))
    matrix[0, 0], matrix[1, 2:5], matrix[3, 6] = 1, (1, 2, 3), 4  # and a row of zeros
    identity = torch.eye(7, dtype=torch.float64)
    assert torch.equal(banded(Bands.of(matrix, torch.float64), identity, 0), torch.from_numpy(matrix))


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("nodes", [1, 2, 7, 60])
def test_blurring_keeps_constants_and_sums(nodes, sigma):
    matrix = blur(nodes, sigma)
    assert np.allclose(matrix.sum(0), 1)
    assert np.allclose(matrix, matrix.T)
    assert (matrix >= 0).all()
    if nodes == 60:
        assert np.isclose(matrix[30] @ (np.arange(60.0) - 30) ** 2, sigma**2, rtol=1e-3)


def test_between_reads_as_the_grid_does():
    values = torch.rand(1, 1, 5, dtype=torch.float64)
    there = sample(values, Grid((12,)).points(values))
    assert torch.allclose(torch.from_numpy(between(12, 5)) @ values[0, 0], there[0, 0])
    assert np.allclose(gathered(12, 5).sum(1), 1)


@pytest.mark.parametrize("lattice", [(40,), (33, 28), (20, 18, 22)])
def test_swapped_images_swap_the_maps(lattice):
    a, b = (image.double() for image in smooth_images(lattice))
    grid = Grid(lattice)
    ab, ba = register_halfway(a, b, NCC() if len(lattice) == 1 else SHARP, QUICK)
    other_ba, other_ab = register_halfway(b, a, NCC() if len(lattice) == 1 else SHARP, QUICK)
    for one, other in ((ab, other_ab), (ba, other_ba)):
        assert (one.on(grid) - other.on(grid)).abs().max() * max(lattice) < 1e-4


def test_equal_images_stay():
    a = torch.sigmoid(12 * (smooth_images((20, 18, 22))[0] - 0.5))
    ab, ba = register_halfway(a, a.clone(), SHARP, QUICK, affine_similarity=NCC())
    grid = Grid((20, 18, 22))
    for phi in (ab, ba):
        assert (phi.on(grid) - grid.points(a)).abs().max() * 22 < 1e-3


@pytest.mark.parametrize(
    "similarity", [SHARP, LNCC(sigma=2.0), MSE(), NCC(), NMI(), MINDSSC()], ids=lambda s: str(s)[:18]
)
def test_every_similarity_brings_images_into_register(similarity):
    a, b = smooth_images((40, 36))
    ab, ba = register_halfway(a, b, similarity, QUICK)
    grid = Grid((40, 36))
    before, after = MSE()(a, b), MSE()(sample(a, ab.on(grid)), b)
    back = MSE()(sample(b, ba.on(grid)), a)
    assert after < 0.35 * before
    assert back < 0.35 * before
    u = (ab.on(grid) - grid.points(a)) * torch.tensor([39.0, 35.0]).reshape(1, 2, 1, 1)
    assert folds(u, "ten") == 0


def test_threads_do_not_change_the_map():
    a, b = smooth_images((24, 20, 28))
    grid, threads = Grid((24, 20, 28)), torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(register_halfway(a, b, SHARP, QUICK)[0].on(grid))
    finally:
        torch.set_num_threads(threads)
    assert (found[0] - found[1]).abs().max() * 28 < 1e-3


def test_what_a_mask_leaves_out_does_not_pull():
    a, b = smooth_images((40, 36))
    blot = b.clone()
    blot[:, :, 24:32, 8:20] = 1.0  # something that A has not
    mask = torch.ones_like(b)
    mask[:, :, 20:36, 4:24] = 0
    grid = Grid((40, 36))
    clean, stained, masked = (
        register_halfway(a, image, MSE(), QUICK, mask_B=weight)[0].on(grid)
        for image, weight in ((b, None), (blot, None), (blot, mask))
    )
    assert (masked - clean).abs().mean() < 0.5 * (stained - clean).abs().mean()


def test_thick_slices_are_smoothed_by_length():
    a, b = smooth_images((40, 12))
    forces = Forces(levels=(1,), steps=(10,), affine_steps=0, smooth_update=3.0)
    thick = register_halfway(a, b, MSE(), forces, spacing=(1.0, 4.0))[0].on(Grid((40, 12)))
    cubes = register_halfway(a, b, MSE(), forces)[0].on(Grid((40, 12)))
    rough = [((phi - Grid((40, 12)).points(phi)).diff(dim=3).abs().mean()).item() for phi in (thick, cubes)]
    assert rough[0] > rough[1]  # three voxels of the finest axis are less than one of the thick one


def test_a_level_ends_where_it_gains_no_more():
    a, b = smooth_images((40, 36))
    steps = []
    forces = Forces(levels=(2, 1), steps=(200, 200), affine_steps=10, gain=1e-2)
    register_halfway(a, b, NCC(), forces, on_step=lambda terms: steps.append(terms.total.item()))
    assert len(steps) < forces.most_steps == 420
    whole = []
    register_halfway(a, b, NCC(), QUICK, on_step=lambda terms: whole.append(terms.total.item()))
    assert len(whole) == QUICK.most_steps


@pytest.mark.parametrize(
    "wrong",
    [{"levels": (2, 1)}, {"steps": (1, -1, 1)}, {"smooth_update": -1.0}, {"step": 0.0}, {"levels": (), "steps": ()}],
)
def test_forces_without_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=r"level|lengths"):
        Forces(**wrong)


def test_images_that_are_no_pair_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        register_halfway(torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 9))
    with pytest.raises(NotFiniteError):
        register_halfway(torch.full((1, 1, 8, 8), torch.nan), torch.rand(1, 1, 8, 8), MSE(), QUICK)


def test_forces_go_on_from_a_start():
    a, b = smooth_images((40, 36))
    grid, little = Grid((40, 36)), Forces(levels=(1,), steps=(6,), affine_steps=0)
    rough = register_halfway(a, b, NCC(), Forces(levels=(4,), steps=(20,)))
    further = register_halfway(a, b, NCC(), little, start=rough)
    alone = register_halfway(a, b, NCC(), little)
    scores = [MSE()(sample(a, ab.on(grid)), b).item() for ab, _ in (further, rough, alone)]
    assert scores[0] < min(scores[2], 0.1 * scores[1])
    swapped = register_halfway(b, a, NCC(), little, start=rough[::-1])
    assert (swapped[0].on(grid) - further[1].on(grid)).abs().max() * 40 < 1e-3
    assert (further[0](further[1].on(grid)) - grid.points(a)).abs().mean() * 40 < 0.05


def test_the_last_steps_move_every_voxel():
    forces = Forces(levels=(4, 2, 1), steps=(10, 7, 5))
    assert forces.stages == [(4, True, 10), (2, True, 7), (1, True, 2), (1, False, 3)]
    assert sum(steps for _, _, steps in forces.stages) == 22
    assert Forces(levels=(2, 1), steps=(0, 1)).stages == [(1, False, 1)]
    a, b = smooth_images((24, 21))
    once = Forces(levels=(1,), steps=(1,), affine_steps=0, smooth_update=0.0, smooth_total=0.0)
    whole = register_halfway(a, b, MSE(), once)[0].parts[1].velocity
    rough = (whole - sample(sample(whole, Grid((13, 11)).points(a)), Grid((24, 21)).points(a))).norm()
    assert rough > 0.2 * whole.norm()  # which a velocity of half the nodes would not have


def test_a_velocity_goes_from_lattice_to_lattice():
    values = torch.rand(1, 2, 9, 5, dtype=torch.float64)
    finer = along([_between(9, 17, torch.float64), _between(5, 12, torch.float64)], values)
    assert torch.allclose(finer, sample(values, Grid((17, 12)).points(values)))
    ramp = Grid((33, 20)).points(values)
    coarse = along([_between(33, 9, torch.float64), _between(20, 20, torch.float64)], ramp)
    assert torch.allclose(coarse[:, :, 1:-1], Grid((9, 20)).points(values)[:, :, 1:-1])
    comb = torch.tensor([1.0, -1.0] * 16 + [1.0], dtype=torch.float64).reshape(1, 1, 33, 1).expand(-1, -1, -1, 3)
    averaged = along([_between(33, 9, torch.float64), _between(3, 3, torch.float64)], comb.contiguous())
    assert averaged[:, :, 1:-1].abs().max() < 1e-12  # read at every fourth node it would be 1


@pytest.mark.parametrize("lattice", [(12, 11), (10, 9, 8)])
def test_what_a_voxel_pulls_by_acts_where_the_affine_part_takes_it(lattice):
    """Halves that shift by whole voxels: inside, the force is autograd's of the objective through the whole map."""
    images, u, _ = setting(lattice, lattice, channels=1)
    u = (0.05 * u).requires_grad_()
    shift = torch.tensor([[2.0, -1.0, 1.0][: len(lattice)]]).double() / (torch.tensor(lattice) - 1)
    linear = torch.eye(len(lattice), dtype=torch.float64).expand(2, -1, -1)
    matrices = torch.cat([linear, torch.cat([shift, -shift])[..., None]], 2)
    level = _Level(images, matrices, MSE(), [1.0] * len(lattice))
    assert level.halves
    places = Grid.of(images).points(images) + matrices[..., -1].reshape(2, -1, *[1] * len(lattice))
    halves = places - Grid.of(images).points(images)
    seen = sample(images, places + sample(u, places) + halves)
    (expected,) = torch.autograd.grad(MSE()(seen, images.flip(0)), u)
    score, by_seen, gradient = level.pull(u.detach(), images.flip(0))
    assert torch.allclose(score, MSE()(seen, images.flip(0)))
    inner = (..., *[slice(3, -3)] * len(lattice))
    assert expected[inner].abs().max() > 0
    assert torch.allclose((by_seen[:, :, None] * gradient).sum(1)[inner], expected[inner], rtol=1e-9, atol=1e-12)


def test_forces_that_pull_on_stay_and_those_to_and_fro_cancel():
    before = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])[None]
    force = torch.tensor([[0.5, -1.0, 3.0], [0.0, 0.0, 0.0]])[None]
    expected = torch.tensor([[0.9, 0.0, 1.5], [0.0, 0.0, 1.0]])[None]
    assert torch.allclose(_remembered(before, force), expected)


@pytest.mark.parametrize("sigma", [0.1, 0.55, 1.25, 3.0, 20.0])
def test_blurring_weighs_by_bessel_functions(sigma):
    reach = int(np.ceil(4 * sigma)) + 1
    weights = ive(np.abs(np.arange(-reach, reach + 1)), sigma**2)
    row = blur(4 * reach, sigma)[2 * reach, reach : 3 * reach + 1]
    np.testing.assert_allclose(row, weights / weights.sum(), rtol=0, atol=1e-15)
