"""Certificates against exact polynomials, dense sampling, rational arithmetic, and fields that are known."""

import itertools
from fractions import Fraction
from functools import cache
from math import comb

import numpy as np
import pytest
import sympy
import torch

import foldless
from foldless.io import Geometry
from foldless.kernels.bernstein import _gathering, coefficients, coefficients_of
from foldless.kernels.certify import can_certify, certify_cells
from foldless.metrics.bernstein import decide_exactly, plain_cells
from foldless.metrics.certificate import _corners

CORNERS = list(itertools.product((0, 1), repeat=3))
S = sympy.symbols("s t r")


def polynomial(corners):
    """The determinant of a trilinear cell, expanded: shares nothing with what is judged."""
    phi = [
        sum(
            sympy.Rational(str(corners[n][c]))
            * sympy.Mul(*[x if far else 1 - x for x, far in zip(S, corner, strict=True)])
            for n, corner in enumerate(CORNERS)
        )
        for c in range(3)
    ]
    return sympy.Poly(sympy.Matrix(3, 3, lambda c, a: sympy.diff(phi[c], S[a])).det(), *S)


def bernstein(power):
    """Coefficients (3, 3, 3) in Bernstein's basis of degree (2, 2, 2), from those of the monomials."""
    found = {}
    for a, b, c in itertools.product(range(3), repeat=3):
        found[a, b, c] = sum(
            Fraction(comb(a, i), comb(2, i))
            * Fraction(comb(b, j), comb(2, j))
            * Fraction(comb(c, k), comb(2, k))
            * value
            for (i, j, k), value in power.items()
            if i <= a and j <= b and k <= c
        )
    return found


def random_cell(seed, spread):
    random = np.random.default_rng(seed)
    return [
        [Fraction(int(x), 64) + far for x, far in zip(random.normal(0, 64 * spread, 3), corner, strict=True)]
        for corner in CORNERS
    ]


def power_of(corners):
    """Monomial coefficients by integers alone: products of the edges' polynomials, written out."""
    poly = polynomial(corners)
    return {m: Fraction(int(c.p), int(c.q)) for m, c in zip(poly.monoms(), poly.coeffs(), strict=True)}


@pytest.mark.parametrize("seed", range(4))
def test_coefficients_are_those_of_the_exact_polynomial(seed):
    corners = random_cell(seed, 0.4)
    expected = bernstein(power_of(corners))
    for (a, b, c), value in expected.items():
        assert coefficients(corners)[9 * a + 3 * b + c] == value


@pytest.mark.parametrize("mutant", [0.0, 0.5, -1.0, "next"])
def test_no_mutant_of_the_table_of_coefficients_survives(monkeypatch, mutant):
    corners = random_cell(0, 0.4)
    exact = torch.tensor([float(x) for x in bernstein(power_of(corners)).values()], dtype=torch.float64)
    cell = torch.tensor([[[float(x) for x in corner] for corner in corners]], dtype=torch.float64)
    table = _gathering().clone()
    assert (coefficients_of(cell)[0] - exact).abs().max() < 1e-12
    for row, column in torch.nonzero(table).tolist():
        changed = table.clone()
        if mutant == "next":
            changed[row] = table[row].roll(1)
        else:
            changed[row, column] *= mutant
        monkeypatch.setattr("foldless.kernels.bernstein._gathering", lambda found=changed: found)
        assert (coefficients_of(cell)[0] - exact).abs().max() > 1e-4


def substituted(power, place, level):
    """The polynomial on a part of the cell, as monomials: halving by substitution, not by de Casteljau."""
    size, found = Fraction(1, 2**level), {}
    for exponents, value in power.items():
        for low in itertools.product(*[range(n + 1) for n in exponents]):
            factor = value
            for n, m, p in zip(exponents, low, place, strict=True):
                factor *= comb(n, m) * size**m * (p * size) ** (n - m)
            found[low] = found.get(low, 0) + factor
    return found


