"""How much regularity counts, and that a checkpoint holds all of it."""

import pytest
import torch

from foldless.maps import Displacement
from foldless.metrics import folds
from foldless.objective import Objective
from foldless.registration import Registration
from foldless.regularity import ICON
from foldless.similarity import MSE
from foldless.weighting import Constant, HoldBelow, Ramp

WEIGHTS = {
    "Constant": lambda: Constant(7.5),
    "Ramp": lambda: Ramp(2.0, 10.0, steps=8),
    "HoldBelow": lambda: HoldBelow(2.0, 0.5, threshold=3.0),
}
FOLDS = (0.0, 4.0, 3.0, 9.0, 2.0, 5.0)  # of one step after the other, again and again


def run(weight, steps, start=0):
    values = []
    for step in range(start, start + steps):
        values.append(weight().item())
        weight.update(FOLDS[step % len(FOLDS)], places=100)
        weight.advance()
    return values


def test_a_constant_stays():
    assert run(Constant(7.5), 5) == [7.5] * 5


def test_a_ramp_is_a_straight_line_and_then_flat():
    assert run(Ramp(2.0, 10.0, steps=8), 12) == [2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10]


def test_a_ramp_may_go_down():
    assert run(Ramp(1.0, 0.0, steps=2), 4) == [1, 0.5, 0, 0]


def test_too_many_folds_raise_the_weight():
    assert run(HoldBelow(2.0, 0.5, threshold=3.0), 7) == [2, 2, 2.5, 2.5, 3, 3, 3.5]


def test_a_threshold_per_voxel_means_the_same_at_every_resolution():
    coarse, fine = (HoldBelow(1.0, 1.0, threshold=0.03, per_voxel=True) for _ in range(2))
    for count in FOLDS:
        coarse.update(count, places=100)
        fine.update(8 * count, places=800)
    assert coarse() == fine() == 4


@pytest.mark.parametrize(("increase", "threshold"), [(0.0, 1.0), (-1.0, 1.0), (1.0, -1.0)])
def test_holding_below_takes_a_step_and_a_threshold(increase, threshold):
    with pytest.raises(ValueError, match="increase is above 0"):
        HoldBelow(1.0, increase, threshold)


class Answer(Registration):
    """Says the same maps whatever the images are."""

    def __init__(self, field):
        super().__init__()
        self.field = torch.nn.Parameter(field)

    def forward(self, image_A, image_B):
        return Displacement(self.field)


def rough_objective(weight, voxels=1.5):
    """One pair on a 12 x 12 lattice: maps that fold here and there; how often phi_AB does; the images."""
    field = Displacement.from_voxels(voxels * torch.randn(2, 2, 12, 12)).field
    count = folds(Displacement(field[:1]).voxels, "forward").item()
    return Objective(Answer(field), MSE(), ICON(), weight), count, torch.rand(2, 1, 1, 12, 12)


@pytest.mark.parametrize("per_voxel", [False, True])
def test_the_objective_tells_it_the_folds_of_the_step(per_voxel):
    places = 11**2 if per_voxel else 1
    objective, count, (a, b) = rough_objective(Constant(1.0))
    assert 10 < count < 11**2
    for threshold, raised in ((count, 0), (count - 1, 3)):
        objective.weight = HoldBelow(5.0, 0.25, threshold / places, per_voxel)
        weights = [objective(a, b).weight.item() for _ in range(3)]
        assert weights == [5 + 0.25 * step * (raised > 0) for step in range(3)]
        assert objective.weight() == 5 + 0.25 * raised


def test_looking_does_not_raise_it():
    objective, _, (a, b) = rough_objective(HoldBelow(5.0, 1.0, threshold=0.0))
    objective.eval()(a, b)
    assert objective.weight() == 5


def test_the_gradient_is_under_the_weight_of_the_step():
    """What a step adds must not reach back into a graph that still waits for its backward."""
    objective, _, (a, b) = rough_objective(HoldBelow(5.0, 100.0, threshold=0.0))
    torch.manual_seed(1)
    held = torch.autograd.grad(objective(a, b).total, objective.registration.field)[0]
    objective.weight = Constant(5.0)
    torch.manual_seed(1)
    assert torch.equal(held, torch.autograd.grad(objective(a, b).total, objective.registration.field)[0])


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
    assert begun + run(second, 7, start=5) == straight


@pytest.mark.parametrize("name", WEIGHTS)
def test_its_state_is_all_in_buffers(name):
    weight = WEIGHTS[name]()
    assert list(weight.parameters()) == []
    assert len(list(weight.buffers())) == 1
    assert torch.equal(*[next(w.buffers()) for w in (weight, WEIGHTS[name]())])
