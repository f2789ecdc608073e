"""Pairs: random ones never pair an image with itself, held-out ones are fixed and different."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foldless.data.images import ImageSet, RandomPairs, ordered_pairs
from foldless.errors import InputError
from foldless.grid import Grid


def numbered(count):
    """Images whose every pixel is their number."""
    images = torch.arange(count, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 3).contiguous()
    return ImageSet(images, tuple(map(str, range(count))), (1.0, 1.0))


@given(st.integers(2, 12), st.integers(1, 40), st.integers(0, 5))
def test_ordered_pairs_are_different_pairs_of_different_cases(count, wanted, seed):
    pairs = ordered_pairs(count, wanted, seed)
    assert len(pairs) == len(set(pairs)) == min(wanted, count * (count - 1))
    assert all(i != j and 0 <= i < count and 0 <= j < count for i, j in pairs)
    assert pairs == ordered_pairs(count, wanted, seed)


def test_all_pairs_where_there_are_few():
    assert set(ordered_pairs(3, 100)) == {(i, j) for i in range(3) for j in range(3) if i != j}


def test_another_seed_draws_other_pairs():
    assert ordered_pairs(30, 10, seed=0) != ordered_pairs(30, 10, seed=1)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_random_pairs_never_pair_an_image_with_itself(count):
    a, b = RandomPairs(numbered(count), batch=500).draw()
    first, second = a[:, 0, 0, 0].int().tolist(), b[:, 0, 0, 0].int().tolist()
    assert len(set(zip(first, second, strict=True))) == count * (count - 1)  # and every other pair comes
    assert all(i != j for i, j in zip(first, second, strict=True))


def test_random_pairs_follow_torchs_seed():
    pairs = RandomPairs(numbered(9), batch=4)
    torch.manual_seed(5)
    first = pairs.draw()
    torch.manual_seed(5)
    assert all(torch.equal(x, y) for x, y in zip(first, pairs.draw(), strict=True))


def test_a_pair_takes_two():
    with pytest.raises(InputError, match="two"):
        RandomPairs(numbered(1), batch=1)


def test_the_digest_tells_images_apart():
    images = numbered(3)
    assert images.digest() == numbered(3).digest()
    assert images.digest() != images.pick([0, 2, 1]).digest()
    assert images.pick([2, 0]).names == ("2", "0")


def test_the_digest_tells_labels_apart_and_knows_records_without_them():
    images = numbered(3)
    labels = images.images[:, 0].int()
    marked, other = replace(images, labels=labels), replace(images, labels=labels + 1)
    assert marked.digest() == replace(images, labels=labels.long()).digest() == json.loads(json.dumps(marked.digest()))
    assert marked.digest() != other.digest()
    assert str(marked.digest()) != json.loads(json.dumps(other.digest()))
    assert json.dumps(marked.digest()) != json.dumps(images.digest())
    earlier = hashlib.sha256(images.images.numpy().tobytes()).hexdigest()
    assert marked.digest() == earlier, "what commits recorded that left labels out"
    assert (marked.digest() != earlier) is False
    assert images.pick([0, 2, 1]).digest() != earlier
    assert marked.digest() != 3


def test_a_pair_is_mirrored_alike():
    """Both images of a pair show the same turn, every turn comes up, and samples turn by themselves."""
    corner = torch.zeros(4, 1, 3, 3, 3)
    corner[:, :, 0, 0, 0] = torch.arange(1.0, 5)[:, None]
    images = ImageSet(corner, tuple("abcd"), (1.0, 1.0, 1.0))
    pairs, seen = RandomPairs(images, 4, mirror=True), set()
    for _ in range(50):
        a, b = pairs.draw()
        assert torch.equal(a > 0, b > 0)
        assert not torch.equal(a, b)
        seen |= {tuple(map(int, place)) for place in (a[:, 0] > 0).nonzero()[:, 1:]}
    assert len(seen) == 8


def test_every_image_moves_by_an_affine_map_of_its_own():
    """A ramp along each axis becomes another plane: near the middle its slope is a row of the matrix."""
    ramp = Grid((17, 19)).points()[0]
    images = ImageSet(torch.stack([ramp, ramp]), ("a", "b"), (1.0, 1.0))
    moving, fixed = RandomPairs(images, batch=40, affine=0.1).draw()
    moved = torch.cat([moving, fixed])
    middle = moved[:, :, 6:11, 7:12]
    slope = torch.stack([middle.diff(dim=2).mean((2, 3)) * 16, middle.diff(dim=3).mean((2, 3)) * 18], -1)
    deviation = slope - torch.eye(2)
    shift = moved[:, :, 8, 9] - 0.5
    assert 0.095 < deviation.abs().max() < 0.1 + 1e-5  # of 320 numbers, one lies close to the bound
    assert 0.045 < shift.abs().max() < 0.05 + 1e-5
    assert deviation.mean().abs() < 0.02
    assert (moving - fixed).abs().amax((1, 2, 3)).min() > 1e-3
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert torch.equal(RandomPairs(images, batch=4).draw()[0], images.images[[0] * 4])