def decided_by_substitution(power, deepest=5):
    """1 proven, -1 refuted, 0 undecided."""
    todo, state = [((0, 0, 0), 0)], 1
    while todo:
        place, level = todo.pop()
        found = bernstein(substituted(power, place, level))
        if min(found.values()) > 0:
            continue
        if any(found[tuple(2 * f for f in far)] <= 0 for far in CORNERS):
            return -1
        if level == deepest:
            state = 0
            continue
        todo += [(tuple(2 * p + f for p, f in zip(place, far, strict=True)), level + 1) for far in CORNERS]
    return state


@pytest.mark.parametrize("seed", range(12))
def test_a_rational_certifier_agrees(seed):
    corners = random_cell(seed, 0.25)
    assert decide_exactly(corners, 1, 5).state == decided_by_substitution(power_of(corners))


def field(seed, spread, shape=(7, 8, 19), dtype=torch.float32):
    return spread * torch.randn(len(shape), *shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


EYE = torch.eye(3, dtype=torch.float64)


def determinants(u, cell, inside):
    """Determinants in padded cell `cell` at points (some, 3) in it, by numpy from the definition."""
    nodes = np.array(
        [[min(max(c - 1 + f, 0), n - 1) for c, f, n in zip(cell, far, u.shape[1:], strict=True)] for far in CORNERS]
    )
    moved = u.double().numpy()[:, nodes[:, 0], nodes[:, 1], nodes[:, 2]].T + np.array(CORNERS)
    slopes = np.zeros((len(inside), 3, 3))
    for axis in range(3):
        for corner, image in zip(CORNERS, moved, strict=True):
            weight = np.prod([inside[:, d] if corner[d] else 1 - inside[:, d] for d in range(3) if d != axis], axis=0)
            slopes[:, :, axis] += (1 if corner[axis] else -1) * weight[:, None] * image
    return np.linalg.det(slopes)


@pytest.mark.parametrize("spread", [0.15, 0.2, 0.3])
def test_no_proven_cell_has_a_fold_among_dense_samples_and_every_refuted_one_has(spread):
    u = field(0, spread, (5, 6, 19))
    cells = certify_cells(u, EYE, 8, 4096, 10_000) if can_certify(u) else plain_cells(u, EYE, 8, 4096, 10_000)
    inside = np.random.default_rng(0).random((500, 3))
    inside[:8] = CORNERS
    doubtful = {int(row[0]): row for row in cells.doubtful.tolist()}
    for number, cell in enumerate(np.ndindex(*cells.lower.shape)):
        values = determinants(u, cell, inside)
        if number in doubtful and doubtful[number][1] < 0:
            assert determinants(u, cell, np.array([doubtful[number][2:5]]))[0] <= 0
        elif number not in doubtful:
            assert values.min() > 0
            assert cells.lower[cell] <= values.min()
        assert cells.bounds[0] <= values.min()
        assert values.max() <= cells.bounds[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7, 8, 19), (1, 6, 17), (5, 1, 1), (2, 2, 2)])
def test_the_kernel_agrees_with_its_referee(dtype, shape):
    u = field(1, 0.25, shape, dtype)
    if not can_certify(u):
        pytest.skip("nothing was compiled")
    fast, slow = certify_cells(u, EYE, 8, 4096, 10_000), plain_cells(u, EYE, 8, 4096, 10_000)
    assert (fast.refuted, fast.undecided) == (slow.refuted, slow.undecided)
    assert torch.equal(fast.lower > 0, slow.lower > 0)
    rounding = 1e-3 if dtype == torch.float32 else 1e-11  # margins of 192 roundings, of determinants of some units
    assert fast.nodes == pytest.approx(slow.nodes, abs=rounding)
    assert fast.bounds == pytest.approx(slow.bounds, abs=rounding)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_small_displacements_are_proven_and_the_identity_changes_no_volume(dim):
    shape = (6, 7, 9)[:dim]
    identity = foldless.certify(foldless.Displacement(torch.zeros(1, dim, *shape)))
    assert identity.proven
    assert identity.bounds == pytest.approx((1, 1), abs=1e-3)
    assert identity.cells == np.prod([n + 1 for n in shape])
    assert foldless.certify(foldless.Displacement.from_voxels(field(2, 0.03, shape)[None])).proven


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_fold_is_shown_where_it_is(dim):
    shape = (8, 9, 10)[:dim]
    u = torch.zeros(dim, *shape)
    node = (3, 4, 5)[:dim]
    u[0][node] = 1.5  # past its neighbour
    found = foldless.certify(foldless.Displacement.from_voxels(u[None]))
    assert found.state == "refuted"
    assert found.determinant == pytest.approx(-0.5, abs=1e-6)
    assert found.witness is not None
    assert all(abs(w - n) <= 1 for w, n in zip(found.witness, node, strict=True))
    assert "refuted" in found.sentence


