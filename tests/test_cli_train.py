"""`foldless train` and `foldless demo`: what a run leaves, how it goes on, and what it refuses."""

import csv
import json
import re
from importlib.metadata import version

import numpy as np
import pytest
import torch
from samples import save_case, save_cases

from foldless.model import Model
from foldless.training.log import read_log

TINY = (
    "--widths", 4, 8, "--widths-up", 4, 4, "--batch", 2, "--steps", 4, "--validate-every", 2, "--save-every", 2,
    "--precision", "float32",
)  # fmt: skip
SHAPES = ("train", "--data", "shapes", "--size", 8, *TINY)
LEFT = {"best.safetensors", "last.safetensors", "log.csv", "resume.pt", "run.json", "tensorboard"}


def weights(folder, name="last"):
    return {k: v.clone() for k, v in Model.load(folder / f"{name}.safetensors").registration.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


def test_a_run_on_shapes(foldless, tmp_path):
    code, said, complained = foldless(*SHAPES, "--output", tmp_path / "run")
    assert (code, complained) == (0, "")
    assert {path.name for path in (tmp_path / "run").iterdir()} == LEFT
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["command"] == "train"
    assert record["arguments"][:3] == ["train", "--data", "shapes"]
    assert record["settings"]["recipe"]["seed"] == 0
    assert record["settings"]["recipe"]["steps"] == 4
    assert set(record["data_sha256"]) == {"train", "val", "test"}
    assert all(len(digest) == 64 for digest in record["data_sha256"].values())
    assert record["versions"]["torch"] == version("torch")
    assert record["commit"]
    assert "6000 images to learn from" in said
    assert re.search(r"^4 steps in \d+ s\.$", said, re.MULTILINE)
    best = min((row for row in read_log(tmp_path / "run/log.csv") if "val_total" in row), key=lambda r: r["val_total"])
    assert f"Best at step {int(best['step'])}: held-out pairs: objective {best['val_total']:.4f}" in said
    assert re.search(r"^steps +│ +4$", said, re.MULTILINE), "the settings are shown"


def test_a_run_on_a_folder(foldless, tmp_path):
    save_cases(tmp_path / "data", 8, (12, 13, 14))
    words = ("train", "--data", tmp_path / "data", "--levels", 2, 1, *TINY, "--output", tmp_path / "run")
    code, said, complained = foldless(*words)
    assert (code, complained) == (0, "")
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["cases"] == {
        "train": [f"case_{k}" for k in (1, 2, 3, 4)],
        "val": ["case_5", "case_6"],
        "test": ["case_7", "case_8"],
    }
    assert record["preparation"]["lattice"] == [16, 16, 16]
    assert record["settings"]["recipe"]["similarity"] == "lncc", "a default for volumes"
    assert "lattice 16 x 16 x 16, spacing 1 x 1 x 1, placed by centre" in said
    assert Model.load(tmp_path / "run").trained_on == tuple(f"case_{k}" for k in range(1, 7))


def test_mnist(foldless, real_data, tmp_path):
    words = ("--data", f"mnist:{real_data / 'mnist'}", "--digit", 3)
    code, said, _ = foldless("train", *words, *TINY, "--output", tmp_path / "run")
    assert code == 0
    assert "6131 images to learn from" in said
    words = ("evaluate", "--model", tmp_path / "run", *words, "--output", tmp_path / "judged")
    assert foldless(*words)[0] == 0
    assert len(json.loads((tmp_path / "judged/metrics.json").read_text())["pairs"]) == 100


def test_going_on_after_a_kill(foldless, tmp_path, monkeypatch):
    from foldless.cli.watch import Watch

    foldless(*SHAPES, "--output", tmp_path / "straight")

    def interrupt(self, step, terms):
        if step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Watch, "on_step", interrupt)
    code, said, complained = foldless(*SHAPES, "--output", tmp_path / "killed")
    assert code == 130
    kept = f"{tmp_path / 'killed'} keeps its last checkpoint"
    assert complained == f"foldless: stopped; {kept}; to go on: foldless train --resume {tmp_path / 'killed'}\n"
    monkeypatch.undo()
    code, said, complained = foldless("train", "--resume", tmp_path / "killed")
    assert (code, complained) == (0, "")
    assert "2 steps in" in said
    for name in ("last", "best"):
        assert same(weights(tmp_path / "straight", name), weights(tmp_path / "killed", name))
    assert (tmp_path / "straight/log.csv").read_text() == (tmp_path / "killed/log.csv").read_text()
    code, said, _ = foldless("train", "--resume", tmp_path / "killed")
    assert code == 0
    assert "All steps were done." in said


