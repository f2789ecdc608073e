"""A device that is only pretended: `python device_cases.py` says, as JSON, what each case did wrong there.

Tensors have shapes and devices but no numbers, and two devices in one operation are an error, as they are on a GPU. A
process of its own, since torch knows one such device for good.
"""

import json
import sys
import traceback
from collections.abc import Callable, Iterator

import torch
from tables import NETWORKS, REGULARITIES, SHAPES, SIMILARITIES, Answers, every_map, every_network
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils import backend_registration

from foldless.grid import Grid, in_voxels, sample_labels
from foldless.maps import Affine, Displacement, Exponential
from foldless.metrics import FOLD_RULES, folds, ndv_percent, sdlogj
from foldless.networks import AffineNet, Antisymmetric
from foldless.objective import Objective
from foldless.registration import Downsample, Predict, TwoStep
from foldless.weighting import Constant, HoldBelow, Ramp

DIM = 2
SHAPE = SHAPES[DIM]
DEVICE = "pretended:0"


class Backend(backend_registration._DummyBackendModule):
    def is_available(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def is_autocast_enabled(self) -> bool:
        return False

    def get_autocast_dtype(self) -> torch.dtype:
        return torch.float16


def random(*shape: int) -> Tensor:
    return torch.rand(*shape, device=DEVICE, requires_grad=True)


def image() -> Tensor:
    return random(2, 1, *SHAPE)


def field() -> Tensor:
    return random(2, DIM, *SHAPE)


def moved(module: nn.Module) -> nn.Module:
    """A module whose tensors live there, as `.to(device)` makes it."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            part._parameters[name] = nn.Parameter(torch.rand(parameter.shape, device=DEVICE))
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype, device=DEVICE)
    return module


def step_of(registration: nn.Module, weight: nn.Module) -> Callable[[], None]:
    objective = Objective(registration, SIMILARITIES["MSE"], REGULARITIES["Diffusion"], weight)

    def step() -> None:
        moved(objective)
        terms = objective(image(), image())
        terms.total.backward()
        weight.advance()
        assert all(term.device == torch.device(DEVICE) for term in terms)
        assert all(parameter.grad.device == torch.device(DEVICE) for parameter in objective.parameters())

    return step


def similarity(score) -> None:
    for mask in (None, image().detach()):
        warped = image()
        score(warped, image(), mask).backward()
        assert warped.grad.device == torch.device(DEVICE)


def regularity(score) -> None:
    tensors = field(), field()
    score(*map(Displacement, tensors), Grid(SHAPE)).backward()
    assert all(tensor.grad.device == torch.device(DEVICE) for tensor in tensors)


def answers(phi) -> None:
    """All that a map is asked."""
    phi, points = phi.of_tensors(lambda tensor: random(*tensor.shape)), random(2, DIM, 7)
    found = [phi(points), *phi.with_jacobian(points), phi.on(Grid(SHAPE)), phi.jacobian(points)]
    assert all(tensor.device == torch.device(DEVICE) for tensor in found)


def metrics() -> None:
    voxels = in_voxels(Displacement(field()).on(Grid(SHAPE)), Grid(SHAPE))
    found = [folds(voxels, rule) for rule in FOLD_RULES] + [ndv_percent(voxels), sdlogj(voxels)]
    labels = torch.zeros(SHAPE, dtype=torch.int64, device=DEVICE)
    found.append(sample_labels(labels, random(1, DIM, 7)))
    assert all(tensor.device == torch.device(DEVICE) for tensor in found)


def added() -> None:
    field() + torch.rand(2, DIM, *SHAPE)


def sampled() -> None:
    Displacement(field())(torch.rand(2, DIM, 7))


CONTROLS = {"sum of two devices": added, "points of another device": sampled}
"""What has to be wrong."""


def cases() -> Iterator[tuple[str, Callable[[], None]]]:
    networks = every_network(DIM, SHAPE)
    for name in NETWORKS:
        yield name, step_of(Predict(networks[name], Displacement), Constant(1.0))
    both = [Predict(net, Exponential) for net in every_network(DIM, SHAPE).values()][1:3]
    yield "two steps", step_of(TwoStep(Downsample(both[0]), both[1]), HoldBelow(1.0, 1.0, 0.0))
    net = Antisymmetric(AffineNet(DIM, down=(2, 4, 5), pooled=2, hidden=6))
    yield "affine", step_of(Predict(net, Affine.from_generator), Ramp(0.1, 1.0, 2))
    for name, score in SIMILARITIES.items():
        yield name, lambda score=score: similarity(score)
    for name, score in REGULARITIES.items():
        yield name, lambda score=score: regularity(score)
    for name, phi in every_map(DIM).items():
        if name != "identity":  # which has no tensor to follow
            yield f"map: {name}", lambda phi=phi: answers(phi)
    yield "metrics", metrics
    yield from CONTROLS.items()


def wrong(case: Callable[[], None]) -> str:
    try:
        with FakeTensorMode(allow_non_fake_inputs=False), Answers():
            case()
    except Exception:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    backend_registration._setup_privateuseone_for_python_backend("pretended", backend_module=Backend())
    json.dump({name: wrong(case) for name, case in cases()}, sys.stdout)
