"""Kuang and Schmah, Table 1, on 20 brains in three folds: `python -m experiments.kuang_table1 --help`.

Half-resolution by default: networks, similarity and weights see images pooled by 2, the scores are those of whole
images. The same command goes on where it was stopped; `--pool 1 --batch 3 --steps 5740` is the paper's length.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import tyro

from experiments.results import RESULTS, markdown, write_section
from foldless.cli.crossvalidate import CrossValidate
from foldless.methods import Method

PUBLISHED = {"baseline": "1.97 ± 0.73", "cycle": "0.13 ± 0.05", "refinement": "0.20 ± 0.02"}
"""P in %, mean and standard deviation over three folds of Mindboggle101."""
COLUMNS = {
    "folds_percent.forward": "P, %",
    "folds_percent.ten": "folds, % (ten)",
    "ndv_percent": "NDV, %",
    "dice": "Dice",
    "inverse_consistency_voxels.mean": "inverse, voxels",
    "seconds": "s a pair",
}
NAMES = ("A", "B", "C")


@dataclass(frozen=True)
class Table1:
    """Train and judge Kuang's methods fold by fold; write a table, a row a method, published beside measured."""

    data: Path
    """The folder of the brains: affine2mm/ID_t1.nii.gz with ID_seg.nii.gz, and labels.csv."""
    output: Path
    """Folder for the trainings and what they came to, fold by fold."""
    methods: tuple[Method, ...] = ("baseline", "cycle", "refinement", "icon")
    """Any of `foldless train --method`; bidirectional, three-images, gradicon and others complete the table."""
    folds: tuple[str, ...] = ()
    """Of A, B and C; none named is all."""
    steps: int = 1000
    """Of a method without phases; a phase of the refinement takes three tenths."""
    batch: int = 1
    """Pairs a step."""
    rate: float = 5e-4
    """Adam's; the paper's 1e-4 is for ten times as many steps."""
    pool: int = 2
    """What images are pooled by for training."""
    pairs: int = 42
    """Test pairs a fold; all 42, or 30 of six subjects, unless fewer are asked for."""
    synquick: bool = False
    """Also antspyx's SyNQuick on the same pairs; takes `pip install antspyx`."""
    results: Path = RESULTS
    """Where the table goes."""

    def run(self) -> None:
        """Everything that is not there yet, then the table."""
        data = lay_out(self.data, self.output / "data")
        folds = self.output / "results"
        CrossValidate(
            data=data,
            output=folds,
            methods=self.methods,
            folds=self.folds,
            pairs=self.pairs,
            steps=self.steps,
            batch=self.batch,
            rate=self.rate,
            pool=self.pool,
            regions=data / "regions.csv",
            legacy=True,
            percentiles=(0.0, 100.0),
        ).run()
        if self.synquick:
            judge_synquick(data, folds, self.methods[0])
        command = f"    python -m experiments.kuang_table1 --data FOLDER --output RUNS --steps {self.steps}"
        about = (
            "Mean ± standard deviation (divisor n - 1) over the folds that were run, of 20 brains in three; images "
            f"pooled by {self.pool} for training, {self.steps} steps (a phase: three tenths), batch {self.batch}, rate "
            f"{self.rate:g}. Published: Mindboggle-101 at 1 mm."
        )
        write_section("Kuang, Table 1", f"{command}\n\n{about}\n\n{table(folds)}", self.results)


def lay_out(brains: Path, folder: Path) -> Path:
    """The brains as foldless reads them: links to images and labels, groups.csv (every third subject), regions.csv."""
    names = sorted(path.name.removesuffix("_t1.nii.gz") for path in (brains / "affine2mm").glob("*_t1.nii.gz"))
    for part, suffix in (("images", "t1"), ("labels", "seg")):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for name in names:
            link = folder / part / f"{name}.nii.gz"
            if not link.exists():
                link.symlink_to((brains / "affine2mm" / f"{name}_{suffix}.nii.gz").resolve())
    groups = [f"{name},{NAMES[k % 3]}" for k, name in enumerate(names)]
    (folder / "groups.csv").write_text("\n".join(["case,group", *groups]) + "\n", encoding="utf-8")
    with (brains / "labels.csv").open(newline="", encoding="utf-8") as file:
        regions = [f"{row['label']},{row['group_name']}" for row in csv.DictReader(file) if row["group_name"]]
    (folder / "regions.csv").write_text("\n".join(["label,region", *regions]) + "\n", encoding="utf-8")
    return folder


