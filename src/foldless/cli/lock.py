"""One command at a time writes to an output."""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from foldless.errors import InputError

INSIDE = ".lock"
"""The lock's name in an output, where the folder above it takes no files."""

UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What a file system says that has no locks; there nothing is refused."""


@contextmanager
def locked(output: Path) -> Iterator[bool]:
    """Hold an output, a file or a folder, for this process; the system lets go of it even after a kill.

    The lock is on a hidden file beside the output, or in it where the folder above takes no files.

    Yields:
        Whether that is certain; where the file system knows no locks another process may hold it as well.

    Raises:
        InputError: another process holds it.
    """
    path, handle, certain = _opened(output)
    try:
        _tell(handle)
        yield certain
    finally:
        with suppress(OSError):  # Windows removes no file that is open, and needs none removed
            path.unlink()
        os.close(handle)


def lock_file(output: Path) -> Path:
    """Where the lock of an output lies."""
    output = output.resolve()
    beside = output.with_name(f".{output.name}.lock")
    return output / INSIDE if output.is_dir() and not os.access(output.parent, os.W_OK) else beside


def _opened(output: Path) -> tuple[Path, int, bool]:
    """The lock's file, locked; whoever held it before may just have removed it, then another is made."""
    path = lock_file(output)
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise InputError(f"{output} cannot be written: {error.strerror} ({path})") from error
        claimed = _claimed(handle)
        if claimed is False:
            about = _told(handle)
            os.close(handle)
            raise InputError(f"{output} is being written by {about}; wait until it is done, or choose another output")
        with suppress(OSError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return path, handle, claimed is not None
        os.close(handle)


def _claimed(handle: int) -> bool | None:
    """Whether the lock is ours now; None where the file system knows no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(handle, 1 << 30, os.SEEK_SET)  # a locked byte cannot be read, and the others tell who holds it
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in UNKNOWN else False
    return True


def _tell(handle: int) -> None:
    about = {"process": os.getpid(), "host": platform.node(), "since": datetime.now().isoformat(" ", "seconds")}
    with suppress(OSError):  # a full disk locks as well as any
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, json.dumps(about).encode())


def _told(handle: int) -> str:
    os.lseek(handle, 0, os.SEEK_SET)
    try:
        about = json.loads(os.read(handle, 1000))
        return f"process {about['process']} on {about['host']} since {about['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"
