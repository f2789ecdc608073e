"""`foldless doctor`."""

from __future__ import annotations

import os
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path

from foldless.cli.console import say, table


@dataclass(frozen=True)
class Doctor:
    """Look at this machine: versions, devices, memory, the compiled kernels, and whether files can be written here."""

    folder: Path = Path()
    """Where to try writing."""

    def run(self) -> None:
        import torch

        from foldless.kernels import native_status, triton_status
        from foldless.machine import CPU
        from foldless.record import PACKAGES, installed_version

        (native, why), (triton, why_triton) = native_status(), triton_status()
        rows = [(package, installed_version(package)) for package in PACKAGES]
        rows += [
            ("python", platform.python_version()),
            ("system", platform.platform()),
            ("cores", f"{os.cpu_count()}, torch uses {torch.get_num_threads()}"),
            ("memory", _memory()),
            (
                "bfloat16",
                "used for networks" if CPU.gains_by_bfloat16 else "not native here; networks run in float32",
            ),
            ("sampling on the CPU", f"{'native' if native else 'plain torch'} ({why})"),
            ("GPU", _gpus()),
            ("sampling on the GPU", f"{'native' if triton else 'plain torch'} ({why_triton})"),
            ("writing", f"{_write_test(self.folder)} in {self.folder.resolve()}"),
        ]
        table("foldless doctor", rows, ("what", "found"))
        if not native:
            say("With a C++ compiler installed, reinstalling foldless makes sampling several times faster.")


def _memory() -> str:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = (page * os.sysconf(name) / 2**30 for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    except (ValueError, OSError):
        return "unknown"
    return f"{total:.1f} GiB, {free:.1f} GiB free"


def _gpus() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none that torch can use"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _write_test(folder: Path) -> str:
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"foldless")
    except OSError as error:
        return f"fails: {error.strerror or error}"
    return "works"
