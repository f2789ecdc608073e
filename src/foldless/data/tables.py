"""Tables that a user writes: CSV in UTF-8 whose first line names the columns."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from foldless.errors import InputError


def read_table(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The named columns of every row; cells without the blanks around them.

    Raises:
        InputError: there is no such file, it is no CSV in UTF-8, or lacks a column, rows, or the first cell of one.
    """
    expected = f"expected a CSV in UTF-8 whose first line names the columns {','.join(columns)}, with a row each"
    if not file.is_file():
        raise InputError(f"{file} does not exist; {expected}")
    try:
        with file.open(newline="", encoding="utf-8-sig") as content:  # spreadsheets begin with a mark
            reader = csv.DictReader(content, skipinitialspace=True)
            names, rows = list(reader.fieldnames or ()), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read as a table ({error}); {expected}") from error
    if not rows or not set(columns) <= set(names):
        raise InputError(f"{file} holds {len(rows)} rows under the columns {','.join(names)}; {expected}")
    cells = [{column: (row[column] or "").strip() for column in columns} for row in rows]
    if any(not row[columns[0]] for row in cells):
        raise InputError(f"{file} has a row without its {columns[0]}; {expected}")
    return cells
