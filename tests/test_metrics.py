"""Judges of the scores: NumPy, SciPy, SimpleITK, MONAI, closed forms, and loops over tiny lattices."""

import itertools
from math import isnan, log, nan

import numpy as np
import pytest
import scipy.ndimage
import SimpleITK
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from foldless import metrics
from foldless.grid import Grid
from foldless.maps import Affine, Displacement, Exponential, Identity

DIMS = (1, 2, 3)
SHAPES = {1: (11,), 2: (7, 9), 3: (6, 5, 7)}
SLACK = 1e-12  # float64 arithmetic in another order
WIDE = 0.6  # voxels; noise of this size folds some places and leaves others
SPARSE = {1: 0.8, 2: 0.5, 3: 0.35}  # the same, where several determinants may each find a fold


def noise(dim: int, batch: int = 1, scale: float = WIDE) -> torch.Tensor:
    return scale * torch.randn(batch, dim, *SHAPES[dim], dtype=torch.float64)


def linear_field(matrix: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    """The displacement of x -> matrix · x in voxels."""
    index = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij"))
    return torch.from_numpy(np.einsum("ij,j...->i...", matrix - np.eye(len(shape)), index))[None]


# Referees: the published definitions, place by place


def image_of(field: torch.Tensor) -> np.ndarray:
    """phi as an array (*lattice, dim)."""
    u = field[0].numpy()
    index = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in u.shape[1:]], indexing="ij"))
    return np.moveaxis(index + u, 0, -1)


def places(shape: tuple[int, ...], low: int, high: int) -> list[tuple[int, ...]]:
    return list(itertools.product(*[range(low, n - high) for n in shape]))


def one_sided(phi: np.ndarray, at: tuple[int, ...], signs: tuple[int, ...]) -> float:
    """det of D^±phi: forward phi(x+e) - phi(x) where the sign is +, backward phi(x) - phi(x-e) where it is -."""
    columns = []
    for axis, sign in enumerate(signs):
        upper, lower = list(at), list(at)
        if sign > 0:
            upper[axis] += 1
        else:
            lower[axis] -= 1
        columns.append(phi[tuple(upper)] - phi[tuple(lower)])
    return float(np.linalg.det(np.stack(columns, axis=1)))


def star(phi: np.ndarray, at: tuple[int, ...]) -> list[float]:
    """J1* and J2* of Liu et al. 2024."""
    x, ex, ey, ez = np.array(at), *np.eye(3, dtype=int)

    def edge(step: np.ndarray) -> np.ndarray:
        return phi[tuple(x + step)] - phi[tuple(x)]

    first = [edge(-ex - ey), edge(-ex - ez), edge(-ey - ez)]
    second = [edge(ex + ey), edge(ey + ez), edge(ex + ez)]
    return [float(np.linalg.det(np.stack(edges, axis=1))) for edges in (first, second)]


def determinants_of(phi: np.ndarray, at: tuple[int, ...], rule: str) -> list[float]:
    dim = phi.ndim - 1
    if rule == "forward":
        return [one_sided(phi, at, (1,) * dim)]
    corners = [one_sided(phi, at, signs) for signs in itertools.product((1, -1), repeat=dim)]
    return corners + (star(phi, at) if rule == "ten" and dim == 3 else [])


def looped(field: torch.Tensor, rule: str) -> np.ndarray:
    """Determinants (places in order, determinants of the rule)."""
    phi = image_of(field)
    low = 0 if rule == "forward" else 1
    return np.array([determinants_of(phi, at, rule) for at in places(phi.shape[:-1], low, 1)])


def gradient_determinant(field: torch.Tensor) -> np.ndarray:
    phi = image_of(field)
    dim = phi.ndim - 1
    slopes = [np.gradient(phi[..., i], axis=j) for i in range(dim) for j in range(dim)]
    return np.linalg.det(np.stack(slopes, axis=-1).reshape(*phi.shape[:-1], dim, dim))


