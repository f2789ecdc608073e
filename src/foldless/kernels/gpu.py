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
    """Sample once; the version that did it."""
    import triton

    from foldless.kernels import triton_sample

    values, points = torch.ones(1, 1, 2, device="cuda"), torch.full((1, 1, 1), 0.5, device="cuda")
    value, _ = triton_sample.sample(values, points, False)
    if value.item() != 1:
        raise RuntimeError(f"a sample of ones is {value.item()}")
    return str(triton.__version__)
