"""The velocity whose flow is a given map: the inverse of the exponential, as far as a map has one."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from foldless.grid import Grid
from foldless.maps.algebra import Map
from foldless.maps.exponential import Exponential

TURNS = 3
"""After which what is left, some hundredths of a voxel, is of reading flows between their nodes."""


def logarithm(there: Map, back: Map, grid: Grid, turns: int = TURNS) -> Float[Tensor, "batch dim *lattice"]:
    """v with exp(v) ≈ `there` and exp(-v) ≈ `back`, on the grid's lattice, in unit-cube units.

    A turn adds half of what either map is off by, there ∘ exp(-v) and back ∘ exp(v) as displacements: the first term of
    the Baker-Campbell-Hausdorff series (Bossa and Olmos 2008). Neither map is preferred: swapped, they give -v. A map
    that is the flow of no stationary velocity is met as nearly as the turns come.
    """
    velocity = (there.on(grid) - back.on(grid)) / 2
    nodes = grid.points(velocity)
    for _ in range(turns):
        flow = Exponential(velocity)
        left = there(flow.inverse.on(grid)) - nodes
        right = back(flow.on(grid)) - nodes
        velocity = velocity + (left - right) / 2
    return velocity
