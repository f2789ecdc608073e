"""The GPU kernels: whether Triton runs them here, and why (not)."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

import torch


@cache
def triton_status() -> tuple[bool, str]:
    """Whether the Triton kernels are in use on the GPU, and why (not)."""
    if os.environ.get("FOLDLESS_NATIVE", "1") == "0":
        return False, "switched off by FOLDLESS_NATIVE=0"
    if not torch.cuda.is_available():
        return False, "torch finds no GPU"
    if find_spec("triton") is None:
        return False, "Triton is not installed"
    try:
        return True, f"Triton {_try_triton()}"
    except Exception as error:  # an old GPU, no C compiler, no headers of Python: whatever it is, plain torch works
        return False, f"Triton fails here: {(str(error).splitlines() or [type(error).__name__])[0]}"


def _try_triton() -> str:
    """Read and scatter once; the version that did it."""
    import triton

    from foldless.kernels import triton_sample

    values, points = torch.ones(1, 1, 2, 2, 2, device="cuda"), torch.full((1, 3, 1), 0.5, device="cuda")
    value, jacobian = triton_sample.sample(values, points, True)
    g_values, _ = triton_sample.sample_backward(values, points, value, jacobian, True, True)
    found = value.sum().item(), jacobian.sum().item(), g_values.sum().item()
    if found != (1, 0, 1):
        raise RuntimeError(f"sampling ones comes to {found}")
    return str(triton.__version__)