@pytest.mark.parametrize(
    "more",
    [("--rate", 0.1), ("--data", "shapes"), ("--output", "other"), ("--overwrite",), ("--steps", 9)],
)
def test_resuming_takes_no_other_option(foldless, tmp_path, more):
    foldless(*SHAPES, "--output", tmp_path / "run")
    before = (tmp_path / "run/resume.pt").read_bytes()
    code, _, complained = foldless("train", "--resume", tmp_path / "run", *more)
    assert code == 2
    assert "no other option" in complained
    assert complained.count("\n") == 1
    assert (tmp_path / "run/resume.pt").read_bytes() == before


def test_resuming_beside_a_folder_of_images(foldless, tmp_path, monkeypatch):
    """The working folder says nothing of the run."""
    foldless(*SHAPES, "--output", tmp_path / "run")
    save_cases(tmp_path / "data", 3, (12, 12))
    monkeypatch.chdir(tmp_path / "data")
    code, _, complained = foldless("train", "--resume", tmp_path / "run")
    assert (code, complained) == (0, "")


def test_resuming_on_other_images(foldless, tmp_path):
    save_cases(tmp_path / "data", 4, (12, 12))
    foldless("train", "--data", tmp_path / "data", *TINY, "--output", tmp_path / "run")
    save_case(tmp_path / "data", "case_2", (12, 12), seed=99)
    code, _, complained = foldless("train", "--resume", tmp_path / "run")
    assert code == 2
    assert "not those" in complained


def test_starting_from_a_record(foldless, tmp_path):
    foldless(*SHAPES, "--seed", 5, "--output", tmp_path / "a")
    for config, output in ((tmp_path / "a", "b"), (tmp_path / "a" / "run.json", "c")):
        assert foldless("train", "--config", config, "--output", tmp_path / output)[0] == 0
        assert same(weights(tmp_path / "a"), weights(tmp_path / output))
    assert foldless("train", "--config", tmp_path / "a", "--seed", 6, "--output", tmp_path / "d")[0] == 0
    changed, first = (json.loads((tmp_path / run / "run.json").read_text())["settings"] for run in "da")
    assert changed["recipe"].pop("seed") == 6
    assert first["recipe"].pop("seed") == 5
    assert changed == first
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "d"))


def test_help_shows_the_defaults_of_the_data(foldless, tmp_path):
    for data, default in (("shapes", "mse"), (tmp_path, "lncc")):
        code, said, _ = foldless("train", "--data", data, "--help")
        assert code == 0
        assert f"(default: {default})" in " ".join(said.replace("│", " ").split())


def test_an_objective_that_is_no_longer_finite(foldless, tmp_path, monkeypatch):
    from foldless.similarity import MSE

    calls = []

    def spoiled(self, warped, target, mask=None):
        calls.append(1)
        return (warped - target).square().mean() * (float("nan") if len(calls) > 4 else 1)

    monkeypatch.setattr(MSE, "__call__", spoiled)
    code, _, complained = foldless(*SHAPES, "--output", tmp_path / "run")
    assert code == 1
    assert re.fullmatch(r"foldless: the objective became nan at step \d.*\n", complained)
    assert Model.load(tmp_path / "run")


def test_nothing_is_left_where_training_cannot_start(foldless, tmp_path):
    save_cases(tmp_path / "data", 4, (12, 12))
    (tmp_path / "data/split.json").write_text('{"train": ["case_1", "case_2"], "val": ["case_3"]}')
    before = sorted(tmp_path.rglob("*"))
    for more in ((), ("--window", 4), ("--rate", -1), ("--levels", 0), ("--percentiles", 9, 1)):
        code, _, complained = foldless("train", "--data", tmp_path / "data", *more, "--output", tmp_path / "run")
        assert code == 2
        assert complained
        assert sorted(tmp_path.rglob("*")) == before


def test_overwriting_a_run(foldless, tmp_path):
    foldless(*SHAPES, "--output", tmp_path / "run")
    (tmp_path / "run/notes.txt").write_text("from the first run")
    code, _, complained = foldless(*SHAPES, "--output", tmp_path / "run")
    assert code == 2
    assert "--overwrite" in complained
    assert (tmp_path / "run/notes.txt").exists()
    assert foldless(*SHAPES, "--output", tmp_path / "run", "--overwrite")[0] == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == {*LEFT, "notes.txt"}


