"""Where results go: apart from all inputs, by one command at a time, whole or not at all."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from foldless.cli.interruption import deferred
from foldless.cli.leftovers import Replaced, hidden, left_beside, recover
from foldless.cli.lock import INSIDE as LOCK
from foldless.cli.lock import locked
from foldless.cli.preflight import on_disk
from foldless.errors import InputError, check_name


@contextmanager
def claimed(output: Path, inputs: Sequence[Path] = (), parts: Sequence[str] = ()) -> Iterator[None]:
    """Hold the output folder for this command; what a killed one left of it is put in order first.

    Args:
        output: the folder, which need not exist; those above it are made, and removed again on failure.
        inputs: everything that is read.
        parts: folders in the output that are written to, which might be links to somewhere else.

    Raises:
        InputError: output and inputs lie within each other, another command is writing there, or nobody can.
    """
    check_apart([output, *(output / part for part in parts)], inputs)
    for path in on_disk(inputs):
        put_in_order(path)
    if output.exists() and not output.is_dir():
        raise InputError(f"the output {output} is a file; a folder is needed")
    with made_parents(output), locked(output) as alone:
        if alone:
            recover(output)
        elif left := left_beside(output):
            warnings.warn(
                f"{left[0]} is of a command that was killed or still runs; this file system has no locks to tell"
            )
        yield


def put_in_order(path: Path) -> None:
    """Put back what a killed command left aside of something that is read, unless a living one is at it."""
    for folder in (path, path.parent):
        if left_beside(folder):
            with suppress(InputError), locked(folder) as alone:
                if alone:
                    recover(folder)


def tidy(output: Path) -> None:
    """Remove the files that a killed command was writing in a folder that this one holds."""
    from foldless.io.files import half_written

    for file in half_written(output):
        file.unlink(missing_ok=True)


def untouched(output: Path) -> bool:
    """Whether it is not there, empty, or as a command leaves it that was killed while it wrote the first file."""
    from foldless.io.files import HALF

    return not output.exists() or all(path.name == LOCK or HALF.fullmatch(path.name) for path in output.iterdir())


def check_apart(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Make sure that nothing is written into what is read: through links, and whatever the case of letters.

    A DICOM series that is named in its folder counts as the folder.

    Raises:
        InputError: an output is an input, lies in one, or holds one; or a name is no text.
    """
    for path in (*outputs, *inputs):
        check_name(path.resolve())
    inputs = on_disk(inputs)
    for output in outputs:
        home = output.resolve()
        for path in inputs:
            there = path.resolve()
            if _same(home, there):
                raise InputError(f"the output {output} is one of the inputs; choose another --output")
            if _within(there, home) or (_within(home, there) and path.is_dir()):
                raise InputError(
                    f"the output {output} and the input {path} lie within each other; choose another --output"
                )


def check_file(output: Path | None, inputs: Sequence[Path], overwrite: bool) -> None:
    """Make sure that a result may become the file `output`, if any; put in order what is read.

    Raises:
        InputError: it is an input, a folder other than an image's, or exists and may not be replaced.
    """
    if output is not None:
        check_apart([output], inputs)
        if output.is_dir() and output.suffix.lower() != ".zarr":
            raise InputError(f"the output {output} is a folder; give a file name")
        if output.exists() and not overwrite:
            raise InputError(f"{output} exists; choose another name, or add --overwrite")
    for path in on_disk(inputs):
        put_in_order(path)


@contextmanager
def written_alone(output: Path) -> Iterator[None]:
    """Hold the file `output` for this command; what a killed one had half-written of it is removed.

    The folders above it are made, and removed again on failure.

    Raises:
        InputError: another command is writing there, or nobody can.
    """
    from foldless.io.files import half_written_of

    with made_parents(output), locked(output) as alone:
        for half in half_written_of(output) if alone else ():
            half.unlink(missing_ok=True)
            warnings.warn(f"{output}: removed what a command that was killed had half-written of it")
        yield


def check_replaceable(output: Path, command: str, overwrite: bool) -> None:
    """Make sure before any computing that results may go to `output`.

    Raises:
        InputError: it exists and may not be replaced, or another command or program wrote it.
    """
    if untouched(output):
        return
    if not overwrite:
        raise InputError(f"the output folder {output} exists; choose another, or add --overwrite to replace it")
    from foldless.record import RECORD, our_record

    record = our_record(output)
    if record is None:
        raise InputError(f"{output} holds no {RECORD} of foldless, so something else wrote it; it will not be deleted")
    if (wrote := record.get("command")) != command:
        raise InputError(
            f"{output} was written by `foldless {wrote}`, which `foldless {command}` does not replace; choose another "
            "--output, or delete it yourself"
        )


@contextmanager
def results_in(output: Path, command: str, overwrite: bool, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """A fresh folder that becomes `output` when all went well; until then, and on any failure, `output` is untouched.

    Raises:
        InputError: see `claimed` and `check_replaceable`.
    """
    with claimed(output, inputs):
        check_replaceable(output, command, overwrite)
        output = output.resolve()
        fresh = hidden(output, "new")
        try:
            _make(fresh, output)
            yield fresh
            _name_files(fresh)
        except KeyboardInterrupt:
            shutil.rmtree(fresh, ignore_errors=True)
            raise KeyboardInterrupt(f"nothing was written to {output}") from None
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        _take_place(fresh, output)


def _make(fresh: Path, output: Path) -> None:
    try:
        fresh.mkdir()
    except OSError as error:
        raise InputError(f"the output folder {output} cannot be made: {error.strerror}") from error


def _name_files(folder: Path) -> None:
    """Say in the record which files the command wrote: only they are replaced by the next one."""
    from foldless.record import RECORD, read_record, write_json

    file = folder / RECORD
    if file.is_file():
        record = read_record(file)
        write_json({**record, "files": sorted(path.name for path in folder.iterdir())}, file)


def _take_place(fresh: Path, output: Path) -> None:
    from foldless.io.files import sync_folder

    try:
        with deferred(), Replaced(output):
            fresh.rename(output)
    except OSError as error:
        kept = output.with_name(f"{output.name}-{fresh.name[-8:]}")
        with suppress(OSError):
            fresh = fresh.rename(kept)
        raise InputError(f"{output} cannot be replaced ({error.strerror}); the new results are in {fresh}") from error
    sync_folder(output.parent)


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


def _within(place: Path, folder: Path) -> bool:
    return any(_same(above, folder) for above in (place, *place.parents))


def _same(one: Path, other: Path) -> bool:
    """Whether two names are of one file or folder, by the word of the system where it has both."""
    try:
        return one.samefile(other)
    except OSError:
        return one == other
