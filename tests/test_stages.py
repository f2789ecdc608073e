"""Training in stages: what is frozen stands still to the bit, and a stage that is killed goes on in its stage."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from samples import PREPARED, SMALL
from test_training import Killed, assert_same, data, kill_at

from foldless.build import assembled, build_objective, build_registration, pair_objective, stage_objective
from foldless.errors import InputError
from foldless.grid import Grid
from foldless.methods import alternating, lasting, method_recipe, one_by_one, planned, pooled_by
from foldless.model import Model
from foldless.recipe import Recipe, Stage, recipe_for
from foldless.registration import Downsample, TwoStep, average_pool, warp
from foldless.training.checkpoints import load_checkpoint
from foldless.training.log import read_log
from foldless.training.loop import new_registration, train

FOUR = replace(SMALL, levels=(2, 2, 1, 1), steps=3)
PHASES = replace(SMALL, refinement="linear", objective="image-cycle", regularity="diffusion", steps=4, weight=0.1)
OURS = replace(PHASES, refinement="images")
KINDS = {
    "four networks": replace(FOUR, stages=one_by_one(FOUR, 3)),
    "phases": replace(PHASES, stages=alternating(PHASES, rounds=2)),
    "our phases": replace(OURS, stages=alternating(OURS, rounds=1)),
    "folds held below": replace(FOUR, stages=one_by_one(FOUR, 3), rate=0.1, weight=0.01, increase=0.25, threshold=2.0),
    "settings of their own": replace(
        SMALL,
        levels=(4, 2, 1),
        stages=(
            Stage(parts=1, level=4, batch=4, rate=0.02, steps=3),
            Stage(parts=2, level=2, weight=0.5, ramp=2, steps=4),
            Stage(trained=(1, 3), steps=3),
        ),
    ),
}


def run(folder, kind, **options):
    folder.mkdir(exist_ok=True)
    return train(KINDS[kind], data(2), PREPARED[2], folder, **options)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The folder of a training of some kind that nothing has stopped; each is run once."""
    folders = {}

    def folder_of(kind):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("straight")
            run(folders[kind], kind)
        return folders[kind]

    return folder_of


def parts_of(file):
    return [dict(part.state_dict()) for part in Model.load(file).registration.parts]


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


def end_of(folder, kind):
    recipe = KINDS[kind]
    registration = new_registration(recipe, (16, 16))
    state = load_checkpoint(recipe, registration, folder)
    return {
        "registration": registration.state_dict(),
        "objective": state.objective.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "random": torch.get_rng_state(),
        "numbers": [state.stage, state.begun, state.step, state.best],
        "log": (folder / "log.csv").read_text(),
        "files": {path.name: parts_of(path) for path in sorted(folder.glob("*.safetensors"))},
    }


# A frozen part does not move


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_frozen_does_not_move_by_one_bit_and_what_is_trained_does(straight, kind):
    """Batch normalisation's statistics are among the bits, and looks at held-out pairs lie within every stage."""
    recipe, folder = KINDS[kind], straight(kind)
    before = [dict(part.state_dict()) for part in new_registration(recipe, (16, 16)).parts]
    for place, stage in enumerate(recipe.stages, start=1):
        after = parts_of(folder / f"stage-{place}.safetensors")
        trained = stage.trained or range(1, (stage.parts or recipe.parts) + 1)
        for number, (one, other) in enumerate(zip(before, after, strict=True), start=1):
            assert same(one, other) == (number not in trained), f"part {number} in stage {place}"
            if number in trained:
                assert all(not torch.equal(one[name], other[name]) for name in one if "running" in name)
        before = after


def test_a_frozen_part_is_in_no_optimiser_and_gets_no_gradient():
    recipe = KINDS["our phases"]
    registration = build_registration(recipe, (16, 16))
    generate, refine = recipe.stages[:2]
    a, b = data(2).train.images[:2], data(2).train.images[2:4]
    for stage, frozen in ((generate, registration.parts[1]), (refine, registration.parts[0])):
        for parameter in registration.parameters():
            parameter.grad = None
        stage_objective(recipe, stage, registration)(a, b).total.backward()
        assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())
        assert not any(module.training for module in frozen.modules())


