"""What is odd about a file or a pair: one sentence each, for a person and for the record."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that is odd: what it is, by its numbers, what foldless does about it, and what a person can do.

    Attributes:
        kind: what it is about, a word or two that do not change.
        text: the sentence.
    """

    kind: str
    text: str


class HeaderWarning(UserWarning):
    """What is odd about a header and was met while it was read."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.finding = Finding(kind, text)


def warn(kind: str, text: str, stacklevel: int) -> None:
    """Say it to whoever reads the file, so many calls further up."""
    warnings.warn(HeaderWarning(kind, text), stacklevel=stacklevel + 1)


def in_mm(sides: Iterable[float]) -> str:
    """Lengths along the axes, mm, in a sentence."""
    return " x ".join(f"{side:.0f}" if side >= 100 else f"{side:.3g}" for side in sides) + " mm"
