"""foldless' operations beside those a user would pick instead, in turn: `python -m benchmarks.operations`.

Every operation is timed forward and backward, but NDV and the certificate, which have no gradient, on one float32
sample and a smooth displacement of a few voxels. GB/s counts each input and each output once, as if nothing else went
through memory; the share is of what a copy of 256 MiB reaches here. MONAI is optional. Another device than the CPU is
named by --device.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from benchmarks.contestants import wait_for
from benchmarks.results import Result
from foldless.grid import Grid, sample
from foldless.maps import Displacement, Exponential
from foldless.metrics import folds_percent, jacobian, ndv_percent
from foldless.metrics.certificate import certify_field
from foldless.regularity import ICON, GradICON
from foldless.similarity import LNCC

Call = Callable[[], object]

SHAPE = (96, 96, 96)
TURNS = 5
VOXELS = 3.0
"""Largest displacement, about."""


@dataclass(frozen=True)
class Operation:
    """Ours, what a user would have instead (None where it is not installed), and the numbers that have to be moved."""

    name: str
    numbers: int
    ours: Call
    peer_name: str = ""
    peer: Call | None = None


def operations(shape: tuple[int, ...]) -> list[Operation]:
    nodes, dim = prod(shape), len(shape)
    field, image = displacement(shape), torch.rand(1, 1, *shape)
    other, target, warped = displacement(shape), torch.rand(1, 1, *shape), torch.rand(1, 1, *shape).requires_grad_()
    points = (Grid(shape).points() + other).requires_grad_()
    places = (2 * points.detach().flip(1).movedim(1, -1) - 1).contiguous().requires_grad_()
    voxels = Displacement(field).voxels.detach()
    lncc, maps, fields = LNCC(window=9, squared=True), (Displacement(field), Displacement(other)), [field, other]

    def grid_sample(values: Tensor) -> Tensor:
        return F.grid_sample(values, places, align_corners=True, padding_mode="border")

    return [
        Operation(
            "sample an image",
            nodes * (2 + 3 * dim),
            lambda: step(sample(image, points), [points]),
            "grid_sample",
            lambda: step(grid_sample(image), [places]),
        ),
        Operation(
            "compose",
            nodes * 8 * dim,
            lambda: step(sample(field, points), [field, points]),
            "grid_sample",
            lambda: step(grid_sample(field), [field, places]),
        ),
        Operation(
            "exponential",
            nodes * 4 * dim,
            lambda: step(Exponential(field).on(Grid(shape)), [field]),
            "MONAI DVF2DDF",
            monai_exponential(field),
        ),
        Operation(
            "LNCC 9",
            nodes * 4,
            lambda: step(lncc(warped, target), [warped]),
            "MONAI",
            monai_lncc(warped, target),
        ),
        Operation("ICON", nodes * 4 * dim, lambda: step(ICON()(*maps, Grid(shape)), fields)),
        Operation("GradICON", nodes * 4 * dim, lambda: step(GradICON()(*maps, Grid(shape)), fields)),
        Operation(
            "NDV",
            nodes * (dim + 1),
            lambda: ndv_percent(voxels),
            "plain torch",
            lambda: jacobian._negative(voxels),
        ),
        Operation(
            "certificate",
            nodes * (dim + 1),
            lambda: certify_field(voxels[0], torch.eye(dim)),
            "folds, rule of ten",
            lambda: folds_percent(voxels, "ten"),
        ),
    ]


def displacement(shape: tuple[int, ...]) -> Tensor:
    """Smooth, of about `VOXELS` voxels, (1, dim, *shape), unit-cube units."""
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape)]
    coarse = torch.randn(1, len(shape), *[6] * len(shape))
    field = F.interpolate(coarse, size=shape, mode=mode, align_corners=True)
    return Displacement.from_voxels(VOXELS / 2 * field).field.requires_grad_()


def step(result: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(result, inputs, torch.ones_like(result))


def monai_exponential(velocity: Tensor) -> Call | None:
    if find_spec("monai") is None or velocity.ndim == 3:
        return None
    from monai.networks.blocks import DVF2DDF

    integrate = DVF2DDF()
    return lambda: step(integrate(Displacement(velocity).voxels), [velocity])


def monai_lncc(warped: Tensor, target: Tensor) -> Call | None:
    if find_spec("monai") is None:
        return None
    from monai.losses import LocalNormalizedCrossCorrelationLoss

    loss = LocalNormalizedCrossCorrelationLoss(spatial_dims=warped.ndim - 2, kernel_size=9, kernel_type="rectangular")
    return lambda: step(loss(warped, target), [warped])


def seconds(call: Call, device: str = "cpu") -> float:
    start = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - start


def in_turn(calls: list[Call], device: str = "cpu") -> list[float]:
    """Median seconds of each, taken in turn with the others; the first turn warms up."""
    turns = [[seconds(call, device) for call in calls] for _ in range(TURNS + 1)]
    return [median(times) for times in zip(*turns[1:], strict=True)]


def copy_bandwidth(device: str = "cpu") -> float:
    """Bytes a second, read and written."""
    source = torch.rand(2**26, device=device)
    to = torch.empty_like(source)
    return 2 * 4 * source.numel() / in_turn([lambda: to.copy_(source)], device)[0]


def timed(shape: tuple[int, ...], device: str = "cpu") -> list[tuple[Operation, float, float | None]]:
    """Every operation, its median seconds and those of its peer."""
    found = []
    with nullcontext() if device == "cpu" else torch.device(device):
        for operation in operations(shape):
            ours, *peers = in_turn([call for call in (operation.ours, operation.peer) if call is not None], device)
            found.append((operation, ours, peers[0] if peers else None))
    return found


def results(found: list[tuple[Operation, float, float | None]], shape: tuple[int, ...]) -> list[Result]:
    rows = []
    for operation, ours, theirs in found:
        case = f"{operation.name}, {' x '.join(map(str, shape))}"
        rows.append(Result("operation", case, "foldless", ours))
        if operation.peer_name:
            note = "not installed" if theirs is None else ""
            rows.append(Result("operation", case, operation.peer_name, theirs, note=note))
    return rows


def show(found: list[tuple[Operation, float, float | None]], shape: tuple[int, ...], device: str = "cpu") -> None:
    copying = copy_bandwidth(device)
    where = f"{torch.get_num_threads()} threads, CPU" if device == "cpu" else torch.cuda.get_device_name(device)
    title = f"forward and backward, {'x'.join(map(str, shape))}, {where}"
    digits = 1 if device == "cpu" else 2
    columns = ("operation", "ms", "GB/s", "of copying", "peer", "its ms", "times faster")
    table = Table(*columns, title=title)
    for operation, ours, theirs in found:
        speed = 4 * operation.numbers / ours
        missing = "not installed" if operation.peer_name else ""
        compared = (missing, "") if theirs is None else (f"{1e3 * theirs:.{digits}f}", f"{theirs / ours:.1f}")
        rates = f"{1e3 * ours:.{digits}f}", f"{speed / 1e9:.1f}", f"{speed / copying:.0%}"
        table.add_row(operation.name, *rates, operation.peer_name, *compared)
    Console(width=110).print(table)


@dataclass(frozen=True)
class Operations:
    """Time foldless' operations beside those a user would pick instead."""

    size: tuple[int, ...] = SHAPE
    """Voxels an axis, one to three of them."""
    device: str = "cpu"


def main() -> None:
    options = tyro.cli(Operations)
    shape, device = options.size, options.device
    show(timed(shape, device), shape, device)


if __name__ == "__main__":
    main()
