"""Files whose damage may end the process that reads them: looked at in a process of its own first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import SimpleITK

from foldless.errors import InputError

PATIENCE = 20.0
"""Seconds that such a process may take to begin and to read a small file."""
SLOWEST = 5e6
"""Bytes a second that count as slow."""

READ = """
import sys
sys.path += sys.argv[2:]
try:
    from _SimpleITK import ReadTransform
except ImportError:
    from SimpleITK import ReadTransform
ReadTransform(sys.argv[1])
"""
"""Reads a file by SimpleITK's library alone, where it is found: its Python side takes four times as long to import."""


def check_transform(path: Path) -> None:
    """Make sure that SimpleITK can read an ITK transform, at the cost of reading it once more.

    Raises:
        InputError: it cannot.
    """
    seconds = PATIENCE + path.stat().st_size / SLOWEST
    try:
        ended = subprocess.run(
            [sys.executable, "-c", READ, str(path), *SimpleITK.__path__],
            capture_output=True,
            timeout=seconds,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        ended = None
    if ended != 0:
        raise InputError(f"{path} cannot be read as an ITK transform, it is damaged; copy or write it again")