def test_what_collapses_exactly_is_refuted_though_rounding_hides_its_sign():
    u = torch.zeros(3, 5, 5, 5)
    u[0, 2, 2, 2] = 1.0  # on its neighbour
    found = foldless.certify_field(u, EYE)
    assert (found.state, found.determinant, found.undecided) == ("refuted", 0.0, 0)


def test_ten_determinants_pass_fields_that_fold_between_their_nodes():
    u = torch.zeros(20_000, 3, 4, 4, 4)
    u[..., 1:3, 1:3, 1:3] = 0.3 * torch.randn(20_000, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    passed = u[foldless.folds(u, "ten") == 0]
    found = [foldless.certify_field(one, EYE) for one in passed]
    folded = [one for one in found if one.state == "refuted"]
    assert folded
    assert len(folded) < len(found) / 2


def test_a_turn_is_refused_at_the_border_where_it_does_not_go_on():
    angle = 2 * torch.pi / 3
    turn = torch.tensor([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    x = torch.stack(torch.meshgrid(*[torch.arange(6.0) - 2.5] * 3, indexing="ij"))
    u = torch.einsum("ab,bxyz->axyz", turn.float(), x) - x
    found = foldless.certify_field(u, EYE)
    assert found.state == "refuted"
    assert bool((found.lower[1:-1, 1:-1, 1:-1] > 0).all())


def oblique(size):
    axis = np.array([1, 2, 3]) / np.sqrt(14)
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.eye(3) + np.sin(0.7) * skew + (1 - np.cos(0.7)) * skew @ skew
    return Geometry(size, (0.5, 2.0, 4.0), (-30.0, 7.0, 11.0), tuple((turn * [1, -1, 1]).ravel().tolist()))


@pytest.mark.parametrize("spread", [0.05, 0.2])
def test_headers_only_multiply(spread):
    geometry = oblique((11, 8, 6))
    u = field(4, spread, (6, 8, 11), torch.float64)
    plain = foldless.certify_field(u, EYE)
    warp = u.flip(0).movedim(0, -1).numpy() @ geometry.matrix.T
    turned = foldless.certify_warp(warp, geometry)
    assert (turned.state, turned.refuted, turned.cells) == (plain.state, plain.refuted, plain.cells)
    assert turned.nodes == pytest.approx(plain.nodes, rel=1e-9)
    assert turned.witness == plain.witness


def exact_states(u, steps):
    """What fractions say of every cell of a field of three axes."""
    cells = [n + (n > 1) for n in u.shape[1:]]
    sign = 1 if torch.linalg.det(steps) > 0 else -1
    return [decide_exactly(_corners(u, steps, cell), sign, 8).state for cell in np.ndindex(*cells)]


@cache
def nearly_folding(seed):
    """A field of eight nodes that folds just so."""
    u, low, high = field(seed, 1.0, (2, 2, 2), torch.float64), 0.0, 2.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if foldless.certify_field(middle * u, EYE).proven else (low, middle)
    return high * u


TINY, HUGE = 2.0**-30, 2.0**30


@pytest.mark.parametrize(
    ("dtype", "unit"),
    [
        (torch.float32, 1.0), (torch.float32, TINY), (torch.float32, HUGE), (torch.float32, 1e-14),
        (torch.float32, 3e-15), (torch.float32, 1e-38), (torch.float64, 1e-20), (torch.float64, 1e30),
    ],
)  # fmt: skip
def test_no_unit_makes_a_proof_of_what_just_folds(dtype, unit):
    for seed in range(8):
        just = nearly_folding(seed) * unit
        for more in (1e-6, 1e-5, 1e-4):
            assert not foldless.certify_field((just * (1 + more)).to(dtype), EYE * unit).proven
        assert foldless.certify_field((just * 0.99).to(dtype), EYE * unit).proven


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 3, 3), (1, 4, 5), (4, 1, 4), (4, 4, 1), (1, 1, 5), (1, 1, 1)])
@pytest.mark.parametrize("size", [1e-300, 1e-44, 1e-30, 0.25, 1e6, 1e30])
def test_fields_of_any_size_are_decided_as_by_fractions(dtype, shape, size):
    u = (field(3, 1.0, shape, torch.float64) * size).to(dtype)
    found = foldless.certify_field(u, EYE)
    states = exact_states(u, EYE)
    for lower, state in zip(found.lower.flatten().tolist(), states, strict=True):
        assert (lower > 0) <= (state > 0)
    if found.undecided == 0:
        assert found.refuted == sum(state < 0 for state in states)


