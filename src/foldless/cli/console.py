"""What a person sees in the terminal."""

from __future__ import annotations

import io
import shlex
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)
NARROWEST = 12
HINT = "↑ more is better, ↓ less is better"
LESS = ("folds", "ndv", "inverse_consistency", "sdlogj", "similarity", "tre", "seconds")
"""How the names of scores begin of which less is better; similarity is a loss."""


def say_what_the_terminal_can() -> None:
    """Have letters that a terminal or a pipe does not know written as their numbers, rather than end in an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """A line on standard output."""
    OUT.print(text, soft_wrap=True, markup=False, emoji=False)


def shell(*words: object) -> str:
    """A command line that a shell takes as it is printed, whatever the names in it."""
    return shlex.join(map(str, words))


def say_error(error: object) -> None:
    """One plain sentence on standard error."""
    ERR.print(f"[bold red]foldless:[/] {escape(_one_line(error))}", soft_wrap=True, emoji=False)


def say_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning as one line, without the place in the code."""
    del category, filename, lineno, file, line
    say_note(message)


def say_note(text: Warning | str) -> None:
    """A line on standard error about what deserves a look and stops nothing."""
    ERR.print(f"[yellow]note:[/] {escape(_one_line(text))}", soft_wrap=True, emoji=False)


def quiet_thread(failed: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread passes its errors on to the log, which says them once."""
    if not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)


def progress() -> Progress:
    """A bar with an estimate; without a terminal, nothing but the last line."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[news]}"),
        console=OUT,
        refresh_per_second=2,
        disable=not OUT.is_terminal,
    )


def table(title: str, rows: Sequence[Sequence[str]], columns: Sequence[str]) -> None:
    """A table; the first column reads left and is cut where the terminal is narrow, the others right."""
    grid = Table(title=title, title_justify="left", title_style="bold", show_edge=False, pad_edge=False)
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    room = OUT.width - 1 - sum(width + len(" │ ") for width in widths[1:])  # rich before 14.3 counts an edge
    for place, name in enumerate(columns):
        if place:
            grid.add_column(name, justify="right")
        else:
            grid.add_column(name, no_wrap=True, overflow="ellipsis", max_width=max(room, NARROWEST))
    for row in rows:
        grid.add_row(*map(Text, row))
    OUT.print(grid)


def score_rows(scores: Mapping[str, Any], before: str = "_before") -> list[tuple[str, str, str]]:
    """Scores as (name, before, after) rows with their directions; per-label ones are left to the report."""
    rows = []
    for name, value in scores.items():
        if name.endswith(before) or "per_label" in name:
            continue
        if isinstance(value, Mapping):
            earlier = scores.get(f"{name}{before}") or {}
            rows += [(directed(f"{name} {part}"), number(earlier.get(part)), number(v)) for part, v in value.items()]
        else:
            stem = name.removesuffix("_after")
            rows.append((directed(stem), number(scores.get(f"{stem}{before}")), number(value)))
    return rows


def directed(name: str) -> str:
    """A score's name, and whether more or less of it is better."""
    arrow = " ↑" if name.startswith("dice") else " ↓" if name.startswith(LESS) else ""
    return name + arrow


def duration(seconds: float) -> str:
    """A time as a person reads it."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def number(value: object) -> str:
    """A number as a person reads it."""
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
