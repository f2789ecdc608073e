"""`foldless demo`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldless.cli.console import say
from foldless.cli.machine import machine_named
from foldless.cli.outputs import results_in
from foldless.cli.watch import Watch
from foldless.recipe import Source, recipe_for

if TYPE_CHECKING:
    from foldless.evaluation import Judged
    from foldless.machine import Machine

DRAWN = 6


@dataclass(frozen=True)
class Demo:
    """Watch a network learn to register shapes that it was never shown how to: no labels, no true deformations.

    Trains on triangles and circles, then judges 100 pairs of unseen ones and writes report.html. A few minutes.
    """

    output: Path = Path("demo")
    """Folder for the model, metrics.json and report.html."""
    steps: int = 0
    """Training steps; 0 for as many as it takes to be good."""
    device: str = "auto"
    """Where the network learns: cpu, cuda, cuda:N or mps; auto takes the first CUDA GPU if there is one."""
    overwrite: bool = False
    """Replace an earlier demo at --output."""

    def run(self) -> None:
        machine = machine_named(self.device)
        with results_in(self.output, "demo", self.overwrite) as folder:
            judged, means = self._into(folder, machine)

        from foldless.cli.evaluate import show

        show(judged, means)
        say(
            f"Mean Dice of unseen shapes {means['dice']:.3f}, {means['folds_forward']:.2f} folds a pair (forward rule)."
        )
        say(f"Look at {self.output / 'report.html'}; the numbers are in {self.output / 'metrics.json'}.")

    def _into(self, folder: Path, machine: Machine) -> tuple[list[Judged], dict[str, Any]]:
        """Train, judge and fill the folder; the pairs, and their mean scores."""
        from dataclasses import replace

        from foldless.build import settled
        from foldless.cli.evaluate import write_results
        from foldless.data.images import ordered_pairs
        from foldless.data.source import open_source
        from foldless.evaluation import PAIRS, drawing_worst, judge_images
        from foldless.record import RECORD, run_record, write_json
        from foldless.training.log import read_log
        from foldless.training.loop import train

        source, recipe = Source(data="shapes"), recipe_for(None)
        if self.steps:
            recipe = replace(recipe, steps=self.steps)
        recipe = settled(recipe, machine)
        split, preparation = open_source(source, recipe.seed)
        digests = {part: getattr(split, part).digest() for part in ("train", "test")}
        record = run_record("demo", {"source": asdict(source), "recipe": recipe.as_dict()}, digests, machine)
        say("A network learns to register triangles and circles. It is asked for two things only: that the warped")
        say("image looks like the other one, and that going there and back again is the identity.")
        with Watch(recipe.ends()[-1]) as watch:
            tell: dict[str, Any] = {"on_step": watch.on_step, "on_scores": watch.on_scores}
            model = train(recipe, split, preparation, folder, **tell, machine=machine)
        watch.summarise(folder / "log.csv")
        log = read_log(folder / "log.csv")
        pairs = ordered_pairs(len(split.test), PAIRS)
        judged = drawing_worst(judge_images(model, split.test, pairs), DRAWN)
        history = {
            name: [(int(row["step"]), row[name]) for row in log if name in row]
            for name in ("similarity", "regularity", "val_dice", "val_folds")
        }
        means = write_results(folder, judged, record, "foldless demo: unseen triangles and circles", history=history)
        write_json(record, folder / RECORD)
        return judged, means