def test_our_networks_receive_their_gradient_through_the_refinement():
    """With a last layer that undoes every displacement, nothing is left to improve for who learns through it."""

    def gradient(recipe):
        registration = build_registration(recipe, (16, 16))
        network, refinement = registration.parts
        torch.nn.init.normal_(network.net.last.weight, std=0.1)
        refinement.forward = lambda displacement, warped, fixed: 0 * displacement
        objective = stage_objective(recipe, recipe.stages[0], registration)
        objective(*(data(2).train.images[k : k + 2] for k in (0, 2))).total.backward()
        return max(0.0 if p.grad is None else p.grad.abs().max().item() for p in network.parameters())

    assert gradient(KINDS["our phases"]) == 0
    assert gradient(KINDS["phases"]) > 0, "as published, the networks learn without the refinement"


# The same registration in every stage


def test_a_stages_registration_is_the_inner_part_of_the_next():
    recipe = KINDS["four networks"]
    registration = build_registration(recipe, (16, 16)).eval()
    for parameter in registration.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    first, second, third = (stage_objective(recipe, stage, registration).registration.eval() for stage in recipe.stages)
    a, b, grid = data(2).train.images[:2], data(2).train.images[2:4], Grid((16, 16))
    low = first(average_pool(a, 2), average_pool(b, 2))
    expected = low @ registration.parts[2](warp(a, low), b)
    assert len(expected.parts) == 3
    assert torch.equal(second(a, b).on(grid), expected.on(grid))
    expected = expected @ registration.parts[3](warp(a, expected), b)
    assert torch.equal(third(a, b).on(grid), expected.on(grid))
    assert torch.equal(registration(a, b).on(grid), expected.on(grid))


def test_networks_that_wait_leave_the_map_alone(straight):
    recipe = KINDS["four networks"]
    whole = Model.load(straight("four networks") / "stage-1.safetensors").registration
    part = assembled(recipe, whole.parts[:2], level=1)
    a, b, grid = data(2).test.images[:2], data(2).test.images[2:4], Grid((16, 16))
    assert torch.equal(whole(a, b).on(grid), part(a, b).on(grid))
    assert (whole(a, b).on(grid) - grid.points()).abs().max() > 1e-3


def test_without_stages_every_network_sees_images_pooled_by_its_number():
    registration = build_registration(replace(SMALL, levels=(4, 2, 1)), (16, 16))
    assert isinstance(registration, TwoStep)
    assert [type(step) for step in (registration.first.first, registration.first.second)] == [Downsample] * 2
    assert [registration.first.first.factor, registration.first.second.factor] == [4, 2]


def test_a_stage_on_pooled_images_is_a_training_on_pooled_images():
    small = replace(SMALL, regularity="diffusion")
    pooled = pooled_by(small, 2)
    for recipe, level in ((small, 2), (pooled, 1)):
        torch.manual_seed(3)
        objective = build_objective(recipe, (16, 16))
        a, b = data(2).train.images[:2], data(2).train.images[2:4]
        if level == 2:
            expected = objective(average_pool(a, 2), average_pool(b, 2))
        else:
            assert_same(tuple(objective(average_pool(a, 2), average_pool(b, 2))), tuple(expected))
    assert pooled.levels == (2,)
    assert pooled.stages == (Stage(level=2),)


# The same bits


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_that_is_killed_goes_on_in_its_stage(straight, tmp_path, kind):
    """Killed amid the second stage, and as soon as it is over, when the next has not left anything yet."""
    first, second = KINDS[kind].ends()[:2]
    for step, resume in ((second - 1, False), (min(second + 1, KINDS[kind].ends()[-1]), True)):
        with pytest.raises(Killed):
            run(tmp_path / "killed", kind, on_step=kill_at(step), resume=resume)
        torch.manual_seed(77)
    assert first < second - 1
    run(tmp_path / "killed", kind, resume=True)
    assert_same(end_of(straight(kind), kind), end_of(tmp_path / "killed", kind))
    assert {path.name for path in tmp_path.glob("killed/stage-*")} == {
        f"stage-{k + 1}.safetensors" for k in range(len(KINDS[kind].stages))
    }


