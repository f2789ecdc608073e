"""A process that judges damaged files one by one, as `hunt` asks: `FORMAT SEED` in, a line of JSON out."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import sys
import tempfile
from pathlib import Path

from tests.fuzz.damage import damaged
from tests.fuzz.judge import FaultError, judged, unpacked
from tests.fuzz.valid import FORMATS

ROOM = 96 << 20
"""Bytes that reading any file may take: what libraries load and keep when they first meet a format."""
MULTIPLE = 16
"""Beyond that, bytes that a byte of the unpacked file may take."""
SPARE = 3 << 30
"""Address space beyond what the process has when it begins; a claim of more must be refused, not tried."""


def serve() -> None:
    """Answer until the questions end; what libraries print goes to a file, where it is a fault."""
    out = os.fdopen(os.dup(1), "w")
    noise = tempfile.TemporaryFile()  # noqa: SIM115
    for stream in (1, 2):
        os.dup2(noise.fileno(), stream)
    _warm_up()
    space = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (space + SPARE, resource.RLIM_INFINITY))
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        kind, seed = line.split()
        print(json.dumps(answer(kind, int(seed), noise.fileno())), file=out, flush=True)


def _warm_up() -> None:
    """Every format once, so that no file pays for imports."""
    from tests.fuzz.valid import valid

    for kind in FORMATS:
        for name, content in valid(kind).items():
            _judge(kind, name, content)


def answer(kind: str, seed: int, noise: int | None = None) -> dict[str, object]:
    """What came of one damaged file: outcome, seconds, bytes, and what is wrong, if anything."""
    name, content = damaged(kind, seed)
    _forget_peak()
    before, started = _peak(), _seconds()
    outcome, wrong = _judge(kind, name, content)
    seconds, grown = _seconds() - started, _peak() - before
    allowed = ROOM + MULTIPLE * unpacked(name, content)
    if not wrong and grown > allowed:
        outcome, wrong = "memory", f"{grown >> 20} MiB for a file of {len(content)} bytes"
    if noise is not None and (said := _taken(noise)):
        outcome, wrong = (outcome, wrong) if wrong else ("noise", said)
    return {"outcome": outcome, "wrong": wrong, "name": name, "seconds": round(seconds, 3), "grown": grown}


def _judge(kind: str, name: str, content: bytes) -> tuple[str, str]:
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / name
        path.write_bytes(content)
        return judged(kind, path), ""
    except FaultError as error:
        return "wrong", str(error)
    except Exception as error:  # whatever reaches here is what a user would have met
        return "exception", f"{type(error).__module__}.{type(error).__name__}: {str(error)[-300:]}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _seconds() -> float:
    """Of processor time, children included, which other processes on the machine leave alone."""
    return sum(os.times()[:4])


def _forget_peak() -> None:
    """Have Linux count the most memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    found = re.search(r"VmHWM:\s*([0-9]+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


def _taken(noise: int) -> str:
    """What was printed since the last file."""
    size = os.lseek(noise, 0, os.SEEK_END)
    said = os.pread(noise, 400, 0).decode("utf-8", "replace") if size else ""
    os.ftruncate(noise, 0)
    os.lseek(noise, 0, os.SEEK_SET)
    return said


if __name__ == "__main__":
    serve()
