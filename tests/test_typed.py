"""Types and shapes are checked while the tests run: of arguments, of results, of what a dataclass is made of."""

from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from typed import checked, jaxtyped

import foldless
from foldless.grid import Grid


@checked
def product(a: Float[Tensor, "rows inner"], b: Float[Tensor, "inner columns"]) -> Float[Tensor, "rows columns"]:
    return a @ b if len(a) > 1 else b


def test_a_name_stands_for_one_length():
    assert product(torch.ones(2, 3), torch.ones(3, 4)).shape == (2, 4)
    for a, b in (((2, 3), (4, 4)), ((2, 3, 1), (3, 4)), ((1, 3), (3, 4))):  # of the last the result is wrong
        with pytest.raises(TypeError, match="violates type hint"):
            product(torch.ones(*a), torch.ones(*b))
    with pytest.raises(TypeError, match="violates type hint"):
        product(torch.ones(2, 3, dtype=torch.int32), torch.ones(3, 4))


def test_a_dataclass_is_made_of_what_it_says():
    @dataclass
    class Pair:
        one: Float[Tensor, " count"]
        other: Float[Tensor, " count"]

    made = jaxtyped(Pair, typechecker=None)
    made(torch.ones(2), torch.ones(2))
    with pytest.raises(TypeError, match="violates type hint"):
        made(torch.ones(2), torch.ones(3))


def test_foldless_is_checked():
    with pytest.raises(TypeError, match="violates type hint"):
        Grid("no shape")
    with pytest.raises(TypeError, match="violates type hint"):
        foldless.folds("no field", "ten")
