"""ICON's triangles and circles, generated on the fly; §4.1 and the supplement."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from foldless.data.images import ImageSet, Split
from foldless.grid import Grid

TRAIN, TEST, VALIDATION = 6000, 6000, 64


def shapes(size: int = 28, seed: int = 0, train: int = TRAIN, test: int = TEST) -> Split:
    """Circles and triangles, half and half, with centre, radius and angle at random; all three parts independent.

    Images are (count, 1, size, size) with intensity tanh(-40 · signed distance): 1 inside, -1 outside.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = [_draw(count, size, generator, name) for name, count in (("train", train), ("val", VALIDATION))]
    return Split(parts[0], parts[1], _draw(test, size, generator, "test"))


def _draw(count: int, size: int, generator: torch.Generator, name: str) -> ImageSet:
    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    centre = uniform(0.4, 0.7, 2)
    radius, angle = uniform(0.2, 0.4), uniform(0.0, 2 * pi)
    circle = torch.rand(count, generator=generator) < 0.5
    points = Grid((size, size)).points()
    images = torch.cat(
        [
            torch.tanh(-40 * _distance(points, c, r, a, kind))[:, None]
            for c, r, a, kind in (
                (centre[i : i + 512], radius[i : i + 512], angle[i : i + 512], circle[i : i + 512])
                for i in range(0, count, 512)
            )
        ]
    )
    names = tuple(f"{name}-{i:04d}-{'circle' if kind else 'triangle'}" for i, kind in enumerate(circle.tolist()))
    return ImageSet(images, names, (1.0, 1.0), foreground=0.5)


def _distance(points: Tensor, centre: Tensor, radius: Tensor, angle: Tensor, circle: Tensor) -> Tensor:
    """Signed distance (count, size, size), negative inside; the triangle is equilateral, `radius` from its centre."""
    x = points - centre[:, :, None, None]
    radius = radius[:, None, None]
    to_circle = x.square().sum(1).sqrt() - radius
    sides = torch.stack(
        [
            x[:, 0] * torch.cos(angle + turn)[:, None, None] + x[:, 1] * torch.sin(angle + turn)[:, None, None]
            for turn in (0.0, 2 * pi / 3, 4 * pi / 3)
        ]
    )
    to_triangle = sides.amax(0) - radius / 2
    return torch.where(circle[:, None, None], to_circle, to_triangle)
