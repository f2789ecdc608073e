"""A resumed training is the same training, bit for bit; whatever goes wrong leaves the last good checkpoint."""

import csv
import os
import pickle
import shutil
from copy import deepcopy
from dataclasses import replace
from math import cos, pi

import pytest
import torch
from samples import PREPARED, SMALL, blob
from test_model import Malicious
from torch.testing import assert_close

import foldless.training.loop as loop
from foldless.data.images import ImageSet, Split
from foldless.data.prepare import Preparation
from foldless.data.shapes import shapes
from foldless.errors import InputError, TrainingError
from foldless.maps import Affine
from foldless.model import Model
from foldless.overlap import overlap
from foldless.training.checkpoints import load_checkpoint
from foldless.training.log import COLUMNS, read_log
from foldless.training.loop import new_registration, new_state, train, training_step
from foldless.training.optimiser import Adam
from foldless.training.validation import validate

KINDS = {
    "2-D, batch norm": (2, SMALL),
    "2-D, ramp and exponential": (2, replace(SMALL, ramp=4, as_map="exponential", regularity="icon")),
    "2-D, tolerance and certified": (2, replace(SMALL, tolerance=0.3, regularity="certified")),
    "2-D, bfloat16": (2, replace(SMALL, precision="bfloat16", save_every=3)),
    "3-D, two levels, instance norm": (
        3,
        replace(
            SMALL,
            levels=(2, 1),
            normalisation="instance",
            similarity="lncc",
            sigma=2.0,
            batch=1,
            mirror=True,
            affine=0.1,
        ),
    ),
    "3-D, batch norm": (3, replace(SMALL, regularity="diffusion")),
}


class Killed(BaseException):
    """Stands for a signal."""


def data(dim: int) -> Split:
    if dim == 2:
        return shapes(16, 0, train=8, test=4)
    labels = torch.stack([torch.from_numpy(blob((16, 16, 16), k)) for k in range(6)]).int()
    images = ImageSet(labels[:, None].float() / 2, tuple("abcdef"), (1.0,) * 3, labels)
    return Split(images.pick([0, 1, 2]), images.pick([3, 4]), images.pick([4, 5]))


def run(folder, kind="2-D, batch norm", **options):
    dim, recipe = KINDS[kind]
    folder.mkdir(exist_ok=True)
    recipe = replace(recipe, **options.pop("settings", {}))
    return train(recipe, data(dim), PREPARED[dim], folder, **options)


def kill_at(step):
    def on_step(now, terms):
        if now == step:
            raise Killed

    return on_step


def end_of(folder, kind):
    """Everything that a finished run leaves on disk, as values."""
    dim, recipe = KINDS[kind]
    state = load_checkpoint(recipe, new_registration(recipe, PREPARED[dim].lattice), folder)
    weights = {name: Model.load(folder / f"{name}.safetensors").registration.state_dict() for name in ("best", "last")}
    return {
        "objective": state.objective.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "random": torch.get_rng_state(),
        "step": state.step,
        "best": state.best,
        "log": (folder / "log.csv").read_text(),
        **weights,
    }


