"""`foldless apply` of a volume of 2048 x 2048 x 512 voxels: its memory and its time.

    python -m benchmarks.large_apply --folder /a/large/disk

The image is int16, without compression, the warp a smooth field on a coarse lattice; the result lies as the image does.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from foldless.io import Geometry, write_warp
from foldless.io.plain import write_slabs


@dataclass(frozen=True)
class LargeApply:
    """Measure the largest memory that `foldless apply` holds."""

    folder: Path = Path(tempfile.gettempdir())
    """Where two files of 4 GiB have room."""
    size: tuple[int, int, int] = (2048, 2048, 512)
    """Voxels along x, y and z."""
    slices: int = 512
    """Of the result."""
    suffix: str = ".nii"
    """.nii, .nrrd or .mha."""
    interpolation: str = "linear"
    """As in foldless apply."""

    def run(self) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            image, warp, output = (Path(scratch) / f"{name}{self.suffix}" for name in ("image", "warp", "warped"))
            warp = warp.with_suffix(".nii.gz")
            reference = image.with_stem("reference")
            self._make(image, reference, warp)
            words = ["apply", warp, image, "--reference", reference, "--output", output]
            begun = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "foldless", *map(str, words), "--interpolation", self.interpolation], check=True
            )
            seconds = time.perf_counter() - begun
            most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
            what = f"{self.size}, int16, {self.suffix}, {self.interpolation}, {self.slices} slices of it"
            print(f"{what}: {most:.2f} GiB at most, {seconds:.0f} s")

    def _make(self, image: Path, reference: Path, warp: Path) -> None:
        on = Geometry(self.size, (0.01,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel().tolist()))
        plane = np.add.outer(np.arange(on.shape[1]), np.arange(on.shape[2])) % 500
        slabs = ((plane + z)[None].astype(np.int16) for z in range(on.shape[0]))
        write_slabs(slabs, on, image, np.dtype(np.int16))
        thin = on.slab(0, self.slices)
        write_slabs(
            (np.zeros((1, *on.shape[1:]), np.int16) for _ in range(self.slices)), thin, reference, np.dtype("i2")
        )
        steps = tuple(s * (n - 1) / 31 for s, n in zip(on.spacing, on.size, strict=True))
        coarse = Geometry((32, 32, 32), steps, on.origin, on.direction)
        x = np.indices(coarse.shape) / 31
        write_warp(np.stack([0.3 * np.sin(4 * x[a] + a) for a in range(3)], -1), coarse, warp)


if __name__ == "__main__":
    tyro.cli(LargeApply).run()
