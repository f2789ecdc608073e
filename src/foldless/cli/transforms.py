"""How transform files are named on the command line, and what all commands that take them share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from foldless.cli.console import progress
from foldless.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from foldless.io import Geometry, Linear, Spaces, Transform
    from foldless.metrics import Certificate

BRACKETS = re.compile(r"\[(.*),\s*([01])\]")
FLAGGED = re.compile(r"(.*),-1")

WORDS = "FILE, FORMAT:FILE where several programs write such files (flirt:a.mat), FILE,-1 or [FILE,1] for the inverse"


def split_word(word: str) -> tuple[str | None, Path, bool]:
    """Format, file and whether its inverse is meant, of a transform as it is typed."""
    from foldless.io import FORMATS

    inverse = False
    if found := BRACKETS.fullmatch(word):
        word, inverse = found[1], found[2] == "1"
    elif found := FLAGGED.fullmatch(word):
        word, inverse = found[1], True
    name, colon, rest = word.partition(":")
    return (name, Path(rest), inverse) if colon and name in FORMATS else (None, Path(word), inverse)


def file_of(word: str) -> Path:
    """The file that a transform as it is typed is in."""
    return split_word(word)[1]


def transform_of(word: str, spaces: Spaces | None = None) -> Transform:
    """The transform that is meant.

    Raises:
        InputError: it cannot be read.
    """
    from foldless.io import read_transform

    name, path, inverse = split_word(word)
    found = read_transform(path, spaces, name)
    return found.flipped if inverse else found


def affine_of(word: str, fixed: Geometry, moving: Geometry | None = None) -> Linear:
    """An affine transform of any format, one matrix of positive determinant.

    Raises:
        InputError: it cannot be read, bends, mirrors, or is of another dimension than the fixed image's lattice.
    """
    import numpy as np

    from foldless.io import Spaces

    linear = transform_of(word, Spaces(fixed, moving)).linear
    if linear is None:
        raise InputError(f"{word} bends; expected an affine transform")
    if linear.dim != fixed.dim:
        raise InputError(f"{word} is {linear.dim}-D, but the fixed image {fixed.dim}-D; give a transform that fits")
    if np.linalg.det(linear.matrix[:, :-1]) <= 0:
        raise InputError(f"{word} mirrors space, or flattens it; expected a transform of positive determinant")
    return linear


def field_of(word: str, spaces: Spaces) -> tuple[np.ndarray, Geometry]:
    """A transform of any format as a field (*shape, dim), LPS mm, and its lattice: its own, or the fixed image's.

    Raises:
        InputError: it cannot be read, or has no lattice and none is given.
    """
    from foldless.io import Warped, read_warp, recognised

    path = file_of(word)
    if word == str(path) and (not path.is_file() or recognised(path) in ("itk-field", "itk")):
        return read_warp(path, spaces.fixed)
    transform = transform_of(word, spaces)
    own = [part.geometry for part in transform.parts if isinstance(part, Warped)]
    on = own[0] if len(own) == 1 else transform.lattice
    if on is None:
        raise InputError(f"{word} has no lattice of its own; give that of the fixed image")
    return transform.displacement_on(on), on


def composed(words: tuple[str, ...], spaces: Spaces | None = None) -> Transform:
    """Transforms in the order in which points meet them.

    Those that count in their images are taken to lie between the two of `spaces`.

    Raises:
        InputError: one cannot be read, or their dimensions differ.
    """
    if not words:
        raise InputError("name one transform or more, in the order in which points meet them")
    first, *others = [transform_of(word, spaces) for word in words]
    for other in others:
        first = first.then(other)
    return first


def spaces_of(fixed: Path | None, moving: Path | None) -> Spaces:
    """The lattices of the two images, as far as they are given."""
    from foldless.io import Spaces, read_geometry

    return Spaces(*(None if path is None else read_geometry(path) for path in (fixed, moving)))


def given(*paths: Path | None) -> list[Path]:
    """Those that are there."""
    return [path for path in paths if path is not None]


@contextmanager
def watched(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for what goes slice by slice."""
    with progress() as bar:
        task = bar.add_task(what, total=None, news="")
        yield lambda done, of: bar.update(task, completed=done, total=of)


def certificate_of(transform: Transform, on: Geometry) -> Certificate:
    """What is proven of a transform as a field on a lattice."""
    from foldless.proofs import certify_warp

    return certify_warp(transform.displacement_on(on), on)
