"""What a run was: command, arguments, seeds, versions, data and commit, written beside its results."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldless.errors import InputError
from foldless.io.dicom import is_series, slices_of
from foldless.io.files import write_whole

if TYPE_CHECKING:
    from foldless.machine import Machine

PACKAGES = ("foldless", "torch", "numpy", "SimpleITK", "nibabel", "scipy", "safetensors")
RECORD = "run.json"


def run_record(
    command: str, settings: Mapping[str, Any], data: Mapping[str, str], machine: Machine | None = None
) -> dict[str, Any]:
    """Everything needed to do it again: `settings` are the arguments, `data` the SHA-256 of what was read, by name.

    `machine` is what networks and maps were computed on, where there were any.
    """
    device = {} if machine is None else {"device": str(machine.device), "device_name": machine.name}
    return {
        "command": command,
        "arguments": sys.argv[1:],
        "settings": dict(settings),
        "data_sha256": dict(data),
        "versions": {
            **{name: installed_version(name) for name in PACKAGES},
            "python": platform.python_version(),
        },
        "machine": {"system": platform.platform(), "processor": platform.machine(), **device},
        "commit": _commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """JSON, whole or not at all; numbers that are not finite become null."""
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)

    def fill(file: Path) -> None:
        file.write_text(text + "\n", encoding="utf-8")

    write_whole(path, fill)


def read_record(path: Path) -> dict[str, Any]:
    """The record of an earlier run, from its folder or its `run.json`.

    Raises:
        InputError: there is none, or it is damaged.
    """
    file = path / RECORD if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{file} does not exist; every run of foldless leaves a {RECORD}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
            raise ValueError("it holds no settings")
    except ValueError as error:
        raise InputError(f"{file} is not the record of a run: {error}") from error
    return content


def our_record(folder: Path) -> dict[str, Any] | None:
    """The record in a folder, if foldless wrote one there; nothing is asked of the rest of it."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return content if "foldless" in content["versions"] else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def file_digest(path: Path) -> str:
    """SHA-256 of a file; of a DICOM series that of its slices' digests, sorted."""
    if is_series(path):
        digests = sorted(map(file_digest, slices_of(path).files))
        return hashlib.sha256("".join(digests).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not (-float("inf") < value < float("inf")):
        return None
    return str(value) if isinstance(value, Path) else value


def installed_version(package: str) -> str:
    """The version of a package, or that there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of foldless' own checkout, where it runs from one."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return "not a checkout"
    try:
        git = ["git", "-C", str(folder)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + (" with local changes" if changed.strip() else "")
