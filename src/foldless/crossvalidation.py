"""Methods trained and judged fold by fold on a folder whose cases fall into named groups; what the numbers say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foldless.data.folder import case_names, folder_split, label_file
from foldless.data.images import ordered_pairs
from foldless.data.tables import read_table
from foldless.errors import InputError
from foldless.evaluation import Scores, flat, judge_folder
from foldless.machine import CPU, Machine
from foldless.metrics import folds_percent
from foldless.model import Model
from foldless.objective import Terms
from foldless.outcome import Outcome
from foldless.recipe import Recipe, Source
from foldless.record import file_digest, read_record, write_json
from foldless.report.verdict import loses_dice
from foldless.training.checkpoints import CHECKPOINT
from foldless.training.loop import train
from foldless.training.validation import Scores as Look

PAIRS_FILE = "pairs.json"
COMPARED = ("dice", "folds_percent.forward", "folds_percent.ten", "inverse_consistency_voxels.mean")
"""The scores that methods are tested on against each other."""
CAVEAT = (
    "p is of a paired Wilcoxon signed-rank test over the test pairs. Pairs share images and, within a fold, one "
    "training, so they are not independent and p is too small. What repeats is the fold; folds here: {folds}."
)

Results = dict[str, dict[str, list[Scores]]]
"""Method -> fold -> a row per test pair."""


@dataclass(frozen=True)
class Fold:
    """The cases of one group judge, those of all others train."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]


def read_groups(file: Path, names: Iterable[str]) -> dict[str, str]:
    """Case -> group, from a CSV with the columns case,group; cases that it does not name take no part.

    Raises:
        InputError: it is no such file, names a case that is not there, or one twice.
    """
    known, groups = set(names), dict[str, str]()
    for row in read_table(file, ("case", "group")):
        if row["case"] not in known:
            raise InputError(f"{file} names the case {row['case']}, but images/ has no such case")
        if Path(row["group"]).name != row["group"] or row["group"] in ("", "..") or not row["group"].isprintable():
            raise InputError(f"{file}: the group {row['group']!r} must serve as a folder's name; call it otherwise")
        if row["case"] in groups:
            raise InputError(f"{file} names the case {row['case']} twice; a case is in one group")
        groups[row["case"]] = row["group"]
    return groups


def folds_of(groups: Mapping[str, str]) -> list[Fold]:
    """A fold a group, in the order of their first cases.

    Raises:
        InputError: fewer than two groups, or one of a single case: pairs are judged.
    """
    names = list(dict.fromkeys(groups.values()))
    parts = {name: tuple(case for case, group in groups.items() if group == name) for name in names}
    if len(names) < 2:
        raise InputError(f"cross-validation takes two groups or more; got {len(names)}: {', '.join(names)}")
    for name, cases in parts.items():
        if len(cases) < 2 or len(groups) - len(cases) < 2:
            raise InputError(
                f"the group {name} leaves {len(cases)} cases to judge and {len(groups) - len(cases)} to "
                "train; both take two at least"
            )
    return [Fold(name, tuple(c for c in groups if groups[c] != name), parts[name]) for name in names]


