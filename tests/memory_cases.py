"""Runs every compiled kernel again and again, and refuses it one of its requests for memory each time.

Run by test_kernels_memory.py with scarce.cpp, compiled and loaded before all else: `memory_cases.py SCARCE`. Writes the
kernels and how many requests were refused to each.
"""

import ctypes
import itertools
import sys
from collections import Counter

import torch

from foldless.kernels.certify import certify_cells
from foldless.kernels.consistency import consistency, gradient_consistency
from foldless.kernels.correlation import Windows, mean_correlation
from foldless.kernels.doubling import residual_double
from foldless.kernels.halving import residual_halve
from foldless.kernels.jitter import Jittered, jittered
from foldless.kernels.library import library
from foldless.kernels.native import sample
from foldless.kernels.norm import normalise
from foldless.kernels.planar import add_convolved
from foldless.kernels.product import product, product_error
from foldless.kernels.simplices import judge
from foldless.kernels.squaring import squared
from foldless.kernels.thin import normalised_thin, thin
from foldless.kernels.windows import windows

torch.manual_seed(0)
torch.set_num_threads(2)


def leaf(*shape, wide=False):
    return torch.rand(*shape, dtype=torch.float64 if wide else torch.float32).requires_grad_()


def backward(function, *leaves):
    result = function(*leaves)
    result = result if isinstance(result, torch.Tensor) else result[0]
    return result.detach(), *torch.autograd.grad(result.sum(), leaves)


def of_samples(batch):
    """Of as many samples as threads, each is one thread's; one sample is shared by all."""
    field, other = 0.1 * torch.rand(2, batch, 2, 5, 6)
    points = torch.rand(batch, 2, 5000)
    return {
        f"sample of {batch}": lambda: backward(
            lambda v, p: sum(part.sum() for part in sample(v, p, with_jacobian=True)),
            leaf(batch, 3, 40, 50),
            leaf(batch, 2, 5000),
        ),
        f"squared {batch}": lambda: backward(squared, leaf(batch, 2, 70, 80)),
    } | {
        f"{function.__name__} of {batch} at {type(at).__name__}": lambda function=function, at=at: backward(
            lambda a, b: function([a], [b], at), field.requires_grad_(), other.requires_grad_()
        )
        for function in (consistency, gradient_consistency)
        for at in (points, Jittered((70, 80), 1))
    }


def correlation(batch, side, masked):
    mask = torch.ones(1, 1, side, side) if masked else None
    how = Windows([1.0] * 3, 1 / 3, 1e-5, squared=False)
    return lambda: backward(
        lambda a, b: mean_correlation(a, b, mask, how), leaf(batch, 1, side, side), leaf(batch, 1, side, side)
    )


def written_out():
    with torch.no_grad():
        return [met.clone() for _, met in windows(torch.rand(2, 3, 8, 9), (4, 5), 3)]


CASES = {
    **of_samples(1),
    **of_samples(2),
    "certify": lambda: certify_cells(0.9 * torch.rand(3, 5, 6, 7), torch.eye(3), 5, 500, 100).lower,
    "one image": correlation(1, 70, masked=True),
    "images": correlation(4, 20, masked=False),
    "jitter": lambda: jittered(1, 2, (50, 60), torch.float32, torch.device("cpu")),
    "normalise": lambda: backward(
        lambda x, w, b: normalise(x, w, b, 1e-5, False), leaf(2, 16, 5, 6), leaf(16), leaf(16)
    ),
    "add_convolved": lambda: backward(
        lambda y, x, w: add_convolved(y.clone(), x, w), leaf(2, 3, 5, 6), leaf(2, 2, 5, 6), leaf(3, 2, 3, 3)
    ),
    "product": lambda: backward(product, leaf(2, 2, 2, 50), leaf(2, 2, 2, 50)),
    "product_error": lambda: backward(product_error, leaf(2, 2, 2, 50), leaf(2, 2, 2, 50)),
    "judge": lambda: judge(torch.rand(1, 2, 9, 9), [[(1, 0), (0, 1)]], [1], (0, 1), zero_folds=True)[1],
    "residual_double": lambda: backward(residual_double, leaf(1, 16, 3, 4), leaf(16, 16, 4, 4), leaf(16)),
    "residual_halve": lambda: backward(residual_halve, leaf(1, 16, 6, 8), leaf(16, 16, 3, 3), leaf(16)),
    "thin": lambda: backward(thin, leaf(1, 16, 5, 6), leaf(2, 16, 3, 3), leaf(2)),
    "normalised_thin": lambda: backward(
        lambda x, s, c, w, b: normalised_thin(x, s, c, 1e-5, w, b)[0],
        *(leaf(1, 16, 5, 6), leaf(16), leaf(16), leaf(2, 16, 3, 3), leaf(2)),
    ),
    "windows": written_out,
}  # fmt: skip


class Scarce:
    """A function in C that is refused the n-th of its requests, the first time that it makes as many."""

    refused, after = Counter(), 0

    def __init__(self, name, function, memory):
        self.name, self.function, self.memory = name, function, memory

    def __call__(self, *arguments):
        self.memory.refuse_after(ctypes.c_long(Scarce.after))
        status = self.function(*arguments)
        without = self.memory.has_refused()
        self.memory.refuse_after(ctypes.c_long(-1))
        assert (status == 0) == (not without), (self.name, status)
        Scarce.refused[self.name] += without
        return status


def same(a, b):
    return all(map(torch.equal, [*a], [*b]))


def main(path):
    memory, compiled = ctypes.CDLL(path), library()[0]
    expected = {}
    for name, run in CASES.items():
        torch.manual_seed(0)
        expected[name] = run()
    functions = {name: f for name, f in vars(compiled).items() if name.startswith("foldless_")}
    for name, function in functions.items():
        if name not in ("foldless_version", "foldless_lanes"):
            setattr(compiled, name, Scarce(name, function, memory))
    for name, run in CASES.items():
        for Scarce.after in itertools.count():
            torch.manual_seed(0)
            try:
                result = run()
            except MemoryError:
                continue
            assert same(result, expected[name]), name
            break
    sys.stdout.writelines(f"{name} {Scarce.refused[name]}\n" for name in sorted(functions))


if __name__ == "__main__":
    main(sys.argv[1])
