"""How much regularity counts, and that a checkpoint holds all of it."""

import pytest
import torch

from foldless.weighting import Constant, Ramp

WEIGHTS = {"Constant": lambda: Constant(7.5), "Ramp": lambda: Ramp(2.0, 10.0, steps=8)}


def run(weight, steps):
    values = []
    for _ in range(steps):
        values.append(weight().item())
        weight.advance()
    return values


def test_a_constant_stays():
    assert run(Constant(7.5), 5) == [7.5] * 5


def test_a_ramp_is_a_straight_line_and_then_flat():
    assert run(Ramp(2.0, 10.0, steps=8), 12) == [2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10]


def test_a_ramp_may_go_down():
    assert run(Ramp(1.0, 0.0, steps=2), 4) == [1, 0.5, 0, 0]


def test_asking_does_not_advance():
    ramp = Ramp(0.0, 1.0, steps=4)
    assert ramp() == ramp() == 0


@pytest.mark.parametrize("steps", [0, -1])
def test_a_ramp_takes_steps(steps):
    with pytest.raises(ValueError, match="at least one step"):
        Ramp(0.0, 1.0, steps)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_is_a_scalar_without_gradient(name):
    value = WEIGHTS[name]()()
    assert value.shape == ()
    assert not value.requires_grad


@pytest.mark.parametrize("name", WEIGHTS)
def test_its_state_continues(name):
    straight = run(WEIGHTS[name](), 12)
    first, second = WEIGHTS[name](), WEIGHTS[name]()
    begun = run(first, 5)
    second.load_state_dict(first.state_dict())
    assert begun + run(second, 7) == straight


@pytest.mark.parametrize("name", WEIGHTS)
def test_its_state_is_all_in_buffers(name):
    weight = WEIGHTS[name]()
    assert list(weight.parameters()) == []
    assert len(list(weight.buffers())) == 1
    assert torch.equal(*[next(w.buffers()) for w in (weight, WEIGHTS[name]())])
