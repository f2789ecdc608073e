"""What a person sees in the terminal, and where results go."""

from __future__ import annotations

import json
import shlex
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any, TextIO
from uuid import uuid4

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

from foldless.errors import InputError

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)
NARROWEST = 12
HINT = "↑ more is better, ↓ less is better"
LESS = ("folds", "ndv", "inverse_consistency", "sdlogj", "similarity", "seconds")
"""How the names of scores begin of which less is better; similarity is a loss."""


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
    ERR.print(f"[yellow]note:[/] {escape(_one_line(message))}", soft_wrap=True, emoji=False)


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
            rows += [(directed(f"{name} {part}"), "", number(v)) for part, v in value.items()]
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


@contextmanager
def results_in(output: Path, overwrite: bool, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """A fresh folder that becomes `output` when all went well; until then, and on any failure, `output` is untouched.

    Raises:
        InputError: see `check_output`.
    """
    check_output(output, overwrite, inputs)
    output = output.resolve()
    with made_parents(output):
        try:
            fresh = Path(mkdtemp(prefix=f".{output.name}-", dir=output.parent))
        except OSError as error:
            raise InputError(f"the output folder {output} cannot be made: {error.strerror}") from error
        fresh.chmod(0o755)
        try:
            yield fresh
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        try:
            with Replaced(output):
                fresh.rename(output)
        except OSError as error:
            raise InputError(
                f"{output} cannot be replaced ({error.strerror}); the new results are in {fresh}"
            ) from error


@contextmanager
def made_parents(output: Path) -> Iterator[None]:
    """The folder that `output` goes to, made with all above it; on any failure what was made is removed again.

    Raises:
        InputError: it cannot be made.
    """
    made = [folder for folder in output.resolve().parents if not folder.exists()]
    try:
        output.resolve().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder of {output} cannot be made: {error.strerror}") from error
    try:
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


class Replaced:
    """What was at `output`, kept beside it under a hidden name while something new takes its place.

    It is deleted once the new one is there and holds the file `sign`, or is done; it is put back if that fails before.
    """

    def __init__(self, output: Path, sign: str = "") -> None:
        self.output, self.sign = output.resolve(), sign
        self.aside: Path | None = None

    def __enter__(self) -> Replaced:
        if self.output.exists():
            aside = self.output.with_name(f".{self.output.name}-old-{uuid4().hex[:8]}")
            self.output.rename(aside)
            self.aside = aside
        return self

    def settle(self) -> None:
        """Delete what was there if the new one has come so far that it may be trusted."""
        if self.aside is not None and (self.output / self.sign).exists():
            self._delete()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle()
        if self.aside is None:
            return
        if error is None:
            self._delete()
            return
        shutil.rmtree(self.output, ignore_errors=True)
        with suppress(OSError):
            self.aside.rename(self.output)

    def _delete(self) -> None:
        if self.aside is not None:
            shutil.rmtree(self.aside, ignore_errors=True)
            self.aside = None


def check_output(output: Path, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
    """Make sure before any computing that results may go to `output`.

    Raises:
        InputError: it exists and may not be replaced, it is no result of foldless, or it holds one of the inputs.
    """
    home = output.resolve()
    for path in inputs:
        there = path.resolve()
        if home == there or home in there.parents or (path.is_dir() and there in home.parents):
            raise InputError(f"the output {output} and the input {path} lie within each other; choose another --output")
    if not output.exists():
        return
    if not output.is_dir():
        raise InputError(f"the output {output} is a file; a folder is needed")
    if not any(output.iterdir()):
        return
    if not overwrite:
        raise InputError(f"the output folder {output} exists; choose another, or add --overwrite to replace it")
    from foldless.record import FILE

    if not _is_record(output / FILE):
        raise InputError(f"{output} holds no {FILE} of foldless, so something else wrote it; it will not be deleted")


def _is_record(file: Path) -> bool:
    try:
        return "foldless" in json.loads(file.read_text(encoding="utf-8"))["versions"]
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