def run_fold(
    recipe: Recipe,
    source: Source,
    fold: Fold,
    folder: Path,
    pairs: int,
    legacy: bool = False,
    on_step: Callable[[int, Terms], None] = lambda step, terms: None,
    on_scores: Callable[[int, Look], None] = lambda step, scores: None,
    stop: Callable[[], bool] = lambda: False,
    machine: Machine = CPU,
) -> list[Scores]:
    """Train on a fold and judge its test pairs with the last weights; goes on where an earlier call stopped.

    The looks while training are at pairs of training images: a fold keeps nothing aside, and nothing is chosen by them.

    Args:
        recipe: what is trained.
        source: a folder of images and labels.
        fold: which cases train and which judge.
        folder: receives the training's files and, when all is done, the rows as `pairs.json`.
        pairs: how many ordered test pairs, drawn with seed 0; all if there are fewer.
        legacy: also report the folds of Kuang's legacy determinant (3-D).
        on_step: as for `train`.
        on_scores: as for `train`.
        stop: asked after every step, and after every pair that is judged, whether to end there.
        machine: where it trains and registers.
    """
    if (folder / PAIRS_FILE).is_file():
        rows: list[Scores] = json.loads((folder / PAIRS_FILE).read_text(encoding="utf-8"))["pairs"]
        return rows
    data = Path(source.data)
    parts = {"train": list(fold.train), "val": list(fold.train), "test": list(fold.test)}
    split, preparation = folder_split(data, source.placement, source.percentiles, parts)
    folder.mkdir(parents=True, exist_ok=True)
    resume = (folder / CHECKPOINT).is_file()
    train(recipe, split, preparation, folder, resume, on_step, on_scores, stop=stop, machine=machine)
    model = Model.load(folder / "last.safetensors", machine)
    chosen = [(fold.test[i], fold.test[j]) for i, j in ordered_pairs(len(fold.test), pairs)]
    judged = judge_folder(model, data, chosen, legacy_folds if legacy else None)
    rows = []
    for pair in judged:
        rows.append({"moving": pair.moving, "fixed": pair.fixed, **pair.scores})
        if stop():
            raise KeyboardInterrupt
    write_json({"pairs": rows}, folder / PAIRS_FILE)
    return rows


def data_digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every image and label map of a folder, by its path in there."""
    files = [part for image in case_names(folder).values() for part in (image, label_file(folder, image))]
    return {str(file.relative_to(folder)): file_digest(file) for file in files if file is not None}


def trainings(folder: Path) -> dict[str, Recipe]:
    """How every method of a cross-validation was trained, by the record in its folder.

    Raises:
        InputError: there is no such record.
    """
    recipes = read_record(folder)["settings"].get("recipes")
    if not isinstance(recipes, dict):
        raise InputError(f"{folder} holds no cross-validation")
    return {method: Recipe.from_dict(recipe) for method, recipe in recipes.items()}


def in_words(recipe: Recipe) -> str:
    """How long a training was: steps of all its stages x pairs a step, Adam's rate, and what images were pooled by."""
    pool = recipe.plan[-1].level
    return f"{recipe.ends()[-1]} x {recipe.batch}, {recipe.rate:g}" + (f", pool {pool}" if pool > 1 else "")


def judged_so_far(folder: Path, methods: Iterable[str]) -> Results:
    """What `run_fold` left in FOLD/METHOD/, method by method: of this call and of earlier ones."""
    found: Results = {}
    for method in methods:
        for file in sorted(folder.glob(f"*/{method}/{PAIRS_FILE}")):
            rows = json.loads(file.read_text(encoding="utf-8"))["pairs"]
            found.setdefault(method, {})[file.parents[1].name] = rows
    return found


def legacy_folds(outcome: Outcome) -> Scores:
    """Folds by the determinant of Kuang's Table 1, in %."""
    field = torch.from_numpy(outcome.displacement_voxels.copy())[None]
    return {"folds_percent_kuang_legacy": folds_percent(field, "kuang_legacy").item()}


def with_regions(rows: Sequence[Scores], regions: Mapping[int, str]) -> list[Scores]:
    """The rows with `dice_region.NAME`: the mean of the Dice of a region's labels, as Kuang's Fig. 5 has it."""
    result = []
    for row in rows:
        labels: dict[str, list[float]] = {}
        for label, score in row.get("dice_per_label", {}).items():
            if (name := regions.get(int(label))) and score is not None:
                labels.setdefault(name, []).append(score)
        means = {name: float(np.mean(scores)) for name, scores in sorted(labels.items())}
        result.append({**row, "dice_region": means} if means else dict(row))
    return result


def dice_by_region(results: Results, regions: Mapping[int, str] | None = None) -> dict[str, dict[str, float]]:
    """Method -> region -> Dice, the mean over folds of means over pairs; label by label where there are no regions."""
    rows = [row for folds in results.values() for some in folds.values() for row in some]
    labels = sorted({int(label) for row in rows for label in row.get("dice_per_label", {})})
    names = {label: f"label {label}" for label in labels} if regions is None else regions
    known = {m: {f: with_regions(some, names) for f, some in folds.items()} for m, folds in results.items()}
    return {
        method: {
            region: scores[name]["mean"]
            for region in dict.fromkeys(names.values())
            if (name := f"dice_region.{region}") in scores
        }
        for method, scores in summarised(known).items()
    }


