"""Where an experiment's section and pictures go: the repository's own are written with the default settings only."""

from __future__ import annotations

import os
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from experiments.drawing import DOCS
from experiments.results import RESULTS, write_section


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Options of an experiment, which also has an `output`, that puts a section into a file of results."""

    results: Path | None = None
    """File of its section: experiments/RESULTS.md of a run with the default settings, else RESULTS.md in --output."""

    @property
    def changed(self) -> list[str]:
        """The options that differ from their defaults, places and what has no default aside."""
        values = {option.name: (getattr(self, option.name), option.default) for option in fields(self)}
        return [
            f"--{name.replace('_', '-')}"
            for name, (value, default) in values.items()
            if default is not MISSING and value != default and not isinstance(value, Path)
        ]

    @property
    def section_file(self) -> Path:
        """Where the section goes."""
        return self.results or (self.output / RESULTS.name if self.changed else RESULTS)

    def write(self, name: str, text: str) -> None:
        """Put the experiment's section into its place."""
        self.section_file.parent.mkdir(parents=True, exist_ok=True)
        write_section(name, text, self.section_file)

    def notice(self) -> str:
        """What a person is told who changed a setting and named no place; else nothing."""
        if not self.changed or self.results is not None:
            return ""
        return (
            f"Not the default settings ({' '.join(self.changed)}): what is found goes to {self.section_file}, and "
            f"{RESULTS.parent.name}/{RESULTS.name} stays as it is; --results names another file."
        )


@dataclass(frozen=True, kw_only=True)
class Pictured(Shown):
    """The same of an experiment that draws."""

    pictures: Path | None = None
    """Folder of its picture: docs/pictures of a run with the default settings, else --output."""

    @property
    def picture_folder(self) -> Path:
        """Where the picture goes."""
        return self.pictures or (self.output if self.changed else DOCS)

    def shown(self, name: str, title: str) -> str:
        """The Markdown that shows a picture in the section."""
        place = os.path.relpath(self.picture_folder / f"{name}.svg", self.section_file.parent)
        return f"![{title}]({Path(place).as_posix()})"
