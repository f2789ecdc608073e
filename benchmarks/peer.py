"""One pair by one peer in a process of its own, as `benchmarks.pair` calls it.

Writes there.nii.gz and back.nii.gz, ITK displacements on the fixed and on the moving lattice, unrounded, and
seconds.json: of finding the map, and of the whole command, which is affine, deformation and the image resampled.
Writing the fields as one displacement, which only the comparison needs, is not counted. Nothing is imported that the
peer does not need itself.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from time import perf_counter, time

Seconds = dict[str, float]

SMOOTHINGS = {"greedy": "1.5vox 0.5vox", "greedy, stiffer": "1.732vox 0.7071vox", "greedy, softer": "1vox 0.5vox"}
"""greedy's smoothing of the update and of the whole: as the field uses it on brains, its default, a softer one."""
SYN = {
    "SyNQuick": {"type_of_transform": "antsRegistrationSyNQuick[s]"},
    "SyN": {"type_of_transform": "SyN", "syn_metric": "CC", "syn_sampling": 4, "reg_iterations": (100, 70, 50, 20)},
}
"""antspyx, the second with the radius and the iterations of antsRegistrationSyN.sh."""
PEERS = (*SMOOTHINGS, *SYN)


def greedy(name: str, moving: str, fixed: str, folder: Path, threads: int, aligned: bool) -> Seconds:
    """Affine and deformation by cross-correlation in windows of 5; images that lie aligned keep their places."""
    import picsl_greedy

    dim = _dim(fixed)
    execute = getattr(picsl_greedy, f"Greedy{dim}D")().execute
    window, pair = f"-m NCC {'x'.join(['2'] * dim)}", f"-i {fixed} {moving}"

    def run(words: str) -> float:
        before = perf_counter()
        execute(f"-d {dim} {words} -threads {threads} -wp 0 -seed 1")
        return perf_counter() - before

    affine, warp, inverse = (folder / part for part in ("affine.mat", "warp.nii.gz", "inverse.nii.gz"))
    start, there, back = ("", "", "") if aligned else (f"-it {affine}", str(affine), f"{affine},-1")
    first = run(f"-a -dof 12 {window} {pair} -o {affine} -ia-image-centers -n 100x50x20")
    found = run(f"{window} {pair} {start} -n 100x50x20 -s {SMOOTHINGS[name]} -o {warp}")
    whole = first + found + run(f"-rf {fixed} -rm {moving} {folder / 'warped.nii.gz'} -r {warp} {there}")
    run(f"-iw {warp} {inverse}")
    run(f"-rf {fixed} -rc {folder / 'there.nii.gz'} -r {warp} {there}")
    run(f"-rf {moving} -rc {folder / 'back.nii.gz'} -r {back} {inverse}")
    return {"finding": found + (0 if aligned else first), "whole": whole}


def syn(name: str, moving: str, fixed: str, folder: Path) -> Seconds:
    """ANTs' affine and SyN, whose seconds are not told apart."""
    import ants

    before = perf_counter()
    images = ants.image_read(fixed), ants.image_read(moving)
    found = ants.registration(*images, outprefix=str(folder / "syn"), random_seed=1, **SYN[name])
    ants.image_write(found["warpedmovout"], str(folder / "warped.nii.gz"))
    whole = perf_counter() - before
    there = ants.apply_transforms(*images, found["fwdtransforms"], compose=str(folder / "there"))
    back = ants.apply_transforms(
        *images[::-1], found["invtransforms"], compose=str(folder / "back"), whichtoinvert=[True, False]
    )
    for path, wanted in ((there, "there.nii.gz"), (back, "back.nii.gz")):
        Path(path).rename(folder / wanted)
    return {"finding": whole, "whole": whole}


def _dim(path: str) -> int:
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageFileReader()
    reader.SetFileName(path)
    reader.ReadImageInformation()
    return int(reader.GetDimension())


def main() -> None:
    parser = ArgumentParser(description="Register one pair by one peer.")
    for word in ("moving", "fixed", "folder"):
        parser.add_argument(word)
    parser.add_argument("--name", choices=PEERS, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--aligned", action="store_true", help="begin where the images lie")
    parser.add_argument("--started", type=float, default=time(), help="when the command began, seconds of the epoch")
    asked = parser.parse_args()
    importing = time() - asked.started
    pair, folder = (asked.moving, asked.fixed), Path(asked.folder)
    if asked.name in SYN:
        seconds = syn(asked.name, *pair, folder)
    else:
        seconds = greedy(asked.name, *pair, folder, asked.threads, asked.aligned)
    (folder / "seconds.json").write_text(json.dumps({**seconds, "whole": seconds["whole"] + importing}))


if __name__ == "__main__":
    main()
