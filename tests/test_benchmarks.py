"""The benchmarks' contestants compute the same; how fast is for whoever runs them."""

import pytest
import torch

from benchmarks.cycle_contestants import DenseLNCC, contestant, objective_of, plain_cycle
from benchmarks.cycle_step import NAMES
from benchmarks.training_step import measure
from foldless.similarity import LNCC

SAME = 1e-4  # of a loss near 2: sums of 729 products in float32, in another order


@pytest.mark.parametrize("shape", [(20, 18), (16, 20, 18)])
def test_the_cycle_in_plain_torch_is_ours(shape):
    objective = objective_of(shape, "float32")
    x, y = torch.rand(2, 2, 1, *shape)
    with torch.no_grad():
        objective.registration.net.last.weight.normal_(std=0.1)
    learning = list(objective.parameters())
    ours = objective(x, y).total
    plain = plain_cycle(objective.registration.net, x, y, DenseLNCC())
    assert plain.item() == pytest.approx(ours.item(), abs=SAME)
    for a, b in zip(torch.autograd.grad(ours, learning), torch.autograd.grad(plain, learning), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3 * max(b.abs().max().item(), 1e-3))


def test_the_dense_lncc_is_ours():
    a, b = torch.rand(2, 1, 1, 14, 12, 13)
    assert DenseLNCC()(a, b).item() == pytest.approx(LNCC(9, squared=True)(a, b).item(), abs=SAME)


@pytest.mark.parametrize("name", NAMES)
def test_every_contestant_takes_a_step(name):
    contestant(name, (16, 16, 16), 1)()


def test_a_contestant_in_a_process_of_its_own():
    ((name, (seconds, memory)),) = measure("16x16x16", 1, NAMES[:1], "benchmarks.cycle_contestants", 1).items()
    assert name == NAMES[0]
    assert seconds > 0
    assert memory >= 0
