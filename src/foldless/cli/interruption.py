"""How Ctrl-C, and what schedulers and closing terminals send, end a command: as KeyboardInterrupt."""

from __future__ import annotations

import os
import signal
import sys
import threading
from _thread import interrupt_main
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

AGAIN = 0.01
"""Seconds until a signal that went lost is raised again."""

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
"""Those of them that the system has."""


@dataclass
class Signals:
    """The signal that came first, if any has, and whether the command chooses for itself when to heed it."""

    came: int = 0
    waits: Callable[[], bool] = bool
    says: str = ""
    shielded: bool = False


SIGNALS = Signals()


@contextmanager
def interruptible() -> Iterator[Signals]:
    """Have every signal raise KeyboardInterrupt where the main thread stands; those that are ignored stay so."""
    SIGNALS.came, SIGNALS.waits = 0, bool
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup and background jobs ignore some
                before[number] = signal.signal(number, _heed)
    hook = sys.unraisablehook
    sys.unraisablehook = partial(_raised_in_vain, hook)
    try:
        yield SIGNALS
    finally:
        SIGNALS.came = 0  # or what runs next in this process would stop
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred(says: str = "", when: Callable[[], bool] = lambda: True) -> Iterator[Callable[[], bool]]:
    """Within, a first signal waits while `when` holds and is only told of, a second one does not.

    Yields:
        Whether a signal came.
    """
    SIGNALS.waits, SIGNALS.says = when, says
    try:
        yield lambda: bool(SIGNALS.came)
    finally:
        SIGNALS.waits = bool


@contextmanager
def shielded() -> Iterator[None]:
    """Within, no signal interrupts, however often it comes: for the few steps that put things back in place."""
    before, SIGNALS.shielded = SIGNALS.shielded, True
    try:
        yield
    finally:
        SIGNALS.shielded = before


def _heed(number: int, frame: FrameType | None) -> None:
    again, SIGNALS.came = bool(SIGNALS.came), SIGNALS.came or number
    if SIGNALS.shielded:
        return
    if again or not SIGNALS.waits():
        raise KeyboardInterrupt
    if SIGNALS.says:
        os.write(2, f"foldless: {SIGNALS.says}\n".encode())  # print may be what is interrupted


def _raised_in_vain(hook: Callable[[UnraisableHookArgs], object], lost: UnraisableHookArgs) -> None:
    """Where Python was clearing up, an exception ends nothing: raise it once more a moment later."""
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        hook(lost)
    elif SIGNALS.came:
        threading.Timer(AGAIN, interrupt_main, [SIGNALS.came]).start()
