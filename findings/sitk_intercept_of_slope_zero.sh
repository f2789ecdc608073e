#!/bin/sh
# SimpleITK 2.5.7 adds the intercept of a NIfTI file whose slope is 0, though the format says that a slope of 0 means that
# nothing is scaled (nifti1.h, scl_slope and scl_inter). nibabel 5.4.2 reads what is stored.
# Seen: nibabel 0 to 5, SimpleITK 100 to 105. Fails if that is no longer so.
set -eu
D=$(mktemp -d); trap 'rm -rf "$D"' EXIT; cd "$D"
python3 -m venv env
env/bin/python -m pip install --quiet SimpleITK==2.5.7 nibabel==5.4.2 numpy==2.3.5
env/bin/python - <<'P'
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
assert by_nibabel == [0, 1, 2, 3, 4, 5], "nibabel scales now"
assert by_sitk == [100, 101, 102, 103, 104, 105], "SimpleITK adds no intercept any more"
P
