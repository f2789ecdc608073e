"""Writing a file so that nobody ever meets half of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from foldless.errors import InputError


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file of another name beside `path`, then put it in place in one step.

    Raises:
        InputError: there is no folder to write to, or the writer does not know the format or cannot write there.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: the folder {path.parent} does not exist; make it first")
    if path.is_dir():
        raise InputError(f"{path} cannot be written: it is a folder; give a file name")
    beside = path.with_name(f".{uuid4().hex}{suffix(path)}")
    try:
        write(beside)
        os.replace(beside, path)
    except (RuntimeError, OSError) as error:
        raise InputError(f"{path} cannot be written: {_reason(error).replace(beside.name, path.name)}") from error
    finally:
        beside.unlink(missing_ok=True)


def _reason(error: RuntimeError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[-1].strip().removeprefix("sitk::ERROR: ") if lines else repr(error)


def suffix(path: Path) -> str:
    """The suffix that tells the format, in lower case; both of `.nii.gz`."""
    ends = [end.lower() for end in path.suffixes]
    return "".join(ends[-2:]) if ends[-1:] == [".gz"] else "".join(ends[-1:])
