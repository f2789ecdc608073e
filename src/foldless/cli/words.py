"""What a person may have meant by a word that no command knows."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches

from tyro.conf import Positional

from foldless.errors import InputError

COMMANDS = {
    "fit": "train",
    "learn": "train",
    "align": "register",
    "predict": "register",
    "transform": "apply",
    "warp": "apply",
    "resample": "apply",
    "eval": "evaluate",
    "score": "evaluate",
    "test": "evaluate",
    "cv": "crossvalidate",
    "cross-validate": "crossvalidate",
    "info": "doctor",
    "check": "doctor",
    "help": "--help",
    "version": "--version",
}
"""What other programs call our commands."""

OPTIONS = {
    "--lr": "--rate",
    "--learning-rate": "--rate",
    "--iterations": "--steps",
    "--iters": "--steps",
    "--epochs": "--steps",
    "--max-steps": "--steps",
    "--batch-size": "--batch",
    "--input": "--data",
    "--dataset": "--data",
    "--out": "--output",
    "--outdir": "--output",
    "--output-dir": "--output",
    "--loss": "--similarity",
    "--metric": "--similarity",
    "--lambda": "--weight",
    "--regularization": "--regularity",
    "--checkpoint": "--model",
    "--weights": "--model",
    "--force": "--overwrite",
    "--continue": "--resume",
    "--channels": "--widths",
    "--nearest": "--labels",
    "--random-seed": "--seed",
    "--gpu": "--device",
    "--cuda": "--device",
}
"""What other programs call our options."""

LARGEST: dict[type, float] = {float: 3.4e38, int: 2**63 - 1}
"""What float32 and 64 bits hold."""

Kind = type[object]


def check_command(word: str, known: Iterable[str]) -> None:
    """Refuse a command that there is not.

    Raises:
        InputError: names the nearest one, if any is near.
    """
    names = list(known)
    if word in names:
        return
    near = COMMANDS.get(word) or next(iter(get_close_matches(word, names, 1)), None)
    meant = f"did you mean {near}?" if near else f"the commands are {', '.join(names)}."
    raise InputError(f"there is no command {word}; {meant} See foldless --help")


def check_options(command: str, kind: Kind, words: Sequence[str]) -> None:
    """Refuse options that a command does not have.

    Raises:
        InputError: names the nearest one, if any is near, and the right help.
    """
    known, places = options_of(kind)
    for word in words:
        name = word.partition("=")[0]
        option = name.replace("_", "-")
        if not option.startswith("--") or option in known or option == "--help" or option.startswith("--tyro-"):
            continue
        if (place := option[2:].upper()) in places:
            meant = f"; {place} goes without it: foldless {command} {' '.join(places)}."
        elif near := _nearest(option, known):
            meant = f"; did you mean {near}?"
        else:
            meant = ", nor one like it."
        raise InputError(f"{command} has no option {name}{meant} See foldless {command} --help")


def check_numbers(command: object) -> None:
    """Refuse numbers that no computation can take: not finite, or beyond float32 or 64 bits.

    Raises:
        InputError: names the option.
    """
    for field in fields(command):  # type: ignore[arg-type]
        value = getattr(command, field.name)
        if is_dataclass(value):
            check_numbers(value)
        for number in value if isinstance(value, tuple) else (value,):
            limit = LARGEST.get(type(number))
            if limit is not None and not -limit <= number <= limit:
                option = field.name.replace("_", "-")
                raise InputError(f"--{option} takes a finite number of at most {limit:.3g}; got {number:g}")


def options_of(kind: Kind) -> tuple[list[str], list[str]]:
    """The options of a command as they are typed, and the names of what it takes without one, in their order."""
    options, places = [], []
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in fields(kind):  # type: ignore[arg-type]
        hint = hints[field.name]
        if is_dataclass(hint):
            options += options_of(typing.cast(Kind, hint))[0]
        elif _is_positional(hint):
            places.append(field.name.replace("_", "-").upper())
        else:
            options.append("--" + field.name.replace("_", "-"))
    return options, places


def _nearest(option: str, known: Sequence[str]) -> str | None:
    meant = OPTIONS.get(option)
    return meant if meant in known else next(iter(get_close_matches(option, known, 1)), None)


def _is_positional(hint: object) -> bool:
    marker = typing.get_args(Positional[int])[1]
    return marker in typing.get_args(hint)[1:]
