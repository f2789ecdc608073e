#!/bin/sh
# SimpleITK adds the intercept of a NIfTI file whose slope is 0, though the format says that a slope of 0 means no
# scaling at all (nifti1.h: "if scl_slope is nonzero, then each voxel value in the dataset should be scaled").
# Expected: both programs read what is stored, 0 to 5. Needs SimpleITK, nibabel and numpy.
set -eu
D=$(mktemp -d); trap 'rm -rf "$D"' EXIT; cd "$D"
python - <<'P'
import struct

import nibabel as nib
import numpy as np
import SimpleITK as sitk

nib.save(nib.Nifti1Image(np.arange(6, dtype=np.int16).reshape(1, 2, 3), np.eye(4)), "stored.nii")
data = bytearray(open("stored.nii", "rb").read())
struct.pack_into("<2f", data, 112, 0.0, 100.0)  # scl_slope, scl_inter
open("stored.nii", "wb").write(data)

by_nibabel = sorted(np.asarray(nib.load("stored.nii").dataobj).ravel().tolist())
by_sitk = sorted(sitk.GetArrayFromImage(sitk.ReadImage("stored.nii")).ravel().tolist())
print("nibabel", nib.__version__, by_nibabel)
print("SimpleITK", sitk.Version_VersionString(), by_sitk)
print("FAULT: the intercept was added" if by_sitk != by_nibabel else "both alike")
P
