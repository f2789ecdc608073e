"""Kuang and Schmah, Table 1, on 20 brains in three folds, with Dice by region.

One fold of four methods at half resolution, within an hour on two cores:

python -m experiments.kuang_table1 --data BRAINS --output RUNS --folds A

Networks, similarity and weights see images pooled by 2, the scores are those of whole images. The same command goes on
where it was stopped, and may name more folds and methods; what it was not asked for says so in the table. `--pool 1
--batch 3 --steps 5740 --rate 1e-4` is the paper's training.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from experiments.brains import PERCENTILES, SYNQUICK, Name, judged, lay_out
from experiments.command import begin
from experiments.places import Shown
from experiments.results import command_of, markdown
from foldless.cli.crossvalidate import CrossValidate
from foldless.methods import PHASE_SHARE, Method, lasting

if TYPE_CHECKING:
    from foldless.recipe import Recipe

PUBLISHED = {"baseline": "1.97 ± 0.73", "cycle": "0.13 ± 0.05", "refinement": "0.20 ± 0.02"}
"""P in %, mean and standard deviation over three folds of Mindboggle101."""
COLUMNS = {
    "folds_percent.forward": "P, %",
    "folds_percent_kuang_legacy": "P, % (legacy)",
    "folds_percent.ten": "folds, % (ten)",
    "ndv_percent": "NDV, %",
    "dice": "Dice",
    "inverse_consistency_voxels.mean": "inverse, voxels",
    "seconds": "s a pair",
}
TESTED = {"dice": "Dice", "folds_percent.forward": "P, %"}
ROWS = (
    "baseline",
    "cycle",
    "refinement",
    "cycle-refinement",
    "bidirectional",
    "three-images",
    "icon",
    "gradicon",
    SYNQUICK,
)
"""Methods of the whole table."""


@dataclass(frozen=True)
class Table1(Shown):
    """Train and judge Kuang's methods fold by fold; write a table, a row a method, published beside measured."""

    data: Path
    """The folder of the brains: affine2mm/ID_t1.nii.gz with ID_seg.nii.gz, and labels.csv."""
    output: Path
    """Folder for the trainings and what they came to, fold by fold."""
    methods: tuple[Method, ...] = ("baseline", "cycle", "refinement", "icon")
    """Any of `foldless train --method`; cycle-refinement, bidirectional, three-images and gradicon are in the table."""
    folds: tuple[Name, ...] = ()
    """Whose brains judge; none named is all."""
    steps: int = 3000
    """Of a method without phases; a phase of the refinement takes three tenths."""
    batch: int = 1
    """Pairs a step."""
    rate: float = 5e-4
    """Adam's; the paper's 1e-4 is for six times as many pairs."""
    pool: int = 2
    """What images are pooled by for training."""
    pairs: int = 42
    """Test pairs a fold; all 42, or 30 of six subjects, unless fewer are asked for."""
    seed: int = 0
    """Of every training."""
    synquick: bool = False
    """Also antspyx's SyNQuick on the same pairs; takes `pip install antspyx`."""

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
            seed=self.seed,
            regions=data / "regions.csv",
            legacy=True,
            percentiles=PERCENTILES,
        ).run()
        if self.synquick:
            judge_synquick(data, folds, self.methods[0])
        about = (
            "20 brains in three folds; mean ± standard deviation (divisor n - 1) over the folds that were run of means "
            f"over {self.pairs} ordered pairs at most. Training: steps of all phases x pairs a step, rate, what images "
            "are pooled by; scores on whole images. P: voxels whose forward-difference determinant is below zero; "
            "legacy: with the mistake in the authors' determinant until 2020, on axes in nibabel's order. Published: "
            "Mindboggle-101 at 1 mm."
        )
        commands = "\n".join(f"    {command_of('kuang_table1', call)}" for call in self._calls(folds))
        regions = f"Dice by region, left and right together:\n\n{by_region(folds, data)}"
        text = f"{commands}\n\n{about}\n\n{table(folds)}\n{against(folds)}{regions}"
        self.write("Kuang, Table 1", text)

    def _calls(self, results: Path) -> list[Table1]:
        """The calls that make all of the table, one a length of training."""
        from foldless.crossvalidation import trainings

        found = judged(results)
        folds: Any = tuple(sorted({fold for judged_by in found.values() for fold in judged_by}))
        calls: dict[tuple[int, int, float, int], list[Method]] = {}
        for method, recipe in trainings(results).items():
            if method in found:
                length = (self._steps_of(recipe), recipe.batch, recipe.rate, recipe.plan[-1].level)
                calls.setdefault(length, []).append(cast(Method, method))
        return [
            replace(
                self,
                **dict(zip(("steps", "batch", "rate", "pool"), length, strict=True)),
                methods=tuple(methods),
                folds=folds,
                synquick=SYNQUICK in found and not place,
            )
            for place, (length, methods) in enumerate(calls.items())
        ]

    def _steps_of(self, recipe: Recipe) -> int:
        """The option that a training followed from: this call's, where it may be."""
        if lasting(recipe, self.steps).steps == recipe.steps:
            return self.steps
        return recipe.steps if recipe.refinement == "none" else round(recipe.steps / PHASE_SHARE)


