"""`foldless prepare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from foldless.cli.console import say


@dataclass(frozen=True)
class Prepare:
    """Make a published cohort that you have into a folder that foldless trains and cross-validates on.

    mindboggle101: Kuang and Schmah's three subsets, divided by their maximum and cropped to 144 x 180 x 144.
    """

    cohort: tyro.conf.Positional[Literal["mindboggle101"]]
    """Which cohort it is."""
    folder: tyro.conf.Positional[Path]
    """Where its files are, as published."""
    output: Path
    """The folder to make: images/, labels/, groups.csv, regions.csv. What is there already is not made again."""

    def run(self) -> None:
        from foldless.data.mindboggle import prepare_mindboggle

        names = prepare_mindboggle(self.folder, self.output)
        say(f"{len(names)} subjects are in {self.output}. Next, for as long as the paper trains:")
        say(
            f"  foldless crossvalidate --data {self.output} --regions {self.output / 'regions.csv'} "
            "--percentiles 0 100 --methods baseline cycle refinement --pairs 462 --legacy --output DIR"
        )
