"""Calls of libraries that print: what they say becomes our own sentence or is of no use to a user."""

from __future__ import annotations

import locale
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

OBJECT = re.compile(r"^(?:ITK ERROR: |sitk::ERROR: )*(?:\w+\(0x[0-9a-f]+\): )?")
"""How ITK begins what it says: its own name, the object and where that lies in memory."""

_LOCK = threading.Lock()
_STDERR = 2
_silent = 0
_kept: int | None = None


def reason(error: RuntimeError) -> str:
    """The last line of SimpleITK's error without what is of no use to a user; a part of a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (OBJECT.sub("", lines[-1]).rstrip(".") if lines else "") or "no reason given"


@contextmanager
def quiet() -> Iterator[None]:
    """Whatever is written to the process' standard error meanwhile, C++ streams included, is dropped.

    The locale stays as it is: GDCM sets another one where it writes DICOM, in which text is ASCII from then on.

    Threads may be in here at once; the first in turns it off, the last out turns it on. Warnings are to be raised
    outside.
    """
    before = locale.setlocale(locale.LC_ALL)
    _enter()
    try:
        yield
    finally:
        _leave()
        if locale.setlocale(locale.LC_ALL) != before:
            locale.setlocale(locale.LC_ALL, before)


def _enter() -> None:
    global _silent, _kept
    with _LOCK:
        _silent += 1
        if _silent > 1:
            return
        with suppress(OSError):  # there may be no standard error
            _kept = os.dup(_STDERR)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, _STDERR)
            os.close(nowhere)


def _leave() -> None:
    global _silent, _kept
    with _LOCK:
        _silent -= 1
        if _silent == 0 and _kept is not None:
            os.dup2(_kept, _STDERR)
            os.close(_kept)
            _kept = None
