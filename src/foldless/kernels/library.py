"""The compiled CPU kernels: which library is loaded, and why (not)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

VERSION = 12
"""Of the functions' arguments; the same number stands in `version.cpp`. An older library would be called wrongly."""

_DONE, _NO_MEMORY = 0, 1  # as in status.h

FOLDER = Path(__file__).parent
FILES = {"AVX512": "libfoldless-avx512.so", "AVX2": "libfoldless-avx2.so", "DEFAULT": "libfoldless.so"}


@cache
def library() -> tuple[ctypes.CDLL | None, str]:
    """The library that this processor runs best, and what it is; None where there is none, and why."""
    if os.environ.get("FOLDLESS_NATIVE", "1") == "0":
        return None, "switched off by FOLDLESS_NATIVE=0"
    level = torch.backends.cpu.get_cpu_capability()
    able = list(FILES)[list(FILES).index(level) :] if level in FILES else ["DEFAULT"]
    built = [name for name in able if (FOLDER / FILES[name]).is_file()]
    if not built:
        return None, "not built: there was no C++ compiler when foldless was installed"
    try:
        loaded = ctypes.CDLL(str(FOLDER / FILES[built[0]]))
        if loaded.foldless_version() != VERSION:
            return None, "of another version of foldless: install again"
    except (OSError, AttributeError) as error:
        return None, f"cannot be loaded: {error}"
    return loaded, f"compiled C++, {built[0].lower()} instructions"


def native_status() -> tuple[bool, str]:
    """Whether the compiled kernels are in use on the CPU, and why (not)."""
    found, why = library()
    return found is not None, why


def lanes() -> int:
    """Floats in a vector register of the loaded library; 0 where there is none."""
    found = library()[0]
    return int(found.foldless_lanes()) if found is not None else 0


def call(name: str, *arguments: Any) -> None:
    """Run a kernel of the loaded library: every call goes through here.

    Args:
        name: of the function in C, without "foldless_".
        arguments: what `ctypes` passes on; results are written to what some of them point at.

    Raises:
        MemoryError: the kernel found too little memory for itself; what it writes to is undefined then.
        RuntimeError: it failed otherwise.
    """
    compiled = library()[0]
    assert compiled is not None
    status = getattr(compiled, f"foldless_{name}")(*arguments)
    if status == _NO_MEMORY:
        raise MemoryError(
            f"not enough memory for the compiled kernel {name!r}: take fewer voxels or a smaller batch, "
            "or end other programs"
        )
    if status != _DONE:
        raise RuntimeError(
            f"the compiled kernel {name!r} failed with status {status}; its plain form serves where the environment "
            "variable FOLDLESS_NATIVE is 0"
        )


def threads_for(points: int) -> int:
    """How many threads so many points are worth: to wake another takes longer than to read some thousands."""
    return min(torch.get_num_threads(), 1 + points // 4096)


def pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    """A tensor's memory, or null.

    Raises:
        TypeError: it has none, as a tensor that is only traced.
    """
    address = None if tensor is None else tensor.data_ptr()
    if address == 0 and tensor is not None and tensor.numel():
        raise TypeError("a compiled kernel cannot be traced; set FOLDLESS_NATIVE=0 for its plain form")
    return ctypes.c_void_p(address)


def own_types(like: torch.Tensor) -> AbstractContextManager[Any]:
    """Autocast leaves alone what is computed inside, on the device of a tensor; there may be none on it, as on meta."""
    device = like.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


P = ParamSpec("P")
R = TypeVar("R")


def in_own_types(function: Callable[P, R]) -> Callable[P, R]:
    """The forward or backward of an autograd function, (ctx, tensor, ...), whose types autocast must leave alone."""

    @wraps(function)
    def run(*arguments: P.args, **named: P.kwargs) -> R:
        tensor: Any = arguments[1]
        with own_types(tensor):
            return function(*arguments, **named)

    return run