@pytest.mark.parametrize(("step", "stays"), [(1, True), (3, False)])
def test_overwriting_waits_for_the_first_checkpoint(foldless, tmp_path, monkeypatch, step, stays):
    from foldless.cli.watch import Watch

    foldless(*SHAPES, "--output", tmp_path / "run")
    first = (tmp_path / "run/last.safetensors").read_bytes()

    def interrupt(self, now, terms):
        if now == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(Watch, "on_step", interrupt)
    assert foldless(*SHAPES, "--output", tmp_path / "run", "--overwrite")[0] == 130
    assert ((tmp_path / "run/last.safetensors").read_bytes() == first) == stays
    assert (tmp_path / "run/resume.pt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_demo(foldless, tmp_path):
    code, said, complained = foldless("demo", "--output", tmp_path / "demo", "--steps", 3)
    assert (code, complained) == (0, "")
    content = json.loads((tmp_path / "demo/metrics.json").read_text())
    assert len(content["pairs"]) == 100
    assert 0 < content["mean"]["dice"] < 1
    assert content["mean"]["folds_forward"] == np.mean([pair["folds_forward"] for pair in content["pairs"]])
    assert {"report.html", "run.json", "best.safetensors", "pairs.csv"} <= {
        path.name for path in (tmp_path / "demo").iterdir()
    }
    with (tmp_path / "demo/pairs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 100
    assert f"Mean Dice of unseen shapes {content['mean']['dice']:.3f}" in said
    assert max(map(len, said[said.index("moving → fixed") :].split("\nmean")[0].splitlines())) <= 80
    assert foldless("demo", "--output", tmp_path / "demo", "--steps", 1)[0] == 2
    assert foldless("demo", "--output", tmp_path / "demo", "--steps", 1, "--overwrite")[0] == 0


# Stages and methods

EXACT = ("--precision", "float32", "--batch", 2, "--steps", 2, "--validate-every", 2, "--save-every", 1)


def test_four_networks_in_one_command(foldless, tmp_path):
    words = (*SHAPES, "--stages", 3, "--output", tmp_path / "run")
    code, said, complained = foldless(*words)
    assert (code, complained) == (0, "")
    assert {path.name for path in (tmp_path / "run").iterdir()} == LEFT | {f"stage-{k}.safetensors" for k in (1, 2, 3)}
    model = Model.load(tmp_path / "run")
    assert len(model.registration.parts) == 4
    assert "12 steps in" in said
    looks = [row for row in read_log(tmp_path / "run/log.csv") if "val_total" in row and row["step"] > 8]
    best = min(looks, key=lambda row: row["val_total"])
    assert f"Best at step {int(best['step'])}:" in said, "of the last stage"
    assert re.search(r"^2 +│ +1-3 │ +3 │ +1 │ +8 │", said, re.MULTILINE), "the stages are shown"
    assert foldless("train", "--config", tmp_path / "run", "--output", tmp_path / "again")[0] == 0
    for name in ("stage-1", "stage-3", "best"):
        assert same(weights(tmp_path / "run", name), weights(tmp_path / "again", name))


def test_beginning_with_a_later_stage(foldless, tmp_path):
    save_cases(tmp_path / "data", 4, (12, 12))
    words = ("train", "--data", tmp_path / "data", *TINY, "--stages", 2)
    foldless(*words, "--output", tmp_path / "run")
    start = ("--start", tmp_path / "run/stage-1.safetensors", "--first-stage", 2)
    assert foldless(*words, *start, "--output", tmp_path / "more")[0] == 0
    before, after = weights(tmp_path / "run", "stage-1"), weights(tmp_path / "more")
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("first."))
    assert not same(before, after)
    assert len(json.loads((tmp_path / "more/run.json").read_text())["data_sha256"]["start"]) == 64
    assert foldless("train", "--config", tmp_path / "more", "--output", tmp_path / "again")[0] == 0
    assert same(after, weights(tmp_path / "again"))


@pytest.mark.parametrize("stages", [1, 2])
def test_a_start_that_was_not_beaten_is_said_to_be_the_best(foldless, tmp_path, stages):
    save_cases(tmp_path / "data", 4, (12, 12))
    words = ("train", "--data", tmp_path / "data", *TINY, "--stages", stages)
    foldless(*words, "--output", tmp_path / "run")
    more = ("--start", tmp_path / "run", "--first-stage", stages, "--rate", 3.0, "--output", tmp_path / "more")
    code, said, complained = foldless(*words, *more)
    assert (code, complained) == (0, "")
    begun = min(int(row["step"]) for row in read_log(tmp_path / "more/log.csv"))
    assert f"Best at step {begun}:" in said
    assert same(weights(tmp_path / "run", "best"), weights(tmp_path / "more", "best"))


@pytest.mark.parametrize(
    ("method", "parts", "steps"), [("baseline", 1, 2), ("cycle", 1, 2), ("three-images", 1, 2), ("refinement", 2, 16)]
)
def test_the_methods_of_kuang(foldless, tmp_path, method, parts, steps):
    dim = 3 if method == "refinement" else 2  # the published sizes are counted once
    save_cases(tmp_path / "data", 7, (12, 13, 14)[:dim])
    words = ("train", "--data", tmp_path / "data", "--method", method, *EXACT)
    code, said, complained = foldless(*words, "--output", tmp_path / "run")
    assert (code, complained) == (0, "")
    assert f"{steps} steps in" in said
    model = Model.load(tmp_path / "run")
    assert len(model.registration.parts) == parts
    assert model.recipe.similarity == "lncc-squared"
    assert model.recipe.rate == 1e-4
    if dim == 3:
        sizes = [sum(p.numel() for p in part.parameters()) for part in model.registration.parts]
        assert sizes == [259_675, 2_611]


def test_a_method_resumes_in_the_middle_of_a_phase(foldless, tmp_path, monkeypatch):
    from foldless.cli.watch import Watch

    save_cases(tmp_path / "data", 4, (12, 12))
    words = (
        "train",
        "--data",
        tmp_path / "data",
        "--method",
        "image-refinement",
        *EXACT,
        "--steps",
        3,
        "--save-every",
        2,
    )
    foldless(*words, "--output", tmp_path / "straight")

    def interrupt(self, step, terms):
        if step == 12:
            raise KeyboardInterrupt

    monkeypatch.setattr(Watch, "on_step", interrupt)
    assert foldless(*words, "--output", tmp_path / "killed")[0] == 130
    monkeypatch.undo()
    assert foldless("train", "--resume", tmp_path / "killed")[0] == 0
    for name in ("last", "best", "stage-4", "stage-8"):
        assert same(weights(tmp_path / "straight", name), weights(tmp_path / "killed", name))
    assert (tmp_path / "straight/log.csv").read_text() == (tmp_path / "killed/log.csv").read_text()


def test_training_on_pooled_images(foldless, tmp_path):
    code, _, _ = foldless(*SHAPES, "--method", "baseline", "--pool", 2, "--output", tmp_path / "run")
    assert code == 0
    recipe = Model.load(tmp_path / "run").recipe
    assert recipe.levels == (2,)
    assert recipe.stages[0].level == 2


def test_help_shows_the_defaults_of_the_method(foldless):
    code, said, _ = foldless("train", "--method", "cycle", "--help")
    assert code == 0
    assert "(default: image-cycle)" in " ".join(said.replace("│", " ").split())


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--stages", 0), "1 or more"),
        (("--pool", 0), "1 or more"),
        (("--stages", 3, "--levels", 2, 1), "do not fit 2 levels"),
        (("--stages", 2, "--method", "refinement"), "phases of its own"),
        (("--first-stage", 2), "--start RUN"),
        (("--method", "three-images", "--regularity", "diffusion"), "closes cycles"),
        (("--start", "nowhere"), "does not exist"),
        (("--method", "baseline", "--pool", 8), "8 x 8 voxels pooled by 8 are a single node; pool them by 7"),
    ],
)
def test_stages_that_cannot_be_had(foldless, tmp_path, more, says):
    code, _, complained = foldless(*SHAPES, *more, "--output", tmp_path / "run")
    assert code == 2
    assert says in complained
    assert complained.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_record_holds_its_stages(foldless, tmp_path):
    foldless(*SHAPES, "--output", tmp_path / "run")
    code, _, complained = foldless("train", "--config", tmp_path / "run", "--stages", 2, "--output", tmp_path / "b")
    assert code == 2
    assert "leave --method, --stages and --pool out" in complained