def learn2reg_determinant(disp: np.ndarray) -> np.ndarray:
    """J as the evaluator's page defines it: [-0.5, 0, 0.5] correlated, identity added, two voxels cropped."""
    kernel = np.array([-0.5, 0.0, 0.5])
    rows = [[scipy.ndimage.correlate1d(u, kernel, axis=j, mode="constant") for j in range(3)] for u in disp]
    jacobian = np.moveaxis(np.array(rows), (0, 1), (-2, -1))[2:-2, 2:-2, 2:-2] + np.eye(3)
    return np.linalg.det(jacobian)


# Folds


@pytest.mark.parametrize("dim", DIMS)
def test_central_determinant_is_numpys_gradient(dim):
    field = noise(dim)
    assert_close(metrics.jacobian_determinant(field)[0].numpy(), gradient_determinant(field), rtol=0, atol=SLACK)


@pytest.mark.parametrize("dim", DIMS)
def test_forward_determinant_is_the_definition(dim):
    field = noise(dim)
    got = metrics.jacobian_determinant(field, "forward")
    assert got.shape[1:] == tuple(n - 1 for n in SHAPES[dim])
    assert_close(got.flatten().numpy(), looped(field, "forward")[:, 0], rtol=0, atol=SLACK)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("rule", metrics.FOLD_RULES)
def test_folded_is_the_definition(dim, rule):
    field = noise(dim, scale=SPARSE[dim])
    got = metrics.folded(field, rule)[0].numpy()
    if rule == "central":
        expected = gradient_determinant(field) < 0
    else:
        values = looped(field, rule)
        bad = values < 0 if rule == "forward" else values <= 0
        expected = bad.any(axis=1).reshape(got.shape)
    assert np.array_equal(got, expected)
    assert rule == "central" or 0 < expected.sum() < expected.size


def test_the_two_extra_determinants_find_folds_that_the_eight_do_not():
    field = noise(3, scale=SPARSE[3])
    eight, ten = metrics.folded(field, "any_of_eight"), metrics.folded(field, "ten")
    assert bool((ten | ~eight).all())
    pushed = torch.zeros(1, 3, 3, 3, 3, dtype=torch.float64)
    for corner in ((2, 2, 1), (1, 2, 2), (2, 1, 2)):  # J2*'s tetrahedron, turned inside out through the centre
        pushed[(0, slice(None), *corner)] = -0.7
    assert int(metrics.folds(pushed, "any_of_eight")) == 0
    assert int(metrics.folds(pushed, "ten")) == 1


@pytest.mark.parametrize("dim", [1, 2])
def test_below_three_dimensions_ten_is_all_the_one_sided_ones(dim):
    field = noise(dim)
    assert torch.equal(metrics.folded(field, "ten"), metrics.folded(field, "any_of_eight"))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("rule", metrics.FOLD_RULES)
def test_the_identity_is_clean_and_a_reflection_folds_everywhere(dim, rule):
    still = torch.zeros(1, dim, *SHAPES[dim])
    mirrored = linear_field(np.diag([-1.0] + [1.0] * (dim - 1)), SHAPES[dim])
    assert int(metrics.folds(still, rule)) == 0
    assert float(metrics.folds_percent(still, rule)) == 0
    assert bool(metrics.folded(mirrored, rule).all())
    assert float(metrics.folds_percent(mirrored, rule)) == 100


@pytest.mark.parametrize("rule", ["forward", "central"])
@pytest.mark.parametrize("dim", DIMS)
def test_the_determinant_of_a_linear_map_is_its_own(dim, rule):
    matrix = np.eye(dim) + 0.3 * np.random.default_rng(dim).normal(size=(dim, dim))
    got = metrics.jacobian_determinant(linear_field(matrix, SHAPES[dim]), rule)
    assert_close(got, torch.full_like(got, np.linalg.det(matrix)), rtol=0, atol=1e-11)


def test_a_collapse_is_a_fold_for_one_sided_rules_only():
    flat = linear_field(np.diag([0.0, 1.0]), (5, 5))
    counts = {rule: int(metrics.folds(flat, rule)) for rule in metrics.FOLD_RULES}
    assert counts == {"forward": 0, "central": 0, "any_of_eight": 9, "ten": 9}


