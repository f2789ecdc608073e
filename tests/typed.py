"""While foldless is tested, types and shapes of what its functions take and give are checked, each once a call.

jaxtyping's own wrapper binds the arguments of every call and has them checked twice, so that it can say more where they
are wrong; where calls are many and small it took most of the time.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial, wraps
from types import FunctionType, SimpleNamespace
from typing import Any, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

by_jaxtyping = jaxtyping.jaxtyped
CONF = BeartypeConf(violation_type=TypeError)
SHAPES = by_jaxtyping("context")
"""Within it a name stands for one length."""


def install() -> None:
    """Have jaxtyping's hook, which pyproject.toml asks for, decorate functions and dataclasses by what is here."""
    jaxtyping.jaxtyped = jaxtyped


def jaxtyped(thing: Any = None, *, typechecker: Callable) -> Any:
    if thing is None:
        return partial(jaxtyped, typechecker=typechecker)
    if inspect.isclass(thing) and dataclasses.is_dataclass(thing) and isinstance(thing.__init__, FunctionType):
        if not hasattr(thing.__init__, "__wrapped__"):  # or it is inherited, and checked already
            thing.__init__ = checked(thing.__init__)
        return thing
    if isinstance(thing, FunctionType) and not inspect.isgeneratorfunction(thing):
        return checked(thing)
    return by_jaxtyping(thing, typechecker=typechecker)


def checked(function: FunctionType) -> FunctionType:
    before = function.__annotations__
    function.__annotations__ = known(before, function.__globals__)
    typed = beartype(function, conf=CONF)
    function.__annotations__ = before
    if typed is function:  # nothing is annotated
        return function

    @wraps(function)
    def call(*args: object, **kwargs: object) -> object:
        __tracebackhide__ = True
        with SHAPES:
            return typed(*args, **kwargs)

    return call


def known(annotations: dict[str, object], names: dict[str, object]) -> dict[str, object]:
    """Those that the names of a module explain, as jaxtyping does; its own class is no such name yet."""
    found = {}
    for name, annotation in annotations.items():
        try:
            found |= get_type_hints(SimpleNamespace(__annotations__={name: annotation}), names, include_extras=True)
        except (NameError, AttributeError, TypeError):
            continue
    return found
