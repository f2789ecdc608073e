"""`foldless prepare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from foldless.cli.console import say, shell
from foldless.cli.outputs import claimed, tidy

CROSS_VALIDATED = "--percentiles 0 100 --methods baseline cycle refinement --pairs 462 --legacy"
"""Kuang and Schmah's cross-validation."""

AS_PUBLISHED = (
    "--percentiles 0 100 --stages 3 --similarity mse --regularity icon --weight 70 --increase 0.1 --threshold 25"
)
"""ICON's knees, from which the later stages differ in batch, weight and increase; see the how-to on stages."""


@dataclass(frozen=True)
class Prepare:
    """Make a published cohort that you have into a folder that foldless trains and cross-validates on.

    mindboggle101: Kuang and Schmah's three subsets, divided by their maximum and cropped to 144 x 180 x 144.

    oai-knees: ICON's. FOLDER holds images/ (DESS, 160 slices of 384 x 384), labels/ under the same names (1 femoral, 2
    tibial cartilage) and sides.csv with the columns case,side (left or right). Left knees are mirrored, all are pooled
    to 80 x 192 x 192, the percentiles 1 and 99 become 0 and 1.
    """

    cohort: tyro.conf.Positional[Literal["mindboggle101", "oai-knees"]]
    """Which cohort it is."""
    folder: tyro.conf.Positional[Path]
    """Where its files are."""
    output: Path
    """The folder to make: images/, labels/ and what the cohort is judged by. What is there is not made again."""

    def run(self) -> None:
        with claimed(self.output, [self.folder], parts=("images", "labels", "full_labels")):
            tidy(self.output)
            try:
                self._knees() if self.cohort == "oai-knees" else self._brains()
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"{self.output} keeps what is made; the same command goes on") from None

    def _brains(self) -> None:
        from foldless.data.mindboggle import prepare_mindboggle

        names = prepare_mindboggle(self.folder, self.output)
        say(f"{len(names)} subjects are in {self.output}. Next, for as long as the paper trains:")
        judged = ("--data", self.output, "--regions", self.output / "regions.csv")
        say(f"  {shell('foldless', 'crossvalidate', *judged, *CROSS_VALIDATED.split(), '--output', 'DIR')}")

    def _knees(self) -> None:
        from foldless.data.oai import prepare_oai_knees

        names = prepare_oai_knees(self.folder, self.output)
        say(f"{len(names)} knees are in {self.output}. Next:")
        judged = ("--model", "RUN", "--data", self.output, "--output", "DIR", "--protocol", "oai-knees")
        say(f"  {shell('foldless', 'train', '--data', self.output, '--output', 'RUN', *AS_PUBLISHED.split())}")
        say(f"  {shell('foldless', 'evaluate', *judged)}")
