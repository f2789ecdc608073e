"""`foldless certify`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from foldless.cli.console import number, say, table
from foldless.cli.outputs import check_file, written_alone
from foldless.cli.transforms import affine_of, field_of, file_of, given, spaces_of
from foldless.errors import InputError, UnprovenError

if TYPE_CHECKING:
    from foldless.metrics import Certificate


FARTHEST = 64
"""Voxels between nodes; no field is handed in coarser."""


@dataclass(frozen=True)
class Certify:
    """Prove that warps do not fold, whichever program wrote them; exit code 3 if one is not proven.

    Not voxels are counted: in every cell between them the determinant is bounded from below, so that a proven warp is
    one-to-one everywhere. A refuted one comes with a point where it folds. See docs/certificate.md.
    """

    warps: Annotated[Positional[tuple[str, ...]], arg(metavar="WARP...")]
    """FILE or FORMAT:FILE, formats as in foldless convert; a .npz alone is Learn2Reg's, in voxels."""
    reference: Path | None = None
    """The fixed image: for transforms without a lattice of their own, and for formats that count in it."""
    moving: Path | None = None
    """The moving image, for formats that count in it as well."""
    after: str | None = None
    """An affine transform that the warps end in, FILE or FORMAT:FILE, as pose.txt of `foldless register` is of its
    warp, and inverse_pose.txt of its inverse: the proof is then of the deformation that comes before it."""
    apart: int = 1
    """For .npz: how many voxels lie between its nodes; 2 where a field was handed in at half the resolution."""
    output: Path | None = None
    """A .json file for all that was found; by default it is only shown."""
    overwrite: bool = False
    """Replace --output if it exists."""

    def run(self) -> None:
        self._check()
        with nullcontext() if self.output is None else written_alone(self.output):
            found = self._found()
            if self.output is not None:
                self._write(found)
        failing = [path for path, one in found.items() if not one.proven]
        if failing:
            raise UnprovenError(f"not proven fold-free: {', '.join(failing)}; `foldless repair` opens cells that fold")

    def _found(self) -> dict[str, Certificate]:
        """What is proven of each warp, which is shown."""
        found = {path: self._certificate(path) for path in self.warps}
        table("Certificates", [_row(path, one) for path, one in found.items()], COLUMNS)
        for path, one in found.items():
            say(f"{path}: {one.sentence}")
        return found

    def _check(self) -> None:
        if not self.warps:
            raise InputError("name one or more warps: foldless certify warp.nii.gz")
        if not 1 <= self.apart <= FARTHEST:
            raise InputError(f"--apart is 1 to {FARTHEST} voxels; got {self.apart}")
        if self.apart > 1 and not any(word.endswith(".npz") for word in self.warps):
            raise InputError("--apart is for .npz, whose nodes say nothing of their distance; leave it out")
        if self.output is not None and self.output.suffix != ".json":
            raise InputError(f"--output is a .json file; got {self.output}")
        after = None if self.after is None else file_of(self.after)
        inputs = [*map(file_of, self.warps), *given(self.reference, self.moving, after)]
        check_file(self.output, inputs, self.overwrite)

    def _certificate(self, word: str) -> Certificate:
        from foldless.io import read_voxel_displacement
        from foldless.proofs import certify_voxel_field, certify_warp

        path = file_of(word)
        if word == str(path) and path.suffix == ".npz":
            return certify_voxel_field(read_voxel_displacement(path), self.apart)
        field, geometry = field_of(word, spaces_of(self.reference, self.moving))
        return certify_warp(field, geometry, None if self.after is None else affine_of(self.after, geometry))

    def _write(self, found: dict[str, Certificate]) -> None:
        from foldless.record import file_digest, run_record, write_json

        assert self.output is not None
        record = run_record("certify", asdict(self), {word: file_digest(file_of(word)) for word in self.warps})
        write_json({"warps": {word: one.as_dict() for word, one in found.items()}, "run": record}, self.output)


COLUMNS = ("warp", "verdict", "cells", "failing", "volumes from", "to")


def _row(word: str, one: Certificate) -> tuple[str, ...]:
    numbers = (one.cells, one.refuted + one.undecided, *one.bounds)
    return file_of(word).name, one.state, *map(number, numbers)
