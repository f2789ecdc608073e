"""From a pair to what is drawn: slices the right way up, limits of the scales, quantised arrays for the viewer."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from isal import igzip
from jaxtyping import Float, Shaped

if TYPE_CHECKING:
    from foldless.report import Pair

Array = npt.NDArray[Any]

DIVERGING = ("#143a78", "#2f6db5", "#82b1dd", "#f3f1ec", "#e0bd6a", "#b98413", "#6b4700")
"""log-Jacobian: blue contracts, gold expands; no red, which is for folds."""
SEQUENTIAL = ("#0b0a1f", "#2b1e5e", "#5b2c83", "#8d4089", "#bf5a80", "#e6826f", "#f7b56b", "#fbe98c")
"""Inverse-consistency error, dark to light."""
FOLD, GRID = "#ff2323", "#ffd34d"
FIXED_LABELS, OTHER_LABELS = "#3fd0ff", "#ff9d2e"
STAGE, INK = "#101216", "#c9ccd3"

DISPLACEMENT_STEP = 1 / 16
"""Voxels; in 3-D the viewer's grid is drawn from displacements rounded to this, a fraction of a screen pixel.

Twice this beyond LARGE voxels, where a voxel is two screen pixels or less.
"""
LARGE = 1_000_000
GRID_LINES = 24
"""Lines of the warped grid across the longest side, about."""
DELTA_ZERO = 128
FOLDED_CODE, ZERO_CODE = 255, 127
"""The log-Jacobian's byte: 255 is a fold, 127 is no change of volume."""

PACKING = 2
"""isal's level: a twentieth of zlib's time, for a page 7 % larger."""

CONSTANTS = {
    "DIVERGING": DIVERGING,
    "SEQUENTIAL": SEQUENTIAL,
    "FOLD": FOLD,
    "GRID": GRID,
    "FIXED_LABELS": FIXED_LABELS,
    "OTHER_LABELS": OTHER_LABELS,
    "FOLDED_CODE": FOLDED_CODE,
    "DELTA_ZERO": DELTA_ZERO,
}
"""What the viewer shares with the still pictures."""

LARGEST_LEAST = 1.0
"""The least volume change is drawn from 0 to this; a voxel that keeps its volume needs no look."""

_OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))


@dataclass(frozen=True)
class View:
    """How a slice is cut and laid on the screen: the axis it is normal to, the axes of its rows and columns.

    `letters` are what lies to the left, right, top and bottom; empty where unknown.
    """

    name: str
    normal: int | None
    row: int
    column: int
    flip_row: bool = False
    flip_column: bool = False
    letters: tuple[str, str, str, str] = ("", "", "", "")

    def cut(self, volume: Shaped[np.ndarray, "*_"], at: int) -> Shaped[np.ndarray, "rows columns"]:
        """The slice of `volume` (*lattice) at index `at` of the normal axis, the right way up."""
        picture = volume if self.normal is None else np.take(volume, at, axis=self.normal)
        picture = picture if self.row < self.column else picture.T
        return picture[:: -1 if self.flip_row else 1, :: -1 if self.flip_column else 1]


def views_of(dim: int, orientation: str = "") -> tuple[View, ...]:
    """The views of an image: one in 2-D, axial, coronal and sagittal in 3-D; anterior and superior up, right at left.

    Raises:
        ValueError: the letters do not name three different directions.
    """
    if orientation and (len(orientation) != dim or not set(orientation) <= set(_OPPOSITE)):
        raise ValueError(f"orientation needs one letter of RLAPSI for each of {dim} axes; got {orientation!r}")
    if dim == 2:
        down, right = tuple(orientation) or ("", "")
        letters = (_OPPOSITE.get(right, ""), right, _OPPOSITE.get(down, ""), down)
        return (View("slice", None, 0, 1, letters=letters),)
    towards = orientation or "SPL"
    axis = {letter: i for i, grows in enumerate(towards) for letter in (grows, _OPPOSITE[grows])}
    if len(axis) != 6:
        raise ValueError(f"orientation needs one letter of each of R/L, A/P and S/I; got {orientation!r}")

    def view(name: str, normal: str, down: str, right: str) -> View:
        letters = (_OPPOSITE[right], right, _OPPOSITE[down], down) if orientation else ("", "", "", "")
        row, column = axis[down], axis[right]
        return View(name, axis[normal], row, column, towards[row] != down, towards[column] != right, letters)

    return view("axial", "S", "P", "L"), view("coronal", "A", "I", "L"), view("sagittal", "R", "I", "P")