@pytest.mark.parametrize("method", ["refinement", "linear-refinement"])
def test_kuangs_phases_go_on_amid_a_phase(tmp_path, monkeypatch, method):
    """Killed in a phase of the network and in one of the refinement, some steps after a checkpoint within the phase."""
    recipe = lasting(replace(method_recipe(method, Recipe()), batch=2, precision="float32"), 33)
    recipe = replace(recipe, save_every=4, validate_every=100, stages=alternating(recipe, rounds=2))
    monkeypatch.setitem(KINDS, method, recipe)
    assert recipe.ends() == (10, 20, 30, 40)
    run(tmp_path / "straight", method)
    for killed, saved, resume in ((17, 14, False), (27, 24, True)):
        with pytest.raises(Killed):
            run(tmp_path / "killed", method, on_step=kill_at(killed), resume=resume)
        state = load_checkpoint(recipe, new_registration(recipe, (16, 16)), tmp_path / "killed")
        assert (state.step, state.stage) == (saved, saved // 10)
        torch.manual_seed(77)
    run(tmp_path / "killed", method, resume=True)
    assert_same(end_of(tmp_path / "straight", method), end_of(tmp_path / "killed", method))


def test_best_is_the_best_of_the_last_stage(straight):
    folder = straight("settings of their own")
    best, second = (parts_of(folder / name) for name in ("best.safetensors", "stage-2.safetensors"))
    assert not same(best[2], second[2])


def test_the_weight_follows_the_folds_in_every_stage_anew(straight):
    kind = "folds held below"
    weights = [row["weight"] for row in read_log(straight(kind) / "log.csv")]
    begins = [0, *KINDS[kind].ends()[:-1]]
    assert [weights[k] for k in begins] == pytest.approx([0.01] * 3)
    steps = [later - now for now, later in pairwise(weights)]
    assert {round(step, 4) for k, step in enumerate(steps, start=1) if k not in begins} == {0.0, 0.25}


def test_tuning_goes_on_with_the_weight_that_training_came_to(straight):
    """The recipe's is where it began, at which the network folded."""
    kind = "folds held below"
    model = Model.load(straight(kind) / "last.safetensors")
    last = read_log(straight(kind) / "log.csv")[-1]["weight"]
    assert last <= model.weight <= last + KINDS[kind].increase
    objective = pair_objective(model.recipe, model.registration, model.weight)
    assert objective.weight().item() == pytest.approx(model.weight)
    assert Model.load(straight("four networks") / "last.safetensors").weight == 0


# Warm starts


def test_starting_from_a_stages_checkpoint(straight, tmp_path):
    kind = "four networks"
    file = straight(kind) / "stage-1.safetensors"
    run(tmp_path / "second", kind, start=Model.load(file), first_stage=2)
    begun, done = parts_of(file), parts_of(tmp_path / "second/last.safetensors")
    assert [same(one, other) for one, other in zip(begun, done, strict=True)] == [True, True, False, False]
    assert not (tmp_path / "second/stage-1.safetensors").exists()


def test_starting_from_fewer_networks(tmp_path):
    recipe = replace(SMALL, steps=2)
    (tmp_path / "one").mkdir()
    train(recipe, data(2), PREPARED[2], tmp_path / "one")
    more = replace(recipe, levels=(1, 1), stages=(Stage(trained=(2,)),))
    train(more, data(2), PREPARED[2], tmp_path, start=Model.load(tmp_path / "one/last.safetensors"))
    assert same(parts_of(tmp_path / "one/last.safetensors")[0], parts_of(tmp_path)[0])


@pytest.fixture
def learnt(tmp_path):
    """A training that a start goes on from."""
    (tmp_path / "learnt").mkdir()
    train(replace(SMALL, steps=9), data(2), PREPARED[2], tmp_path / "learnt")
    return tmp_path / "learnt"


def begun(folder, start, on_step=lambda step, terms: None, **settings):
    """A training from the best of another, at a rate at which nothing is learnt."""
    folder.mkdir(exist_ok=True)
    recipe = replace(SMALL, **{"rate": 3.0, **settings})
    return train(recipe, data(2), PREPARED[2], folder, on_step=on_step, start=Model.load(start))


def looks_of(folder):
    return [(int(row["step"]), row["val_total"]) for row in read_log(folder / "log.csv") if "val_total" in row]


def test_what_was_learnt_before_is_not_lost(learnt, tmp_path):
    """The first look is the one that chose the weights, and they stay the best where none beats them."""
    begun(tmp_path / "more", learnt)
    (first, start), *others = looks_of(tmp_path / "more")
    assert first == 0
    assert start == pytest.approx(min(total for _, total in looks_of(learnt)), rel=1e-5)
    assert all(total > start for _, total in others)
    assert same(parts_of(learnt / "best.safetensors")[0], parts_of(tmp_path / "more/best.safetensors")[0])
    assert not same(parts_of(learnt / "best.safetensors")[0], parts_of(tmp_path / "more/last.safetensors")[0])


def test_a_start_is_beaten_by_what_is_better(learnt, tmp_path):
    begun(tmp_path / "more", learnt, rate=1e-3, steps=30, validate_every=10)
    (_, start), *others = looks_of(tmp_path / "more")
    assert min(total for _, total in others) < start
    assert not same(parts_of(learnt / "best.safetensors")[0], parts_of(tmp_path / "more/best.safetensors")[0])


@pytest.mark.parametrize("step", [1, 5])
def test_a_start_is_resumed_as_any_training(learnt, tmp_path, step):
    """Killed before its first own checkpoint, too."""

    def kill(now, terms):
        if now == step:
            raise Killed

    begun(tmp_path / "straight", learnt, save_every=4)
    with pytest.raises(Killed):
        begun(tmp_path / "killed", learnt, kill, save_every=4)
    recipe = replace(SMALL, rate=3.0, save_every=4)
    train(recipe, data(2), PREPARED[2], tmp_path / "killed", resume=True)
    for name in ("best", "last"):
        one, other = (parts_of(tmp_path / f"{run}/{name}.safetensors")[0] for run in ("straight", "killed"))
        assert same(one, other)
    one, other = ((tmp_path / run / "log.csv").read_text() for run in ("straight", "killed"))
    assert one == other


def test_a_start_that_does_not_fit(tmp_path):
    (tmp_path / "one").mkdir()
    train(replace(SMALL, steps=1), data(2), PREPARED[2], tmp_path / "one")
    start = Model.load(tmp_path / "one")
    with pytest.raises(InputError, match="do not fit the first of these 1"):
        train(replace(SMALL, widths=(4, 4)), data(2), PREPARED[2], tmp_path, start=start)
    with pytest.raises(InputError, match="stages 1 to 1"):
        train(SMALL, data(2), PREPARED[2], tmp_path, start=start, first_stage=2)


# Stages are data


@pytest.mark.parametrize("kind", KINDS)
def test_stages_survive_their_record(kind):
    assert Recipe.from_dict(json.loads(json.dumps(KINDS[kind].as_dict()))) == KINDS[kind]


def test_a_stage_says_only_what_differs():
    recipe = KINDS["settings of their own"]
    one, two, three = (recipe.of_stage(stage) for stage in recipe.plan)
    assert (one.batch, one.rate, one.weight) == (4, 0.02, SMALL.weight)
    assert (two.batch, two.rate, two.weight, two.ramp) == (2, SMALL.rate, 0.5, 2)
    assert three == replace(recipe, stages=(), steps=3)
    assert recipe.ends() == (3, 7, 10)
    assert SMALL.plan == (Stage(),)
    assert SMALL.of_stage(Stage()) == SMALL


def test_icons_four_networks():
    recipe = planned(replace(recipe_for((48, 64, 48)), levels=(2, 2, 1, 1)), stages=3)
    assert recipe.stages == (
        Stage(parts=2, level=2),
        Stage(parts=3, trained=(3,)),
        Stage(parts=4, trained=(4,)),
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"stages": (Stage(parts=3),)},
        {"stages": (Stage(parts=0),)},
        {"stages": (Stage(trained=(3,)),)},
        {"stages": (Stage(parts=1, trained=(2,)),)},
        {"stages": (Stage(trained=()),)},
        {"stages": (Stage(level=2),)},
        {"stages": (Stage(level=0),)},
        {"levels": (3, 2), "stages": (Stage(),)},
        {"levels": (1, 2), "stages": (Stage(),)},
        {"stages": (Stage(steps=0),)},
        {"stages": (Stage(rate=-1.0),)},
        {"stages": (Stage(increase=-1.0),)},
        {"ramp": 3, "increase": 0.1},
        {"threshold": float("nan")},
        {"objective": "one-way", "regularity": "icon"},
        {"objective": "three-images", "regularity": "diffusion"},
    ],
)
def test_stages_that_make_no_sense(wrong):
    with pytest.raises(InputError):
        replace(Recipe(levels=(2, 1)), **wrong)


@pytest.mark.parametrize("wrong", [[{"parts": "two"}], [{"strange": 1}], [3], {"parts": 1}, [{"trained": [1.5]}]])
def test_records_with_other_kinds_of_stages(wrong):
    with pytest.raises(InputError):
        Recipe.from_dict({"levels": [2, 1], "stages": wrong})


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        (Recipe(levels=(2, 1)), {"stages": 3}),
        (Recipe(levels=(2, 1)), {"stages": 0}),
        (Recipe(), {"pool": 0}),
        (PHASES, {"method": "refinement", "stages": 2}),
        (Recipe(), {"method": "refinement"}),
    ],
)
def test_plans_that_make_no_sense(recipe, options):
    with pytest.raises(InputError):
        planned(recipe, **options)