def test_bounds_are_rounded_outwards():
    for seed in range(3):
        u = field(seed, 0.1, (2, 2, 2))  # no cell is halved
        found = foldless.certify_field(u, 3 * EYE)
        values = [c / 27 for cell in np.ndindex(3, 3, 3) for c in coefficients(_corners(u, 3 * EYE, cell))]
        assert found.bounds[0] <= min(values)
        assert max(values) <= found.bounds[1]


@pytest.mark.parametrize(("size", "unit"), [(1e-70, 1e-70), (1e90, 1e90), (1e90, 1.0)])
def test_numbers_whose_products_none_can_hold_are_refused(size, unit):
    with pytest.raises(ValueError, match="take another unit"):
        foldless.certify_field(field(0, 0.1, dtype=torch.float64) * size, EYE * unit)


def test_what_cannot_be_certified_is_said():
    with pytest.raises(TypeError, match="a Displacement is certified"):
        foldless.certify(foldless.Affine.from_generator(torch.zeros(1, 2, 3)))
    with pytest.raises(ValueError, match="one map"):
        foldless.certify(foldless.Displacement(torch.zeros(2, 2, 4, 4)))
    with pytest.raises(ValueError, match="not finite"):
        foldless.certify_field(torch.full((2, 4, 4), torch.nan), EYE[:2, :2])
    with pytest.raises(ValueError, match="span a volume"):
        foldless.certify_field(torch.zeros(2, 4, 4), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="one to three dimensions"):
        foldless.certify_field(torch.zeros(2, 4, 4, 4), EYE[:2, :2])


def test_a_certificate_names_its_field():
    u = field(5, 0.05)
    first, same, other = (foldless.certify_field(v, EYE) for v in (u, u.clone(), u + 1e-3))
    assert first.digest == same.digest != other.digest
    assert "lower" not in first.as_dict()
    assert first.as_dict()["state"] == "proven"


def test_coefficients_of_many_cells_are_those_of_each():
    cells = torch.randn(50, 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alone = torch.tensor([coefficients(cell.tolist()) for cell in cells], dtype=torch.float64)
    torch.testing.assert_close(coefficients_of(cells), alone, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(9, 8), (6, 7, 8), (1, 7, 8)])
def test_the_least_at_a_node_is_that_of_the_cells_around_it(shape):
    u = 0.4 * torch.randn(len(shape), *shape, generator=torch.Generator().manual_seed(3))
    certificate = foldless.certify_field(u, EYE[: len(shape), : len(shape)])
    lower, least = certificate.lower, certificate.least_at_nodes
    assert least.shape == shape
    for node in itertools.product(*map(range, shape)):
        around = tuple(slice(i, i + 2) if n > 1 else slice(None) for i, n in zip(node, shape, strict=True))
        assert least[node] == lower[around].min()