def test_one_node_pushed_past_its_neighbour():
    field = torch.zeros(1, 1, 9)
    field[0, 0, 4] = 1.5
    counts = {rule: int(metrics.folds(field, rule)) for rule in metrics.FOLD_RULES}
    assert counts == {"forward": 1, "central": 0, "any_of_eight": 2, "ten": 2}
    assert metrics.folded(field, "forward")[0].nonzero().tolist() == [[4]]


@pytest.mark.parametrize("dim", DIMS)
def test_central_differences_miss_folds_that_forward_sees(dim):
    checkerboard = torch.zeros(1, dim, *SHAPES[dim])
    checkerboard[:, 0, ::2] = 1.2
    assert int(metrics.folds(checkerboard, "forward")) > 0
    inner = (slice(1, -1),) * dim
    assert not bool(metrics.folded(checkerboard, "central")[0][inner].any())


@pytest.mark.parametrize("rule", metrics.FOLD_RULES)
def test_slabs_do_not_show(rule, monkeypatch):
    field = noise(3, batch=2)
    whole, volume = metrics.folded(field, rule), metrics.ndv_percent(field)
    monkeypatch.setattr("foldless.metrics.jacobian._SLAB", 1)
    assert torch.equal(metrics.folded(field, rule), whole)
    assert_close(metrics.ndv_percent(field), volume)


@pytest.mark.parametrize("dim", DIMS)
def test_a_batch_is_its_samples(dim):
    field = noise(dim, batch=3)
    mask = torch.rand(3, *SHAPES[dim]) > 0.3
    scores = [metrics.sdlogj, metrics.sdlogj_learn2reg] if dim == 3 else []
    scores += [lambda f, rule=rule: metrics.folds(f, rule) for rule in metrics.FOLD_RULES]
    for score in scores:
        assert_close(score(field), torch.cat([score(one[None]) for one in field]))
    together = metrics.ndv_percent(field, mask)
    assert_close(together, torch.cat([metrics.ndv_percent(f[None], m[None]) for f, m in zip(field, mask, strict=True)]))


def test_percentages_count_the_places_judged():
    field = noise(3, batch=2)
    for rule in metrics.FOLD_RULES:
        bad = metrics.folded(field, rule).numpy().reshape(2, -1)
        assert_close(metrics.folds_percent(field, rule).numpy(), 100 * bad.mean(axis=1))
    mask = torch.rand(2, *SHAPES[3]) > 0.5
    bad, kept = metrics.folded(field, "ten").numpy(), mask[:, 1:-1, 1:-1, 1:-1].numpy()
    expected = [100 * b[k].mean() for b, k in zip(bad, kept, strict=True)]
    assert_close(metrics.folds_percent(field, "ten", mask).numpy(), np.array(expected))
    assert isnan(float(metrics.folds_percent(field[:1], "ten", torch.zeros_like(mask[:1]))))


def test_scores_carry_no_gradient_and_leave_the_field_alone():
    field = noise(2).requires_grad_()
    before = field.detach().clone()
    assert not metrics.ndv_percent(field).requires_grad
    assert not metrics.sdlogj(field).requires_grad
    assert not metrics.jacobian_determinant(field).requires_grad
    assert torch.equal(field, before)


def test_halves_are_judged_in_single_precision():
    field = noise(3).half()
    assert metrics.jacobian_determinant(field).dtype == torch.float32
    assert torch.equal(metrics.folded(field, "ten"), metrics.folded(field.float(), "ten"))


@pytest.mark.parametrize(
    ("field", "rule", "says"),
    [
        (torch.zeros(1, 2, 5, 5), "backward", "the rules are forward, central, any_of_eight, ten"),
        (torch.zeros(1, 2, 5, 5, 5), "forward", "one component an axis"),
        (torch.zeros(1, 2, 1, 5), "forward", "needs 2 nodes"),
        (torch.zeros(1, 2, 1, 5), "central", "needs 2 nodes"),
        (torch.zeros(1, 2, 2, 5), "ten", "needs 3 nodes"),
        (torch.full((1, 2, 5, 5), nan), "forward", "not finite"),
    ],
)
def test_fields_that_cannot_be_judged(field, rule, says):
    with pytest.raises(ValueError, match=says):
        metrics.folds(field, rule)


