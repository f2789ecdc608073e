"""The rows that two checkouts can be timed on, and one row served; `benchmarks.beside` runs it in either of them.

`python -P rows.py list SIZE KIND ...` prints the rows of the checkout that PYTHONPATH names, as JSON; `python -P
rows.py serve KIND WORD ...` takes one of them once for every line it reads, as `benchmarks.contestants` does. The file
stands by itself, so that this checkout's serves an older one too, whatever that one has of benchmarks.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

Words = list[str]
Rows = dict[str, Words]
"""What a row is called, and the words that serve it."""


def operations(size: str) -> Iterator[tuple[str, Words]]:
    module = import_module("benchmarks.operations")
    for operation in module.operations((8,) * len(size.split("x"))):
        yield f"{operation.name}, {size}", ["operations", operation.name, size]


def steps(size: str) -> Iterator[tuple[str, Words]]:
    module = import_module("benchmarks.training_step")
    for case in module.CASES:
        for name in module.OURS:
            words = ["steps", case.task, name, "x".join(map(str, case.shape)), str(case.batch)]
            yield f"step of {case.name}, {name}", words


def inference(size: str) -> Iterator[tuple[str, Words]]:
    for shape in import_module("benchmarks.scaling").PAIRS:
        name = "x".join(map(str, shape))
        yield f"inference, {name}", ["steps", "inference", "foldless", name, "1"]


def cycle(size: str) -> Iterator[tuple[str, Words]]:
    module = import_module("benchmarks.cycle_step")
    shape = "x".join(map(str, module.CycleStep().size))
    yield f"step of the cycle, {shape}", ["cycle", module.OURS, shape]


KINDS: dict[str, Callable[[str], Iterator[tuple[str, Words]]]] = {
    "operations": operations,
    "steps": steps,
    "inference": inference,
    "cycle": cycle,
}


def listed(kinds: Words, size: str) -> Rows:
    """The rows of these kinds; none of a kind that the checkout does not know."""
    found: Rows = {}
    for kind in kinds:
        try:
            found |= dict(KINDS[kind](size))
        except (ImportError, AttributeError) as error:
            print(f"no {kind} there: {error}", file=sys.stderr)
    return found


def prepared(kind: str, words: Words) -> Callable[[], object]:
    """What is to be timed."""
    if kind == "operations":
        name, size = words
        every = import_module("benchmarks.operations").operations(_shape(size))
        (operation,) = (one for one in every if one.name == name)
        return operation.ours
    if kind == "cycle":
        name, size = words
        return import_module("benchmarks.cycle_contestants").contestant(name, _shape(size), 1)
    task, name, size, batch = words
    return import_module("benchmarks.contestants").contestant(task, name, _shape(size), int(batch))


def serve(call: Callable[[], object]) -> None:
    """Say ready; then, for every line that is read, the seconds of a call."""
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        call()
        print(time.perf_counter() - start, flush=True)


def _shape(size: str) -> tuple[int, ...]:
    return tuple(map(int, size.split("x")))


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["list"]:
        size, *kinds = sys.argv[2:]
        print(json.dumps(listed(kinds, size)))
    elif sys.argv[1:2] == ["serve"]:
        kind, *words = sys.argv[2:]
        serve(prepared(kind, words))
    else:
        print("usage: python -P rows.py list SIZE KIND ... | serve KIND WORD ...; `benchmarks.beside` has more to say")
