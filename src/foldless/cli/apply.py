"""`foldless apply`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from foldless.cli.console import say
from foldless.errors import InputError


@dataclass(frozen=True)
class Apply:
    """Carry an image or a label map through a warp that `foldless register` wrote."""

    warp: Annotated[Positional[Path], arg(metavar="WARP")]
    """warp.nii.gz or .h5, as written for the fixed image."""
    image: Annotated[Positional[Path], arg(metavar="IMAGE")]
    """What to warp: the moving image, or anything in its space."""
    reference: Path
    """The image whose lattice the result gets, usually the fixed one."""
    output: Path
    """File of the result; its suffix names the format."""
    labels: bool = False
    """The image holds labels: take the nearest voxel instead of interpolating."""
    overwrite: bool = False
    """Replace --output if it exists."""

    def run(self) -> None:
        if self.output.exists() and not self.overwrite:
            raise InputError(f"{self.output} exists; choose another name, or add --overwrite")
        if self.output.resolve() in {path.resolve() for path in (self.warp, self.image, self.reference)}:
            raise InputError(f"the output {self.output} is one of the inputs; choose another name")

        from foldless.io import apply_warp, read_volume, write_volume

        volume = read_volume(self.image, labels=self.labels)
        reference = read_volume(self.reference).geometry
        warped = apply_warp(volume, self.warp, reference, labels=self.labels)
        write_volume(warped.array, warped.geometry, self.output)
        shape = " x ".join(map(str, warped.geometry.size))
        say(f"{self.output}: {shape} voxels on the lattice of {self.reference}")
