"""Windows of nodes written out, so that convolutions become matrix products; channels-last memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from foldless.kernels.library import call, library, pointer

AT_ONCE = 2**21
"""Numbers written out before they are used: they stay in the cache."""


def windows(x: Tensor, nodes: Sequence[int], width: int) -> Iterator[tuple[slice, Tensor]]:
    """What every node of a lattice half as fine meets of x, a part of the nodes at a time; zeros outside x.

    Args:
        x: (batch, channels, *lattice).
        nodes: of that lattice along each axis.
        width: taps along each axis; the first lies one before the node's double.

    Yields:
        Which of the batch · nodes they are, and their windows (count, width^dim · channels). Each is overwritten by the
        next.
    """
    traced = torch.is_grad_enabled() or torch.compiler.is_compiling()  # differentiated again, or compiled
    known = x.device.type == "cpu" and width > 1 and x.ndim <= 5  # a width of 1 is that of an axis that does not exist
    if not known or traced or not x.numel() or library()[0] is None:
        yield slice(0, len(x) * prod(nodes)), _plain(x, nodes, width)
        return
    rows = x.movedim(1, -1).contiguous()
    a_line = nodes[-1] * width ** len(nodes) * rows.shape[-1]
    lines, last = max(AT_ONCE // a_line, 1), len(x) * prod(nodes[:-1])
    out = x.new_empty(min(lines, last) * nodes[-1], a_line // nodes[-1])
    for first in range(0, last, lines):
        count = min(lines, last - first)
        _call(rows, out, nodes, width, first, count)
        part = slice(first * nodes[-1], (first + count) * nodes[-1])
        yield part, out[: part.stop - part.start]


def _plain(x: Tensor, nodes: Sequence[int], width: int) -> Tensor:
    rows = x.movedim(1, -1)
    after = [2 * n + width - 3 - size for n, size in zip(nodes, x.shape[2:], strict=True)]
    rows = F.pad(rows, [0, 0, *[side for more in reversed(after) for side in (1, more)]])
    for axis in range(1, x.ndim - 1):
        rows = rows.unfold(axis, width, 2)
    rows = rows.movedim(x.ndim - 1, -1)
    return rows.reshape(len(x) * prod(nodes), width ** len(nodes) * x.shape[1])


def _call(rows: Tensor, out: Tensor, nodes: Sequence[int], width: int, first: int, lines: int) -> None:
    ones, of_a_node = [1] * (3 - len(nodes)), rows.shape[-1] * rows.element_size()
    lattices = (*ones, *rows.shape[1:-1], *ones, *nodes, *ones, *[width] * len(nodes))
    shape = (ctypes.c_int64 * 12)(*lattices, of_a_node, first, lines)
    call("windows", pointer(rows), pointer(out), shape, ctypes.c_int(torch.get_num_threads()))
