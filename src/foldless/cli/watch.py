"""What a person sees of a training while it runs, and of how it went."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from foldless.cli.console import duration, number, progress, say
from foldless.cli.interruption import deferred

if TYPE_CHECKING:
    from foldless.objective import Terms
    from foldless.training.validation import Scores

PLAIN_LINE_EVERY = 100


class Watch:
    """A bar with an estimate or, without a terminal, a line now and then; `on_step` and `on_scores` are for `train`."""

    def __init__(self, steps: int, name: str = "training") -> None:
        self.steps = steps
        self.started = perf_counter()
        self.done = 0
        self.step = 0
        self._bar = progress()
        self._task = self._bar.add_task(name, total=steps, news="")

    def __enter__(self) -> Watch:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def on_step(self, step: int, terms: Terms) -> None:
        """After every training step."""
        self.done += 1
        self.step = step
        news = f"similarity {number(terms.similarity.item())}"
        self._bar.update(self._task, completed=step, news=news)
        if self._bar.disable and step % PLAIN_LINE_EVERY == 0:
            left = (perf_counter() - self.started) / self.done * (self.steps - step)
            news += f"  regularity {number(terms.regularity.item())}  left: {duration(left)}"
            say(f"step {step} of {self.steps}  {news}")

    def on_next(self, terms: Terms) -> None:
        """After every step of an optimisation, which counts from 1."""
        self.on_step(self.done + 1, terms)

    def on_scores(self, step: int, scores: Scores) -> None:
        """After every look at the held-out pairs."""
        say(f"step {step}: held-out pairs: {in_words(scores._asdict())}")

    @contextmanager
    def stopping(self, when: Callable[[], bool] = lambda: True) -> Iterator[Callable[[], bool]]:
        """Once steps are being done, and while `when` holds, the first signal is heeded after one; whether it came."""
        says = "stopping after this step; once more to stop at once"
        with deferred(says, when=lambda: self.step > 0 and when()) as stop:
            yield stop

    def summarise(self, log: Path, after: int = 0) -> dict[str, float]:
        """How long it took, and the best of the looks that `log` holds after a step: of the last stage; its scores.

        A look without a step's own numbers is at the weights that the training began with, and counts to what follows.
        """
        from foldless.training.log import read_log

        looks = [row for row in read_log(log) if "val_total" in row and row["step"] + ("total" not in row) > after]
        say(f"{self.done} steps in {duration(perf_counter() - self.started)}." if self.done else "All steps were done.")
        scores: dict[str, float] = {}
        if looks:
            best = min(looks, key=lambda row: row["val_total"])
            scores = {name.removeprefix("val_"): value for name, value in best.items() if name.startswith("val_")}
            say(f"Best at step {int(best['step'])}: held-out pairs: {in_words(scores)}")
        return scores


def in_words(scores: dict[str, float]) -> str:
    """Validation scores on a line."""
    dice = scores.get("dice", float("nan"))
    overlap = f"  Dice {dice:.3f}" if dice == dice else ""
    error = scores.get("error", float("nan"))
    back = f"  largest inverse-consistency error {error:.3f} voxel" if error == error else ""
    return f"objective {scores['total']:.4f}{overlap}  forward folds a pair {scores['folds']:.2f}{back}"
