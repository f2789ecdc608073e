"""How every experiment is started."""

from __future__ import annotations

import sys
from typing import Protocol

import tyro

from foldless.cli.console import say, say_error
from foldless.errors import InputError, TrainingError


class Experiment(Protocol):
    """A frozen dataclass of options."""

    def notice(self) -> str: ...

    def run(self) -> None: ...


def begin(experiment: type[Experiment]) -> None:
    """Run an experiment from its command line; an error is one sentence, and the exit code 2, or 1 of a training."""
    try:
        options = tyro.cli(experiment)
        if notice := options.notice():
            say(notice)
        options.run()
    except InputError as error:
        say_error(error)
        sys.exit(2)
    except TrainingError as error:
        say_error(error)
        sys.exit(1)
