"""What `--device` names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foldless.cli.console import say

if TYPE_CHECKING:
    from foldless.machine import Machine


def machine_named(word: str) -> Machine:
    """The machine that a command is to compute on; one that is not the CPU is said.

    Raises:
        InputError: there is no such device.
    """
    from foldless.machine import Machine

    machine = Machine.named(word)
    if machine.device.type != "cpu":
        say(f"Computing on {machine.device}, {machine.name}")
    return machine
