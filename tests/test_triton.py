"""The GPU's kernels: against plain torch under Triton's interpreter, as machine code, and on a GPU if there is one."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tables import DIMS, SHAPES, on_gpu, random_points
from torch.testing import assert_close
from triton_cases import CASES, CLOSE

from foldless import kernels
from foldless.kernels import gpu, native, plain
from foldless.maps import Displacement, Exponential
from foldless.networks import VoxelMorphUNet
from foldless.objective import Objective
from foldless.registration import Predict
from foldless.regularity import GradICON
from foldless.similarity import LNCC
from foldless.weighting import Constant

TESTS = Path(__file__).parent
has_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
DEVICES = [pytest.param("cpu", id="interpreter"), pytest.param("cuda", marks=on_gpu)]


def python(*arguments: str, **environment: str) -> str:
    """What another process says."""
    source = str(Path(kernels.__file__).parents[2])
    paths = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **environment, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)
    if "InterpreterError: TypeError('only 0-dimensional arrays" in done.stderr:
        pytest.skip("this Triton's interpreter makes no number of an array of this NumPy's")
    assert done.returncode == 0, done.stderr
    return done.stdout


def cases(what: str, folder: Path) -> dict:
    interpret = "1" if what == "cpu" else "0"
    return json.loads(
        python(str(TESTS / "triton_cases.py"), what, TRITON_INTERPRET=interpret, TRITON_CACHE_DIR=str(folder))
    )


@pytest.fixture(scope="module", params=DEVICES)
def wrong(request, tmp_path_factory):
    """What is wrong with each case."""
    return cases(request.param, tmp_path_factory.mktemp("triton"))


@has_triton
@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_the_triton_kernels_equal_the_plain_form(wrong, name):
    assert wrong[name] == ""


@has_triton
@pytest.mark.skipif(sys.platform != "linux", reason="Triton's compiler for GPUs comes for Linux")
def test_the_kernels_become_machine_code(tmp_path):
    """One atomic addition a corner where values have a gradient, none where they are read."""
    for name, additions in cases("compile", tmp_path).items():
        corners = 2 ** int(name.split()[1][0])
        assert additions == (corners if name.startswith("adjoint") else 0), name


# Without a GPU or without Triton


@pytest.mark.parametrize(("finds_gpu", "why"), [(False, "torch finds no GPU"), (True, "Triton is not installed")])
def test_the_status_says_why_plain_torch_serves(monkeypatch, finds_gpu, why):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: finds_gpu)
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    assert gpu.triton_status.__wrapped__() == (False, why)


def test_a_triton_that_fails_is_not_used(monkeypatch):
    def fail():
        raise RuntimeError("Failed to find C compiler.\nSet CC.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "find_spec", lambda name: object())
    monkeypatch.setattr(gpu, "_try_triton", fail)
    assert gpu.triton_status.__wrapped__() == (False, "Triton fails here: Failed to find C compiler.")


GRAPH = """
import torch
from foldless.grid import sample_with_jacobian
values, points = torch.randn(1, 2, 4, 5, 6, requires_grad=True), torch.rand(1, 3, 7)
compiled = torch.compile(sample_with_jacobian, fullgraph=True, backend="aot_eager")
for got, expected in zip(compiled(values, points), sample_with_jacobian(values, points)):
    assert torch.equal(got, expected)
"""


def test_sampling_breaks_no_graph():
    """In a process of its own: the checks of shapes in this one cannot be compiled."""
    python("-W", "error", "-c", GRAPH)


# On a GPU


@on_gpu
def test_the_kernels_are_in_use_where_there_is_triton():
    assert kernels.triton_status()[0] == (find_spec("triton") is not None), kernels.triton_status()[1]


@on_gpu
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("form", [native.sample, plain.sample], ids=["in use", "plain"])
def test_a_gpu_samples_like_a_cpu(dim, form):
    def everything(device):
        torch.manual_seed(0)
        values = torch.randn(2, 3, *SHAPES[dim], dtype=torch.float64).to(device).requires_grad_()
        points = random_points(dim, batch=2, count=300, low=-0.1, high=1.1).to(device).requires_grad_()
        value, jacobian = form(values, points, True)
        total = value.square().sum() + jacobian.sin().sum()
        return value, jacobian, *torch.autograd.grad(total, [values, points])

    for got, expected in zip(everything("cuda"), everything("cpu"), strict=True):
        assert got.is_cuda
        assert_close(got.cpu(), expected, **CLOSE[torch.float64])


@on_gpu
def test_a_gpu_can_be_deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    values = torch.randn(1, 3, 5, 6, 7, device="cuda", requires_grad=True)
    points = torch.rand(1, 3, 100_000, device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        one, other = (torch.autograd.grad(native.sample(values, points, False)[0].sum(), values)[0] for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(one, other)


@on_gpu
@pytest.mark.parametrize("as_map", [Displacement, Exponential])
def test_a_training_step_on_a_gpu_is_the_cpus(as_map):
    """In float64, in which no fast but rough multiplication is tried; at nodes and between them."""

    def after_two_steps(device):
        torch.manual_seed(0)
        net = VoxelMorphUNet(2, encoder=(4, 5), decoder=(6, 5), full=(3, 3))
        parts = Predict(net, as_map), LNCC(window=5), GradICON(), Constant(1.5)
        objective = Objective(*parts).double()
        for parameter in objective.registration.net.last.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        images = torch.rand(2, 2, 1, 16, 18, dtype=torch.float64).to(device)
        objective = objective.to(device)
        optimiser = torch.optim.SGD(objective.parameters(), 1e-3)
        for _ in range(2):
            optimiser.zero_grad()
            terms = objective(*images)
            terms.total.backward()
            optimiser.step()
        return terms.total.detach(), *(parameter.detach() for parameter in objective.parameters())

    for got, expected in zip(after_two_steps("cuda"), after_two_steps("cpu"), strict=True):
        assert got.is_cuda
        assert_close(got.cpu(), expected, rtol=1e-8, atol=1e-9)
