"""Writing a file so that nobody ever meets half of it, not even after the power went."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import copyfileobj
from uuid import uuid4

from isal import igzip

from foldless.errors import InputError, check_name

NAMED = 100
"""Characters of a file's name that its other name begins with: file systems have a longest one."""

PIECE = 1 << 20
"""Bytes that are packed at once."""

HALF = re.compile(r"\..+\.new-[0-9a-f]{8}(\..*)?")


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file of another name beside `path`, then put it in place in one step, and all of it on disk.

    Raises:
        InputError: there is no folder to write to, or the writer does not know the format or cannot write there.
    """
    check_name(path)
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: the folder {path.parent} does not exist; make it first")
    if path.is_dir():
        raise InputError(f"{path} cannot be written: it is a folder; give a file name")
    beside = path.with_name(f".{path.name[:NAMED]}.new-{uuid4().hex[:8]}{suffix(path)}")
    try:
        write(beside)
        with beside.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    except (RuntimeError, OSError) as error:
        raise InputError(f"{path} cannot be written: {_reason(error).replace(beside.name, path.name)}") from error
    finally:
        beside.unlink(missing_ok=True)


def write_packed(path: Path, write: Callable[[Path], None]) -> None:
    """`write_whole`, gzipped where the name ends in gz: `write` makes the file that is packed.

    Raises:
        InputError: as `write_whole` does.
    """

    def fill(beside: Path) -> None:
        plain = beside.with_suffix("")
        try:
            write(plain)
            pack(plain, beside)
        finally:
            plain.unlink(missing_ok=True)

    write_whole(path, fill if suffix(path).endswith("gz") else write)


def pack(plain: Path, packed: Path) -> None:
    """Gzip a file, in a tenth of the time that ITK takes and to about its size; the same bytes each time."""
    with plain.open("rb") as source, packed.open("wb") as target:
        zipped = igzip.IGzipFile("", "wb", compresslevel=1, fileobj=target, mtime=0)  # type: ignore[no-untyped-call]
        copyfileobj(source, zipped, PIECE)
        zipped.close()


def sync_folder(folder: Path) -> None:
    """Have the system write down which files a folder holds, where it does that."""
    with suppress(OSError):  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def half_written(folder: Path) -> list[Path]:
    """What `write_whole` leaves in a folder and below where it is killed; nobody else may be writing there."""
    return [file for file in folder.rglob(".*.new-*") if HALF.fullmatch(file.name) and file.is_file()]


def half_written_of(path: Path) -> list[Path]:
    """What `write_whole` leaves beside a file where it is killed; nobody else may be writing it."""
    if len(path.name) > NAMED:  # another name may begin alike, and its command be alive
        return []
    begins = f".{path.name[:NAMED]}.new-"
    beside = path.parent.iterdir() if os.access(path.parent, os.R_OK) else ()
    return [file for file in beside if file.name.startswith(begins) and HALF.fullmatch(file.name)]


def _reason(error: RuntimeError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[-1].strip().removeprefix("sitk::ERROR: ") if lines else repr(error)


def suffix(path: Path) -> str:
    """The suffix that tells the format, in lower case; both of `.nii.gz`."""
    ends = [end.lower() for end in path.suffixes]
    return "".join(ends[-2:]) if ends[-1:] == [".gz"] else "".join(ends[-1:])