def judge_synquick(data: Path, results: Path, like: str) -> None:
    """SyNQuick on the pairs that the method `like` was judged on; `synquick/pairs.json` in every fold that has them."""
    for judged in sorted(results.glob(f"*/{like}/pairs.json")):
        file = judged.parents[1] / "synquick" / "pairs.json"
        if file.is_file():
            continue
        pairs = json.loads(judged.read_text(encoding="utf-8"))["pairs"]
        file.parent.mkdir(exist_ok=True)
        rows = [synquick_scores(data, row["moving"], row["fixed"]) for row in pairs]
        file.write_text(json.dumps({"pairs": rows}), encoding="utf-8")


def synquick_scores(data: Path, moving: str, fixed: str) -> dict[str, Any]:
    """One pair's scores: Dice and folds of the composed forward warp, on the fixed lattice."""
    import ants
    import numpy as np
    import torch

    from foldless.metrics import dice
    from foldless.outcome import field_scores

    images = {name: ants.image_read(str(data / "images" / f"{name}.nii.gz")) for name in (moving, fixed)}
    labels = {name: ants.image_read(str(data / "labels" / f"{name}.nii.gz")) for name in (moving, fixed)}
    started = perf_counter()
    found = ants.registration(images[fixed], images[moving], "antsRegistrationSyNQuick[s]")
    seconds = perf_counter() - started
    transforms = found["fwdtransforms"]
    warped = ants.apply_transforms(images[fixed], labels[moving], transforms, interpolator="genericLabel")
    warp = ants.image_read(
        ants.apply_transforms(images[fixed], images[moving], transforms, compose=f"{transforms[0]}-")
    )
    # one grid, axes along the world's: millimetres become voxels by spacing and direction
    millimetres = np.moveaxis(warp.numpy(), -1, 0)
    voxels = np.einsum("ji,j...->i...", images[fixed].direction, millimetres)
    voxels /= np.array(images[fixed].spacing).reshape(3, 1, 1, 1)
    there, goal = (torch.from_numpy(x.numpy().astype(np.int64)) for x in (warped, labels[fixed]))
    per_label = dice(there, goal, moving=torch.from_numpy(labels[moving].numpy().astype(np.int64)))
    return {
        "moving": moving,
        "fixed": fixed,
        "dice": float(np.mean(list(per_label.values()))),
        "dice_per_label": {str(label): score for label, score in per_label.items()},
        **field_scores(torch.from_numpy(np.ascontiguousarray(voxels, dtype=np.float32))[None]),
        "seconds": seconds,
    }


def table(results: Path) -> str:
    """Every method that was judged, as Markdown: mean ± standard deviation over its folds (divisor n - 1)."""
    from foldless.crossvalidation import summarised

    found: dict[str, dict[str, Any]] = {}
    for file in sorted(results.glob("*/*/pairs.json")):
        rows = json.loads(file.read_text(encoding="utf-8"))["pairs"]
        found.setdefault(file.parent.name, {})[file.parents[1].name] = rows
    rows = [
        (method, " ".join(found[method]), PUBLISHED.get(method, ""), *(_cell(scores.get(name)) for name in COLUMNS))
        for method, scores in summarised(found).items()
    ]
    return markdown(("method", "folds run", "published P, %", *COLUMNS.values()), rows)


def _cell(score: dict[str, Any] | None) -> str:
    if score is None:
        return ""
    spread = score["sd_n_minus_1"]
    return f"{score['mean']:.4g}" + ("" if spread is None else f" ± {spread:.2g}")


if __name__ == "__main__":
    tyro.cli(Table1).run()
