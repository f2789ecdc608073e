"""Maps: values that carry points of the unit cube to points; frozen, composable, differentiable.

A map phi_AB takes points of image B's space to points of image A's, so that `A ∘ phi_AB ≈ B`.
"""

from foldless.maps.affine import Affine
from foldless.maps.algebra import Composition, Identity, Map, check_maps, compose
from foldless.maps.displacement import Displacement
from foldless.maps.exponential import CONTRACTION, Exponential, exponentiate
from foldless.maps.inverse import ConvergenceError, invert
from foldless.maps.logarithm import logarithm
from foldless.maps.matrices import Jacobian, determinant, matrix_product
from foldless.maps.solving import solve
from foldless.maps.spline import CubicSpline

__all__ = [
    "CONTRACTION",
    "Affine",
    "Composition",
    "ConvergenceError",
    "CubicSpline",
    "Displacement",
    "Exponential",
    "Identity",
    "Jacobian",
    "Map",
    "check_maps",
    "compose",
    "determinant",
    "exponentiate",
    "invert",
    "logarithm",
    "matrix_product",
    "solve",
]
