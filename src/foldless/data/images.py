"""A set of images on one lattice, held in memory, and the pairs drawn from it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from foldless.errors import InputError
from foldless.grid import Grid, sample
from foldless.machine import CPU, Machine
from foldless.maps import Affine


class Digest(str):
    """SHA-256 of images and labels; it equals that of the images alone too, which earlier commits recorded."""

    __slots__ = ("of_images",)
    of_images: str

    def __new__(cls, whole: str, of_images: str) -> Digest:
        self = super().__new__(cls, whole)
        self.of_images = of_images
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and (str.__eq__(self, other) or str.__eq__(self.of_images, other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one lattice.

    Attributes:
        images: (count, channels, *lattice) in [0, 1] or, for shapes, [-1, 1].
        names: one a case.
        spacing: mm a voxel on each array axis; ones where there is no physical space.
        labels: (count, *lattice), 0 is background; where absent, `foreground` says which pixels count.
        foreground: without labels, pixels above this intensity are the one structure (ICON's Dice).
    """

    images: Float[Tensor, "count channels *lattice"]
    names: tuple[str, ...]
    spacing: tuple[float, ...]
    labels: Integer[Tensor, " count *lattice"] | None = None
    foreground: float | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def lattice(self) -> tuple[int, ...]:
        return tuple(self.images.shape[2:])

    def pick(self, indices: Sequence[int]) -> ImageSet:
        """The cases at these places."""
        index = list(indices)
        labels = None if self.labels is None else self.labels[index]
        names = tuple(self.names[i] for i in index)
        return ImageSet(self.images[index], names, self.spacing, labels, self.foreground)

    def digest(self) -> Digest:
        """SHA-256 of the prepared images and their labels, for the run record."""
        content = hashlib.sha256(self.images.contiguous().numpy().tobytes())
        of_images = content.hexdigest()
        if self.labels is not None:
            content.update(self.labels.int().contiguous().numpy().tobytes())
        return Digest(content.hexdigest(), of_images)


@dataclass(frozen=True, eq=False)
class Split:
    """The images to learn from, to watch while learning, and to judge by."""

    train: ImageSet
    val: ImageSet
    test: ImageSet


@dataclass(frozen=True)
class RandomPairs:
    """Batches of random pairs (A, B), drawn from torch's global generator, whose state every checkpoint holds.

    The images of the set stay where they are, which is in the CPU's memory; batches are laid on `machine`.

    The images of a pair always differ. With `mirror` all are turned over along the same random axes, and `affine` moves
    each by an affine map of its own, whose deviation from the identity has entries of up to that size, and half of it
    in the shift (unit cube); borders continue. `size` is 2, or 3 for the objective that wants three images.
    """

    images: ImageSet
    batch: int
    mirror: bool = False
    affine: float = 0.0
    size: int = 2
    machine: Machine = CPU

    def __post_init__(self) -> None:
        if len(self.images) < self.size:
            wanted = "a pair takes two images" if self.size == 2 else "a cycle takes three images"
            raise InputError(f"{wanted}; there is {len(self.images)} to learn from: add more")

    def draw(self) -> tuple[Tensor, ...]:
        """Two tensors (batch, channels, *lattice), or three."""
        count = len(self.images)
        first = torch.randint(count, (self.batch,))
        ahead = [torch.randint(1, count, (self.batch,))]
        if self.size == 3:
            other = torch.randint(1, count - 1, (self.batch,))
            ahead.append(other + (other >= ahead[0]))
        chosen = torch.stack([self.images.images[(first + k) % count] for k in (torch.zeros_like(first), *ahead)])
        chosen = self.machine.takes(chosen)
        if self.mirror:
            chosen = torch.stack([self._mirrored(chosen[:, k]) for k in range(self.batch)], dim=1)
        if self.affine:
            chosen = self._moved(chosen.flatten(0, 1)).reshape(chosen.shape)
        return chosen.unbind()

    def _mirrored(self, pair: Tensor) -> Tensor:
        """Images (2 or 3, channels, *lattice) alike, each axis turned over or not."""
        turned = torch.rand(len(self.images.lattice)) < 0.5
        return pair.flip([axis + 2 for axis in turned.nonzero().flatten().tolist()])

    def _moved(self, images: Tensor) -> Tensor:
        """Every image (count, channels, *lattice) through an affine map of its own."""
        dim = images.ndim - 2
        deviation = self.affine * (2 * torch.rand(len(images), dim, dim + 1) - 1)
        deviation[:, :, -1] /= 2
        return sample(images, Affine.from_deviation(deviation.to(images)).on(Grid.of(images)))


def ordered_pairs(count: int, wanted: int, seed: int = 0) -> list[tuple[int, int]]:
    """`wanted` different ordered pairs (moving, fixed) of `count` cases, drawn by `seed`; all if there are fewer."""
    everything = count * (count - 1)
    chosen = random.Random(seed).sample(range(everything), min(wanted, everything))
    split = (divmod(k, count - 1) for k in chosen)
    return [(moving, other + (other >= moving)) for moving, other in split]
