"""Certificates against two referees that share nothing with them: integers, and many samples.

`FOLDLESS_CELLS=1000000 pytest tests/test_certificate_referees.py` takes as many cells instead of 100 000.
"""

import itertools
import os

import numpy as np
import pytest
import torch

import foldless
from foldless.kernels.certify import can_certify, certify_cells
from foldless.metrics.bernstein import plain_cells

CELLS = int(os.environ.get("FOLDLESS_CELLS", "100000"))
SPREADS = (0.15, 0.2, 0.25, 0.3)
CORNERS = np.array(list(itertools.product((0, 1), repeat=3)))
EYE = torch.eye(3, dtype=torch.float64)
FINE = 64  # nodes lie at whole multiples of 1/64 voxel: float32 holds them, and integers do

FROM_VALUES = np.array([[4, 0, 0], [1, 4, -1], [0, 4, 0]])
"""Four times Bernstein's coefficients of a quadratic on [0, 1], from its values at 0, 1 and 2."""


def quantised(spread, side, seed=0):
    """Displacements in 1/64 voxel of a cubic lattice, whole numbers."""
    return np.rint(np.random.default_rng(seed).normal(0, FINE * spread, (3, side, side, side))).astype(np.int64)


def corners_of(u, unit):
    """Positions (*cells, 8, 3) of the corners of all cells, those outside of the lattice included; steps of `unit`."""
    wide = np.pad(u, [(0, 0), *[(1, 1)] * 3], mode="edge")
    n = [s - 1 for s in wide.shape[1:]]
    at = [wide[:, i : i + n[0], j : j + n[1], k : k + n[2]] for i, j, k in CORNERS]
    return np.moveaxis(np.stack(at, 1), (0, 1), (-1, -2)) + unit * CORNERS


def values(corners, place, scale):
    """Determinants of trilinear cells (some, 8, 3) at (place + {0, 1, 2}) / scale an axis, times scale^6: (some, 27).

    By the definition, in whole numbers: the derivative along an axis is read off the cell's four edges there.
    """
    cell = corners.reshape(-1, 2, 2, 2, 3)
    found = []
    for q in itertools.product(range(3), repeat=3):
        t = [place[:, a] + q[a] for a in range(3)]
        columns = []
        for axis in range(3):
            edges = np.take(cell, 1, 1 + axis) - np.take(cell, 0, 1 + axis)
            b, c = (t[a][:, None] for a in range(3) if a != axis)
            near = (scale - b) * edges[:, 0, 0] + b * edges[:, 1, 0]
            far = (scale - b) * edges[:, 0, 1] + b * edges[:, 1, 1]
            columns.append((scale - c) * near + c * far)
        x, y, z = columns
        found.append(
            x[:, 0] * (y[:, 1] * z[:, 2] - y[:, 2] * z[:, 1])
            - x[:, 1] * (y[:, 0] * z[:, 2] - y[:, 2] * z[:, 0])
            + x[:, 2] * (y[:, 0] * z[:, 1] - y[:, 1] * z[:, 0])
        )
    return np.stack(found, 1)


def decided_by_integers(corners, deepest):
    """1 proven, -1 refuted, 0 undecided, of cells (some, 8, 3) of whole numbers: no rounding, no de Casteljau."""
    state = np.ones(len(corners), np.int64)
    cell, place = np.arange(len(corners)), np.zeros((len(corners), 3), np.int64)
    corner = [9 * a + 3 * b + c for a, b, c in 2 * CORNERS]
    for depth in range(deepest + 1):
        kind = np.int64 if depth < 2 else object  # 64 bits hold the products of the first two levels
        at = values(corners[cell].astype(kind), place.astype(kind), 2**depth).reshape(-1, 3, 3, 3)
        for axis in range(3):
            at = np.moveaxis(np.tensordot(FROM_VALUES.astype(kind), at, (1, axis + 1)), 0, axis + 1)
        found = at.reshape(-1, 27)
        open_ = (found <= 0).any(1)
        state[cell[(found[:, corner] <= 0).any(1)]] = -1
        cell, place = cell[open_], place[open_]
        cell, place = cell[state[cell] > 0], place[state[cell] > 0]
        if depth == deepest:
            state[cell] = 0
        place = (2 * place[:, None] + CORNERS).reshape(-1, 3)
        cell = np.repeat(cell, 8)
        if not len(cell):
            break
    return state


def test_the_integers_know_a_cell_at_rest_one_that_touches_zero_and_one_that_folds():
    rest = FINE * CORNERS[None]
    flat, turned = rest.copy(), rest.copy()
    flat[0, 7] = flat[0, 3]
    turned[0, 7, 0] -= 2 * FINE
    assert decided_by_integers(np.concatenate([rest, flat, turned]), 4).tolist() == [1, -1, -1]


@pytest.mark.parametrize("spread", SPREADS)
def test_an_integer_certifier_agrees_on_every_cell(spread):
    side = max(round((CELLS / len(SPREADS)) ** (1 / 3)), 3)
    u = quantised(spread, side)
    expected = decided_by_integers(corners_of(u, FINE).reshape(-1, 8, 3), 10)
    found = foldless.certify_field(torch.from_numpy((u / FINE).astype(np.float32)), EYE)
    assert found.cells == len(expected) == (side + 1) ** 3
    assert np.array_equal(found.lower.numpy().ravel() > 0, expected > 0)
    assert (found.refuted, found.undecided) == ((expected < 0).sum(), (expected == 0).sum())
    assert 0 < found.refuted < found.cells


def sampled(corners, inside):
    """Determinants (cells, points) in float64 at points of the cells (cells, points, 3), by numpy's own."""
    slopes = np.zeros((*inside.shape[:2], 3, 3))
    for corner, far in zip(np.moveaxis(corners, 1, 0), CORNERS, strict=True):
        at = np.where(far, inside, 1 - inside)
        for axis in range(3):
            weight = at[..., (axis + 1) % 3] * at[..., (axis + 2) % 3] * (1 if far[axis] else -1)
            slopes[..., axis] += weight[..., None] * corner[:, None]
    return np.linalg.det(slopes)


def test_a_million_samples_in_ten_thousand_cells_near_the_boundary_contradict_nothing():
    u = np.random.default_rng(1).normal(0, 0.25, (3, 40, 40, 40)).astype(np.float32)
    field = torch.from_numpy(u)
    run = certify_cells if can_certify(field) else plain_cells
    cells = run(field, EYE, 10, 4096, 1 << 18)
    corners = corners_of(u.astype(np.float64), 1.0).reshape(-1, 8, 3)
    nodes = sampled(corners, np.broadcast_to(CORNERS, (len(corners), 8, 3))).min(1)
    near = np.argsort(np.abs(nodes))[:10_000]  # the least determinant at a corner is next to zero
    inside = np.random.default_rng(2).random((len(near), 100, 3))
    inside[:, :8] = CORNERS
    rows = cells.doubtful.numpy()
    witness = {int(row[0]): row[2:5] for row in rows if row[1] < 0}
    refuted = np.array([number in witness for number in near])
    inside[refuted, 8] = [witness[number] for number in near[refuted]]
    least = sampled(corners[near], inside).min(1)
    proven = cells.lower.numpy().ravel()[near] > 0
    assert inside[..., 0].size == 1_000_000
    assert min(proven.sum(), refuted.sum()) > 2000
    assert (proven | refuted).mean() > 0.999
    assert not (proven & refuted).any()
    assert (least[proven] > 0).all()
    assert (least[refuted] <= 0).all()
