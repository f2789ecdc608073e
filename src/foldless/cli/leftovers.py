"""Hidden folders beside an output: what is being made or replaced, and what a killed command leaves of that."""

from __future__ import annotations

import re
import shutil
import warnings
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from uuid import uuid4

from foldless.cli.interruption import shielded
from foldless.cli.lock import INSIDE as LOCK

TRAINED = ("run.json", "log.csv", "tensorboard", "*.safetensors", "resume.pt")
"""What a training writes; of other commands the record names the files."""

Kind = Literal["new", "old"]


def hidden(output: Path, kind: Kind) -> Path:
    """A name beside `output` that no other output has: for what becomes it, or for what it was."""
    output = output.resolve()
    return output.with_name(f".{output.name}.{kind}-{uuid4().hex[:8]}")


def left_beside(output: Path, kind: Kind | None = None) -> list[Path]:
    """The hidden folders of an output, the latest first."""
    output = output.resolve()
    pattern = re.compile(rf"\.{re.escape(output.name)}\.{kind or '(new|old)'}-[0-9a-f]{{8}}")
    try:
        found = [path for path in output.parent.iterdir() if pattern.fullmatch(path.name) and path.is_dir()]
    except OSError:  # not there, or one may pass through it but not look around, as in the folder of all homes
        return []
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


class Replaced:
    """What was at `output`, kept aside while something new takes its place.

    It is deleted once the new one is there and holds the file `sign`, or is done; it is put back if that fails before.
    """

    def __init__(self, output: Path, sign: str = "") -> None:
        self.output, self.sign = output.resolve(), sign
        self.aside: Path | None = None

    def __enter__(self) -> Replaced:
        if self.output.exists():
            aside = hidden(self.output, "old")
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
        with shielded():
            self.settle()
            if self.aside is not None:
                if error is None:
                    self._delete()
                else:
                    put_back(self.aside, self.output)

    def _delete(self) -> None:
        if self.aside is not None:
            discard(self.aside, heir=self.output)
            self.aside = None


def put_back(aside: Path, output: Path) -> None:
    """Let what was kept aside be `output` again, in the place of what is there."""
    begun = hidden(output, "new")
    if output.exists():
        output.rename(begun)
    aside.rename(output)
    if begun.exists():
        discard(begun, heir=output)


def discard(folder: Path, heir: Path) -> None:
    """Delete a result; what foldless did not write into it goes to another folder."""
    try:
        for path in _strange(folder):
            home = heir / path.name
            path.rename(home if not home.exists() else heir / f"{path.name}-{uuid4().hex[:8]}")
        folder = folder.rename(hidden(heir, "new"))  # half-deleted it must not come back as the earlier one
    except OSError as error:
        warnings.warn(f"{folder} is kept: what foldless did not write there could not be moved ({error.strerror})")
        return
    shutil.rmtree(folder, ignore_errors=True)


def recover(output: Path) -> None:
    """Put in order what a killed command left of an output that this process holds, and say so."""
    output = output.resolve()
    for aside in left_beside(output, "old"):
        if not output.exists() or _is_begun(output):
            put_back(aside, output)
            warnings.warn(f"{output}: what was to replace it was killed too early; the earlier one is back in place")
        elif _record_of(output) is None:
            warnings.warn(f"{output}: what foldless had written there is in {aside}, since a command was killed")
        else:
            discard(aside, heir=output)
            warnings.warn(f"{output}: removed the earlier one, which a command that was killed had kept aside")
    for fresh in left_beside(output, "new"):
        discard(fresh, heir=output)
        warnings.warn(f"{output}: removed the half-made results of a command that was killed")


def _is_begun(output: Path) -> bool:
    """Whether it is an empty folder, or a training before its first checkpoint."""
    from foldless.io.files import HALF
    from foldless.training.checkpoints import CHECKPOINT

    record = _record_of(output)
    if record is None:
        return output.is_dir() and all(path.name == LOCK or HALF.fullmatch(path.name) for path in output.iterdir())
    return record.get("command") == "train" and not (output / CHECKPOINT).is_file()


def _strange(folder: Path) -> list[Path]:
    """What foldless did not write into a result, as far as its record tells."""
    from foldless.io.files import HALF

    record = _record_of(folder) or {}
    files = TRAINED if record.get("command") == "train" else record.get("files")
    if not isinstance(files, list | tuple):
        return []
    known = [*map(str, files), LOCK]
    return [
        path
        for path in folder.iterdir()
        if not HALF.fullmatch(path.name) and not any(fnmatchcase(path.name, pattern) for pattern in known)
    ]


def _record_of(folder: Path) -> dict[str, Any] | None:
    from foldless.record import our_record

    return our_record(folder)
