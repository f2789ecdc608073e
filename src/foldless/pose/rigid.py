"""Transforms from fixed to moving world, y = centre_to + linear · (p − centre_from) + shift, in millimetres, LPS."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import pi

import numpy as np
from jaxtyping import Float64

Vector = Float64[np.ndarray, " dim"]
Matrix = Float64[np.ndarray, "dim dim"]

Parameters = Float64[np.ndarray, " parameters"]

FREEDOMS = ("rigid", "similarity", "affine")


@dataclass(frozen=True, eq=False)
class Pose:
    """y = there + linear · (p − here), LPS millimetres: where a point of fixed space lies in moving space.

    Attributes:
        linear: (dim, dim), of positive determinant.
        here: a point of fixed space (dim,), about which is turned.
        there: where it goes (dim,).
    """

    linear: Matrix
    here: Vector
    there: Vector

    @classmethod
    def laying(cls, there: Vector, here: Vector, linear: Matrix | None = None) -> Pose:
        """One point on another, turned by `linear`, by default not at all."""
        return cls(np.eye(len(here)) if linear is None else linear, here, there)

    @property
    def dim(self) -> int:
        return len(self.here)

    @property
    def inverse(self) -> Pose:
        """From moving space to fixed."""
        return Pose(np.linalg.inv(self.linear), self.there, self.here)

    @property
    def degrees(self) -> float:
        """By how much it turns: the angle of the rotation nearest to its linear part."""
        u, _, vt = np.linalg.svd(self.linear)
        cosine = (np.trace(u @ vt) - (self.dim - 2)) / 2
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))

    @property
    def shift(self) -> float:
        """How far `here` is moved, mm."""
        return float(np.linalg.norm(self.there - self.here))

    @property
    def volume(self) -> float:
        """By what it multiplies volumes, from fixed to moving."""
        return float(np.linalg.det(self.linear))

    def __call__(self, points: Float64[np.ndarray, "*at dim"]) -> Float64[np.ndarray, "*at dim"]:
        """Points (..., dim), LPS millimetres, carried to moving space."""
        carried: np.ndarray = (points - self.here) @ self.linear.T + self.there
        return carried

    def about(self, here: Vector) -> Pose:
        """The same transform, written about another point."""
        return Pose(self.linear, here, self(here))

    def moved(self, parameters: Parameters, moves: Moves) -> Pose:
        """The same after a small motion in fixed space, about `here`."""
        linear, shift = moves.motion(parameters)
        return replace(self, linear=self.linear @ linear, there=self.there + self.linear @ shift)


@dataclass(frozen=True, eq=False)
class Moves:
    """The ways in which a pose may change: shifts, then generators of linear maps, all in millimetres at `radius`.

    Attributes:
        shifts: (shifts, dim), unit vectors.
        generators: (generators, dim, dim).
        radius: mm from the centre at which a generator's unit moves a point by about a millimetre.
    """

    shifts: Float64[np.ndarray, "shifts dim"]
    generators: Float64[np.ndarray, "generators dim dim"]
    radius: float

    @classmethod
    def of(cls, freedom: str, axes: Float64[np.ndarray, "axes dim"], radius: float) -> Moves:
        """Rigid, similarity or affine motions within the space that some orthonormal axes span (axes, dim)."""
        count = len(axes)
        pairs = [(i, j) for i in range(count) for j in range(i)]
        turns = [np.outer(axes[i], axes[j]) - np.outer(axes[j], axes[i]) for i, j in pairs]
        if freedom == "similarity":
            turns.append(axes.T @ axes)
        if freedom == "affine":
            turns += [np.outer(axes[i], axes[i]) for i in range(count)]
            turns += [np.outer(axes[i], axes[j]) + np.outer(axes[j], axes[i]) for i, j in pairs]
        return cls(axes, np.array(turns).reshape(-1, axes.shape[1], axes.shape[1]), radius)

    @property
    def count(self) -> int:
        return len(self.shifts) + len(self.generators)

    def motion(self, parameters: Parameters) -> tuple[Matrix, Vector]:
        """The linear map and the shift of so much of each."""
        from scipy.linalg import expm

        shift, turn = np.split(parameters, [len(self.shifts)])
        return expm(np.tensordot(turn / self.radius, self.generators, 1)), shift @ self.shifts

    def slope(self, by_shift: Vector, by_linear: Matrix) -> Parameters:
        """The derivative by the parameters, at zero, from those by the shift and by the linear map."""
        turns = np.einsum("kij,ij->k", self.generators, by_linear) / self.radius
        return np.concatenate([self.shifts @ by_shift, turns])


def rotations(count: int, axes: Float64[np.ndarray, "axes dim"]) -> Float64[np.ndarray, "count dim dim"]:
    """Turns that fill all rotations evenly, the identity first; within the plane of two axes, all around.

    In three dimensions Super-Fibonacci spirals (Alexa, CVPR 2022).
    """
    if len(axes) < 2:
        return np.eye(axes.shape[1])[None]
    if len(axes) == 2:
        (turn,) = Moves.of("rigid", axes, 1.0).generators
        from scipy.linalg import expm

        return np.array([expm(2 * pi * k / count * turn) for k in range(count)])
    golden, other = np.sqrt(2.0), 1.533751168755204288118041
    s = np.arange(count) + 0.5
    t, d = s / count, 2 * pi * s
    r, big, a, b = np.sqrt(t), np.sqrt(1 - t), d / golden, d / other
    from scipy.spatial.transform import Rotation

    spiral = Rotation.from_quat(np.stack([r * np.sin(a), r * np.cos(a), big * np.sin(b), big * np.cos(b)], 1))
    nearest = int(np.argmin(spiral.magnitude()))
    turned = (spiral[nearest].inv() * spiral).as_matrix()
    return np.concatenate([turned[nearest : nearest + 1], np.delete(turned, nearest, 0)])
