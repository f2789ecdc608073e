"""`foldless jacobian`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from foldless.cli.console import number, say
from foldless.cli.outputs import check_file, written_alone
from foldless.cli.transforms import file_of, given, transform_of, watched
from foldless.errors import InputError

SMALLEST = 1e-9


@dataclass(frozen=True)
class Jacobian:
    """Write how volumes change under a warp, the determinant of its derivative in physical space.

    By central differences of neighbouring voxels, one-sided at the border, turned by the direction cosines: 1 where
    nothing changes, 0.5 where what the fixed image shows is half as large in the moving one, 0 or less at folds. On
    oblique images ITK's own filter leaves the direction out.
    """

    transform: Annotated[Positional[str], arg(metavar="WARP")]
    """FILE or FORMAT:FILE; FILE,-1 for the inverse's; formats as in foldless convert."""
    output: Path
    """The image to write, float32."""
    reference: Path | None = None
    """The image whose voxels it is wanted at; by default the warp's own lattice."""
    log: bool = False
    """Write the natural logarithm, 0 where nothing changes; folds become log(1e-9)."""
    overwrite: bool = False
    """Replace --output if it exists."""

    def run(self) -> None:
        check_file(self.output, given(file_of(self.transform), self.reference), self.overwrite)
        with written_alone(self.output):
            self._write()

    def _write(self) -> None:
        import numpy as np

        from foldless.io import physical_jacobian, read_geometry, write_volume

        transform = transform_of(self.transform)
        on = transform.lattice if self.reference is None else read_geometry(self.reference)
        if on is None:
            raise InputError(f"{self.transform} has no lattice of its own; give --reference, an image")
        with watched("determinants") as watch:
            found = physical_jacobian(transform.displacement_on(on, watch), on)
        folds = int((found <= 0).sum())
        say(f"determinant from {number(float(found.min()))} to {number(float(found.max()))}, mean "
            f"{number(float(found.mean()))}, by central differences; {folds} of {found.size} voxels fold")  # fmt: skip
        array = np.log(np.maximum(found, SMALLEST)) if self.log else found
        write_volume(array.astype(np.float32), on, self.output)
        say(f"{self.output}: {'log of the ' if self.log else ''}determinant; the warp {transform.sentence}")
