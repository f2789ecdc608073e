"""`foldless repair`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from foldless.cli.console import say
from foldless.cli.outputs import check_file, written_alone
from foldless.cli.transforms import affine_of, field_of, file_of, given, spaces_of
from foldless.errors import InputError, UnprovenError


@dataclass(frozen=True)
class Repair:
    """Make a warp provably fold-free by the smallest change: cells that fold are opened, all else stays.

    Prints how many nodes moved and how far; the result is certified. A warp that no small change mends is said to be
    so with exit code 3, and nothing is written.
    """

    warp: Annotated[Positional[str], arg(metavar="WARP")]
    """A field: FILE or FORMAT:FILE, formats as in foldless convert."""
    output: Path
    """File of the repaired warp: .nii.gz or .h5, in ITK's form."""
    image: Path | None = None
    """The image on the warp's lattice, usually the fixed one: what it shows in flat places is moved rather."""
    fixed: Path | None = None
    """The fixed image, for formats that count in it."""
    moving: Path | None = None
    """The moving image, for formats that count in it."""
    after: str | None = None
    """An affine transform that the warp ends in, FILE or FORMAT:FILE, as for `foldless certify`."""
    margin: float | None = None
    """How far a cell that folded is opened, as a share of its volume; by default 0.02."""
    overwrite: bool = False
    """Replace --output if it exists."""

    def run(self) -> None:
        check_file(self.output, self._inputs, self.overwrite)
        if not self.output.name.endswith((".nii", ".nii.gz", ".h5")):
            raise InputError(f"{self.output}: a warp is written as .nii.gz or as .h5; give a name that ends in one")
        if self.margin is not None and not 0 < self.margin < 1:
            raise InputError(f"--margin lies between 0 and 1, as a share of a cell's volume; got {self.margin:g}")
        with written_alone(self.output):
            self._mend()

    @property
    def _inputs(self) -> list[Path]:
        after = None if self.after is None else file_of(self.after)
        return given(file_of(self.warp), self.image, self.fixed, self.moving, after)

    def _mend(self) -> None:
        import tempfile

        import numpy as np

        from foldless.io import read_volume, read_warp, write_warp
        from foldless.proofs import MARGIN, care_for, certify_warp, repair_warp

        warp, geometry = field_of(self.warp, spaces_of(self.fixed, self.moving))
        care = None
        if self.image is not None:
            image = read_volume(self.image)
            if image.geometry.shape != geometry.shape or not np.allclose(
                image.geometry.corners, geometry.corners, atol=1e-2
            ):
                raise InputError(f"{self.image} is not on the lattice of {self.warp}; give the image it was made for")
            care = care_for(image.array)
        after = None if self.after is None else affine_of(self.after, geometry)
        say(f"{self.warp}: {certify_warp(warp, geometry, after).sentence}")
        field, done = repair_warp(warp.astype("float32"), geometry, care, self.margin or MARGIN, after)
        if not done.proven:
            raise UnprovenError(f"{self.warp}: {done.sentence}; register again with more regularity")
        with tempfile.TemporaryDirectory() as scratch:
            trial = Path(scratch) / self.output.name
            write_warp(field, geometry, trial)
            written = certify_warp(*read_warp(trial), after)
        if not written.proven:  # a header rounds
            raise UnprovenError(f"{self.output} would not be proven fold-free as written; give a larger --margin")
        write_warp(field, geometry, self.output)
        say(f"{done.sentence}")
        say(f"{self.output}: {written.sentence}")
