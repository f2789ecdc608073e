#!/bin/sh
# SimpleITK reads an image of one component a voxel, which its file calls a list or a vector, as a vector image, and
# refuses to treat it as the scalar image that it is: filters for scalars raise. 3D Slicer writes such .seg.nrrd files.
# Expected: an image with one number a voxel. Needs SimpleITK and numpy.
set -eu
D=$(mktemp -d); trap 'rm -rf "$D"' EXIT; cd "$D"
python - <<'P'
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
try:
    sitk.LabelShapeStatisticsImageFilter().Execute(image)
    print("taken as one number a voxel")
except RuntimeError as error:
    print("FAULT:", str(error).strip().splitlines()[-1])
P
