"""RESULTS.md: one section an experiment, replaced as a whole when the experiment runs again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from foldless.io.files import write_whole

RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = (
    "# Results\n\nEvery number was measured by the command above it; Dice as fractions, folds under a rule's name.\n"
)
PLACEHOLDERS = {"data": "FOLDER", "output": "RUNS"}
"""For folders of whoever ran it."""
PLACES = ("results", "pictures")
"""Options that change nothing of what is found."""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def command_of(module: str, options: Any) -> str:
    """The command that an experiment was started by: its folders as placeholders, else what differs from defaults."""
    words = ["python -m", f"experiments.{module}"]
    for option in fields(options):
        value, name = getattr(options, option.name), option.name.replace("_", "-")
        if name in PLACES:
            continue
        if option.default is MISSING:
            words.append(f"--{name} {PLACEHOLDERS.get(name, value)}")
        elif value == option.default or isinstance(option.default, Path):
            continue
        elif isinstance(value, bool):
            words.append(f"--{name}")
        else:
            words.append(f"--{name} {' '.join(map(str, value)) if isinstance(value, tuple) else value}")
    return " ".join(words)


def write_section(name: str, text: str, path: Path = RESULTS) -> None:
    """Put `text` under the heading `name`, in place of what was there."""
    sections = path.read_text(encoding="utf-8").split("\n## ") if path.is_file() else [TITLE]
    section = name + "\n\n" + text.strip("\n") + "\n"
    places = [k for k, old in enumerate(sections) if k and old.partition("\n")[0] == name]
    if places:
        sections[places[0]] = section
    else:
        sections.append(section)
    whole = "\n## ".join(part.rstrip("\n") + "\n" for part in sections)
    write_whole(path, lambda file: file.write_text(whole, encoding="utf-8"))


def kept(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an earlier run with the same settings found, None where there is none."""
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found if found.get("settings") == json.loads(json.dumps(settings)) else None
