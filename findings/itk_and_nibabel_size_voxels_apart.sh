#!/bin/sh
# A NIfTI header says the size of a voxel twice, in pixdim and in the columns of its sform. Where the two differ, SimpleITK
# 2.5.7 takes the size from pixdim and only the direction from the sform, nibabel 5.4.2 takes the sform: the same file is
# twice as long in one as in the other, and so is every distance measured in it. Neither refuses
# it; SimpleITK prints that the sform has unexpected scales.
# Seen: spacing 1 mm by SimpleITK, zooms by the affine 2 mm by nibabel, of one file with sform_code 1 and qform_code 0.
# Fails if that is no longer so.
set -eu
D=$(mktemp -d); trap 'rm -rf "$D"' EXIT; cd "$D"
python3 -m venv env
env/bin/python -m pip install --quiet SimpleITK==2.5.7 nibabel==5.4.2 numpy==2.3.5
env/bin/python - <<'P'
import nibabel as nib
import numpy as np
import SimpleITK as sitk

image = nib.Nifti1Image(np.zeros((6, 7, 8), np.float32), None)
image.set_sform(np.diag([2.0, 2, 2, 1]), code=1, update_affine=False)
image.set_qform(None, code=0)
image.header["pixdim"][1:4] = 1
nib.save(image, "two.nii")
by_nibabel = nib.affines.voxel_sizes(nib.load("two.nii").affine)
by_itk = sitk.ReadImage("two.nii").GetSpacing()
print("SimpleITK", sitk.Version.VersionString(), by_itk, "nibabel", nib.__version__, by_nibabel)
assert np.allclose(by_itk, 1), "SimpleITK goes by the sform now"
assert np.allclose(by_nibabel, 2), "nibabel goes by pixdim now"
P