def test_masks_and_rules_that_do_not_fit():
    field = torch.zeros(1, 2, 5, 5)
    with pytest.raises(ValueError, match="judges cells"):
        metrics.folds_percent(field, "forward", torch.ones(1, 5, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="'central' or 'forward'"):
        metrics.jacobian_determinant(field, "ten")
    with pytest.raises(ValueError, match="5 nodes"):
        metrics.sdlogj(torch.zeros(1, 2, 5, 4))


# Non-diffeomorphic volume


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("masked", [False, True])
def test_ndv_is_the_definition(dim, masked):
    field = noise(dim)
    mask = torch.rand(1, *SHAPES[dim]) > 0.4 if masked else torch.ones(1, *SHAPES[dim], dtype=torch.bool)
    kept = mask[0].numpy()[(slice(1, -1),) * dim].ravel()
    simplex = {1: 1, 2: 2, 3: 6}[dim]
    lost = (0.5 * np.maximum(-looped(field, "ten"), 0) / simplex).sum(axis=1)
    expected = 100 * lost[kept].sum() / kept.sum()
    assert expected > 0
    assert_close(float(metrics.ndv_percent(field, mask if masked else None)), float(expected), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dim", DIMS)
def test_ndv_of_maps_whose_volume_is_known(dim):
    mirrored = linear_field(np.diag([-2.0] + [1.0] * (dim - 1)), SHAPES[dim])
    assert float(metrics.ndv_percent(torch.zeros(1, dim, *SHAPES[dim]))) == 0
    # every simplex is turned over and twice as large, and those of a voxel add up to one voxel
    assert_close(float(metrics.ndv_percent(mirrored)), 200.0)


def test_the_extra_determinants_are_two_at_the_identity():
    phi = image_of(torch.zeros(1, 3, 3, 3, 3))
    assert star(phi, (1, 1, 1)) == pytest.approx([2.0, 2.0])


@given(st.integers(0, 2**31), st.floats(0.0, 0.8))
def test_ndv_is_positive_only_where_something_folds(seed, scale):
    field = scale * torch.randn(1, 3, 4, 5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert bool(metrics.ndv_percent(field) > 0) == bool(metrics.folds(field, "ten") > 0)
    assert int(metrics.folds(field, "ten")) >= int(metrics.folds(field, "any_of_eight"))


@given(st.integers(0, 2**31))
def test_where_the_eight_are_positive_the_central_one_is(seed):
    """Liu et al. 2024, Proposition 5."""
    field = 0.3 * torch.randn(1, 3, 5, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    clean = ~metrics.folded(field, "any_of_eight")
    central = metrics.jacobian_determinant(field)[:, 1:-1, 1:-1, 1:-1]
    assert bool((central[clean] > 0).all())


# SDlogJ


@pytest.mark.parametrize("scale", [0.2, 3.0])
def test_sdlogj_is_learn2regs(scale):
    field = scale * torch.randn(1, 3, 9, 8, 10, dtype=torch.float64)
    jacobian = learn2reg_determinant(field[0].numpy())
    theirs = np.log(np.clip(jacobian + 3, 1e-9, 1e9)).std()
    plain = np.log(np.clip(jacobian, 1e-9, 1e9)).std()
    assert_close(float(metrics.sdlogj_learn2reg(field)), float(theirs), rtol=1e-11, atol=0)
    assert_close(float(metrics.sdlogj(field)), float(plain), rtol=1e-11, atol=0)


@pytest.mark.parametrize("dim", DIMS)
def test_sdlogj_of_a_linear_map_is_zero(dim):
    field = linear_field(1.5 * np.eye(dim), (7,) * dim)
    assert float(metrics.sdlogj(field)) == pytest.approx(0, abs=SLACK)
    assert float(metrics.sdlogj_learn2reg(field)) == pytest.approx(0, abs=SLACK)


def test_sdlogj_of_two_halves_is_half_their_log_ratio():
    """x stretched by 2 at six judged places and left alone at six: no place between, the derivative jumps at a node."""
    x = torch.arange(16, dtype=torch.float64)
    slope = torch.where(x < 8, 2.0, 1.0)
    position = torch.empty(16, dtype=torch.float64)
    position[0], position[1] = 0.0, 0.0
    for i in range(1, 15):  # central differences of `position` are exactly `slope`
        position[i + 1] = position[i - 1] + 2 * slope[i]
    assert float(metrics.sdlogj((position - x)[None, None])) == pytest.approx(log(2) / 2)


# Inverse consistency


def a_pair(dim: int) -> tuple[Exponential, Exponential]:
    velocity = 0.05 * torch.randn(2, dim, *[6] * dim, dtype=torch.float64)
    return Exponential(velocity), Exponential(-velocity)


@pytest.mark.parametrize("dim", DIMS)
def test_the_way_there_and_back_of_exact_inverses_is_free(dim):
    matrix = torch.eye(dim, dtype=torch.float64) + 0.2 * torch.randn(2, dim, dim, dtype=torch.float64)
    phi = Affine(matrix, torch.randn(2, dim, dtype=torch.float64))
    grid = Grid(SHAPES[dim])
    error = metrics.inverse_consistency_error(phi, phi.inverse, grid)
    assert error.shape == (2, *SHAPES[dim])
    assert float(error.max()) < 1e-9


def test_the_error_is_in_voxels_of_each_axis():
    grid = Grid((5, 11))
    shift = Affine(torch.eye(2)[None], torch.tensor([[0.5, 0.2]]))  # two voxels along each axis
    error = metrics.inverse_consistency_error(shift, Identity(2), grid)
    assert_close(error, torch.full_like(error, 8**0.5))


@pytest.mark.parametrize("dim", DIMS)
def test_the_order_of_the_maps_is_the_documented_one(dim):
    phi, psi = a_pair(dim)
    psi = psi @ Displacement(0.1 * torch.randn(2, dim, *[4] * dim, dtype=torch.float64))
    grid = Grid(SHAPES[dim])
    x = grid.points(phi.velocity)
    away = (psi(phi(x)) - x).numpy() * (np.array(SHAPES[dim]) - 1).reshape(1, dim, *[1] * dim)
    got = metrics.inverse_consistency_error(phi, psi, grid)
    assert_close(got.numpy(), np.sqrt((away**2).sum(axis=1)), rtol=0, atol=1e-10)
    assert float((got - metrics.inverse_consistency_error(psi, phi, grid)).abs().max()) > 1e-3


def test_summary():
    error = torch.arange(101.0).reshape(1, 101)
    assert metrics.summary(error) == {"mean": 50.0, "p99": 99.0, "max": 100.0}


# Labels


def label_maps(shape: tuple[int, ...], labels: int = 6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    fixed = random.integers(0, labels, size=shape)
    moved = np.where(random.random(shape) < 0.6, fixed, random.integers(0, labels, size=shape))
    return moved, fixed


@pytest.mark.parametrize("shape", [(30,), (9, 11), (6, 7, 8)])
@pytest.mark.parametrize("name", [1, 1000, -1, 2**21])
def test_dice_is_the_definition(shape, name):
    a, b = (name * m for m in label_maps(shape))
    got = metrics.dice(torch.from_numpy(a), torch.from_numpy(b))
    assert set(got) == {name * k for k in range(1, 6)}
    for label, score in got.items():
        assert score == 2 * ((a == label) & (b == label)).sum() / ((a == label).sum() + (b == label).sum())
    assert metrics.dice(a, b) == got
    assert metrics.mean_dice(a, b) == pytest.approx(np.mean(list(got.values())))


def test_dice_is_simpleitks():
    a, b = label_maps((6, 7, 8))
    judge = SimpleITK.LabelOverlapMeasuresImageFilter()
    judge.Execute(SimpleITK.GetImageFromArray(a.astype(np.int16)), SimpleITK.GetImageFromArray(b.astype(np.int16)))
    assert metrics.dice(a, b) == pytest.approx({k: judge.GetDiceCoefficient(k) for k in range(1, 6)})


def test_dice_is_monais():
    from monai.metrics import compute_dice

    a, b = (torch.from_numpy(m) for m in label_maps((6, 7, 8)))
    hot = [torch.nn.functional.one_hot(m, 6).movedim(-1, 0)[None] for m in (a, b)]
    expected = compute_dice(hot[0], hot[1], include_background=True)[0].tolist()
    assert list(metrics.dice(a, b, labels=range(6)).values()) == pytest.approx(expected)


def test_which_labels_score():
    fixed = np.array([0, 1, 1, 2, 2, 3])
    warped = np.array([0, 1, 1, 2, 4, 0])
    assert metrics.dice(warped, fixed) == {1: 1.0, 2: 2 / 3, 3: 0.0}
    chosen = metrics.dice(warped, fixed, labels=[4, 9])
    assert chosen[4] == 0.0
    assert isnan(chosen[9])
    assert metrics.mean_dice(warped, fixed, labels=[1, 9]) == 1.0
    assert isnan(metrics.mean_dice(warped, fixed, labels=[9]))
    assert metrics.dice(warped, fixed, labels=[0, 1])[0] == 2 / 3


def test_learn2reg_leaves_out_labels_that_one_of_the_images_lacks():
    fixed, warped = np.array([0, 1, 1, 2, 3]), np.array([0, 1, 1, 2, 4])
    moving = np.array([1, 2, 4, 0, 0, 0])
    assert metrics.dice(warped, fixed, moving=moving) == {1: 1.0, 2: 1.0}
    assert metrics.dice(warped, fixed, labels=range(5), moving=moving) == {0: 1.0, 1: 1.0, 2: 1.0}
    lost = np.array([0, 1, 1, 0, 0])  # 2 is in both images and warped away: it scores 0, it is not left out
    assert metrics.dice(lost, fixed, moving=moving)[2] == 0.0


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, ">i2", np.uint32, np.int64])
def test_labels_of_any_integer_type(kind):
    a, b = (m.astype(kind) for m in label_maps((9, 11)))
    assert metrics.dice(a, b) == metrics.dice(*label_maps((9, 11)))


def test_label_maps_that_cannot_be_compared():
    whole = np.zeros((4, 4), dtype=int)
    with pytest.raises(ValueError, match=r"\(4, 4\) and \(4, 5\)"):
        metrics.dice(whole, np.zeros((4, 5), dtype=int))
    for fraction in (np.zeros((4, 4)), torch.zeros(4, 4)):
        with pytest.raises(ValueError, match="labels are integers"):
            metrics.dice(whole, fraction)
    with pytest.raises(ValueError, match="2 and 3 dimensions"):
        metrics.hd95(whole[0], whole[0])
    with pytest.raises(ValueError, match="one number an axis"):
        metrics.hd95(whole, whole, spacing=(1.0, 1.0, 1.0))


def slab(shape: tuple[int, ...], start: int, stop: int, label: int = 1) -> np.ndarray:
    labels = np.zeros(shape, dtype=int)
    labels[(slice(start, stop), *[slice(2, -2)] * (len(shape) - 1))] = label
    return labels


@pytest.mark.parametrize("shape", [(30, 24), (30, 16, 14)])
def test_hd95_of_a_shifted_box_is_the_shift(shape):
    """Nearly all of the shifted faces lie 4 voxels away, the sides at 0; the end faces hold over 5 % of the surface."""
    a, b = slab(shape, 5, 12), slab(shape, 9, 16)
    spacing = (2.0, *[1.0] * (len(shape) - 1))
    assert metrics.hd95(a, b) == {1: 4.0}
    assert metrics.hd95(torch.from_numpy(a), torch.from_numpy(b), spacing=spacing) == {1: 8.0}
    assert metrics.hd95(b, b) == {1: 0.0}


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="the package itself needs NumPy 2")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hd95_is_deepminds_on_the_whole_volume():
    """The boxes cut around each label do not change the number."""
    import surface_distance

    smooth = [scipy.ndimage.gaussian_filter(np.random.default_rng(s).normal(size=(20, 18, 16)), 2) for s in (1, 2)]
    a, b = (np.digitize(m, np.quantile(m, [0.5, 0.7, 0.9])) for m in (smooth[0], smooth[0] + 0.7 * smooth[1]))
    spacing = (1.5, 1.0, 0.8)
    expected = {}
    for label in (1, 2, 3):
        distances = surface_distance.compute_surface_distances(b == label, a == label, spacing)
        expected[label] = surface_distance.compute_robust_hausdorff(distances, 95.0)
    assert metrics.hd95(a, b, spacing=spacing) == pytest.approx(expected)
    assert min(expected.values()) > 0


def test_hd95_of_an_absent_label_is_nan():
    a, b = slab((12, 12), 3, 6), slab((12, 12), 3, 6, label=2)
    assert isnan(metrics.hd95(a, b)[2])
    assert isnan(metrics.hd95(a, b, labels=[1])[1])
    assert metrics.hd95(a, b, labels=[1, 2], moving=a) == {}


# Landmarks


def test_landmark_error_is_learn2regs():
    field = torch.randn(1, 3, 9, 8, 10, dtype=torch.float64)
    random = np.random.default_rng(0)
    fixed = random.uniform(-0.5, 8, size=(12, 3))  # some outside, where the displacement is 0
    moving = fixed + random.normal(size=(12, 3))
    spacing = np.array([1.5, 1.0, 2.0])
    read = np.stack([scipy.ndimage.map_coordinates(field[0, i].numpy(), fixed.T) for i in range(3)], axis=1)
    expected = np.linalg.norm((fixed + read - moving) * spacing, axis=1)
    got = metrics.target_registration_error(
        field, torch.from_numpy(fixed), torch.from_numpy(moving), spacing=spacing.tolist()
    )
    assert_close(got.numpy(), expected)


@pytest.mark.parametrize("dim", DIMS)
def test_landmarks_of_a_constant_displacement(dim):
    shift = torch.arange(1.0, dim + 1)
    field = shift.reshape(1, dim, *[1] * dim).expand(1, dim, *SHAPES[dim]).contiguous()
    fixed = torch.full((2, dim), 2)
    none = metrics.target_registration_error(field, fixed, fixed + shift)
    assert_close(none, torch.zeros(2, dtype=torch.float64))
    whole = metrics.target_registration_error(field, fixed, fixed)
    assert_close(whole, torch.linalg.vector_norm(shift.double()).expand(2))


def test_a_known_map_sends_the_landmarks_home():
    """A quadratic displacement inside the lattice: a cubic spline reads it exactly, linear interpolation does not."""
    x = torch.arange(41, dtype=torch.float64)
    field = (0.01 * (x - 20) ** 2)[None, None]
    fixed = torch.tensor([[19.5], [20.25]], dtype=torch.float64)
    moving = fixed + 0.01 * (fixed - 20) ** 2
    assert float(metrics.target_registration_error(field, fixed, moving).max()) < 1e-6


def test_landmarks_that_do_not_pair_up():
    field = torch.zeros(1, 3, 5, 5, 5)
    for fixed, moving in ((torch.zeros(2, 3), torch.zeros(3, 3)), (torch.zeros(2, 2), torch.zeros(2, 2))):
        with pytest.raises(ValueError, match="landmarks"):
            metrics.target_registration_error(field, fixed, moving)


# The determinant of Kuang's Table 1


def legacy_determinant(u):
    """Kuang's until 2020, of a displacement (*lattice, 3) in voxels as nibabel orders axes and components.

    Expanded along D_x with numpy's minors; their x, y, z are the array axes 1, 0, 2. In the second minor D_z u_x reads
    D_x u_x.
    """
    here = u[:-1, :-1, :-1]
    slopes = [u[:-1, 1:, :-1] - here, u[1:, :-1, :-1] - here, u[:-1, :-1, 1:] - here]
    slopes = np.stack(slopes, axis=-2)[..., [1, 0, 2]]  # a row a derivative
    m = slopes + np.eye(3)
    first, second, third = (np.delete(np.delete(m, 0, axis=-2), k, axis=-1) for k in range(3))
    second[..., 1, 0] = slopes[..., 0, 0]
    minors = [np.linalg.det(minor) for minor in (first, second, third)]
    return m[..., 0, 0] * minors[0] - m[..., 0, 1] * minors[1] + m[..., 0, 2] * minors[2]


def as_nibabel(field):
    """Axes and components of a field from last to first, components behind."""
    return np.moveaxis(field[0].numpy(), 0, -1).transpose(2, 1, 0, 3)[..., ::-1]


def test_the_legacy_determinant_has_one_wrong_term():
    field = torch.from_numpy(np.random.default_rng(0).normal(0, 0.3, (1, 3, 5, 6, 7)))
    legacy, right = (metrics.jacobian_determinant(field, rule)[0] for rule in ("kuang_legacy", "forward"))
    assert legacy.shape == (4, 5, 6)
    np.testing.assert_allclose(legacy.numpy(), legacy_determinant(as_nibabel(field)).T, rtol=0, atol=SLACK)
    assert ((legacy - right).abs() > 1e-4).float().mean() > 0.9


@pytest.mark.parametrize("order", [p for p in itertools.permutations(range(3)) if p != (0, 1, 2)])
def test_only_the_legacy_determinant_depends_on_the_order_of_axes(order):
    field = torch.from_numpy(np.random.default_rng(0).normal(0, 0.3, (1, 3, 5, 6, 7)))
    turned = field[:, list(order)].permute(0, 1, *(2 + axis for axis in order))
    back = [1 + order.index(axis) for axis in range(3)]
    for rule in ("forward", "kuang_legacy"):
        there = metrics.jacobian_determinant(turned, rule).permute(0, *back)
        difference = (there - metrics.jacobian_determinant(field, rule)).abs()
        assert difference.max() < SLACK if rule == "forward" else difference.mean() > 1e-2


@pytest.mark.parametrize(("component", "axis", "other"), [(2, 1, 0.0), (0, 2, 0.0), (1, 1, 0.3)])
def test_where_the_wrong_term_is_harmless(component, axis, other):
    """Its factors are ∂u_2/∂x_1, ∂u_0/∂x_2, and the difference of ∂u_1/∂x_1 and ∂u_1/∂x_0."""
    slopes = np.random.default_rng(1).normal(0, 0.3, (3, 3))
    slopes[1, 0] = 0.3
    slopes[component, axis] = other
    field = linear_field(np.eye(3) + slopes, (4, 5, 6))
    legacy, right = (metrics.jacobian_determinant(field, rule) for rule in ("kuang_legacy", "forward"))
    assert_close(legacy, right, rtol=0, atol=SLACK)


def test_the_legacy_determinant_inflates_what_hardly_folds():
    """As the published fix says (0.003 % -> 0.047 % there): the flow of a smooth velocity, sampled."""
    x = torch.stack(torch.meshgrid(*[torch.linspace(0, 2 * torch.pi, 24, dtype=torch.float64)] * 3, indexing="ij"))
    velocity = torch.stack([torch.sin(x + shift).prod(0) for shift in (0.3, 1.1, 2.0)])[None] * 7 / 23
    flow = Exponential(velocity).displacement.voxels
    right, legacy = (metrics.folds_percent(flow, rule).item() for rule in ("forward", "kuang_legacy"))
    assert right < 0.1
    assert legacy > 0.5
    assert "kuang_legacy" not in metrics.FOLD_RULES, "on request only"


def test_the_legacy_determinant_judges_cells_in_3d():
    with pytest.raises(ValueError, match="2-D"):
        metrics.folds(torch.zeros(1, 2, 5, 5), "kuang_legacy")
    with pytest.raises(ValueError, match="judges cells"):
        metrics.folds_percent(torch.zeros(1, 3, 5, 5, 5), "kuang_legacy", torch.ones(1, 5, 5, 5, dtype=torch.bool))
