"""What public functions ask of what they are given, and the sentence where something else came."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def check_whole(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} is a whole number; got {described(value)}")
    if value < least:
        raise ValueError(f"{name} is {least} or more; got {value}")


def check_number(name: str, value: Any, least: float = -inf, above: float = -inf) -> None:
    """Refuse what is no finite number of at least `least` and larger than `above`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is a number; got {described(value)}")
    if not (isfinite(value) and float(value) >= least and float(value) > above):
        limit = f" above {above:g}" if above > -inf else f" of {least:g} or more" if least > -inf else ""
        raise ValueError(f"{name} is a finite number{limit}; got {value}")


def check_flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is True or False; got {described(value)}")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse what is none of some words."""
    if not isinstance(value, str) or value not in choices:
        kind = ValueError if isinstance(value, str) else TypeError
        raise kind(f"{name} is {' or '.join(map(repr, choices))}; got {described(value)}")


def check_tensor(name: str, value: Any, shape: str, least_axes: int = 3) -> None:
    """Refuse what is no tensor of real numbers with so many axes; `shape` says what they are, for the sentence."""
    if not isinstance(value, Tensor):
        hint = "; torch.as_tensor(...) makes one of an array" if hasattr(value, "__array__") else ""
        raise TypeError(f"{name} is a tensor {shape}; got {described(value)}{hint}")
    if value.is_complex():
        raise TypeError(f"{name} holds real numbers; got {value.dtype}: take its absolute value or its real part")
    if value.ndim < least_axes:
        raise ValueError(
            f"{name} is a tensor {shape}; got one of shape {tuple(value.shape)}: add the axes it lacks, as in x[None]"
        )


def all_finite(values: Tensor) -> bool:
    """Whether no value is infinite or not a number."""
    if bool(torch.isfinite(values.sum())):  # proves it, in a fraction of the time of looking at each
        return True
    return bool(torch.isfinite(values).all())


def described(value: Any) -> str:
    """What came, in a few words."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"a {type(value).__module__}.{type(value).__name__} of shape {tuple(value.shape)}"
    return f"{value!r:.60} ({type(value).__name__})"
