"""The numbers of a run as it goes: a CSV that needs no tool, and TensorBoard's events."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from foldless.errors import TrainingError
from foldless.io.files import write_whole
from foldless.objective import Terms
from foldless.training.checkpoints import what_is_left
from foldless.training.validation import Scores

COLUMNS = ("step", *Terms._fields, *(f"val_{name}" for name in Scores._fields))
NOTHING = -1
"""Of an earlier try is to be kept; step 0 is a look at the weights that a training begins with."""


class Log:
    """`log.csv`, a row per step, and TensorBoard events; rows after `from_step` of an earlier try are dropped."""

    def __init__(self, folder: Path, from_step: int = NOTHING) -> None:
        self.path = folder / "log.csv"
        kept = _rows_until(self.path, from_step)
        write_whole(self.path, lambda file: _write(file, kept))
        self._file = self.path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, COLUMNS)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=from_step + 1)
        self._row: dict[str, float] = {}

    def step(self, step: int, terms: Terms) -> None:
        """A training step's terms."""
        self.flush()
        values = {name: float(value) for name, value in terms._asdict().items()}
        self._row = {"step": step, **values}
        self._add("train", step, values)

    def scores(self, step: int, scores: Scores) -> None:
        """The validation's scores at that step."""
        values = scores._asdict()
        self._row.update({"step": step, **{f"val_{name}": value for name, value in values.items()}})
        self._add("val", step, values)
        self.flush()

    def _add(self, part: str, step: int, values: dict[str, float]) -> None:
        with self._writing():
            for name, value in values.items():
                self._board.add_scalar(f"{part}/{name}", value, step)

    def flush(self) -> None:
        """Write the row so far."""
        if self._row:
            with self._writing():
                self._writer.writerow(self._row)
                self._row = {}
                self._file.flush()

    def settle(self) -> None:
        """Have all rows on disk: before a checkpoint, so that a run resumed from it lacks none."""
        self.flush()
        with self._writing():
            os.fsync(self._file.fileno())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"the log in {self.path.parent} could not be written ({error.strerror or error}); "
                f"{what_is_left(self.path.parent)}: make room and go on"
            ) from error

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.flush()
        finally:
            with self._writing():
                self._file.close()
                self._board.close()


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a `log.csv`; what a row does not hold is missing from it."""
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def _rows_until(path: Path, step: int) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["step"] and int(row["step"]) <= step]


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
