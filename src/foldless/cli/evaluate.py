"""`foldless evaluate`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from foldless.cli.console import number, progress, say, shell, table
from foldless.cli.machine import machine_named
from foldless.cli.outputs import results_in
from foldless.errors import InputError
from foldless.recipe import Source

if TYPE_CHECKING:
    from foldless.evaluation import Judged
    from foldless.machine import Machine
    from foldless.model import Model

DRAWN = 3
SHOWN = 12
COLUMNS = {
    "dice_before": "before",
    "dice": "Dice",
    "certificate.proven": "proven",
    "folds_percent.ten": "folds",
    "inverse_consistency_voxels.mean": "inverse",
}
"""Scores that the terminal shows, and how their columns are called; the files hold all."""


@dataclass(frozen=True)
class Evaluate:
    """Register many pairs with a model and score them: a row per pair, and the means."""

    model: Path
    """A run of `foldless train` (its folder) or a .safetensors file."""
    data: str
    """A folder with images/ and, for Dice, labels/; or shapes, or mnist:FOLDER."""
    output: Path
    """Folder for metrics.json, pairs.csv, run.json and report.html."""
    pairs: Path | None = None
    """CSV with the columns moving,fixed (case names); otherwise 100 ordered pairs drawn with seed 0 from the test part
    of split.json or, without one, from the cases that the model has not seen."""
    steps: int = 0
    """Test-time optimisation: steps of a copy of the network for every pair anew; GradICON takes 50."""
    refine: bool = False
    """Take the model's map of every pair as the start, and find the rest for the pair alone, as `register --refine`."""
    rate: float | None = None
    """Adam's in these steps, by default 2e-5; a model that was trained at 1e-3 gains more at 1e-4."""
    protocol: Literal["standard", "oai-knees"] = "standard"
    """oai-knees: of a folder that `prepare oai-knees` made, dice_cartilage as well, as published."""
    digit: int = 5
    """MNIST: which digit."""
    keep_folds: bool = False
    """Leave cells that fold as they are. By default they are opened by the smallest change, as `register` does."""
    device: str = "auto"
    """Where maps are computed: cpu, cuda, cuda:N or mps; auto takes the first CUDA GPU if there is one."""
    overwrite: bool = False
    """Replace an earlier result at --output."""

    def run(self) -> None:
        source = Source(data=self.data, digit=self.digit)
        if self.pairs is not None and not source.is_folder:
            raise InputError("--pairs names cases of a folder; generated data draws its own pairs")
        if self.protocol != "standard" and not source.is_folder:
            raise InputError(f"--protocol {self.protocol} is for the folder that `foldless prepare` made of the cohort")
        if self.steps < 0:
            raise InputError(f"--steps is 0 or more; got {self.steps}")
        if self.refine and self.steps:
            raise InputError("--refine and --steps are two ways to tune a pair; give one of them")
        if self.rate is not None and not (self.steps and 0 < self.rate < inf):
            raise InputError(
                f"--rate is for test-time optimisation, a number above 0 with --steps 50 beside it; got --rate "
                f"{self.rate:g} --steps {self.steps}"
            )

        machine = machine_named(self.device)
        inputs = [self.model, *source.folders, *([self.pairs] if self.pairs else [])]
        with results_in(self.output, "evaluate", self.overwrite, inputs) as folder:
            judged, means = self._into(folder, source, machine)
        show(judged, means)
        say(f"Written to {self.output}: metrics.json, pairs.csv, report.html")

    def _into(self, folder: Path, source: Source, machine: Machine) -> tuple[list[Judged], dict[str, Any]]:
        """Judge all pairs and fill the folder; the pairs, and their mean scores."""
        from foldless.evaluation import drawing_worst
        from foldless.model import Model, weights_file
        from foldless.record import RECORD, file_digest, run_record, write_json
        from foldless.registering import REFINING

        model = Model.load(self.model, machine)
        wanted, judging = self._pairs(model, source)
        with progress() as bar:
            task = bar.add_task("judging", total=wanted, news="")

            def tell(pair: Judged) -> None:
                bar.update(task, advance=1, news=f"Dice {number(pair.scores.get('dice'))}")

            judged = drawing_worst(judging, DRAWN, tell)
        read = [weights_file(self.model), *([self.pairs] if self.pairs else [])]
        digests = {str(path): file_digest(path) for path in read}
        record = {**run_record("evaluate", asdict(self), digests, machine), "recipe": model.recipe.as_dict()}
        if self.refine:
            record["forces"] = asdict(REFINING)
        title = f"{self.data}: {wanted} pairs, the worst {DRAWN} drawn" if wanted > DRAWN else self.data
        means = write_results(folder, judged, record, title)
        write_json(record, folder / RECORD)
        return judged, means

    def _pairs(self, model: Model, source: Source) -> tuple[int, Iterator[Judged]]:
        from foldless.data.images import ordered_pairs
        from foldless.data.source import open_source
        from foldless.evaluation import PAIRS, cartilage_dice, folder_pairs, judge_folder, judge_images
        from foldless.pairwise import TEST_TIME_RATE
        from foldless.registering import REFINING, Tuning

        tuning = Tuning(self.steps, self.rate or TEST_TIME_RATE, REFINING if self.refine else None)
        if source.is_folder:
            folder = Path(self.data)
            names = folder_pairs(model, folder, self.pairs)
            more = partial(cartilage_dice, folder=folder) if self.protocol == "oai-knees" else None
            return len(names), judge_folder(model, folder, names, more, tuning, repair=not self.keep_folds)
        lattice = model.preparation.lattice
        split, _ = open_source(replace(source, size=lattice[0]))
        if split.test.lattice != lattice:
            raise InputError(f"the model was trained on {lattice}, but {self.data} has images of {split.test.lattice}")
        places = ordered_pairs(len(split.test), PAIRS)
        return len(places), judge_images(model, split.test, places, tuning)


