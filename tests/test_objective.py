"""The objective is the sum it says, in both directions, and trains every parameter."""

import subprocess
import sys

import pytest
import torch
from tables import (
    AS_MAP,
    BATCH_FREE_IN_TRAINING,
    DIMS,
    NETWORKS,
    REGULARITIES,
    SHAPES,
    SIMILARITIES,
    SIMILARITY_CASES,
    WITHOUT_JITTER,
    every_network,
    smooth_image,
    stirred,
)
from torch.testing import assert_close

from foldless.grid import Grid
from foldless.objective import Objective, Terms
from foldless.registration import Predict, warp
from foldless.regularity import ICON
from foldless.similarity import MSE
from foldless.weighting import Constant, Ramp

SAME = 1e-10  # float64: convolutions may add in another order for another batch

PAIRED = (("Displacement", "ICON on the lattice"), ("Exponential", "GradICON on the lattice"))

every_dim = pytest.mark.parametrize("dim", DIMS)
every_case = pytest.mark.parametrize(("dim", "similarity"), SIMILARITY_CASES)


def objective(
    dim, name="ConvOnly", similarity="MSE", regularity="ICON on the lattice", as_map="Displacement", weight=7.0
):
    registration = Predict(stirred(every_network(dim, SHAPES[dim])[name], 0.02), as_map=AS_MAP[as_map])
    return Objective(registration, SIMILARITIES[similarity], REGULARITIES[regularity], Constant(weight)).double().eval()


def images(dim, batch=2):
    return smooth_image(SHAPES[dim], batch), smooth_image(SHAPES[dim], batch)


@every_case
@pytest.mark.parametrize("regularity", REGULARITIES)
def test_the_total_is_the_weighted_sum(dim, similarity, regularity):
    terms = objective(dim, similarity=similarity, regularity=regularity)(*images(dim))
    assert isinstance(terms, Terms)
    assert all(term.shape == () and torch.isfinite(term) for term in terms)
    assert terms.weight == 7
    assert terms.regularity > 0
    assert_close(terms.total, terms.similarity + 7 * terms.regularity, rtol=1e-12, atol=0)


@every_dim
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("as_map", "regularity"), PAIRED)
def test_one_pass_over_the_doubled_batch_is_two_passes(dim, name, as_map, regularity):
    loss = objective(dim, name, "NCC", regularity, as_map)
    a, b = images(dim)
    terms = loss(a, b)
    forth, back = loss.registration(a, b), loss.registration(b, a)
    similarity = loss.similarity(warp(a, forth), b) + loss.similarity(warp(b, back), a)
    assert_close(terms.similarity, similarity, rtol=0, atol=SAME)
    assert_close(terms.regularity, loss.regularity(forth, back, Grid(SHAPES[dim])), rtol=0, atol=SAME)
    grid = Grid(SHAPES[dim])
    assert_close(loss.with_maps(a, b)[1].on(grid), forth.on(grid), rtol=0, atol=SAME)
    assert (forth.on(grid) - back.on(grid)).abs().max() > 100 * SAME, "or either would do"


@every_case
@pytest.mark.parametrize("regularity", WITHOUT_JITTER)
def test_a_pair_has_no_first_image(dim, similarity, regularity):
    loss = objective(dim, similarity=similarity, regularity=regularity)
    a, b = images(dim)
    for one, other in zip(loss(a, b), loss(b, a), strict=True):
        assert_close(one, other, rtol=0, atol=SAME)


@every_dim
def test_an_untrained_registration_is_as_unlike_as_the_images(dim):
    net = every_network(dim, SHAPES[dim])["ConvOnly"]
    loss = Objective(Predict(net, as_map=AS_MAP["Displacement"]), MSE(), ICON(at="lattice"), Constant(1.0)).double()
    a, b = images(dim)
    terms = loss(a, b)
    assert_close(terms.similarity, 2 * (a - b).square().mean(), rtol=1e-12, atol=0)
    assert terms.regularity < 1e-20


@every_dim
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("as_map", "regularity"), PAIRED)
def test_gradients_reach_every_parameter(dim, name, as_map, regularity):
    loss = objective(dim, name, "MSE", regularity, as_map).train()
    loss(*images(dim)).total.backward()
    for parameter_name, parameter in loss.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
    reached = sum(bool((p.grad != 0).any()) for p in loss.parameters())
    assert reached >= len(list(loss.parameters())) - (3 if name in ("ResidualUNet", "ResidualUNet instance") else 0)


@every_case
def test_a_few_steps_make_it_smaller(dim, similarity):
    loss = objective(dim, "ConvOnly", similarity, weight=1.0).train()
    a, b = images(dim)
    optimiser = torch.optim.Adam(loss.parameters(), lr=2e-3)
    before = loss(a, b).total.item()
    for _ in range(8):
        optimiser.zero_grad()
        loss(a, b).total.backward()
        optimiser.step()
    assert loss(a, b).total.item() < before


def test_the_weights_progress_is_part_of_the_state():
    def build():
        net = every_network(2, SHAPES[2])["ConvOnly"]
        return Objective(Predict(net, as_map=AS_MAP["Displacement"]), MSE(), ICON(), Ramp(0.0, 10.0, steps=10))

    first, second = build(), build()
    for _ in range(4):
        first.weight.advance()
    second.load_state_dict(first.state_dict())
    assert second.weight() == first.weight() == 4


def test_instance_normalisation_keeps_pairs_apart_in_training():
    assert "ResidualUNet instance" in BATCH_FREE_IN_TRAINING
    loss = objective(2, "ResidualUNet instance").train()
    a, b = images(2, batch=3)
    alone = torch.stack([loss(a[i : i + 1], b[i : i + 1]).total for i in range(3)])
    assert_close(loss(a, b).total, alone.mean(), rtol=0, atol=SAME)


def test_a_weight_is_a_rule():
    """Said to whoever has no type checker at run time, as these tests have."""
    code = "import foldless as f; f.Objective(f.Predict(f.ConvOnly(2), f.Displacement), f.MSE(), f.ICON(), 1.5)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "such as Constant(1.5); got 1.5" in done.stderr