def assert_same(one, other, at="state"):
    assert type(one) is type(other), at
    if isinstance(one, dict):
        assert one.keys() == other.keys(), at
        for name in one:
            assert_same(one[name], other[name], f"{at}.{name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), at
        for k, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{at}[{k}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), at
    else:
        assert one == other, at


# The same bits


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_is_the_same_as_never_stopping(tmp_path, kind):
    run(tmp_path / "straight", kind)
    with pytest.raises(Killed):
        run(tmp_path / "killed", kind, on_step=kill_at(5))
    torch.manual_seed(77)  # whatever the new process' generator holds
    run(tmp_path / "killed", kind, resume=True)
    assert_same(end_of(tmp_path / "straight", kind), end_of(tmp_path / "killed", kind))


def test_killed_twice_and_killed_at_once(tmp_path):
    kind = "2-D, batch norm"
    run(tmp_path / "straight", kind)
    for step, resume in ((3, False), (4, True), (6, True)):
        with pytest.raises(Killed):
            run(tmp_path / "killed", kind, on_step=kill_at(step), resume=resume)
    run(tmp_path / "killed", kind, resume=True)
    assert_same(end_of(tmp_path / "straight", kind), end_of(tmp_path / "killed", kind))


def test_the_power_went_off(tmp_path, monkeypatch):
    """No handler ran: what is on disk at the moment of a checkpoint is enough."""
    kind = "2-D, batch norm"
    run(tmp_path / "straight", kind)
    save = loop.save_checkpoint

    def save_and_copy(state, folder):
        save(state, folder)
        if state.step == 4:
            shutil.copytree(folder, tmp_path / "copy")

    monkeypatch.setattr(loop, "save_checkpoint", save_and_copy)
    run(tmp_path / "cut", kind)
    monkeypatch.undo()
    run(tmp_path / "copy", kind, resume=True)
    assert_same(end_of(tmp_path / "straight", kind), end_of(tmp_path / "copy", kind))


def test_the_same_command_gives_the_same_run_and_another_seed_another(tmp_path):
    kind = "2-D, batch norm"
    run(tmp_path / "a", kind)
    torch.rand(5)
    run(tmp_path / "b", kind)
    assert_same(end_of(tmp_path / "a", kind), end_of(tmp_path / "b", kind))
    run(tmp_path / "c", kind, settings={"seed": 1})
    assert (tmp_path / "c" / "log.csv").read_text() != (tmp_path / "a" / "log.csv").read_text()


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    kind = "2-D, batch norm"
    run(tmp_path, kind)
    before = end_of(tmp_path, kind)
    run(tmp_path, kind, resume=True)
    assert_same(before, end_of(tmp_path, kind))


def test_validating_leaves_no_trace(tmp_path):
    split = data(2)
    state = new_state(SMALL, (16, 16))
    training_step(state, SMALL, split.train.images[:2], split.train.images[2:4])
    before = {name: tensor.clone() for name, tensor in state.objective.state_dict().items()}
    random = torch.get_rng_state()
    one = validate(state.objective, split.val, [(0, 1), (2, 3)])
    assert torch.equal(random, torch.get_rng_state())
    assert state.objective.training
    assert_same(before, dict(state.objective.state_dict()))
    assert one == validate(state.objective, split.val, [(0, 1), (2, 3)])


# It learns


def test_it_learns(tmp_path):
    seen = []
    settings = {"steps": 60, "batch": 8, "validate_every": 20}
    run(tmp_path, settings=settings, on_scores=lambda step, scores: seen.append((step, scores)))
    assert [step for step, _ in seen] == [20, 40, 60]
    rows = read_log(tmp_path / "log.csv")
    first, last = (sum(row["similarity"] for row in part) / 10 for part in (rows[:10], rows[-10:]))
    assert last < 0.9 * first


def test_the_rate_falls_along_a_cosine():
    state = new_state(SMALL, (16, 16))
    images = data(2).train.images
    for step in range(SMALL.steps):
        training_step(state, SMALL, images[:2], images[2:4])
        assert state.optimiser.param_groups[0]["lr"] == SMALL.rate * (1 + cos(pi * step / SMALL.steps)) / 2


def test_one_step_is_adams(tmp_path):
    """Torch's plain Adam, told the gradient of the objective by hand."""
    images = data(2).train.images
    state, other = (new_state(SMALL, (16, 16)) for _ in range(2))
    torch.manual_seed(1)
    training_step(state, SMALL, images[:2], images[2:4])
    torch.manual_seed(1)
    adam = torch.optim.Adam(other.objective.parameters(), SMALL.rate, foreach=False, fused=False)
    other.objective(images[:2], images[2:4]).total.backward()
    adam.step()
    for one, same in zip(state.objective.parameters(), other.objective.parameters(), strict=True):
        assert_close(one, same, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_adam_takes_the_steps_of_torchs_own(layout):
    weights = [torch.randn(3, 4, 2, 3, 4).contiguous(memory_format=layout).requires_grad_() for _ in range(2)]
    weights[1].data.copy_(weights[0].data)
    steps = [Adam(weights[:1], 0.01), torch.optim.Adam(weights[1:], 0.01, foreach=False, fused=False)]
    for _ in range(3):
        gradient = torch.randn_like(weights[0])
        for weight, adam in zip(weights, steps, strict=True):
            weight.grad = gradient.clone()
            adam.step()
    assert_close(*weights, rtol=0, atol=1e-6)
    assert weights[0].is_contiguous(memory_format=layout)


def test_adam_goes_on_from_a_state_of_another_layout():
    """A checkpoint may be older than the layout that weights have now."""
    start = torch.randn(3, 4, 2, 3, 4)
    gradients = torch.randn(2, *start.shape)
    layouts = (torch.contiguous_format, torch.channels_last_3d)
    weights = [start.clone().contiguous(memory_format=layout).requires_grad_() for layout in layouts]
    steps = [Adam([weight], 0.01) for weight in weights]
    for gradient in gradients:
        for weight, step in zip(weights, steps, strict=True):
            weight.grad = torch.empty_like(weight).copy_(gradient)
            step.step()
        steps[1].load_state_dict(deepcopy(steps[0].state_dict()))
    assert_close(*weights, rtol=0, atol=1e-6)


# What is left on disk


def test_log_and_events(tmp_path):
    run(tmp_path, "3-D, two levels, instance norm")
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert COLUMNS == (
        "step",
        "total",
        "similarity",
        "regularity",
        "weight",
        "val_total",
        "val_dice",
        "val_folds",
        "val_error",
    )
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [bool(row["val_total"]) for row in rows] == [False, False, True, False, False, True]
    for row in read_log(tmp_path / "log.csv"):
        assert row["total"] == pytest.approx(row["similarity"] + row["weight"] * row["regularity"], rel=1e-5)
    assert 0 < float(rows[-1]["val_dice"]) <= 1
    assert any((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_events_hold_every_number_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(Killed):
        run(tmp_path, on_step=kill_at(6))
    run(tmp_path, resume=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    rows = read_log(tmp_path / "log.csv")
    for tag, column in (("train/total", "total"), ("train/similarity", "similarity"), ("val/folds", "val_folds")):
        wanted = {int(row["step"]): row[column] for row in rows if column in row}
        assert {e.step: e.value for e in events.Scalars(tag)} == pytest.approx(wanted)
        assert len(events.Scalars(tag)) == len(wanted)


def test_looks_at_large_images_take_no_more_at_once(monkeypatch):
    """Pair by pair they find the same: nothing random in an objective that goes one way, MSE's mean is even."""
    split, recipe = data(3), replace(SMALL, objective="one-way", regularity="diffusion", normalisation="instance")
    objective, pairs = new_state(recipe, (16, 16, 16)).objective, [(0, 1), (1, 0)]
    torch.nn.init.normal_(objective.registration.net.last.weight, std=0.1)
    together = validate(objective, split.val, pairs)
    with_maps, sizes = objective.with_maps, []
    monkeypatch.setattr(objective, "with_maps", lambda *images: sizes.append(len(images[0])) or with_maps(*images))
    monkeypatch.setattr("foldless.training.validation.AT_ONCE", 16**3)
    assert validate(objective, split.val, pairs)[:3] == pytest.approx(together[:3], rel=1e-5)
    assert sizes == [1, 1]


def test_best_is_the_best_of_the_looks(tmp_path):
    model = run(tmp_path, settings={"steps": 9, "rate": 0.3})
    looks = [row["val_total"] for row in read_log(tmp_path / "log.csv") if "val_total" in row]
    split, state = data(2), new_state(SMALL, (16, 16))
    state.objective.registration.load_state_dict(model.registration.state_dict())
    held_out = loop._held_out(split.val)
    assert validate(state.objective, split.val, held_out).total == pytest.approx(min(looks), rel=1e-5)
    assert set(model.trained_on) == {*split.train.names, *split.val.names}


def test_best_is_judged_under_the_final_weight(tmp_path):
    """A growing weight makes every later objective larger; the looks must compare all the same."""
    model = run(tmp_path, settings={"ramp": 90, "steps": 9, "rate": 0.1})
    looks = [row["val_total"] for row in read_log(tmp_path / "log.csv") if "val_total" in row]
    split, state = data(2), new_state(KINDS["2-D, batch norm"][1], (16, 16))  # a constant weight
    state.objective.registration.load_state_dict(model.registration.state_dict())
    final = validate(state.objective, split.val, loop._held_out(split.val)).total
    assert final == pytest.approx(min(looks), rel=1e-5)


def test_overlap_is_of_the_warped_moving_and_the_fixed_labels():
    images = data(3).train
    shift = (1 / 15, 0.0, 0.0)
    moved = torch.roll(images.labels[0], -1, 0)  # fixed x shows what moving x + 1 shows
    pair = ImageSet(images.images[:2], ("a", "b"), (1.0,) * 3, torch.stack([images.labels[0], moved]))
    phi = Affine(torch.eye(3)[None], torch.tensor([shift]))
    assert overlap(phi, pair, 0, 1) == {1: 1.0, 2: 1.0}
    assert max(overlap(phi, pair, 1, 0).values()) < 1


def test_precision_is_of_the_networks_only():
    images, fields = data(2).train.images, []
    for precision in ("float32", "bfloat16"):
        state = new_state(replace(SMALL, precision=precision), (16, 16))
        torch.manual_seed(0)
        for parameter in state.objective.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        fields.append(state.objective.registration(images[:2], images[2:4]).field.detach())
        assert all(p.dtype == torch.float32 for p in state.objective.parameters())
    exact, fast = fields
    assert exact.dtype == fast.dtype == torch.float32
    assert not torch.equal(fast, fast.bfloat16().float()), "displacements keep their digits"
    assert 0 < (exact - fast).abs().max() < 0.05 * exact.abs().max()


# What can go wrong


def test_an_objective_that_is_no_longer_finite(tmp_path):
    split = data(2)

    def spoil(step, terms):
        if step == 4:
            split.train.images.fill_(float("nan"))

    with pytest.raises(TrainingError, match=r"nan at step 5.*intact.*smaller --rate") as error:
        train(SMALL, split, PREPARED[2], tmp_path, on_step=spoil)
    assert "\n" not in str(error.value)
    assert end_of(tmp_path, "2-D, batch norm")["step"] == 4
    weights = Model.load(tmp_path / "last.safetensors").registration.state_dict()
    assert all(tensor.isfinite().all() for tensor in weights.values())


class Costs:
    """A pair of the first look costs nothing, later ones 1; those counted in `without_number` are NaN."""

    def __init__(self, without_number):
        self.without_number = without_number
        self.looks = 0

    def __call__(self, objective, *images):
        terms, phi = type(objective).with_maps(objective, *images)
        if objective.training:
            return terms, phi
        self.looks += 1
        cost = float("nan") if self.looks in self.without_number else float(self.looks > 4)
        return terms._replace(similarity=torch.tensor(cost), regularity=torch.tensor(0.0)), phi


def looking(monkeypatch, without_number):
    """Pair by pair, so that a look is at some with a number and at some without."""
    monkeypatch.setattr("foldless.training.validation.BATCH", 1)
    monkeypatch.setattr(loop, "VALIDATION_PAIRS", 4)
    find, at_stage = Costs(without_number), loop.at_stage

    def spoilt(*arguments):
        state = at_stage(*arguments)
        monkeypatch.setattr(state.objective, "with_maps", lambda *images: find(state.objective, *images))
        return state

    monkeypatch.setattr(loop, "at_stage", spoilt)


@pytest.mark.parametrize("pair", [1, 4])
def test_a_model_without_a_number_for_every_pair_is_never_the_best(tmp_path, monkeypatch, pair):
    """Without the pair that has no number, the first look would be the better of the two."""
    looking(monkeypatch, {pair})
    model = run(tmp_path, settings={"save_every": 6})
    looks = [row["val_total"] for row in read_log(tmp_path / "log.csv") if "val_total" in row]
    assert looks == [float("inf"), 1.0]
    last = Model.load(tmp_path / "last.safetensors").registration.state_dict()
    assert_same(dict(last), dict(model.registration.state_dict()))


def test_without_any_finite_look_nothing_is_called_best(tmp_path, monkeypatch):
    looking(monkeypatch, {2, 7})
    with pytest.raises(TrainingError, match=r"no look at the held-out pairs.*at step 6; .*intact.*smaller --rate"):
        run(tmp_path)
    assert not (tmp_path / "best.safetensors").exists()
    assert (tmp_path / "last.safetensors").is_file()


def test_weights_that_are_no_longer_finite_are_not_saved(tmp_path, monkeypatch):
    step = loop.training_step

    def spoil(state, *others):
        terms = step(state, *others)
        if state.step == 4:
            next(state.objective.parameters()).data.fill_(float("nan"))
        return terms

    monkeypatch.setattr(loop, "training_step", spoil)
    with pytest.raises(TrainingError, match="no longer finite"):
        run(tmp_path)
    assert end_of(tmp_path, "2-D, batch norm")["step"] == 3  # the look of step 3 was the best so far


def test_a_full_disk(tmp_path, monkeypatch):
    kind = "2-D, batch norm"

    def fill_the_disk(step, terms):
        if step == 4:
            monkeypatch.setattr(os, "replace", full)

    def full(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(TrainingError, match=r"step 4 could not be written.*No space left.*intact"):
        run(tmp_path, kind, on_step=fill_the_disk)
    monkeypatch.undo()
    assert end_of(tmp_path, kind)["step"] == 3
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())
    run(tmp_path, kind, resume=True)
    run(tmp_path / "straight", kind)
    assert_same(end_of(tmp_path / "straight", kind), end_of(tmp_path, kind))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full to write to")
def test_a_disk_too_full_for_the_log(tmp_path, monkeypatch):
    kind = "2-D, batch norm"

    class Full(loop.Log):
        def step(self, step, terms):
            super().step(step, terms)
            if step == 5:
                self._file.close()
                self._file = open("/dev/full", "a")  # noqa: SIM115
                self._writer = csv.DictWriter(self._file, COLUMNS)

    monkeypatch.setattr(loop, "Log", Full)
    with pytest.raises(TrainingError, match=r"log .*No space left"):
        run(tmp_path, kind)
    monkeypatch.undo()
    assert end_of(tmp_path, kind)["step"] == 4


def test_one_image_to_learn_from_or_to_watch(tmp_path):
    split = data(2)
    for parts, says in (
        ((split.train.pick([0]), split.val, split.test), "two images"),
        ((split.train, split.val.pick([0]), split.test), "validation takes two"),
    ):
        with pytest.raises(InputError, match=says):
            train(SMALL, Split(*parts), PREPARED[2], tmp_path)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [2, 3, 5])
def test_held_out_cycles_of_three(count):
    images = data(2).train.pick(range(count))
    chosen = loop._held_out(images, 3)
    assert [example[:2] for example in chosen] == loop._held_out(images)
    assert all(len(set(example)) == min(count, 3) for example in chosen)


def damaged(file):
    file.write_bytes(file.read_bytes()[:-50])


def empty(file):
    file.write_bytes(b"")


def foreign(file):
    torch.save([1, 2], file)


def of_another_network(file):
    content = torch.load(file, weights_only=True)
    content["objective"] = {k: v for k, v in content["objective"].items() if "last" not in k}
    torch.save(content, file)


@pytest.mark.parametrize("damage", [damaged, empty, foreign, of_another_network])
def test_a_checkpoint_that_cannot_be_resumed(tmp_path, damage):
    with pytest.raises(Killed):
        run(tmp_path, on_step=kill_at(5))
    damage(tmp_path / "resume.pt")
    with pytest.raises(InputError, match=r"resume\.pt is damaged") as error:
        run(tmp_path, resume=True)
    assert "\n" not in str(error.value)


def test_nothing_to_resume(tmp_path):
    with pytest.raises(InputError, match="nothing to resume"):
        run(tmp_path, resume=True)


@pytest.mark.parametrize("save", [lambda x, file: file.write_bytes(pickle.dumps(x)), torch.save])
def test_a_checkpoint_is_never_unpickled_freely(tmp_path, save):
    witness = tmp_path / "it-ran"
    save({"objective": Malicious(witness)}, tmp_path / "resume.pt")
    with pytest.raises(InputError, match="damaged"):
        run(tmp_path, resume=True)
    assert not witness.exists()


def test_preparation_travels_with_the_model(tmp_path):
    preparation = Preparation((16, 16), (1.0, 1.0), percentiles=(0.0, 100.0), intensities=(-1.0, 1.0))
    train(replace(SMALL, steps=1), data(2), preparation, tmp_path)
    assert Model.load(tmp_path).preparation == preparation


@pytest.mark.parametrize(
    "settings",
    [{"as_map": "exponential", "rate": 1e10}, {"validate_every": 1, "rate": 1e37}],
    ids=["a velocity", "a look"],
)
def test_whatever_stops_being_finite_is_told_alike(tmp_path, settings):
    with pytest.raises(TrainingError, match=r"at step \d; .*smaller --rate") as error:
        run(tmp_path, settings=settings)
    assert ("is intact" in str(error.value)) == (tmp_path / "resume.pt").is_file()


def test_without_a_checkpoint_none_is_promised(tmp_path):
    split = data(2)
    split.train.images.fill_(float("nan"))
    with pytest.raises(TrainingError, match="no checkpoint was written yet"):
        train(SMALL, split, PREPARED[2], tmp_path)
