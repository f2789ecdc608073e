#!/bin/sh
# SimpleITK 2.5.7 writes as much of a NIfTI image as there is room for, here the largest file that the process may write,
# and WriteImage returns as if all were well; of MetaImage it raises. Whoever reads the file again meets an error, or numbers
# that were never stored.
# Seen: no exception for .nii and .nii.gz, files of 16 KiB where 250 KiB were to be written; "File too large" for .mha.
# Fails if that is no longer so.
set -eu
D=$(mktemp -d); trap 'rm -rf "$D"' EXIT; cd "$D"
python3 -m venv env
env/bin/python -m pip install --quiet SimpleITK==2.5.7 numpy==2.3.5
env/bin/python - <<'P'
import os
import resource
import signal

import numpy as np
import SimpleITK as sitk

ROOM = 16384
image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as a full disk: the write fails, the process lives
resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, resource.RLIM_INFINITY))
print("SimpleITK", sitk.Version_VersionString())
for name in ("a.nii", "a.nii.gz"):
    sitk.WriteImage(image, name)
    print(name, os.path.getsize(name), "bytes of an image of", 4 * 40**3)
    assert os.path.getsize(name) <= ROOM, "all of it is there"
try:
    sitk.WriteImage(image, "a.mha")
except RuntimeError as error:
    print("a.mha", str(error).strip().splitlines()[-1])
else:
    raise AssertionError("MetaImage is silent too")
P
