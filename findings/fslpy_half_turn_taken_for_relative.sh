#!/bin/sh
# fslpy 3.29.1 guesses whether an FSL warp holds coordinates or displacements by which of the two spreads less. A warp of
# coordinates that turns by half a turn, as between a prone and a supine scan, is taken for displacements: no header of an
# FSL warp says which it holds, and displacements of such a turn spread more than the coordinates do.
# Seen: "relative", and a point that belongs at (9, 13, 10) mm sent to (19, 23, 20); asked to read it as "absolute", right.
# Fails if that is no longer so.
set -eu
D=$(mktemp -d); trap 'rm -rf "$D"' EXIT; cd "$D"
python3 -m venv env
env/bin/python -m pip install --quiet fslpy==3.29.1 numpy==2.3.5
env/bin/python - <<'P'
import fsl.version
import nibabel as nib
import numpy as np
from fsl.data.image import Image
from fsl.transform.fnirt import readFnirt

shape, affine = (20, 24, 18), np.diag([-1.0, 1, 1, 1])  # radiological: FSL's coordinates are voxels times their sides
nib.save(nib.Nifti1Image(np.zeros(shape, np.float32), affine), "image.nii.gz")
x, y, z = np.meshgrid(*map(np.arange, shape), indexing="ij")
turned = np.stack([19.0 - x, 23.0 - y, z], -1)  # half a turn about the third axis, as coordinates
file = nib.Nifti1Image(turned.astype(np.float32), affine)
file.header.set_intent(2006)  # a displacement field of FSL's
nib.save(file, "warp.nii.gz")
image = Image("image.nii.gz")
point, belongs = (10.0, 10, 10), (9.0, 13, 10)
for kind in (None, "absolute"):
    warp = readFnirt("warp.nii.gz", image, image, defType=kind)
    sent = np.round(warp.transform([point], "fsl", "fsl")[0], 3)
    print("fslpy", fsl.version.__version__, "asked for", kind, "read as", warp.deformationType, "sends to", sent)
    if kind is None:
        assert warp.deformationType == "relative", "it tells them apart now"
        assert np.allclose(sent, np.add(point, belongs)), sent
    else:
        assert np.allclose(sent, belongs), sent
P
