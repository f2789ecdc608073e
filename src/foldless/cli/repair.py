"""`foldless repair`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from foldless.cli.console import say
from foldless.cli.outputs import check_file, written_alone
from foldless.cli.transforms import affine_of, field_of, file_of, given, spaces_of, split_word
from foldless.errors import InputError, UnprovenError

if TYPE_CHECKING:
    from foldless.io.formats.table import Format


@dataclass(frozen=True)
class Repair:
    """Make a warp provably fold-free by the smallest change: cells that fold are opened, all else stays.

    Prints how many nodes moved and how far; the result is certified. A warp that no small change mends is said to be
    so with exit code 3, and nothing is written.
    """

    warp: Annotated[Positional[str], arg(metavar="WARP")]
    """A field: FILE or FORMAT:FILE, formats as in foldless convert."""
    output: str
    """File of the repaired warp, FILE or FORMAT:FILE; of WARP's format where its name ends as such files do."""
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
        output = file_of(self.output)
        check_file(output, self._inputs, self.overwrite)
        if self.margin is not None and not 0 < self.margin < 1:
            raise InputError(f"--margin lies between 0 and 1, as a share of a cell's volume; got {self.margin:g}")
        kind = self._format()
        with written_alone(output):
            self._mend(kind)

    @property
    def _inputs(self) -> list[Path]:
        after = None if self.after is None else file_of(self.after)
        return given(file_of(self.warp), self.image, self.fixed, self.moving, after)

    def _format(self) -> Format:
        """What is written: as asked for, as WARP is, or as the name says."""
        from foldless.io import FORMATS, for_name, recognised

        name, output, _ = split_word(self.output)
        own, warp, _ = split_word(self.warp)
        if name is None and warp.is_file():
            kind = FORMATS[own or recognised(warp)]
            name = kind.name if output.name.lower().endswith(kind.suffixes) else None
        kind = for_name(output, name)
        if kind.holds == "affine":
            raise InputError(
                f"{output}: {kind.name} holds affine maps only, but a warp is a field; give .nii.gz or .h5"
            )
        return kind

    def _mend(self, kind: Format) -> None:
        import tempfile

        import numpy as np

        from foldless.io import Transform, Warped, read_volume, write_transform
        from foldless.proofs import MARGIN, care_for, certify_warp, repair_warp

        spaces, output = spaces_of(self.fixed, self.moving), file_of(self.output)
        warp, geometry = field_of(self.warp, spaces)
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
        mended = Transform((Warped(field, geometry),), geometry, spaces.moving)
        with tempfile.TemporaryDirectory() as scratch:
            trial = Path(scratch) / output.name
            write_transform(mended, trial, spaces, kind.name)
            word = str(trial) if kind.name.startswith("itk") else f"{kind.name}:{trial}"
            written = certify_warp(*field_of(word, spaces), after)
        if not written.proven:  # a file rounds
            raise UnprovenError(f"{output} would not be proven fold-free as written; give a larger --margin")
        write_transform(mended, output, spaces, kind.name)
        say(f"{done.sentence}")
        say(f"{output}: {kind.name}; {written.sentence}")
