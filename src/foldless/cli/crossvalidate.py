"""`foldless crossvalidate`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from foldless.cli.console import HINT, directed, number, say, table
from foldless.cli.machine import machine_named
from foldless.cli.outputs import claimed, tidy, untouched
from foldless.cli.watch import Watch
from foldless.errors import InputError
from foldless.methods import Method, lasting, method_recipe, planned
from foldless.recipe import Precision, Recipe, Source, recipe_for

if TYPE_CHECKING:
    from foldless.crossvalidation import Fold, Results
    from foldless.machine import Machine

SHOWN = {
    "dice": "Dice ↑",
    "folds_percent.forward": "P, % ↓",
    "folds_percent.ten": "folds, % (ten) ↓",
    "ndv_percent": "NDV, % ↓",
    "inverse_consistency_voxels.mean": "inverse, voxels ↓",
}
MEANS = "Mean ± sd over folds (n - 1)"
LOST = "Pairs whose Dice is lower than without registration"
NAMED = 5
"""So many of them the terminal names; results.json and the page name all."""


@dataclass(frozen=True)
class CrossValidate:
    """Train methods on all groups of cases but one, judge them on that one, for every group in turn.

    The same command goes on where it was stopped, and may name more methods: what is done is not done again.
    """

    data: Path
    """A folder with images/ and, for Dice, labels/."""
    output: Path
    """Folder for results.json, report.html and, in FOLD/METHOD/, the trainings and the scores of their pairs."""
    groups: Path | None = None
    """CSV with the columns case,group; groups.csv in the data folder where it is not given."""
    methods: tuple[Method, ...] = ("baseline", "cycle")
    """What `foldless train --method` knows."""
    folds: tuple[str, ...] = ()
    """Groups to judge by in this call; none named is all, one after the other."""
    pairs: int = 100
    """Test pairs a fold, ordered, drawn with seed 0; all if there are fewer."""
    steps: int | None = None
    """Training steps of this call's methods; a phase takes three tenths, as published. None: the methods' own."""
    batch: int | None = None
    """Pairs a step; None: the methods' own."""
    rate: float | None = None
    """Adam's rate; None: the methods' own."""
    pool: int = 1
    """Train on images pooled by this number; judged are the whole ones."""
    precision: Precision = "auto"
    """Of the networks."""
    seed: int = 0
    """Of every training."""
    regions: Path | None = None
    """CSV with the columns label,region: Dice by region too."""
    legacy: bool = False
    """3-D: also the folds by Kuang's legacy determinant."""
    placement: Literal["centre", "world"] = "centre"
    """How images are laid on one lattice, as for train."""
    percentiles: tuple[float, float] = (1.0, 99.0)
    """Intensities that become 0 and 1, in percent; "0 100" divides by the maximum, as Kuang does."""
    device: str = "auto"
    """Where networks learn and register: cpu, cuda, cuda:N or mps; auto takes the first CUDA GPU if there is one."""

    def run(self) -> None:
        machine = machine_named(self.device)
        inputs = [self.data, *(path for path in (self.groups, self.regions) if path is not None)]
        with claimed(self.output, inputs):
            try:
                self._go_on(machine)
            except KeyboardInterrupt:
                kept = f"what is done is kept in {self.output}; the same command goes on"
                raise KeyboardInterrupt(kept) from None

    def _go_on(self, machine: Machine) -> None:
        from foldless.build import settled
        from foldless.crossvalidation import (
            folds_of,
            judged_so_far,
            read_groups,
            read_regions,
            run_fold,
            trainings,
            with_regions,
        )
        from foldless.data.folder import case_names

        files = case_names(self.data)
        folds = folds_of(read_groups(self.groups or self.data / "groups.csv", files))
        if strange := set(self.folds) - {fold.name for fold in folds}:
            raise InputError(
                f"there is no group {min(strange)} to judge by; there are {', '.join(f.name for f in folds)}"
            )
        regions = None if self.regions is None else read_regions(self.regions)
        recipes: dict[str, Recipe] = {m: settled(self._recipe(m), machine) for m in dict.fromkeys(self.methods)}
        chosen = [fold for fold in folds if not self.folds or fold.name in self.folds]
        self._check(recipes, chosen)
        source = Source(str(self.data), self.placement, self.percentiles).resolved()
        self._keep_record(source, recipes, folds, machine)
        tidy(self.output)
        every = trainings(self.output)
        for fold in chosen:
            for method, recipe in recipes.items():
                say(f"{method}, judged by {fold.name}: {len(fold.train)} cases train, {len(fold.test)} judge")
                folder = self.output / fold.name / method
                with Watch(recipe.ends()[-1]) as watch, watch.stopping() as stop:
                    more: dict[str, Any] = {"on_step": watch.on_step, "stop": stop, "machine": machine}
                    run_fold(recipe, source, fold, folder, self.pairs, self.legacy, **more)
            results = judged_so_far(self.output, every)
            if regions is not None:
                results = {m: {f: with_regions(r, regions) for f, r in found.items()} for m, found in results.items()}
            self._write(results, every, regions)
        self._show(results, every)

    def _check(self, recipes: dict[str, Recipe], folds: list[Fold]) -> None:
        """Refuse before anything is trained what would end a later fold or method.

        Raises:
            InputError: says what.
        """
        from foldless.data.folder import largest_lattice, padded

        if self.pairs < 1:
            raise InputError(f"a fold is judged by one pair or more; got --pairs {self.pairs}")
        lattice = largest_lattice(self.data)
        if self.legacy and lattice is not None and len(lattice) != 3:
            raise InputError("Kuang's legacy determinant is of volumes; leave --legacy out for pictures")
        if lattice is not None:
            for recipe in recipes.values():
                recipe.check_lattice(padded(lattice))
        for fold in folds:
            wanted = max(3 if recipe.objective == "three-images" else 2 for recipe in recipes.values())
            if len(fold.train) < wanted:
                raise InputError(
                    f"the fold {fold.name} leaves {len(fold.train)} cases to train on; {wanted} are needed"
                )

    def _recipe(self, method: str) -> Recipe:
        from foldless.data.folder import largest_lattice

        recipe = method_recipe(method, recipe_for(largest_lattice(self.data)))
        if self.steps is not None:
            recipe = lasting(recipe, self.steps)
        own: dict[str, Any] = {"seed": self.seed, "precision": self.precision, "batch": self.batch, "rate": self.rate}
        recipe = replace(recipe, **{name: value for name, value in own.items() if value is not None})
        return planned(recipe, method, pool=self.pool)

    def _keep_record(self, source: Source, recipes: dict[str, Recipe], folds: list[Fold], machine: Machine) -> None:
        """Write what is run, or make sure that what is there was run alike; methods join those of earlier calls.

        Raises:
            InputError: the folder holds something else.
        """
        from foldless.crossvalidation import data_digests
        from foldless.record import RECORD, read_record, run_record, write_json

        settings: dict[str, Any] = {
            "source": asdict(source),
            "folds": {fold.name: list(fold.test) for fold in folds},
            "pairs": self.pairs,
            "legacy": self.legacy,
            "recipes": {method: recipe.as_dict() for method, recipe in recipes.items()},
        }
        if untouched(self.output):
            self.output.mkdir(parents=True, exist_ok=True)
            record = run_record("crossvalidate", settings, data_digests(self.data), machine)
            write_json(record, self.output / RECORD)
            return
        record = read_record(self.output)
        if record.get("command") != "crossvalidate":
            raise InputError(f"{self.output} holds no cross-validation; choose another --output")
        earlier, now = record["settings"], json_plain(settings)
        if not isinstance(earlier.get("recipes"), dict):
            raise InputError(f"the record of {self.output} is damaged, it names no recipes; choose another --output")
        shared = [m for m in now["recipes"] if m in earlier["recipes"]]
        same = all(earlier.get(k) == now[k] for k in ("source", "folds", "pairs", "legacy"))
        if not same or any(earlier["recipes"][m] != now["recipes"][m] for m in shared):
            raise InputError(f"{self.output} holds a cross-validation with other settings; choose another --output")
        if record.get("data_sha256") != data_digests(self.data):
            raise InputError(f"the files of {self.data} are not those that {self.output} was begun with")
        earlier["recipes"] |= now["recipes"]
        write_json(record, self.output / RECORD)

    def _write(self, results: Results, trained: dict[str, Recipe], regions: dict[int, str] | None) -> None:
        from foldless.crossvalidation import CAVEAT, compared, dice_by_region, in_words, lost_dice, summarised
        from foldless.record import read_record, write_json
        from foldless.report import Table, write_comparison

        caveat = CAVEAT.format(folds=_folds(results))
        words = {method: in_words(trained[method]) for method in results}
        content = {
            "methods": summarised(results),
            "trainings": words,
            "compared": compared(results),
            "lost_dice": {method: lost for method, (lost, _) in lost_dice(results).items()},
            "caveat": caveat,
        }
        write_json(content, self.output / "results.json")
        scores = Table(MEANS, *_scores(results, words, "steps x pairs a step, rate"), HINT)
        lost = Table(LOST, *_lost(results))
        tests = Table("Paired tests", *_tests(results), caveat)
        write_comparison(
            self.output / "report.html",
            f"Methods on {self.data.resolve().name}",
            [table for table in (scores, lost, tests) if table.rows],
            dice_by_region(results, regions),
            read_record(self.output),
        )

    def _show(self, results: Results, trained: dict[str, Recipe]) -> None:
        from foldless.crossvalidation import CAVEAT

        columns, rows = _scores(results, {m: str(recipe.ends()[-1]) for m, recipe in trained.items()}, "steps")
        table(MEANS, rows, columns)
        say(HINT)
        columns, lost = _lost(results, NAMED)
        if lost:
            table(LOST, lost, columns)
        columns, tests = _tests(results)
        if tests:
            table("Paired tests", tests, columns)
            say(CAVEAT.format(folds=_folds(results)))
        say(
            f"Written to {self.output}: report.html, and results.json with every score, both standard deviations, and p"
        )