def read_regions(file: Path) -> dict[int, str]:
    """Label -> region, from a CSV with the columns label,region; labels without a region are left out.

    Raises:
        InputError: it is no such file.
    """
    regions: dict[int, str] = {}
    for row in read_table(file, ("label", "region")):
        if not re.fullmatch(r"-?[0-9]{1,10}", row["label"]):
            raise InputError(f"{file} names the label {row['label']!r}; labels are whole numbers")
        if row["region"]:
            regions[int(row["label"])] = row["region"]
    return regions


def summarised(results: Results) -> dict[str, Any]:
    """Per method and score: the mean of every fold, and over the folds the mean and both standard deviations.

    `sd_n` divides by the number of folds, `sd_n_minus_1` by one less (None for a single fold).
    """
    summary: dict[str, Any] = {}
    for method, folds in results.items():
        table = {name: _means(rows) for name, rows in folds.items()}
        names = dict.fromkeys(score for means in table.values() for score in means)
        summary[method] = {score: _over_folds({f: m[score] for f, m in table.items() if score in m}) for score in names}
    return summary


def lost_dice(results: Results) -> dict[str, tuple[list[str], int]]:
    """Method -> the pairs, fold by fold, whose Dice is lower than without registration; and of how many it is known."""
    found: dict[str, tuple[list[str], int]] = {}
    for method, folds in results.items():
        known = [(fold, row) for fold, rows in folds.items() for row in rows if "dice" in row]
        lost = [f"{fold}: {row['moving']} → {row['fixed']}" for fold, row in known if loses_dice(_numbers(row))]
        if known:
            found[method] = lost, len(known)
    return found


def compared(results: Results, scores: Sequence[str] = COMPARED) -> list[dict[str, Any]]:
    """Every two methods on the pairs and folds that both have: mean difference, p, and how many folds share its sign.

    Read `CAVEAT` with them.
    """
    rows = []
    for first, second in combinations(results, 2):
        for score in scores:
            differences = {
                fold: _differences(results[first][fold], results[second][fold], score)
                for fold in results[first]
                if fold in results[second]
            }
            found = {fold: d for fold, d in differences.items() if d.size}
            if found:
                rows.append({"first": first, "second": second, "score": score, **_tested(found)})
    return rows


def _tested(differences: Mapping[str, np.ndarray]) -> dict[str, Any]:
    from scipy.stats import wilcoxon

    every = np.concatenate(list(differences.values()))
    means = np.array([d.mean() for d in differences.values()])
    p = float(wilcoxon(every).pvalue) if every.any() else 1.0
    agree = int((np.sign(means) == np.sign(every.mean())).sum())
    return {
        "difference": float(every.mean()),
        "p": p,
        "pairs": len(every),
        "folds": len(means),
        "folds_agreeing": agree,
    }


def _differences(first: Sequence[Scores], second: Sequence[Scores], score: str) -> np.ndarray:
    """first - second on the pairs that both judged."""
    one, other = (
        {(row["moving"], row["fixed"]): found[score] for row in rows if score in (found := _numbers(row))}
        for rows in (first, second)
    )
    return np.array([one[pair] - other[pair] for pair in one if pair in other])


def _numbers(row: Scores) -> dict[str, float]:
    """A pair's scores; one that was not finite is null in `pairs.json`, and counts as such."""
    known = {name: nan if value is None else value for name, value in flat(row).items() if "per_label" not in name}
    return {name: float(value) for name, value in known.items() if isinstance(value, int | float)}


def _means(rows: Sequence[Scores]) -> dict[str, float]:
    numbers = [_numbers(row) for row in rows]
    names = dict.fromkeys(name for row in numbers for name in row)
    return {name: float(np.mean([row[name] for row in numbers if name in row])) for name in names}


def _over_folds(means: Mapping[str, float]) -> dict[str, Any]:
    values = list(means.values())
    return {
        "folds": dict(means),
        "mean": float(np.mean(values)),
        "sd_n": float(np.std(values)),
        "sd_n_minus_1": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }
