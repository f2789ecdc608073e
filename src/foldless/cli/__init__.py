"""The command line: one frozen dataclass a command, each with `run()`."""

from __future__ import annotations

import functools
import operator
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from foldless import __version__
from foldless.cli.apply import Apply
from foldless.cli.certify import Certify
from foldless.cli.console import quiet_thread, say, say_warning, say_what_the_terminal_can
from foldless.cli.convert import Compose, Convert, Invert
from foldless.cli.crossvalidate import CrossValidate
from foldless.cli.demo import Demo
from foldless.cli.doctor import Doctor
from foldless.cli.evaluate import Evaluate
from foldless.cli.failures import ended
from foldless.cli.inspect import Inspect
from foldless.cli.jacobian import Jacobian
from foldless.cli.points import Points
from foldless.cli.pose import FindPose
from foldless.cli.prepare import Prepare
from foldless.cli.register import Register
from foldless.cli.repair import Repair
from foldless.cli.train import Train, with_defaults_for_the_data
from foldless.cli.words import check_command, check_numbers, check_options
from foldless.errors import check_name
from foldless.memory import settle_memory

ABOUT = """Register medical images with learned maps that do not fold.

`foldless demo` shows the whole of it in a few minutes; `foldless COMMAND --help` explains a command, and
`foldless --version` says which foldless this is.

Exit codes: 0 done; 1 failed on the way; 2 given what it cannot use; 3 a map is not proven fold-free, or a tolerance not
kept; 128 + the number of the signal that stopped it."""

Command = (
    Train
    | Register
    | FindPose
    | Apply
    | Convert
    | Compose
    | Invert
    | Jacobian
    | Inspect
    | Points
    | Certify
    | Repair
    | Evaluate
    | CrossValidate
    | Prepare
    | Demo
    | Doctor
)

COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "train": Train,
    "register": Register,
    "pose": FindPose,
    "apply": Apply,
    "convert": Convert,
    "compose": Compose,
    "invert": Invert,
    "jacobian": Jacobian,
    "inspect": Inspect,
    "points": Points,
    "certify": Certify,
    "repair": Repair,
    "evaluate": Evaluate,
    "crossvalidate": CrossValidate,
    "prepare": Prepare,
    "doctor": Doctor,
}

SETTINGS = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 it failed on the way, 2 it was given what it cannot use, 3 done, but not proven."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads are ruinous where cores are shared
    settle_memory()
    warnings.showwarning = say_warning
    threading.excepthook = quiet_thread
    say_what_the_terminal_can()
    words = list(sys.argv[1:] if arguments is None else arguments)
    return ended(lambda: _run(words), words[0] if words else "")


def _run(words: Sequence[str]) -> None:
    if words[:1] == ["--version"]:
        say(f"foldless {__version__}")
    else:
        parsed(words).run()


def parsed(words: Sequence[str]) -> Command:
    """The command that the words ask for.

    Raises:
        InputError: there is no such command or option, or a word makes no sense.
        SystemExit: help was asked for, or a word is missing or of the wrong kind; all of it has been said.
    """
    for word in words:
        check_name(word)
    if not words or words[0].startswith("-"):
        return _overview(words)
    name, *rest = words
    check_command(name, COMMANDS)
    check_options(name, COMMANDS[name], rest)
    kind: type[Any] = COMMANDS[name]
    default: dict[str, Any] = {"default": with_defaults_for_the_data(rest)} if name == "train" else {}
    command: Command = tyro.cli(kind, prog=f"foldless {name}", args=rest, config=SETTINGS, **default)
    check_numbers(command)
    return command


def _overview(words: Sequence[str]) -> Command:
    """Help on all commands, or what is wrong with a line that names none."""
    kinds: list[Any] = [Annotated[kind, tyro.conf.subcommand(name)] for name, kind in COMMANDS.items()]
    every: Any = functools.reduce(operator.or_, kinds)
    command: Command = tyro.cli(every, prog="foldless", description=ABOUT, args=list(words), config=SETTINGS)
    return command
