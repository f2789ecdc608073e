"""Pictures for the docs and for papers: files that are the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from foldless.io.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from torch import Tensor

DOCS = Path(__file__).parents[1] / "docs" / "pictures"


def panels(
    rows: int, columns: int, width: float = 10.0, height: float | None = None
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of so many panels, without any window system."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height or width * rows / columns), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


def save(figure: Figure, path: Path) -> None:
    """Write an SVG or PDF, as the suffix says, whole or not at all."""
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix[1:]
    undated = {"svg": "Date", "pdf": "CreationDate"}[kind]
    with matplotlib.rc_context({"svg.hashsalt": "foldless", "svg.fonttype": "path"}):
        write_whole(path, lambda file: figure.savefig(file, format=kind, metadata={undated: None}))


Format = Literal["svg", "pdf"]


def save_all(figure: Figure, folder: Path, name: str, formats: Sequence[Format]) -> None:
    """Write a figure in every format asked for."""
    for kind in formats:
        save(figure, folder / f"{name}.{kind}")


def draw_lattice(axes: Axes, nodes: Tensor | NDArray[np.float32], title: str, every: int = 1) -> None:
    """Lines through the images of a 2-D lattice's nodes, (2, height, width), first axis downwards."""
    rows, columns = np.asarray(nodes)
    style = {"color": "#1f5f8b", "linewidth": 0.6}
    axes.plot(columns[::every].T, rows[::every].T, **style)
    axes.plot(columns[:, ::every], rows[:, ::every], **style)
    axes.set(title=title, aspect="equal", xticks=[], yticks=[])
    axes.invert_yaxis()
