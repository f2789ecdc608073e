"""One ICON training step, written with foldless and with icon_registration: same U-Net, same loss, same images.

Run as `python -m benchmarks.contestants NAME SHAPE BATCH`: prints its memory after the imports, then takes a step for
every line it reads and prints the seconds, and at the end the peak memory. `benchmarks.training_step` drives two of
these side by side.
"""

from __future__ import annotations

import resource
import sys
import time
import warnings
from collections.abc import Callable

LAMBDA = 2048.0
RATE = 1e-4


def foldless_step(shape: tuple[int, ...], batch: int, precision: str) -> Callable[[], None]:
    import torch

    import foldless

    recipe = foldless.Recipe(regularity="icon", weight=LAMBDA, similarity="mse", precision=precision)
    objective = foldless.build_objective(recipe, shape)
    optimiser = torch.optim.Adam(objective.parameters(), RATE, fused=True)
    image_A, image_B = torch.rand(batch, 1, *shape), torch.rand(batch, 1, *shape)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        objective(image_A, image_B).total.backward()
        optimiser.step()

    return step


def icon_step(shape: tuple[int, ...], batch: int) -> Callable[[], None]:
    import torch
    from icon_registration import losses, network_wrappers, networks

    net = networks.tallUNet2(dimension=len(shape))
    model = losses.InverseConsistentNet(
        network_wrappers.FunctionFromVectorField(net), losses.ssd_only_interpolated, LAMBDA
    )
    model.assign_identity_map((batch, 1, *shape))
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    image_A, image_B = torch.rand(batch, 1, *shape), torch.rand(batch, 1, *shape)

    def step() -> None:
        optimiser.zero_grad()
        model(image_A, image_B).all_loss.backward()
        optimiser.step()

    return step


def contestant(name: str, shape: tuple[int, ...], batch: int) -> Callable[[], None]:
    """The step of `foldless`, `foldless-float32` or `icon_registration`."""
    if name == "icon_registration":
        return icon_step(shape, batch)
    return foldless_step(shape, batch, "float32" if name.endswith("float32") else "auto")


def peak_memory() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def serve(prepare: Callable[[str, tuple[int, ...], int], Callable[[], None]]) -> None:
    """Be the contestant that the command names: a step for every line, its seconds and the memory above what is in."""
    warnings.simplefilter("ignore")
    baseline = peak_memory()
    step = prepare(sys.argv[1], tuple(map(int, sys.argv[2].split("x"))), int(sys.argv[3]))
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, peak_memory() - baseline, flush=True)


def main() -> None:
    warnings.simplefilter("ignore")
    import torch  # noqa: F401

    if sys.argv[1] == "icon_registration":
        import icon_registration.losses  # noqa: F401
    else:
        import foldless.build  # noqa: F401
    serve(contestant)


if __name__ == "__main__":
    main()
