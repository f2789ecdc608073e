"""Why noise makes maps regular: the expectation of noisy inverse consistency against ICON's expansion, Eqs. (7-10).

E|phi_AB,ε ∘ phi_BA,ε - id|² ≈ ∫|r|² + ε² [N + ∫|D phi_AB|² ∘ phi_BA + ∫ r · Δphi_AB ∘ phi_BA], r = phi_AB ∘ phi_BA - id

with N the number of dimensions. The last term, of second order in the noise of phi_BA, is no part of the paper's
expansion; it vanishes for exact inverses, for which the middle one is the H1 norm under the Jacobian, Eq. (10). The
referee derives every term symbolically from formulas of its own. Our losses are means over components, and add orders.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import sympy
import torch
from tables import DIMS, random_points
from torch import Tensor

from foldless.grid import Grid
from foldless.maps import Affine, Map
from foldless.regularity import ICON, inverse_consistency, noisy_inverse_consistency

COUNT = 200_000
EPSILON = 0.01  # of the unit cube
SAMPLING = 0.02  # relative: five standard errors of COUNT points, and what ε⁴ adds
SAMPLING_OF_FIRST_ORDER = 0.15  # absolute: five standard errors of 2 ε r · n, which vanishes in the mean, over ε²
QUADRATURE = 1e-9  # Gauss-Legendre of smooth functions, 24 nodes an axis

every_dim = pytest.mark.parametrize("dim", DIMS)


@dataclass(frozen=True, eq=False)
class Projective(Map):
    """x_i -> k_i x_i / (1 + (k_i - 1) x_i), log k_i a line in x_{i+1}, ...: it carries the unit cube onto itself.

    Row i of `bend` holds log k_i's slopes, its constant on the diagonal. Triangular, so the inverse has a closed form.
    """

    bend: Tensor

    @property
    def dim(self):
        return len(self.bend)

    def _factor(self, i, x):
        return sum((self.bend[i, j] * x[j] for j in range(i + 1, self.dim)), self.bend[i, i]).exp()

    def __call__(self, points):
        x = points.unbind(1)
        k = [self._factor(i, x) for i in range(self.dim)]
        return torch.stack([k[i] * x[i] / (1 + (k[i] - 1) * x[i]) for i in range(self.dim)], 1)

    def with_jacobian(self, points):
        raise NotImplementedError

    @property
    def inverse(self):
        return ProjectiveInverse(self.bend)


class ProjectiveInverse(Projective):
    """Last coordinate first: each needs those after it where they came from."""

    def __call__(self, points):
        x = list(points.unbind(1))
        for i in reversed(range(self.dim)):
            k = self._factor(i, x)
            x[i] = x[i] / (k + (1 - k) * x[i])
        return torch.stack(x, 1)


BEND = torch.tensor([[0.8, 0.7, -0.5], [0.0, -0.6, 0.9], [0.0, 0.0, 0.5]], dtype=torch.float64)


def map_of(bend, dim):
    return Projective(bend[:dim, :dim])


class Referee:
    """The same maps as formulas, and what the expansion makes of them; shares no code with the maps above."""

    def __init__(self, bend, dim, inverse=False):
        self.x = sympy.symbols(f"x:{dim}", real=True)
        bend = sympy.Matrix(bend[:dim, :dim].numpy())
        self.phi = list(self.x)
        for i in reversed(range(dim)):
            known = self.phi if inverse else self.x
            sign = -1 if inverse else 1
            k = sympy.exp(sign * (bend[i, i] + sum(bend[i, j] * known[j] for j in range(i + 1, dim))))
            self.phi[i] = k * self.x[i] / (1 + (k - 1) * self.x[i])
        self.jacobian = sympy.Matrix(self.phi).jacobian(self.x)

    def at(self, expression, points):
        """The expression at points (count, dim)."""
        value = sympy.lambdify(self.x, expression, "numpy", cse=True)(*points.T)
        return np.broadcast_to(value, (len(points),))

    def image(self, points):
        return np.stack([self.at(component, points) for component in self.phi], 1)

    def h1(self, points):
        """|D phi|² at the points: the sum of the squared entries."""
        return self.at(sum(entry**2 for entry in self.jacobian), points)

    def determinant(self, points):
        return self.at(sympy.prod(self.jacobian[i, i] for i in range(len(self.x))), points)

    def laplacian(self, points):
        rows = [self.at(sum(sympy.diff(f, x, 2) for x in self.x), points) for f in self.phi]
        return np.stack(rows, 1)


def quadrature(dim, nodes=24):
    """Nodes (count, dim) and weights of Gauss and Legendre on the unit cube."""
    at, weight = np.polynomial.legendre.leggauss(nodes)
    axes = np.meshgrid(*[(at + 1) / 2] * dim, indexing="ij")
    weights = np.prod(np.meshgrid(*[weight / 2] * dim, indexing="ij"), axis=0)
    return np.stack([axis.ravel() for axis in axes], 1), weights.ravel()


def per_epsilon_squared(phi, psi, points, epsilon=EPSILON):
    """What noise adds to the loss, over ε²; both orders."""
    noisy = noisy_inverse_consistency(phi, psi, points, [epsilon] * phi.dim)
    return ((noisy - inverse_consistency(phi, psi, points)) / epsilon**2).item()


@every_dim
@pytest.mark.parametrize("inverse", [False, True])
def test_the_referee_has_the_same_maps(dim, inverse):
    phi = map_of(BEND, dim).inverse if inverse else map_of(BEND, dim)
    points = random_points(dim)
    expected = Referee(BEND, dim, inverse).image(points[0].T.numpy())
    assert np.abs(phi(points)[0].T.numpy() - expected).max() < 1e-12


@every_dim
def test_the_weighted_h1_norm_is_the_change_of_variables(dim):
    """Eq. (9) to Eq. (10): for exact inverses, ∫|D phi_AB|² ∘ phi_BA dx = ∫|D phi_AB|² det D phi_AB dy."""
    forth, back = Referee(BEND, dim), Referee(BEND, dim, inverse=True)
    x, weights = quadrature(dim)
    plain = weights @ forth.h1(back.image(x))
    weighted = weights @ (forth.h1(x) * forth.determinant(x))
    assert abs(plain - weighted) < QUADRATURE * plain
    assert abs(plain - weights @ forth.h1(x)) > 0.05 * plain  # the Jacobian matters


@every_dim
def test_noise_on_exact_inverses_costs_the_weighted_h1_norm(dim):
    """Eq. (10): per order, ε² (N + ∫|D phi|² det D phi) over N."""
    phi = map_of(BEND, dim)
    x, weights = quadrature(dim)
    h1 = [
        weights @ (referee.h1(x) * referee.determinant(x))
        for referee in (Referee(BEND, dim), Referee(BEND, dim, inverse=True))
    ]
    got = per_epsilon_squared(phi, phi.inverse, random_points(dim, count=COUNT))
    expected = (2 * dim + sum(h1)) / dim
    assert abs(got - expected) < SAMPLING * expected
    assert sum(h1) > 1.02 * 2 * dim  # more than the identity's


@every_dim
def test_the_constant_is_the_dimension_and_the_slope_one(dim):
    """Over a family of exact inverses, what noise costs an order is a line in the H1 norm: N + 1 · H1."""
    h1, cost = [], []
    for strength in np.linspace(0.0, 1.0, 4):
        phi = map_of(strength * BEND, dim)
        x, weights = quadrature(dim)
        both = [Referee(strength * BEND, dim, inverse) for inverse in (False, True)]
        h1.append(sum(weights @ (referee.h1(x) * referee.determinant(x)) for referee in both) / 2)
        cost.append(per_epsilon_squared(phi, phi.inverse, random_points(dim, count=COUNT)) * dim / 2)
    slope, constant = np.polyfit(h1, cost, 1)
    assert abs(slope - 1) < 2 * SAMPLING
    assert abs(constant - dim) < 2 * SAMPLING * dim


@every_dim
def test_noise_costs_its_square(dim):
    """No term of first order: the cost over ε² is the same for any small ε."""
    phi, points = map_of(BEND, dim), random_points(dim, count=COUNT)
    costs = [per_epsilon_squared(phi, phi.inverse, points, epsilon) for epsilon in (0.002, 0.005, 0.01)]
    assert max(costs) - min(costs) < 2 * SAMPLING * min(costs)


@every_dim
def test_noise_on_other_pairs_costs_eq_9_and_a_cross_term(dim):
    bends = (1.5 * BEND, 1.2 * BEND)
    points = random_points(dim, count=COUNT)
    x = points[0].T.numpy()
    expected, cross = 0.0, 0.0
    for outer_bend, inner_bend in (bends, bends[::-1]):
        outer, inner = Referee(outer_bend, dim), Referee(inner_bend, dim)
        y = inner.image(x)
        r = outer.image(y) - x
        expected += (dim + outer.h1(y).mean()) / dim
        cross += (r * outer.laplacian(y)).sum(1).mean() / dim
    phi, psi = (map_of(bend, dim) for bend in bends)
    got = np.mean([per_epsilon_squared(phi, psi, points, 0.02) for _ in range(4)])
    assert abs(got - expected - cross) < SAMPLING_OF_FIRST_ORDER
    assert abs(cross) > 3 * SAMPLING_OF_FIRST_ORDER  # without it the sum would be wrong


@every_dim
def test_noise_on_affine_maps_costs_their_entries(dim):
    """Nothing is approximate: E = |r|² + ε² (N + |A|²), for any ε."""
    linear = torch.eye(dim, dtype=torch.float64)[None] + 0.3 * torch.randn(1, dim, dim, dtype=torch.float64)
    phi = Affine(linear, torch.zeros(1, dim, dtype=torch.float64))
    points = random_points(dim, count=COUNT)
    epsilon = 0.5
    entries = np.sum(linear.numpy() ** 2) + np.sum(np.linalg.inv(linear[0].numpy()) ** 2)
    expected = epsilon**2 * (2 * dim + entries) / dim
    got = noisy_inverse_consistency(phi, phi.inverse, points, [epsilon] * dim).item()
    assert abs(got - expected) < SAMPLING * expected


@every_dim
@pytest.mark.parametrize("noise_at", ["points", "lattice"])
def test_the_regularitys_noise_is_in_voxels_of_each_axis(dim, noise_at):
    """On maps at rest and at the nodes: two independent noises an order, each of its axis' own voxel."""
    shape = {1: (4001,), 2: (161, 41), 3: (41, 11, 21)}[dim]
    still = Affine(torch.eye(dim, dtype=torch.float64)[None], torch.zeros(1, dim, dtype=torch.float64))
    cost = ICON(at="lattice", noise=0.125, noise_at=noise_at)(still, still, Grid(shape))
    expected = 2 * 2 * 0.125**2 * np.mean([(n - 1.0) ** -2 for n in shape])
    interpolated = 0.75 if noise_at == "lattice" else 1.0
    assert interpolated * 0.9 * expected < cost < 1.1 * expected


def test_noise_is_drawn_for_every_point_and_sample():
    still = Affine(torch.eye(2, dtype=torch.float64)[None], torch.zeros(1, 2, dtype=torch.float64))
    seen = []

    class Watched(Affine):
        def __call__(self, points):
            seen.append(points)
            return super().__call__(points)

    points = torch.full((3, 2, 50), 0.5, dtype=torch.float64)
    noisy_inverse_consistency(still, Watched(still.linear, still.shift), points, [0.1, 0.1])
    shaken = [x for x in seen if not torch.equal(x, points)]
    assert len(shaken) == 1
    assert shaken[0].flatten().unique().numel() == points.numel()
