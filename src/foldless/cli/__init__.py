"""The command line: one frozen dataclass a command, each with `run()`."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import Annotated

import tyro

from foldless.cli.apply import Apply
from foldless.cli.console import quiet_thread, say_error, say_warning
from foldless.cli.crossvalidate import CrossValidate
from foldless.cli.demo import Demo
from foldless.cli.doctor import Doctor
from foldless.cli.evaluate import Evaluate
from foldless.cli.prepare import Prepare
from foldless.cli.register import Register
from foldless.cli.train import Train, with_defaults_for_the_data
from foldless.errors import InputError, TrainingError
from foldless.memory import settle_memory

ABOUT = """Register medical images with learned maps that do not fold.

`foldless demo` shows the whole of it in a few minutes; `foldless COMMAND --help` explains a command."""


LACKS_MEMORY = "the memory is not enough; train with --levels 2 (or larger) or with a smaller --batch"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 it failed on the way, 2 it was given something that cannot be used."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads are ruinous where cores are shared
    settle_memory()
    warnings.showwarning = say_warning
    threading.excepthook = quiet_thread
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        train = with_defaults_for_the_data(words)
        command: Train | Register | Apply | Evaluate | CrossValidate | Prepare | Demo | Doctor = tyro.cli(
            Annotated[Demo, tyro.conf.subcommand("demo")]
            | Annotated[Train, tyro.conf.subcommand("train", default=train)]
            | Annotated[Register, tyro.conf.subcommand("register")]
            | Annotated[Apply, tyro.conf.subcommand("apply")]
            | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
            | Annotated[CrossValidate, tyro.conf.subcommand("crossvalidate")]
            | Annotated[Prepare, tyro.conf.subcommand("prepare")]
            | Annotated[Doctor, tyro.conf.subcommand("doctor")],
            prog="foldless",
            description=ABOUT,
            args=words,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )
        command.run()
    except InputError as error:
        say_error(error)
        return 2
    except TrainingError as error:
        say_error(error)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not _lacks_memory(error):
            raise
        say_error(LACKS_MEMORY)
        return 1
    except KeyboardInterrupt:
        say_error("stopped")
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has gone; Python must not meet the pipe again when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        say_error(f"{error.filename or 'a file'} could not be read or written: {error.strerror or error}")
        return 1
    return 0


def _lacks_memory(error: MemoryError | RuntimeError) -> bool:
    words = ("not enough memory", "out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(some in str(error) for some in words)