def _scores(results: Results, trainings: dict[str, str], heading: str) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the scores, a row a method; `heading` is that of the trainings' column."""
    from foldless.crossvalidation import summarised

    summary = summarised(results)
    shown = [name for name in SHOWN if all(name in scores for scores in summary.values())]
    rows = [[m, trainings[m], *(_cell(scores[name]) for name in shown)] for m, scores in summary.items()]
    return ["method", heading, *(SHOWN[name] for name in shown)], rows


def _tests(results: Results) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the paired tests."""
    from foldless.crossvalidation import compared

    rows = [
        [f"{c['first']} - {c['second']}", directed(c["score"]), number(c["difference"]), number(c["p"]), _agreement(c)]
        for c in compared(results)
    ]
    return ["methods", "score", "difference", "p", "folds that agree"], rows


def _lost(results: Results, named: int | None = None) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the pairs that lost Dice, `named` of them by name."""
    from foldless.crossvalidation import lost_dice

    rows = [
        [method, f"{len(lost)} of {known}", ", ".join(lost[:named]) + (", …" if lost[:named] != lost else "")]
        for method, (lost, known) in lost_dice(results).items()
    ]
    return ["method", "pairs ↓", "which"], rows


def _folds(results: Results) -> int:
    """How many folds any method was judged by."""
    return len({name for found in results.values() for name in found})


def json_plain(value: Any) -> Any:
    """The value as a record gives it back."""
    import json

    return json.loads(json.dumps(value))


def _cell(score: dict[str, Any]) -> str:
    spread = score["sd_n_minus_1"]
    return number(score["mean"]) + ("" if spread is None else f" ± {number(spread)}")


def _agreement(row: dict[str, Any]) -> str:
    return f"{row['folds_agreeing']} of {row['folds']}"
