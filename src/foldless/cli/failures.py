"""How a command that fails ends: one sentence and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from signal import SIGINT

from foldless.cli.console import say_error
from foldless.cli.interruption import interruptible
from foldless.errors import InputError, NotFiniteError, TrainingError, UnprovenError

LACKING = (
    "not enough memory",
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "std::bad_alloc",
    "could not create a memory",
)
"""What torch, oneDNN, SimpleITK and the system say where there is no memory left, in lower case."""

ADVICE = {
    "train": "train with --levels 2 (or larger), with --pool 2 or with a smaller --batch",
    "crossvalidate": "train with --pool 2 or with a smaller --batch",
    "register": "crop the images, or resample them to larger voxels",
    "evaluate": "leave --steps out if it is given, or judge images of fewer voxels",
    "apply": "give a --reference of fewer voxels",
    "prepare": "end other programs: a single image at a time is held",
}
"""What takes less memory, by command."""


def ended(run: Callable[[], None], command: str = "") -> int:
    """Run a command.

    Returns:
        0 done, 1 it failed on the way, 2 it was given something that cannot be used, 3 it is done, but a map is not
        proven fold-free or a tolerance is not kept, 128 + a signal that stopped it.
    """
    with interruptible() as signals:
        try:
            code = _ended(run, command)
        except KeyboardInterrupt as error:
            say_error(f"stopped; {str(error) or 'nothing was written'}")
            return 128 + (signals.came or SIGINT)
        except Exception:  # extension modules turn an interruption into errors of their own
            if not signals.came:
                raise
            say_error("stopped; nothing was half-written")
            code = 1
        return 128 + signals.came if signals.came and code else code


def _ended(run: Callable[[], None], command: str) -> int:
    try:
        run()
    except InputError as error:
        say_error(error)
        return 2
    except UnprovenError as error:
        say_error(error)
        return 3
    except TrainingError as error:
        say_error(error)
        return 1
    except (FloatingPointError, NotFiniteError) as error:
        say_error(f"{error}; nothing was written")
        return 1
    except BrokenPipeError:  # the reader, such as `head`, has gone; Python must not meet the pipe again when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MemoryError, RuntimeError, OSError, OverflowError) as error:
        if isinstance(error, OverflowError) or "without overflow" in str(error):  # in torch's words
            say_error(f"a number among the options is too large to compute with ({error}); nothing was written")
            return 2
        if lacks_memory(error):
            say_error(
                f"the memory is not enough; {ADVICE.get(command, 'end other programs, or take a larger machine')}"
            )
        elif isinstance(error, OSError):
            say_error(f"{error.filename or 'a file'} could not be read or written: {error.strerror or error}")
        else:
            raise
        return 1
    return 0


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return any(some in str(error).lower() for some in LACKING)
