"""Commands in processes of their own, quick to start: a process that has imported all forks for each of them."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

IMPORTED = (
    "nibabel", "SimpleITK", "scipy.ndimage", "scipy.stats", "safetensors.torch", "torch.utils.tensorboard",
    "foldless.cli", "foldless.crossvalidation", "foldless.direct", "foldless.io", "foldless.outcome",
    "foldless.registering", "foldless.report", "foldless.training.loop", "foldless.data.source", "torch._dynamo",
    "matplotlib.figure", "matplotlib.backends.backend_agg",
)  # fmt: skip
"""What commands import; none of it may start threads, which do not outlive a fork."""

MEGABYTE = 1 << 20


class Job:
    """A command that runs; `wait` gives its exit code, negative for the signal that killed it."""

    def __init__(self, server: subprocess.Popen, words: Sequence[object], home: Path, limits: dict[str, int]) -> None:
        self._server, self._home = server, home
        job = {"words": [str(word) for word in words], "home": str(home), **limits}
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        self.pid = int(server.stdout.readline())

    def send(self, number: int) -> None:
        os.kill(self.pid, number)  # until `wait` the process is there, if only as a zombie

    def wait(self) -> int:
        self._server.stdin.write("\n")
        self._server.stdin.flush()
        return os.waitstatus_to_exitcode(int(self._server.stdout.readline()))

    @property
    def said(self) -> str:
        return (self._home / "said").read_text()

    @property
    def complained(self) -> str:
        return (self._home / "complained").read_text()


class Forks:
    """Where commands are forked from, one at a time."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self._home = home
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads wait for each other where tests share the cores
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=alone
        )

    def start(self, *words: object, **limits: int) -> Job:
        """Limits: `file`, bytes; `memory`, MiB above what the process has."""
        return Job(self._server, words, self._home, limits)

    def run(self, *words: object, **limits: int) -> tuple[int, str, str]:
        job = self.start(*words, **limits)
        return job.wait(), job.said, job.complained

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


def _serve() -> None:
    for name in IMPORTED:
        import_module(name)

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _command(json.loads(line))
        _answer(pid)
        sys.stdin.readline()
        _answer(os.waitpid(pid, 0)[1])


def _answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _command(job: dict) -> None:
    from foldless.cli import main

    for place, name in ((1, "said"), (2, "complained")):
        os.dup2(os.open(Path(job["home"]) / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), place)
    if "file" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file"],) * 2)
    if "memory" in job:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + job["memory"] * MEGABYTE,) * 2)
    code = 1
    try:
        code = main(job["words"])
    except SystemExit as left:
        code = int(left.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
