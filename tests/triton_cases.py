"""The Triton kernels beside plain torch: `python triton_cases.py DEVICE` says what is wrong with each case, as JSON.

A process of its own, since Triton reads TRITON_INTERPRET once. `python triton_cases.py compile` makes machine code
for a GPU, which takes none, and counts the atomic additions in each kernel.
"""

import json
import re
import sys
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.testing import assert_close

SHAPES = [(9,), (1,), (2,), (5, 6), (1, 5), (4, 2), (5, 4, 6), (1, 3, 2)]
# The same sums in another order, of terms about 1; derivatives are larger by the lattice, gradients by the points.
CLOSE = {torch.float32: {"rtol": 2e-5, "atol": 5e-4}, torch.float64: {"rtol": 1e-11, "atol": 1e-10}}
GPU = 80
"""Compute capability of an A100."""


@dataclass(frozen=True)
class Case:
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float64
    channels: int = 2
    with_jacobian: bool = True
    layout: str = "dense"
    """Or "strided", "one for all" (samples of values, and of points, that serve a batch), "no sample", "no point"."""
    arriving: str = "both"
    """Which gradients: "both", "value" or "jacobian"."""
    wanted: str = "both"
    """By what: "both", "values" or "points"."""
    points: int = 24
    """Of each kind."""

    @property
    def name(self) -> str:
        words = (str(self.dtype).removeprefix("torch."), f"{self.channels} channels", self.layout)
        jacobian = ("with jacobian",) if self.with_jacobian else ()
        flow = f"{self.arriving} to {self.wanted}"
        return ", ".join(["x".join(map(str, self.shape)), *words, *jacobian, flow, f"{self.points} points"])


CUBE = (3, 2, 4)
CASES = [
    *(Case(shape) for shape in SHAPES),
    *(Case(shape, torch.float32) for shape in SHAPES[::3]),
    *(Case(shape, with_jacobian=False, arriving="value") for shape in SHAPES[::3]),
    *(Case(shape, channels=channels) for shape, channels in (((5, 6), 1), (CUBE, 3))),
    Case(CUBE, points=60),  # more than a program takes
    *(Case(shape, layout=layout) for shape in ((5, 6), CUBE) for layout in ("strided", "one for all")),
    *(Case((5, 6), layout=layout) for layout in ("no sample", "no point")),
    *(Case(CUBE, wanted=wanted) for wanted in ("values", "points")),
    *(Case(CUBE, arriving=arriving) for arriving in ("value", "jacobian")),
]


def inputs(case: Case) -> tuple[Tensor, Tensor]:
    """Values and points: inside, outside, on nodes, on the border, far away, infinite, and some that are no numbers."""
    dim, batch = len(case.shape), 0 if case.layout == "no sample" else 2
    values = torch.randn(batch, case.channels, *case.shape, dtype=case.dtype)
    last = torch.tensor([max(n - 1, 1) for n in case.shape])[:, None]
    inner = torch.rand(batch, dim, case.points, dtype=case.dtype)
    nodes = (inner * last).round() / last
    border = torch.where(torch.rand_like(inner) < 0.5, inner.round(), inner)
    kinds = [inner, 3 * inner - 1, nodes, border, 1e6 * (inner - 0.5)]
    if min(case.shape) > 1:
        odd = inner[..., :2].clone()
        odd[..., 0], odd[:, 0, 1] = torch.inf, torch.nan
        kinds.append(odd)
    points = torch.cat(kinds, dim=2)[..., : 0 if case.layout == "no point" else None]
    if case.layout == "one for all":
        return values[:1].expand(2, *values.shape[1:]), points[:1].expand(2, -1, -1)
    if case.layout == "strided":
        return values.movedim(1, -1).contiguous().movedim(-1, 1), points.movedim(1, -1).contiguous().movedim(-1, 1)
    return values, points


def check(case: Case, device: str) -> str:
    """What is wrong, nothing where all is right."""
    from foldless.kernels import native, plain

    torch.manual_seed(zlib.crc32(case.name.encode()))
    values, points = inputs(case)
    leaves = [values.detach().requires_grad_(), points.detach().requires_grad_()]
    value, jacobian = plain.sample(*leaves, case.with_jacobian)
    outputs = [value] if jacobian is None else [value, jacobian]
    arriving = [torch.randn_like(output) for output in outputs]
    skipped = {"value": 1, "jacobian": 0, "both": 2}[case.arriving]
    kept = [pair for i, pair in enumerate(zip(outputs, arriving, strict=True)) if i != skipped]
    gradients = torch.autograd.grad([pair[0] for pair in kept], leaves, [pair[1] for pair in kept])

    there = [tensor.to(device) for tensor in (values, points)]
    g_value, g_jacobian = (arriving[i].to(device) if i < len(arriving) and i != skipped else None for i in range(2))
    wants = [case.wanted in ("both", name) for name in ("values", "points")]
    got_value, got_jacobian = native._sample_on_gpu(*there, case.with_jacobian)
    got_gradients = native._sample_backward_on_gpu(*there, g_value, g_jacobian, *wants)
    compared = {"value": (got_value, value)}
    if jacobian is not None:
        compared["jacobian"] = (got_jacobian, jacobian)
    for name, wanted, got, expected in zip(("by values", "by points"), wants, got_gradients, gradients, strict=True):
        compared[name] = (got, expected if wanted else expected.new_zeros(0))
    for name, (ours, referee) in compared.items():
        try:
            assert_close(ours.cpu(), referee.detach(), equal_nan=True, **CLOSE[case.dtype])
        except AssertionError as error:
            return f"{name}: {error}"
    return ""


def machine_code() -> dict[str, int]:
    """How many atomic additions each kernel has."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from foldless.kernels import triton_sample

    counts = {}
    flags = {"OF_VALUE": True, "OF_JACOBIAN": True, "FOR_VALUES": True, "FOR_POINTS": True}
    for name, kernel, options in (
        ("read", triton_sample._read, {"WITH_JACOBIAN": True}),
        ("adjoint", triton_sample._adjoint, flags),
    ):
        for dim, dtype in ((1, "fp32"), (2, "fp32"), (3, "fp32"), (3, "fp64")):
            constants = {"DIM": dim, "POINTS": triton_sample.POINTS, **options}
            types = {
                argument: "i64" if argument in triton_sample._SIZES else f"*{dtype}" for argument in kernel.arg_names
            }
            source = ASTSource(kernel, {**types, **dict.fromkeys(constants, "constexpr")}, constants)
            made = triton.compile(source, target=GPUTarget("cuda", GPU, 32), options={"enable_fp_fusion": True})
            assert made.asm["cubin"]
            counts[f"{name} {dim}-D {dtype}"] = len(re.findall(r"\b(?:red|atom)\.", made.asm["ptx"]))
    return counts


if __name__ == "__main__":
    what = sys.argv[1]
    json.dump(machine_code() if what == "compile" else {case.name: check(case, what) for case in CASES}, sys.stdout)
