"""What a benchmark measured, as plain values: one line of JSON for a commit and a machine, and a plot of such lines."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

LINES = ("-", "--", ":", "-.")
"""Of the contestants; colours are of the cases."""


@dataclass(frozen=True)
class Result:
    """One contestant in one case; without a number where `note` says why."""

    benchmark: str
    case: str
    contestant: str
    seconds: float | None = None
    mebibytes: float | None = None
    note: str = ""


def write_line(path: Path, results: Sequence[Result]) -> None:
    """Append what was measured here and now."""
    line = {
        "commit": commit(),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "results": [asdict(result) for result in results],
    }
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def commit() -> str:
    """The short name of what is checked out, with a + where files differ from it; empty outside of a checkout."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return found.stdout.strip()


def machine() -> str:
    """Processor, cores, and the GPU if there is one."""
    words = [_processor(), f"{os.cpu_count()} cores"]
    if torch.cuda.is_available():
        words.append(torch.cuda.get_device_name())
    return ", ".join(words)


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    names = [line for line in about.read_text().splitlines() if line.startswith("model name")] if about.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def draw(lines: Path, picture: Path) -> None:
    """Seconds of every case and contestant by commit, one column a benchmark, one row a machine."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    runs = [json.loads(line) for line in lines.read_text().splitlines()]
    machines = list(dict.fromkeys(run["machine"] for run in runs))
    benchmarks = list(dict.fromkeys(result["benchmark"] for run in runs for result in run["results"]))
    size = 6 * len(benchmarks), 4 * len(machines)
    figure, axes = pyplot.subplots(len(machines), len(benchmarks), figsize=size, squeeze=False, layout="constrained")
    for row, on in zip(axes, machines, strict=True):
        for panel, benchmark in zip(row, benchmarks, strict=True):
            _draw_panel(panel, [run for run in runs if run["machine"] == on], benchmark)
            panel.set_title(f"{benchmark}\n{on}", fontsize=8)
    figure.savefig(picture)
    pyplot.close(figure)


def _draw_panel(panel, runs: list[dict], benchmark: str) -> None:
    commits = list(dict.fromkeys(run["commit"] for run in runs))
    series: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for run in runs:
        for result in run["results"]:
            if result["benchmark"] == benchmark and result["seconds"] is not None:
                at = series.setdefault((result["case"], result["contestant"]), [])
                at.append((commits.index(run["commit"]), result["seconds"]))
    cases, contestants = (list(dict.fromkeys(names)) for names in zip(*series, strict=True)) if series else ([], [])
    for (case, name), points in series.items():
        look = {"color": f"C{cases.index(case) % 10}", "linestyle": LINES[contestants.index(name) % len(LINES)]}
        panel.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=f"{case}, {name}", **look)
    panel.set_xticks(range(len(commits)), commits, rotation=45, fontsize=6)
    panel.set_ylabel("seconds")
    if series:
        panel.set_yscale("log")
        panel.legend(fontsize=5, loc="upper left", bbox_to_anchor=(0, -0.3))
