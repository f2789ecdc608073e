"""From a pair to what is drawn: slices the right way up, quantised arrays for the viewer, still pictures."""

from __future__ import annotations

import base64
import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Shaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
"""Voxels; in 3-D the viewer's grid is drawn from displacements rounded to this, a fraction of a screen pixel."""
GRID_LINES = 24
"""Lines of the warped grid across the longest side, about."""
FOLDED_CODE, ZERO_CODE = 255, 127
"""The log-Jacobian's byte: 255 is a fold, 127 is no change of volume."""

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

    def cut(self, volume: Shaped[np.ndarray, ...], at: int) -> Shaped[np.ndarray, "rows columns"]:
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
        down, right = orientation or ("", "")
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


def jacobian_determinant(displacement_voxels: Float[np.ndarray, dim * lattice]) -> Float[np.ndarray, "*lattice"]:
    """det(I + Du) by central differences, of a displacement in voxels; without unit."""
    dim = displacement_voxels.shape[0]
    slopes = [[_slope(displacement_voxels[i], axis) + (i == axis) for axis in range(dim)] for i in range(dim)]
    return np.linalg.det(np.moveaxis(np.asarray(slopes), (0, 1), (-2, -1)))


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
        displacement = _finite(pair.displacement_voxels).astype(np.float32)
        rule = pair.folded_rule or ("" if pair.folded is not None else "determinant ≤ 0")
        determinant = pair.determinant
        if determinant is None:
            determinant = jacobian_determinant(displacement)
            rule += "" if pair.folded is not None else ", central differences"
        determinant = np.asarray(determinant, dtype=np.float32)
        folded = pair.folded if pair.folded is not None else ~(determinant > 0)
        log_jacobian = np.log(np.clip(_finite(determinant), 1e-3, 1e3))
        sound = np.abs(log_jacobian[(determinant > 0) & ~folded])
        error = None if pair.inverse_error is None else _finite(pair.inverse_error)
        return cls(
            pair=pair,
            displacement=displacement,
            log_jacobian=log_jacobian,
            folded=folded,
            folded_rule=rule,
            log_limit=_round_limit(float(np.percentile(sound, 99.5)) if sound.size else 1.0, least=0.1),
            error_limit=_round_limit(0.0 if error is None else float(np.percentile(error, 99.8)), least=0.1),
            views=views_of(pair.dim, pair.orientation),
        )

    @property
    def same_lattice(self) -> bool:
        return self.pair.moving.shape == self.pair.fixed.shape

    @property
    def middle(self) -> tuple[int, ...]:
        return tuple(n // 2 for n in self.pair.fixed.shape)


def window(image: Shaped[np.ndarray, ...]) -> tuple[float, float]:
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

    A value is `low + step * code`. Codes are bytes, or two bytes with all low bytes before all high ones; with `delta`
    each code is the difference from the one before, modulo the integer's size.
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
    return np.clip(np.rint(_finite(scaled)), 0, 255).astype(np.uint8), low, step


def _displacement_codes(displacement: Array) -> tuple[Array, float, float, bool]:
    finest = max(float(np.abs(displacement).max()), 1e-3) / 32000
    step = finest if displacement.ndim == 3 else max(finest, DISPLACEMENT_STEP)
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
    flat = np.ascontiguousarray(codes).reshape(-1)
    if delta:
        flat = np.diff(flat, prepend=flat.dtype.type(0))
    raw = flat.astype(flat.dtype.newbyteorder("<")).view(np.uint8)
    if flat.dtype.itemsize == 2:
        raw = np.ascontiguousarray(raw.reshape(-1, 2).T)
    return base64.b64encode(gzip.compress(raw.tobytes(), compresslevel=6, mtime=0)).decode("ascii")


def _finite(values: Array) -> Array:
    return np.nan_to_num(np.asarray(values), nan=0.0, posinf=0.0, neginf=0.0)


def _round_limit(value: float, least: float) -> float:
    """The next number of 1, 1.5, 2, 3, 5, 7 times a power of ten."""
    value = max(value, least)
    power = 10.0 ** np.floor(np.log10(value))
    return round(float(next(m for m in (1, 1.5, 2, 3, 5, 7, 10) if m * power >= value * (1 - 1e-6)) * power), 6)


def grid_every(shape: Sequence[int], spacing: Sequence[float]) -> tuple[float, tuple[float, ...]]:
    """Distance of the grid's lines: in voxels of the finest axis, and in voxels of each axis, equal in millimetres."""
    longest = max(n * s for n, s in zip(shape, spacing, strict=True))
    finest = min(spacing)
    every = max(1.0, round(longest / finest / GRID_LINES))
    return every, tuple(every * finest / s for s in spacing)


def overview(arrays: Arrays) -> str:
    """All panels at the middle slices as one PNG, in base64: what the page shows without its script."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(arrays)
    columns = len(panels) if len(arrays.views) > 1 or len(panels) <= 5 else -(-len(panels) // 2)
    blocks = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    sizes = [_size(arrays, view) for view in arrays.views]
    gap = 0.06 * max(max(size) for size in sizes)
    head = 2.2 * gap
    cell = max(width for _, width in sizes)
    total = (
        columns * (cell + gap) + gap,
        len(blocks) * (sum(height + gap for height, _ in sizes) + head) + gap / 2,
    )
    inches = 1320 / 100
    figure = Figure(figsize=(inches, inches * total[1] / total[0]), dpi=100, facecolor=STAGE)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    y = 0.0
    for block in blocks:
        for i, (title, draw) in enumerate(block):
            x = gap + i * (cell + gap)
            axes.text(x + cell / 2, y + head * 0.62, title, color=INK, ha="center", va="center", fontsize=8.5)
            at = y + head
            for view, (height, width) in zip(arrays.views, sizes, strict=True):
                left = x + (cell - width) / 2
                draw(axes, view, (left, left + width, at, at + height))
                at += height + gap
        y += head + sum(height + gap for height, _ in sizes)
    axes.set_xlim(0, total[0])
    axes.set_ylim(total[1], 0)
    axes.set_aspect("auto")
    return base64.b64encode(_png(figure)).decode("ascii")


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor())
    return buffer.getvalue()


Box = tuple[float, float, float, float]


def _panels(arrays: Arrays) -> list[tuple[str, Any]]:
    """(title, draw(axes, view, box)) of every panel that the pair has data for."""
    pair = arrays.pair
    moving, fixed = window(pair.moving), window(pair.fixed)

    def image(values: Array, limits: tuple[float, float], at: tuple[int, ...] | None = None) -> Any:
        def draw(axes: Axes, view: View, box: Box) -> None:
            _show(axes, _cut(view, values, at), box, cmap="gray", vmin=limits[0], vmax=limits[1])

        return draw

    def checkerboard(axes: Axes, view: View, box: Box) -> None:
        a, b = _cut(view, _unit(pair.fixed, fixed)), _cut(view, _unit(pair.warped, moving))
        rows, columns = (np.indices(a.shape)[k] // max(1, max(a.shape) // 8) for k in (0, 1))
        _show(axes, np.where((rows + columns) % 2, b, a), box, cmap="gray", vmin=0, vmax=1)

    def grid(axes: Axes, view: View, box: Box) -> None:
        _show(axes, _cut(view, _unit(pair.warped, moving)) * 0.75, box, cmap="gray", vmin=0, vmax=1)
        every = grid_every(pair.fixed.shape, pair.spacing)[1]
        at = arrays.middle[view.normal] if view.normal is not None else 0
        planes = [
            view.cut(arrays.displacement[axis] + _indices(pair.fixed.shape, axis), at)
            for axis in (view.row, view.column)
        ]
        _grid_lines(axes, planes, [every[view.row], every[view.column]], box, GRID, 0.6)
        _show_folds(axes, _cut(view, arrays.folded), box)

    def log_jacobian(axes: Axes, view: View, box: Box) -> None:
        limit = arrays.log_limit
        _show(axes, _cut(view, arrays.log_jacobian), box, cmap=_colours(DIVERGING), vmin=-limit, vmax=limit)
        _show_folds(axes, _cut(view, arrays.folded), box)

    def labels(values: Array, over: Array, limits: tuple[float, float], own: bool) -> Any:
        def draw(axes: Axes, view: View, box: Box) -> None:
            image(over, limits)(axes, view, box)
            if own and pair.fixed_labels is not None:
                _show_edges(axes, _cut(view, pair.fixed_labels), box, FIXED_LABELS)
            _show_edges(axes, _cut(view, values), box, OTHER_LABELS)

        return draw

    panels = [
        ("moving", image(pair.moving, moving)),
        ("fixed", image(pair.fixed, fixed)),
        ("warped", image(pair.warped, moving)),
        ("fixed / warped", checkerboard),
        ("warped grid", grid),
        (f"log Jacobian, ±{arrays.log_limit:g}", log_jacobian),
    ]
    if pair.inverse_error is not None:
        error = pair.inverse_error
        panels.append(
            (
                f"inverse error, 0 … {arrays.error_limit:g} voxels",
                lambda axes, view, box: _show(
                    axes, _cut(view, error), box, cmap=_colours(SEQUENTIAL), vmin=0, vmax=arrays.error_limit
                ),
            )
        )
    if pair.moving_labels is not None:
        over, limits = (pair.fixed, fixed) if arrays.same_lattice else (pair.moving, moving)
        panels.append(("labels before", labels(pair.moving_labels, over, limits, arrays.same_lattice)))
    if pair.warped_labels is not None:
        panels.append(("labels after", labels(pair.warped_labels, pair.fixed, fixed, True)))
    return panels


def _size(arrays: Arrays, view: View) -> tuple[float, float]:
    """Height and width of a view, in mm."""
    shape, spacing = arrays.pair.fixed.shape, arrays.pair.spacing
    return shape[view.row] * spacing[view.row], shape[view.column] * spacing[view.column]


def _cut(view: View, volume: Array, at: tuple[int, ...] | None = None) -> Array:
    middle = at or tuple(n // 2 for n in volume.shape)
    return view.cut(volume, middle[view.normal] if view.normal is not None else 0)


def _unit(image: Array, limits: tuple[float, float]) -> Array:
    values = (np.asarray(image, dtype=np.float32) - limits[0]) / (limits[1] - limits[0])
    return np.clip(_finite(values), 0, 1)


def _indices(shape: Sequence[int], axis: int) -> Array:
    return np.arange(shape[axis], dtype=np.float32).reshape([-1 if i == axis else 1 for i in range(len(shape))])


def _show(axes: Axes, picture: Array, box: Box, **how: Any) -> None:
    left, right, top, bottom = box
    axes.imshow(picture, extent=(left, right, bottom, top), origin="upper", interpolation="nearest", **how)


def _show_folds(axes: Axes, folded: Array, box: Box) -> None:
    if folded.any():
        _show(axes, np.ma.masked_equal(folded, False), box, cmap=_colours((FOLD, FOLD)), vmin=0, vmax=1)


def _show_edges(axes: Axes, labels: Array, box: Box, colour: str) -> None:
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:-1] |= labels[:-1] != labels[1:]
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    if edge.any():
        _show(axes, np.ma.masked_equal(edge, False), box, cmap=_colours((colour, colour)), vmin=0, vmax=1)


def _colours(stops: Sequence[str]) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("stops", list(stops))


def _grid_lines(
    axes: Axes, planes: Sequence[Array], every: Sequence[float], box: Box, colour: str, width: float
) -> None:
    """Where each coordinate of the map is a multiple of `every`: the moving image's lattice carried to the fixed one."""
    left, right, top, bottom = box
    rows, columns = planes[0].shape
    if min(rows, columns) < 2:
        return
    x = left + (np.arange(columns) + 0.5) / columns * (right - left)
    y = top + (np.arange(rows) + 0.5) / rows * (bottom - top)
    for plane, step in zip(planes, every, strict=True):
        levels = np.arange(np.ceil(plane.min() / step), np.floor(plane.max() / step) + 1) * step
        levels = levels[(levels > plane.min()) & (levels < plane.max())]
        if levels.size:
            axes.contour(x, y, plane, levels=levels, colors=colour, linewidths=width, linestyles="solid")


def warped_grid_figure(
    displacement_voxels: Float[np.ndarray, "2 rows columns"],
    spacing: tuple[float, float],
    path: Path,
    every: int = 4,
    image: Shaped[np.ndarray, "rows columns"] | None = None,
    folded: Shaped[np.ndarray, "rows columns"] | None = None,
    colour: str = "black",
    width_inches: float = 3.4,
) -> None:
    """Draw the warped grid for a paper; the suffix of `path` says whether as SVG, PDF or PNG.

    The lines are those of the moving image's lattice, carried to fixed space as the warped image is: where a coordinate
    of phi(x) = x + u(x) is a multiple of `every`. They lie right over the warped image, and close on themselves at folds.

    Args:
        displacement_voxels: (2, rows, columns), in voxels, components in array-axis order.
        spacing: distance of rows and of columns, in mm.
        path: the file.
        every: distance of the grid's lines, in voxels.
        image: the warped image to draw under the grid.
        folded: where the map folds, drawn in red; by default where the determinant is not positive (central differences).
        colour: of the lines.
        width_inches: of the figure; the height follows.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    _, rows, columns = displacement_voxels.shape
    height, width = rows * spacing[0], columns * spacing[1]
    box = (0.0, width, 0.0, height)
    figure = Figure(figsize=(width_inches, width_inches * height / width), dpi=300)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    if image is not None:
        low, high = window(image)
        _show(axes, image, box, cmap="gray", vmin=low, vmax=high)
    if folded is None:
        folded = ~(jacobian_determinant(displacement_voxels) > 0)
    _show_folds(axes, folded, box)
    planes = [displacement_voxels[axis] + _indices((rows, columns), axis) for axis in (0, 1)]
    _grid_lines(axes, planes, (every, every), box, colour, 0.5)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("auto")
    figure.savefig(path)
