"""The middle axial slices of labelled volumes as a folder of 2-D cases, for `benchmarks.pair`:

python -m benchmarks.slices --data FOLDER --output SLICES
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk  # noqa: N813
import tyro

from foldless.data.folder import case_names, label_file


@dataclass(frozen=True)
class Slices:
    """Write one slice of every volume and of its labels."""

    data: Path
    """Folder with images/ and labels/ of volumes that lie aligned; its split.json is taken along."""
    output: Path
    """Folder to make."""

    def run(self) -> None:
        for name, image in case_names(self.data).items():
            labels = label_file(self.data, image)
            if labels is None:
                raise SystemExit(f"{self.data}/labels lacks {name}")
            for file, folder in ((image, "images"), (labels, "labels")):
                (self.output / folder).mkdir(parents=True, exist_ok=True)
                sitk.WriteImage(middle(sitk.ReadImage(str(file))), str(self.output / folder / file.name))
        if (self.data / "split.json").is_file():
            shutil.copy(self.data / "split.json", self.output)


def middle(volume: sitk.Image) -> sitk.Image:
    """The middle axial slice, whichever axis that is, in LPS."""
    volume = sitk.DICOMOrient(volume, "LPS")
    return volume[:, :, volume.GetSize()[2] // 2]


if __name__ == "__main__":
    tyro.cli(Slices).run()
