"""Still pictures: all panels of a pair in one PNG, and the warped grid for a paper."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Shaped

from foldless.report.arrays import (
    DIVERGING,
    FIXED_LABELS,
    FOLD,
    GRID,
    INK,
    LARGEST_LEAST,
    OTHER_LABELS,
    SEQUENTIAL,
    STAGE,
    Array,
    Arrays,
    View,
    finite,
    grid_every,
    jacobian_determinant,
    window,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def overview(arrays: Arrays) -> str:
    """All panels at the middle slices as one PNG, in base64: what the page shows without its script."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(arrays)
    columns = len(panels) if len(arrays.views) > 1 or len(panels) <= 5 else -(-len(panels) // 2)
    blocks = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    sizes = [_size(arrays, view) for view in arrays.views]
    gap = 0.06 * max(max(size) for size in sizes)
    cell = max(width for _, width in sizes)
    head = 0.024 * (columns * (cell + gap) + gap)
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
            axes.text(x + cell / 2, y + head / 2, title, color=INK, ha="center", va="center", fontsize=8.5)
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
        _show_folds(axes, _cut(view, arrays.folded), box)
        _grid_lines(axes, planes, [every[view.row], every[view.column]], box, GRID, 0.6)

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
                f"inverse error, ≤ {arrays.error_limit:g}",
                lambda axes, view, box: _show(
                    axes, _cut(view, error), box, cmap=_colours(SEQUENTIAL), vmin=0, vmax=arrays.error_limit
                ),
            )
        )
    if pair.least_volume is not None:
        least = pair.least_volume

        def least_volume(axes: Axes, view: View, box: Box) -> None:
            _show(axes, _cut(view, least), box, cmap=_colours(SEQUENTIAL), vmin=0, vmax=LARGEST_LEAST)
            _show_folds(axes, _cut(view, arrays.folded), box)

        panels.append(("least volume, 0 to 1", least_volume))
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
    return np.clip(finite(values), 0, 1)


def _indices(shape: Sequence[int], axis: int) -> Array:
    return np.arange(shape[axis], dtype=np.float32).reshape([-1 if i == axis else 1 for i in range(len(shape))])


def _show(axes: Axes, picture: Array, box: Box, **how: Any) -> None:
    left, right, top, bottom = box
    axes.imshow(picture, extent=(left, right, bottom, top), origin="upper", interpolation="nearest", **how)


def _show_folds(axes: Axes, folded: Array, box: Box) -> None:
    if folded.any():
        _show(axes, np.where(folded, 1.0, np.nan), box, cmap=_colours((FOLD, FOLD)), vmin=0, vmax=1)


def _show_edges(axes: Axes, labels: Array, box: Box, colour: str) -> None:
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:-1] |= labels[:-1] != labels[1:]
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    if edge.any():
        _show(axes, np.where(edge, 1.0, np.nan), box, cmap=_colours((colour, colour)), vmin=0, vmax=1)


def _colours(stops: Sequence[str]) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("stops", list(stops))


def _grid_lines(
    axes: Axes, planes: Sequence[Array], every: Sequence[float], box: Box, colour: str, width: float
) -> None:
    """Where each coordinate of the map is a multiple of `every`: the moving image's lattice, carried along."""
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
    of phi(x) = x + u(x) is a multiple of `every`. They lie over the warped image, and close on themselves at folds.

    Args:
        displacement_voxels: (2, rows, columns), in voxels, components in array-axis order.
        spacing: distance of rows and of columns, in mm.
        path: the file.
        every: distance of the grid's lines, in voxels.
        image: the warped image to draw under the grid.
        folded: where the map folds, drawn in red; by default where the central-difference determinant is not positive.
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
    _grid_lines(axes, planes, (float(every), float(every)), box, colour, 0.5)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("auto")
    figure.savefig(path)
