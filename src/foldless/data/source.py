"""From the word a user gives for their data to the prepared images."""

from __future__ import annotations

from pathlib import Path

from foldless.data.folder import folder_split
from foldless.data.images import Split
from foldless.data.mnist import mnist
from foldless.data.prepare import Preparation
from foldless.data.shapes import shapes
from foldless.recipe import Source


def open_source(source: Source, seed: int = 0) -> tuple[Split, Preparation]:
    """The images in their three parts, and how they were prepared; `seed` draws the shapes.

    Raises:
        InputError: nothing usable is there.
    """
    if source.data == "shapes":
        split = shapes(source.size, seed)
        return split, Preparation(split.train.lattice, (1.0, 1.0), percentiles=(0.0, 100.0), intensities=(-1.0, 1.0))
    if source.data.startswith("mnist:"):
        split = mnist(Path(source.data.removeprefix("mnist:")), source.digit)
        return split, Preparation(split.train.lattice, (1.0, 1.0), percentiles=(0.0, 100.0))
    return folder_split(Path(source.data), source.placement, source.percentiles)
