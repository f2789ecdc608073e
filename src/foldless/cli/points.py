"""`foldless points`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from foldless.cli.console import say
from foldless.cli.outputs import check_file, written_alone
from foldless.cli.transforms import file_of, given, spaces_of, transform_of
from foldless.errors import InputError


@dataclass(frozen=True)
class Points:
    """Carry points, surfaces and streamlines along with the images that a warp carries.

    Images are pulled, points are pushed: a warp that brings the moving image onto the fixed one takes points of the
    moving image there by its inverse, which is found at every point. How far there and back misses is said;
    where no inverse is found, as where a warp folds, nothing is written.
    """

    transform: Annotated[Positional[str], arg(metavar="WARP")]
    """The warp that foldless apply takes for the image: FILE or FORMAT:FILE; formats as in foldless convert."""
    points: Annotated[Positional[Path], arg(metavar="POINTS")]
    """.csv with columns x, y(, z), .fcsv, .mrk.json, surfaces (.gii, legacy .vtk, .ply), streamlines (.trk, .tck).
    All else in it is kept as it is."""
    output: Path
    """File of the carried points, of the same format."""
    of: Literal["moving", "fixed"] = "moving"
    """Whose points they are: of the moving image, by the inverse map, or of the fixed one, by the warp itself."""
    ras: bool = False
    """Points of a .csv, or of a .vtk or .ply that does not say SPACE=..., are RAS mm; by default LPS mm."""
    fixed: Path | None = None
    """The fixed image, for formats that count in it."""
    moving: Path | None = None
    """The moving image, for formats that count in it."""
    overwrite: bool = False
    """Replace --output if it exists."""

    def run(self) -> None:
        check_file(self.output, given(file_of(self.transform), self.points, self.fixed, self.moving), self.overwrite)
        with written_alone(self.output):
            self._carry()

    def _carry(self) -> None:
        import numpy as np

        from foldless.io.points import end_of, read_points

        if end_of(self.output) != end_of(self.points):
            raise InputError(f"{self.output}: points are written as they came; give a name in {end_of(self.points)}")
        transform = transform_of(self.transform, spaces_of(self.fixed, self.moving))
        file = read_points(self.points, self.ras)
        if file.points.shape[1] != transform.dim:
            raise InputError(
                f"{self.points} holds {file.points.shape[1]}-D points, but {self.transform} is {transform.dim}-D; "
                "both must agree"
            )
        by = transform.flipped if self.of == "moving" else transform
        carried = by(file.points)
        missed = np.linalg.norm(by.back(carried)[0] - file.points, axis=1)
        file.rewrite(carried, self.output)
        which = "the inverse of the warp" if self.of == "moving" else "the warp itself"
        say(
            f"{self.output}: {len(carried)} points of {by.names[0]} taken to {by.names[1]} by {which}; there and back "
            f"misses by {missed.mean():.2g} mm on average, {missed.max():.2g} at most"
        )
