"""Which derivatives the kernels have: first ones, backwards. Others are refused with a sentence, never left out."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

FORWARD = (
    "a kernel of foldless has no derivative in forward mode; take it in reverse mode, by backward or autograd.grad"
)
SECOND = (
    "a compiled kernel of foldless has no second derivative, so its first one cannot be taken with create_graph=True; "
    "leave that out, or set FOLDLESS_NATIVE=0 for its plain form"
)

P = ParamSpec("P")
R = TypeVar("R")


class Reverse(torch.autograd.Function):
    """An autograd function that refuses forward mode; torch itself refuses to batch it, by vmap, or to transform it."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(FORWARD)


def once(backward: Callable[P, R]) -> Callable[P, R]:
    """A backward whose arithmetic autograd cannot see, so that it must not be differentiated itself.

    `once_differentiable` is not enough: where no gradient that arrives has a graph, as that of a loss has none, it lets
    the second derivative of a sum be taken without that of this term.

    Raises:
        NotImplementedError: it is asked for with create_graph=True.
    """

    @wraps(backward)
    def run(*arguments: P.args, **named: P.kwargs) -> R:
        if torch.is_grad_enabled():
            raise NotImplementedError(SECOND)
        return backward(*arguments, **named)

    return run


def has_tangent(*tensors: Tensor) -> bool:
    """Whether derivatives are taken in forward mode by any of these."""
    if forward_ad._current_level < 0:
        return False
    duals = map(forward_ad.unpack_dual, tensors)
    return any(dual.tangent is not None for dual in duals)
