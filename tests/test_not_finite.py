"""Numbers that ran away end in an error of foldless, or in numbers that say so; never in a foreign error."""

import pytest
import torch

import foldless
from foldless.grid import Grid, sample_labels
from foldless.maps import Affine, ConvergenceError, Displacement, exponentiate, invert
from foldless.metrics import certify, folds, sdlogj, summary


def steep(height):
    field = torch.zeros(1, 2, 8, 8)
    field[..., 4, 4], field[..., 3, 4] = height, -height
    return field


NOT_FINITE = {
    "exponential of a velocity that is not finite": lambda: exponentiate(steep(torch.nan)),
    "exponential of a velocity whose differences are not": lambda: exponentiate(steep(3e38)),
    "folds": lambda: folds(steep(torch.inf)),
    "sdlogj": lambda: sdlogj(steep(torch.nan)),
    "certify": lambda: certify(Displacement(steep(torch.inf))),
    "optimise_maps": lambda: foldless.optimise_maps(
        torch.rand(1, 1, 8, 8), torch.full((1, 1, 8, 8), torch.nan), foldless.MSE(), foldless.ICON(),
        foldless.Constant(1.0), steps=1,
    ),
    "optimise_flow": lambda: foldless.optimise_flow(
        torch.rand(1, 1, 8, 8), torch.full((1, 1, 8, 8), torch.inf), foldless.MSE(), foldless.ICON(),
        foldless.Constant(1.0), steps=1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_FINITE)
def test_what_is_not_finite_is_told_so(name):
    with pytest.raises(foldless.NotFiniteError, match=r"not finite|became"):
        NOT_FINITE[name]()


@pytest.mark.parametrize("height", [torch.nan, torch.inf, 3e38])
def test_a_field_that_ran_away_has_no_inverse(height):
    with pytest.raises(ConvergenceError, match=r"at [1-9]\d* of 64 nodes"):
        invert(Displacement(steep(height)), Grid((8, 8)))


def test_a_singular_matrix_has_no_inverse():
    phi = Affine(torch.zeros(1, 2, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="singular has no inverse"):
        _ = phi.inverse


def test_points_that_are_no_numbers_have_no_label():
    points = torch.tensor([[[0.5, torch.nan, torch.inf, 0.5], [0.5, 0.5, 0.5, -torch.inf]]])
    assert sample_labels(torch.ones(8, 8, dtype=torch.int64), points).tolist() == [1, 0, 0, 0]


def test_a_summary_takes_an_entry():
    with pytest.raises(ValueError, match=r"one error or more; got a tensor of shape \(0,\)"):
        summary(torch.zeros(0))
