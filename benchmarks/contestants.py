"""Training steps and inference, written with foldless and with its peers: same network, same loss, same images.

Run as `python -m benchmarks.contestants TASK NAME SHAPE BATCH [DEVICE]`: prints its memory after the imports, then
takes a step for every line it reads and prints the seconds and the peak memory. `benchmarks.training_step` drives
several of these side by side.
"""

from __future__ import annotations

import resource
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import tyro
from tyro.conf import Positional

Step = Callable[[], None]

LAMBDA = {"icon": 2048.0, "gradicon": 1.5, "voxelmorph": 1.0}
RATE = 1e-4
PEERS = {"icon": ("icon_registration",), "gradicon": ("icon_registration",), "voxelmorph": ("monai", "voxelmorph")}
"""Who else takes a step of each task."""


def missing(name: str) -> str:
    """Why a contestant cannot take part; empty where it can."""
    if name == "voxelmorph":
        return "its torch form has neither this network nor LNCC" if find_spec(name) else "not installed"
    return "" if name.startswith("foldless") or find_spec(name) else "not installed"


def foldless_step(task: str, shape: tuple[int, ...], batch: int, precision: str, device: str) -> Step:
    import torch

    import foldless
    from foldless.memory import settle_memory
    from foldless.training.optimiser import Adam

    settle_memory()  # as every command of foldless does
    if task == "voxelmorph":
        terms = {"network": "voxelmorph", "similarity": "lncc-squared", "regularity": "diffusion"}
    else:
        terms = {"similarity": "mse", "regularity": task}
    recipe = foldless.Recipe(weight=LAMBDA[task], precision=precision, **terms)
    objective = foldless.build_objective(recipe, shape).to(device)
    optimiser = Adam(objective.parameters(), RATE)  # as trainings do
    image_A, image_B = torch.rand(2, batch, 1, *shape, device=device)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        objective(image_A, image_B).total.backward()
        optimiser.step()

    return step


def inference(shape: tuple[int, ...], batch: int, precision: str, device: str) -> Step:
    """The map between the images of a pair, at the fixed one's voxels, and the moving one warped by it."""
    import torch

    import foldless

    recipe = foldless.Recipe(precision=precision)
    registration = foldless.build_objective(recipe, shape).registration.to(device).eval()
    image_A, image_B = torch.rand(2, batch, 1, *shape, device=device)

    def step() -> None:
        with torch.inference_mode():
            foldless.warp(image_A, registration(image_A, image_B), foldless.Grid(shape))

    return step


def icon_step(task: str, shape: tuple[int, ...], batch: int, device: str) -> Step:
    import torch
    from icon_registration import losses, network_wrappers, networks

    net = networks.tallUNet2(dimension=len(shape))
    loss = losses.InverseConsistentNet if task == "icon" else losses.GradientICON
    model = loss(network_wrappers.FunctionFromVectorField(net), losses.ssd_only_interpolated, LAMBDA[task])
    model.assign_identity_map((batch, 1, *shape))
    model.to(device)
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    image_A, image_B = torch.rand(2, batch, 1, *shape, device=device)

    def step() -> None:
        optimiser.zero_grad()
        model(image_A, image_B).all_loss.backward()
        optimiser.step()

    return step


def contestant(task: str, name: str, shape: tuple[int, ...], batch: int, device: str = "cpu") -> Step:
    """One step of a task: by `foldless`, `foldless-float32` or one of the task's peers."""
    if name == "icon_registration":
        return icon_step(task, shape, batch, device)
    if name == "monai":
        from benchmarks.monai_voxelmorph import monai_step

        return monai_step(shape, batch, LAMBDA[task], RATE, device)
    precision = "float32" if name.endswith("float32") else "auto"
    if task == "inference":
        return inference(shape, batch, precision, device)
    return foldless_step(task, shape, batch, precision, device)


def peak_memory(device: str) -> float:
    """MiB, of the device."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    import torch

    return torch.cuda.max_memory_allocated() / 2**20


def wait_for(device: str) -> None:
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


@dataclass(frozen=True)
class Contestant:
    """Take a training step, or an inference, for every line on standard input; print its seconds and memory in MiB."""

    task: Positional[Literal["icon", "gradicon", "voxelmorph", "inference"]]
    name: Positional[str]
    """foldless, foldless-float32, or a peer of the task."""
    shape: Positional[str]
    """Voxels an axis, as 80x80x80."""
    batch: Positional[int] = 1
    device: Positional[str] = "cpu"


def main() -> None:
    warnings.simplefilter("ignore")
    options = tyro.cli(Contestant)
    name, device = options.name, options.device
    shape = tuple(map(int, options.shape.split("x")))
    import torch
    import torch._dynamo  # noqa: F401  the optimisers import it when they are made

    if name == "icon_registration":
        import icon_registration.losses  # noqa: F401
    elif name == "monai":
        import benchmarks.monai_voxelmorph  # noqa: F401
    else:
        import foldless.build  # noqa: F401
    serve(lambda: contestant(options.task, name, shape, options.batch, device), device)


def serve(prepare: Callable[[], Step], device: str = "cpu") -> None:
    """Take a step for every line that is read; say its seconds, and the peak memory above that of the imports."""
    baseline = peak_memory(device)
    step = prepare()
    print("ready", flush=True)
    for _ in sys.stdin:
        wait_for(device)
        start = time.perf_counter()
        step()
        wait_for(device)
        print(time.perf_counter() - start, peak_memory(device) - baseline, flush=True)


if __name__ == "__main__":
    main()
