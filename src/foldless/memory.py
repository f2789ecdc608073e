"""How the process asks the system for memory; a training step frees as much as it allocates, again and again."""

from __future__ import annotations

import ctypes
import os
import sys

LARGE = 1 << 28
"""Bytes from which freed memory goes back to the system; 4 MiB would take a fifth less memory and a quarter longer."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h


def settle_memory() -> None:
    """Keep what a step frees for the next one, and put large tensors on large pages; does nothing but on Linux.

    To be called before the first large tensor is made: torch looks once. It saves an eighth of a step on volumes of 80
    nodes an axis. What the user has set in the environment stays.
    """
    if not sys.platform.startswith("linux"):
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    library.mallopt(_MMAP_THRESHOLD, LARGE)
    library.mallopt(_TRIM_THRESHOLD, 1 << 30)
