#!/bin/sh
# SimpleITK 2.5.7 reads an image of one number a voxel whose file calls that a list, as 3D Slicer's .seg.nrrd files may, as
# a vector image of one component, and its filters for scalar images refuse it.
# Seen: "vector of 8-bit unsigned integer", 1 component, and a RuntimeError of LabelShapeStatisticsImageFilter.
# Fails if that is no longer so.
set -eu
D=$(mktemp -d); trap 'rm -rf "$D"' EXIT; cd "$D"
python3 -m venv env
env/bin/python -m pip install --quiet SimpleITK==2.5.7 numpy==2.3.5
env/bin/python - <<'P'
import numpy as np
import SimpleITK as sitk

header = (
    "NRRD0004\ntype: unsigned char\ndimension: 4\nspace: left-posterior-superior\nsizes: 1 4 3 2\n"
    "space directions: none (1,0,0) (0,1,0) (0,0,1)\nkinds: list domain domain domain\nencoding: raw\n"
    "space origin: (0,0,0)\n\n"
)
open("layer.seg.nrrd", "wb").write(header.encode() + np.arange(24, dtype=np.uint8).tobytes())
image = sitk.ReadImage("layer.seg.nrrd")
print("SimpleITK", sitk.Version_VersionString(), image.GetPixelIDTypeAsString(), image.GetNumberOfComponentsPerPixel())
assert image.GetPixelID() == sitk.sitkVectorUInt8, "it is no vector image any more"
assert image.GetNumberOfComponentsPerPixel() == 1
try:
    sitk.LabelShapeStatisticsImageFilter().Execute(image)
except RuntimeError as error:
    print(str(error).strip().splitlines()[-1])
else:
    raise AssertionError("it is taken as one number a voxel")
P