def write_results(
    folder: Path, judged: list[Judged], record: dict[str, Any], title: str, **extra: Any
) -> dict[str, Any]:
    """metrics.json, pairs.csv and report.html of judged pairs; their mean scores."""
    from foldless.evaluation import mean_scores, write_table
    from foldless.outcome import headline
    from foldless.record import write_json
    from foldless.report import write_report

    means = mean_scores([pair.scores for pair in judged])
    rows = [{"moving": pair.moving, "fixed": pair.fixed, **pair.scores} for pair in judged]
    write_json({"mean": means, "pairs": rows}, folder / "metrics.json")
    write_table(judged, folder / "pairs.csv")
    write_report(
        folder / "report.html",
        title,
        [pair.drawn for pair in judged if pair.drawn is not None],
        {"pairs": len(judged), **headline(means)},
        command=shell("foldless", *record["arguments"]),
        record=record,
        others=[(pair.name, pair.scores) for pair in judged if pair.draw is None],
        **extra,
    )
    return means


def show(judged: list[Judged], means: dict[str, Any]) -> None:
    """The worst pairs and the means of all, as a table, and which pairs lost Dice."""
    from foldless.evaluation import flat, worst_first

    kept = [name for name in COLUMNS if flat(means).get(name) is not None]
    rows = [
        (pair.name, *(number(flat(pair.scores).get(name)) for name in kept)) for pair in worst_first(judged)[:SHOWN]
    ]
    if len(judged) > SHOWN:
        rows.append((f"… and {len(judged) - SHOWN} more in pairs.csv", *("" for _ in kept)))
    rows.append((f"mean of all {len(judged)}", *(number(flat(means)[name]) for name in kept)))
    table("Pairs, worst first", rows, ("moving → fixed", *(COLUMNS[name] for name in kept)))
    say("More is better of Dice and proven (1: both maps are proven fold-free); less of folds (% of the interior, rule")
    say("of ten) and inverse (mean error, voxels)")
    _say_lost(judged)


def _say_lost(judged: list[Judged]) -> None:
    from foldless.evaluation import lost_dice

    lost, known = lost_dice(judged), sum(pair.scores.get("dice") is not None for pair in judged)
    if known:
        named = ": " + ", ".join(lost[:SHOWN]) if lost else ""
        more = f" and {len(lost) - SHOWN} more (report.html)" if len(lost) > SHOWN else ""
        say(f"Dice is lower than without registration in {len(lost)} of {known} pairs{named}{more}")
