#!/bin/sh
# SimpleITK 2.5.7's ImageSeriesReader lays the slices of a DICOM series evenly from the first to the last, and along the
# first one's normal. Where a slice is missing, most are put where they were not scanned; where the gantry was tilted, the
# slant between two slices is taken for their distance and the volume is not sheared. Of the first a line on standard error says
# that sampling is not uniform, of the second nothing; the volumes themselves tell neither.
# Seen: six slices 2.5 mm apart without the third come out 3.125 mm apart; six tilted ones 2.5495 mm, on unturned axes.
# Fails if that is no longer so.
set -eu
D=$(mktemp -d); trap 'rm -rf "$D"' EXIT; cd "$D"
python3 -m venv env
env/bin/python -m pip install --quiet SimpleITK==2.5.7 numpy==2.3.5
env/bin/python - <<'P'
import os

import numpy as np
import SimpleITK as sitk


def written(folder, heights, slant=0.0):
    """A series of slices at these heights, mm, each so much further along y."""
    os.mkdir(folder)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, height in enumerate(heights):
        one = sitk.GetImageFromArray(np.full((1, 8, 8), 100 + k, np.int16))
        place = (0.0, slant * k, height)
        said = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2", "0008|0018": f"1.2.3.4.{k + 1}", "0020|000d": "1.2.3",
            "0020|000e": "1.2.3.4", "0008|0060": "CT", "0020|0013": str(k + 1),
            "0020|0032": "\\".join(map(str, place)), "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for tag, value in said.items():
            one.SetMetaData(tag, value)
        one.SetOrigin(place)
        writer.SetFileName(f"{folder}/{k}.dcm")
        writer.Execute(one)


def read(folder):
    reader = sitk.ImageSeriesReader()
    (series,) = reader.GetGDCMSeriesIDs(folder)
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(folder, series))
    return reader.Execute()


evenly = [2.5 * k for k in range(6)]
written("whole", evenly)
written("lacking", evenly[:2] + evenly[3:])
written("tilted", evenly, slant=0.5)
spacings = {folder: read(folder).GetSpacing()[2] for folder in ("whole", "lacking", "tilted")}
print("SimpleITK", sitk.Version.VersionString(), "slices apart, mm:", spacings)
assert abs(spacings["whole"] - 2.5) < 1e-6, spacings
assert abs(spacings["lacking"] - 12.5 / 4) < 1e-4, "a missing slice is told of now, or left out"
assert abs(spacings["tilted"] - np.hypot(2.5, 0.5)) < 1e-3, "the slant is no distance any more"
assert read("tilted").GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1), "the volume is sheared or turned now"
P
