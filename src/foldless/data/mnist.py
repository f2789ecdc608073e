"""One digit of MNIST from the four idx files in a folder."""

from __future__ import annotations

import gzip
import zlib
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foldless.data.images import ImageSet, Split
from foldless.errors import InputError

VALIDATION = 64


def mnist(folder: Path, digit: int = 5) -> Split:
    """All images of one digit, (count, 1, 28, 28) in [0, 1]; validation watches the last 64 training images,
    so that nothing is chosen by the test images.

    Raises:
        InputError: a file is missing or not an idx file.
    """
    if not 0 <= digit <= 9:
        raise InputError(f"the digit is 0 to 9; got {digit}")
    train, test = _part(folder, "train", digit), _part(folder, "t10k", digit)
    return Split(train, train.pick(range(max(0, len(train) - VALIDATION), len(train))), test)


def _part(folder: Path, part: str, digit: int) -> ImageSet:
    images = _read_idx(folder, f"{part}-images-idx3-ubyte", 3)
    labels = _read_idx(folder, f"{part}-labels-idx1-ubyte", 1)
    if len(images) != len(labels):
        raise InputError(f"{folder} holds {len(images)} {part} images but {len(labels)} labels; download them again")
    chosen = (labels == digit).nonzero().flatten()
    if len(chosen) < 2:
        raise InputError(f"{folder} holds {len(chosen)} {part} images of the digit {digit}; a pair takes two")
    names = tuple(f"{part}-{i:05d}" for i in chosen.tolist())
    return ImageSet(images[chosen][:, None].float() / 255, names, (1.0, 1.0), foreground=0.5)


def _read_idx(folder: Path, name: str, dim: int) -> Tensor:
    """An idx file of unsigned bytes: 0, 0, 8, the number of dimensions, the sizes as big-endian 32-bit integers."""
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            break
    else:
        raise InputError(f"{folder} holds no {name}(.gz); MNIST comes as four idx files, two for train, two for t10k")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        header = np.frombuffer(data, ">u4", count=1 + dim)
        shape = [int(n) for n in header[1:]]
        if int(header[0]) != 0x800 + dim or len(data) != 4 * (1 + dim) + prod(shape):
            raise ValueError("its header does not fit its size")
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is no idx file of {dim}-D bytes ({error}); download it again") from error
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 * (1 + dim)).reshape(shape).copy())