def judge_synquick(data: Path, results: Path, like: str) -> None:
    """SyNQuick on the pairs that the method `like` was judged on; `synquick/pairs.json` in every fold that has them."""
    from foldless.cli.console import progress
    from foldless.record import write_json

    for done in sorted(results.glob(f"*/{like}/pairs.json")):
        file = done.parents[1] / SYNQUICK / "pairs.json"
        pairs = json.loads(done.read_text(encoding="utf-8"))["pairs"]
        known = json.loads(file.read_text(encoding="utf-8"))["pairs"] if file.is_file() else []
        file.parent.mkdir(exist_ok=True)
        with progress() as bar:
            for row in bar.track(pairs[len(known) :], description=f"SyNQuick, {file.parents[1].name}"):
                known.append(synquick_scores(data, row["moving"], row["fixed"]))
                write_json({"pairs": known}, file)


def synquick_scores(data: Path, moving: str, fixed: str) -> dict[str, Any]:
    """One pair's scores, of the displacements alone: affine and SyN together, on the fixed lattice."""
    import numpy as np
    import torch

    from experiments.tools import syn_quick
    from foldless.data.folder import case_names, label_file
    from foldless.io import inverse_consistency_of_files, read_volume, sitk_transform, voxel_displacement
    from foldless.io.volumes import through
    from foldless.metrics import dice, folds_percent, summary
    from foldless.outcome import field_scores

    names = case_names(data)
    files = [names[moving], names[fixed]]
    image_A, image_B = (read_volume(file) for file in files)
    labels_A, labels_B = (read_volume(label, labels=True) for file in files if (label := label_file(data, file)))
    on = image_B.geometry
    with tempfile.TemporaryDirectory() as scratch:
        started = perf_counter()
        there, back = syn_quick(image_A, image_B, Path(scratch))
        seconds = perf_counter() - started
    assert back is not None
    warped = through(sitk_transform(there, on), labels_A, on, order=0)
    per_label = dice(warped.array, labels_B.array, moving=labels_A.array)
    voxels = torch.from_numpy(voxel_displacement(there, on).copy())[None]
    error = inverse_consistency_of_files(there, on, back, image_A.geometry)
    return {
        "moving": moving,
        "fixed": fixed,
        "dice": float(np.mean(list(per_label.values()))),
        "dice_per_label": {str(label): score for label, score in per_label.items()},
        **field_scores(voxels),
        "folds_percent_kuang_legacy": folds_percent(voxels, "kuang_legacy").item(),
        "inverse_consistency_voxels": summary(torch.from_numpy(error)),
        "seconds": seconds,
    }


def table(results: Path) -> str:
    """Every method as Markdown: mean ± standard deviation over the folds that it was judged by (divisor n - 1)."""
    from foldless.crossvalidation import in_words, summarised, trainings

    found = judged(results)
    summary, trained = summarised(found), trainings(results)
    rows = []
    for method in dict.fromkeys([*ROWS, *found]):
        scores = summary.get(method)
        if scores is None:
            cells = ["", "not run", *[""] * (1 + len(COLUMNS))]
        else:
            pairs = " ".join(str(len(judged_pairs)) for judged_pairs in found[method].values())
            training = in_words(trained[method]) if method in trained else ""
            cells = [training, " ".join(found[method]), pairs, *_cells(scores)]
        rows.append((method, PUBLISHED.get(method, ""), *cells))
    return markdown(("method", "published P, %", "training", "folds run", "pairs", *COLUMNS.values()), rows)


def against(results: Path, first: str = ROWS[0]) -> str:
    """Every method against the first on the pairs that both have, Dice and P; nothing where none are shared."""
    from foldless.crossvalidation import CAVEAT, compared

    found = judged(results)
    tests = [row for row in compared(found, tuple(TESTED)) if row["first"] == first]
    rows = []
    for method in dict.fromkeys(row["second"] for row in tests):
        own = {row["score"]: row for row in tests if row["second"] == method}
        some = next(iter(own.values()))
        cells = [cell for score in TESTED for cell in _test_cells(own.get(score))]
        rows.append((method, str(some["pairs"]), str(some["folds"]), *cells))
    if not rows:
        return ""
    columns = [word for name in TESTED.values() for word in (f"{name} - {first}'s", "p", "folds that agree")]
    folds = len({fold for by_fold in found.values() for fold in by_fold})
    return (
        f"Against the {first}, pair by pair:\n\n{markdown(('method', 'pairs', 'folds', *columns), rows)}\n"
        f"{CAVEAT.format(folds=folds)}\n\n"
    )


def _test_cells(test: dict[str, Any] | None) -> tuple[str, str, str]:
    if test is None:
        return ("", "", "")
    return (f"{-test['difference']:.3g}", f"{test['p']:.2g}", f"{test['folds_agreeing']} of {test['folds']}")


def by_region(results: Path, data: Path) -> str:
    """Mean Dice of every region, a column a method that was judged."""
    from foldless.crossvalidation import read_regions, summarised, with_regions

    regions = read_regions(data / "regions.csv")
    found = judged(results)
    known = {m: {f: with_regions(rows, regions) for f, rows in folds.items()} for m, folds in found.items()}
    summary = summarised(known)
    rows = []
    for region in dict.fromkeys(regions.values()):
        scores = [summary[method].get(f"dice_region.{region}") for method in summary]
        if any(scores):
            rows.append((region, *("" if score is None else f"{score['mean']:.3f}" for score in scores)))
    return markdown(("region", *summary), rows)


def _cells(scores: dict[str, Any]) -> list[str]:
    return [_cell(scores.get(name)) for name in COLUMNS]


def _cell(score: dict[str, Any] | None) -> str:
    if score is None:
        return ""
    spread = score["sd_n_minus_1"]
    return f"{score['mean']:.4g}" + ("" if spread is None else f" ± {spread:.2g}")


if __name__ == "__main__":
    begin(Table1)