def jacobian_determinant(displacement_voxels: Float[np.ndarray, " dim *lattice"]) -> Float[np.ndarray, "*lattice"]:
    """det(I + Du) by central differences, of a displacement in voxels; without unit."""
    dim = displacement_voxels.shape[0]
    slopes = [[_slope(displacement_voxels[i], axis) + (i == axis) for axis in range(dim)] for i in range(dim)]
    return np.asarray(np.linalg.det(np.moveaxis(np.asarray(slopes), (0, 1), (-2, -1))))


def _slope(values: Array, axis: int) -> Array:
    if values.shape[axis] < 2:
        return np.zeros_like(values)
    return np.asarray(np.gradient(values, axis=axis))


@dataclass(frozen=True, eq=False)
class Arrays:
    """A pair made ready to draw: everything finite, limits of the colour scales fixed, folds found."""

    pair: Pair
    displacement: Array
    log_jacobian: Array
    folded: Array
    folded_rule: str
    log_limit: float
    error_limit: float
    views: tuple[View, ...]

    @classmethod
    def of(cls, pair: Pair) -> Arrays:
        displacement = finite(pair.displacement_voxels).astype(np.float32)
        rule, determinant = pair.folded_rule, pair.determinant
        if pair.folded is None and not rule:
            rule = "determinant ≤ 0" + (", central differences" if determinant is None else "")
        if determinant is None:
            determinant = jacobian_determinant(displacement)
        determinant = np.asarray(determinant, dtype=np.float32)
        folded = pair.folded if pair.folded is not None else ~(determinant > 0)
        log_jacobian = np.log(np.clip(finite(determinant), 1e-3, 1e3))
        sound = np.abs(log_jacobian[(determinant > 0) & ~folded])
        error = None if pair.inverse_error is None else finite(pair.inverse_error)
        return cls(
            pair=pair,
            displacement=displacement,
            log_jacobian=log_jacobian,
            folded=folded,
            folded_rule=rule,
            log_limit=_round_limit(float(np.percentile(sound, 99.5)) if sound.size else 1.0, least=0.1),
            error_limit=_round_limit(0.0 if error is None else _error_limit(error), least=0.1),
            views=views_of(pair.dim, pair.orientation),
        )

    @property
    def same_lattice(self) -> bool:
        return self.pair.moving.shape == self.pair.fixed.shape

    @property
    def middle(self) -> tuple[int, ...]:
        return tuple(n // 2 for n in self.pair.fixed.shape)


def window(image: Shaped[np.ndarray, "*_"]) -> tuple[float, float]:
    """The intensities shown as black and white: percentiles 0.5 and 99.5, the extremes where these coincide."""
    values = np.asarray(image, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, [0.5, 99.5])
    if high <= low:
        low, high = values.min(), values.max()
    return float(low), float(high if high > low else low + 1)


def embed(arrays: Arrays) -> tuple[dict[str, Any], dict[str, str]]:
    """What the viewer needs: a head fit for JSON, and by name the gzip of each array in base64.

    A value is `low + step * code`. Codes are bytes, or two bytes with all low bytes before all high ones. With `delta`
    the codes are differences along the last two axes, modulo the integer's size; those of two bytes lie DELTA_ZERO
    higher, so that small ones share their high byte. All of it serves gzip alone.
    """
    pair = arrays.pair
    moving, fixed = window(pair.moving), window(pair.fixed)
    codes: dict[str, tuple[Array, float, float, bool]] = {
        "moving": (*_bytes(pair.moving, *moving), False),
        "fixed": (*_bytes(pair.fixed, *fixed), False),
        "warped": (*_bytes(pair.warped, *moving), False),
        "displacement": _displacement_codes(arrays.displacement),
        "log_jacobian": _log_jacobian_codes(arrays),
    }
    if pair.inverse_error is not None:
        codes["inverse_error"] = (*_bytes(pair.inverse_error, 0.0, arrays.error_limit), True)
    if pair.least_volume is not None:
        codes["least_volume"] = (*_bytes(pair.least_volume, 0.0, LARGEST_LEAST), True)
    names, labels = _label_codes(pair)
    codes |= {name: (values, 0.0, 1.0, False) for name, values in labels.items()}
    head = {
        "shape": list(pair.fixed.shape),
        "spacing": [float(s) for s in pair.spacing],
        "moving_shape": list(pair.moving.shape),
        "moving_spacing": [float(s) for s in pair.moving_spacing or pair.spacing],
        "views": [_view_head(view) for view in arrays.views],
        "label_names": names,
        "folded_rule": arrays.folded_rule,
        "log_limit": arrays.log_limit,
        "error_limit": arrays.error_limit,
        "grid_every": grid_every(pair.fixed.shape, pair.spacing)[0],
        "arrays": {
            name: {"dtype": values.dtype.name, "shape": list(values.shape), "low": low, "step": step, "delta": delta}
            for name, (values, low, step, delta) in codes.items()
        },
    }
    return head, {name: _pack(values, delta) for name, (values, _, _, delta) in codes.items()}


def _view_head(view: View) -> dict[str, Any]:
    return {
        "name": view.name,
        "normal": view.normal,
        "row": view.row,
        "column": view.column,
        "flip_row": view.flip_row,
        "flip_column": view.flip_column,
        "letters": list(view.letters),
    }


def _bytes(image: Array, low: float, high: float) -> tuple[Array, float, float]:
    step = (high - low) / 255
    scaled = (np.asarray(image, dtype=np.float32) - np.float32(low)) / np.float32(step)
    return np.clip(np.rint(finite(scaled)), 0, 255).astype(np.uint8), low, step


def _displacement_codes(displacement: Array) -> tuple[Array, float, float, bool]:
    finest = max(float(np.abs(displacement).max()), 1e-3) / 32000
    coarse = DISPLACEMENT_STEP * (2 if displacement[0].size > LARGE else 1)
    step = finest if displacement.ndim == 3 else max(finest, coarse)
    return np.rint(displacement / step).astype(np.int16), 0.0, step, True


def _log_jacobian_codes(arrays: Arrays) -> tuple[Array, float, float, bool]:
    step = arrays.log_limit / ZERO_CODE
    codes = np.clip(np.rint(arrays.log_jacobian / step), -ZERO_CODE, ZERO_CODE) + ZERO_CODE
    return np.where(arrays.folded, FOLDED_CODE, codes).astype(np.uint8), -arrays.log_limit, step, True


def _label_codes(pair: Pair) -> tuple[list[str], dict[str, Array]]:
    """Labels as positions in one list of names, background first."""
    given = {
        name: np.asarray(getattr(pair, name)).astype(np.int64)
        for name in ("moving_labels", "fixed_labels", "warped_labels")
        if getattr(pair, name) is not None
    }
    values = np.unique(np.concatenate([np.zeros(1, np.int64), *(np.unique(v) for v in given.values())]))
    values = np.concatenate([np.zeros(1, np.int64), values[values != 0]])
    order = np.argsort(values)
    dtype = np.uint8 if len(values) <= 256 else np.uint16
    codes = {name: order[np.searchsorted(values, v, sorter=order)].astype(dtype) for name, v in given.items()}
    return [str(v) for v in values], codes


def _pack(codes: Array, delta: bool) -> str:
    zero = codes.dtype.type(0)
    if delta:
        codes = np.diff(np.diff(codes, axis=-1, prepend=zero), axis=-2, prepend=zero)
    if codes.dtype.itemsize == 2:
        unsigned = np.ascontiguousarray(codes).view(np.uint16) + np.uint16(DELTA_ZERO if delta else 0)
        codes = np.stack([unsigned & 255, unsigned >> 8]).astype(np.uint8)
    raw = np.ascontiguousarray(codes).tobytes()
    return base64.b64encode(igzip.compress(raw, compresslevel=PACKING, mtime=0)).decode("ascii")


def finite(values: Array) -> Array:
    """`values` with 0 for whatever is not a finite number."""
    return np.asarray(np.nan_to_num(np.asarray(values), nan=0.0, posinf=0.0, neginf=0.0))


def _error_limit(error: Array) -> float:
    """Where almost all errors lie, yet no less than a quarter of the largest: rare large ones keep their place."""
    return max(float(np.percentile(error, 99.5)), float(error.max()) / 4)


def _round_limit(value: float, least: float) -> float:
    """The next number of 1, 1.5, 2, 3, 5, 7 times a power of ten."""
    value = max(value, least)
    power = 10.0 ** np.floor(np.log10(value))
    return round(float(next(m for m in (1, 1.5, 2, 3, 5, 7, 10) if m * power >= value * (1 - 1e-6)) * power), 6)


def grid_every(shape: Sequence[int], spacing: Sequence[float]) -> tuple[float, tuple[float, ...]]:
    """Distance of the grid's lines: in voxels of the finest axis, and in voxels of each axis, equal in millimetres."""
    longest = max(n * s for n, s in zip(shape, spacing, strict=True))
    finest = min(spacing)
    every = float(max(1, round(longest / finest / GRID_LINES)))
    return every, tuple(every * finest / s for s in spacing)
