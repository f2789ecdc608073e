"""The README's picture: two generated heads, registered without a model.

python -m experiments.two_heads --output RUNS
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.command import begin
from experiments.places import Pictured
from foldless.io.files import write_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from foldless.io import Volume

SIZE, SPACING = 192, 1.0
"""Pixels a side, and millimetres a pixel."""
BENT = 0.05
"""How far what belongs together lies apart at most, of the image's half."""


@dataclass(frozen=True)
class TwoHeads(Pictured):
    """Draw two generated heads and the map between them."""

    output: Path
    """Folder for the picture where it is of another size."""
    size: int = SIZE
    """Pixels a side."""

    def run(self) -> None:
        from foldless.direct import Direct, register_directly
        from foldless.mending import mended
        from foldless.outcome import Outcome
        from foldless.report.arrays import Arrays
        from foldless.report.pictures import overview

        moving, fixed = (volume_of(head(k, self.size), name) for k, name in ((1, "moving"), (2, "fixed")))
        direct = Direct.of_pair(moving, fixed, affine_steps=0)
        fields = mended(register_directly(direct, moving, fixed), moving, fixed, direct)
        pair = Outcome(moving, fixed, fields, direct).drawn("two heads")
        picture = base64.b64decode(overview(Arrays.of(pair)))
        self.picture_folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.picture_folder / "pair.png", lambda beside: beside.write_bytes(picture))


def head(person: int, size: int) -> NDArray[np.float32]:
    """A slice through a head as T1 shows it, (size, size): skull, folded cortex, white matter, ventricles, nuclei.

    Everybody's is the same, bent by smooth waves that are a person's own.
    """
    rng = np.random.default_rng(person)
    y, x = bent(*np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j], rng)
    radius, angle = np.hypot(x / 0.74, y / 0.9), np.arctan2(x, -y)
    folds = 0.045 * np.sin(17 * angle) * np.sin(3 * angle + 0.6) + 0.03 * np.sin(29 * angle + 1)
    image = 0.85 * inside(1 - radius) - 0.7 * inside(0.95 - radius) - 0.1 * inside(0.89 - radius)
    image += 0.5 * inside(0.85 + folds / 2 - radius) + 0.35 * inside(0.72 + folds - radius)
    image -= 0.75 * inside(0.012 - np.abs(x)) * inside(radius - 0.42) * inside(0.85 - radius)  # between the halves
    for side in (-1, 1):
        image -= 0.75 * ellipse(x - 0.1 * side, y + 0.08, 0.06, 0.2, 0.3 * side)
        image -= 0.28 * ellipse(x - 0.23 * side, y - 0.04, 0.08, 0.15, -0.4 * side)
    noise = 0.004 * rng.normal(size=image.shape)
    return np.clip(image + noise, 0, None).astype(np.float32)


def bent(
    y: NDArray[np.float64], x: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places moved by a few smooth waves."""
    moved = []
    for own in (y, x):
        waves = np.zeros_like(own)
        for _ in range(4):
            across, down, phase = rng.uniform(-4, 4), rng.uniform(-4, 4), rng.uniform(0, 2 * np.pi)
            waves += np.sin(across * x + down * y + phase)
        moved.append(own + BENT / 2 * waves)
    return moved[0], moved[1]


def inside(depth: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where a place lies within, 0 outside, and between them across about a pixel."""
    return 1 / (1 + np.exp(-depth / 0.007))


def ellipse(
    x: NDArray[np.float64], y: NDArray[np.float64], wide: float, high: float, turn: float
) -> NDArray[np.float64]:
    """The inside of an ellipse around the origin, turned."""
    across, along = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    return inside((1 - np.hypot(across / wide, along / high)) * min(wide, high))


def volume_of(image: NDArray[np.float32], name: str) -> Volume:
    """The image with its size in millimetres."""
    import SimpleITK as sitk  # noqa: N813

    from foldless.io import Volume

    made = sitk.GetImageFromArray(image)
    made.SetSpacing((SPACING, SPACING))
    return Volume(made, Path(f"{name}.nii.gz"))


if __name__ == "__main__":
    begin(TwoHeads)
