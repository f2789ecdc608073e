"""MNIST from its four idx files, whole and damaged."""

import gzip
import struct

import numpy as np
import pytest
import torch

from foldless.data.mnist import mnist
from foldless.errors import InputError

FILES = {"images": "{}-images-idx3-ubyte", "labels": "{}-labels-idx1-ubyte"}


def test_counts_of_the_digit_five(real_data):
    split = mnist(real_data / "mnist")
    assert (len(split.train), len(split.test), len(split.val)) == (5421, 892, 64)
    assert split.train.lattice == (28, 28)
    assert split.train.images.min() == 0
    assert split.train.images.max() == 1
    assert torch.equal(split.val.images, split.train.images[-64:])  # the test images choose nothing


def idx(array):
    return struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for part in ("train", "t10k"):
        labels = np.arange(30, dtype=np.uint8) % 10
        images = random.integers(0, 256, (30, 6, 7), dtype=np.uint8)
        images[:, 0, 0] = labels
        (tmp_path / FILES["images"].format(part)).write_bytes(idx(images))
        (tmp_path / (FILES["labels"].format(part) + ".gz")).write_bytes(gzip.compress(idx(labels)))
    return tmp_path


@pytest.mark.parametrize("digit", range(10))
def test_packed_or_not_and_only_that_digit(folder, digit):
    split = mnist(folder, digit)
    assert split.train.images.shape == (3, 1, 6, 7)
    assert (split.train.images[:, 0, 0, 0] * 255).round().tolist() == [digit] * 3
    assert split.train.names == tuple(f"train-{k:05d}" for k in (digit, digit + 10, digit + 20))


def break_header(data):
    return b"\x00\x00\x08\x09" + data[4:]


def cut(data):
    return data[: len(data) // 2]


def flip_a_bit(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("train-images-idx3-ubyte", break_header),
        ("train-images-idx3-ubyte", cut),
        ("train-images-idx3-ubyte", lambda data: b""),
        ("train-labels-idx1-ubyte.gz", cut),
        ("train-labels-idx1-ubyte.gz", flip_a_bit),
        ("train-labels-idx1-ubyte.gz", lambda data: b"no gzip"),
        ("t10k-labels-idx1-ubyte.gz", lambda data: gzip.compress(idx(np.zeros(7, np.uint8)))),
    ],
)
def test_damaged_files_are_refused_by_name(folder, name, damage):
    file = folder / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match="download"):
        mnist(folder)


def test_what_is_missing_is_named(folder):
    (folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(InputError, match="t10k-images-idx3-ubyte"):
        mnist(folder)
    with pytest.raises(InputError, match="train-images"):
        mnist(folder / "nowhere")


def test_a_digit_of_which_there_are_not_two(folder):
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(30, np.uint8))))
    with pytest.raises(InputError, match="0 train images of the digit 5"):
        mnist(folder)
    with pytest.raises(InputError, match="0 to 9"):
        mnist(folder, 10)
