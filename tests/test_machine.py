"""`--device`: which machine a word names, what is refused, and that everything is made and computed there."""

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from samples import PREPARED, SMALL, lively_model, run_folder, save_cases
from tables import Answers, on_gpu
from test_cli_train import SHAPES, same, weights
from torch.testing import assert_close

from foldless.build import build_objective, pair_objective, settled
from foldless.cli.machine import machine_named
from foldless.data.images import ImageSet, RandomPairs
from foldless.data.shapes import shapes
from foldless.errors import InputError
from foldless.evaluation import judge_images
from foldless.machine import CPU, Machine
from foldless.methods import METHODS, method_recipe, planned
from foldless.model import Model
from foldless.training.checkpoints import load_checkpoint
from foldless.training.log import read_log
from foldless.training.loop import new_registration, train

META = Machine(torch.device("meta"))
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU")


# Words


@pytest.mark.parametrize("word", ["gpu", "CUDA", "cuda:", "cuda:-1", "cuda:1.5", "cuda:١", "cuda 0", "cpu:0", "", "0"])
def test_an_unknown_word(word):
    with pytest.raises(InputError, match="a device is auto, cpu, cuda, cuda:N or mps; got "):
        Machine.named(word)


def test_without_a_gpu_auto_is_the_cpu(monkeypatch, capsys):
    monkeypatch.setattr("foldless.machine._finds_gpu", lambda: False)
    assert machine_named("auto") == machine_named("cpu") == CPU == Machine()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("there", "word", "says"),
    [
        (0, "cuda", "cuda:0 is a CUDA GPU that is not there, torch .* finds none; give cpu, or auto"),
        (0, "cuda:3", "cuda:3 is a CUDA GPU that is not there, torch .* finds none; give cpu, or auto"),
        (1, "cuda:1", "cuda:1 is a CUDA GPU that is not there, torch .* finds 1; give cuda:0 at most"),
        (4, "cuda:9999", "finds 4; give cuda:3 at most, or cpu"),
    ],
)
def test_a_gpu_that_is_not_there(monkeypatch, there, word, says):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(InputError, match=says):
        Machine.named(word)


@pytest.mark.parametrize("word", ["auto", "cuda", "cuda:1"])
def test_a_gpu_that_cannot_compute(monkeypatch, word):
    def fail(*arguments, device):
        raise RuntimeError(f"no kernel image is available for {device}\nCompile with TORCH_USE_CUDA_DSA.")

    monkeypatch.setattr("foldless.machine._finds_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "ones", fail)
    number = word.partition(":")[2] or "0"
    with pytest.raises(
        InputError, match=f"cannot compute on cuda:{number}: no kernel .*cuda:{number}; give the device"
    ):
        Machine.named(word)


def test_a_torch_without_apples_gpu(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"mps is Apple's GPU, but torch .* finds none; give cpu or auto"):
        Machine.named("mps")


def test_the_precision_is_the_machines(monkeypatch):
    auto = replace(SMALL, precision="auto")
    for native, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(Machine, "gains_by_bfloat16", native)
        assert settled(auto, Machine()).precision == expected
        assert settled(SMALL, Machine()).precision == SMALL.precision
    monkeypatch.undo()
    assert settled(auto, META).precision == "float32", "bfloat16 is for CPUs that have it"


# Commands


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model and a folder of images with groups."""
    folder = tmp_path_factory.mktemp("home")
    run_folder(folder / "run", 2)
    save_cases(folder / "data", 4, (14, 15))
    (folder / "data/groups.csv").write_text("case,group\ncase_1,a\ncase_2,a\ncase_3,b\ncase_4,b\n")
    return folder


COMMANDS = {
    "train": (*SHAPES,),
    "register": ("register", "data/images/case_1.nii.gz", "data/images/case_2.nii.gz", "--steps", 2, "--aligned"),
    "register by a model": (
        "register", "data/images/case_1.nii.gz", "data/images/case_2.nii.gz", "--model", "run", "--steps", 2,
        "--rate", 1e-3,
    ),
    "evaluate": ("evaluate", "--model", "run", "--data", "data", "--steps", 1),
    "evaluate shapes": ("evaluate", "--model", "run", "--data", "shapes"),
    "crossvalidate": (
        "crossvalidate", "--data", "data", "--methods", "baseline", "--steps", 2, "--batch", 1,
        "--precision", "float32",
    ),
    "demo": ("demo", "--steps", 1),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("word", "says"),
    [("gpu", "a device is auto, cpu, cuda, cuda:N or mps; got 'gpu'"), pytest.param("cuda", "not there", marks=no_gpu)],
)
def test_every_command_refuses_before_it_writes(foldless, home, tmp_path, monkeypatch, name, word, says):
    monkeypatch.chdir(home)
    code, said, complained = foldless(*COMMANDS[name], "--output", tmp_path / "out", "--device", word)
    assert (code, said) == (2, "")
    assert says in complained
    assert complained.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_records_its_device(foldless, home, tmp_path, monkeypatch, name):
    monkeypatch.chdir(home)
    monkeypatch.setattr("foldless.evaluation.PAIRS", 2)
    code, said, complained = foldless(*COMMANDS[name], "--output", tmp_path / "out", "--device", "cpu")
    said_of_images = [line for line in complained.splitlines() if "the header has the origin 0" in line]
    assert code == 3 or (code, complained.splitlines()) == (0, said_of_images), complained
    assert "Computing on" not in said
    machine = json.loads((tmp_path / "out/run.json").read_text())["machine"]
    assert machine["device"] == "cpu"
    assert machine["device_name"] == CPU.name


def test_what_other_programs_call_it(foldless):
    assert "did you mean --device?" in foldless("demo", "--gpu", 0)[2]


# A run goes on elsewhere


def begun(foldless, folder, monkeypatch, *more):
    """A run on shapes that was stopped after its third step of four."""
    from foldless.cli.watch import Watch

    def interrupt(self, step, terms):
        if step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "on_step", interrupt)
        assert foldless(*SHAPES, "--output", folder, *more)[0] == 130
    return folder


@no_gpu
def test_a_run_goes_on_where_it_was_begun_unless_told_otherwise(foldless, tmp_path, monkeypatch):
    foldless(*SHAPES, "--output", tmp_path / "straight")
    run = begun(foldless, tmp_path / "run", monkeypatch)
    record = json.loads((run / "run.json").read_text())
    assert record["settings"]["device"] == "cpu"
    record["settings"]["device"] = "cuda:0"  # as if it had been made on another machine
    (run / "run.json").write_text(json.dumps(record))
    code, _, complained = foldless("train", "--resume", run)
    assert code == 2
    assert "the device cuda:0 is a CUDA GPU that is not there" in complained
    assert "give cpu" in complained
    assert foldless("train", "--resume", run, "--device", "cpu")[0] == 0
    assert same(weights(tmp_path / "straight"), weights(run))


def test_a_run_of_an_earlier_version_goes_on(foldless, tmp_path, monkeypatch):
    """Its record names no device."""
    foldless(*SHAPES, "--output", tmp_path / "straight")
    run = begun(foldless, tmp_path / "run", monkeypatch)
    record = json.loads((run / "run.json").read_text())
    del record["settings"]["device"]
    (run / "run.json").write_text(json.dumps(record))
    assert foldless("train", "--resume", run)[0] == 0
    assert same(weights(tmp_path / "straight"), weights(run))


# Everything is made there: torch's meta device has no numbers, and mixes with no other


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"increase": 0.1},
        {"ramp": 3, "as_map": "exponential", "regularity": "icon"},
        {"levels": (2, 1), "similarity": "lncc", "normalisation": "instance", "affine": 0.1},
        {"first": "affine", "similarity": "mind-ssc", "regularity": "diffusion", "precision": "bfloat16"},
        {"objective": "image-cycle", "network": "voxelmorph", "similarity": "lncc-squared"},
        {"objective": "three-images", "refinement": "leaky", "network": "voxelmorph"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dim", [2, 3])
def test_an_objective_and_its_batches_lie_on_the_machine(settings, dim):
    recipe, lattice = replace(SMALL, **settings), (16, 18, 20)[:dim]
    objective = build_objective(recipe, lattice, META).eval()
    tensors = [*objective.parameters(), *objective.buffers()]
    assert len(list(objective.weight.buffers())) == 1
    assert {tensor.device for tensor in tensors} == {META.device}
    images = ImageSet(torch.rand(4, 1, *lattice), tuple("abcd"), (1.0,) * dim)
    batch = RandomPairs(images, 2, affine=recipe.affine, size=objective.images, machine=META).draw()
    assert {image.device for image in batch} == {META.device}
    with Answers():
        terms = objective(*batch)
    assert {term.device for term in terms} == {META.device}


def test_what_is_loaded_and_tuned_lies_on_the_machine(tmp_path):
    lively_model(2).save(tmp_path / "m.safetensors")
    model = Model.load(tmp_path / "m.safetensors", META)
    assert Machine.of(model.registration) == META
    objective = pair_objective(model.recipe, model.registration)
    assert {tensor.device for tensor in (*objective.parameters(), *objective.buffers())} == {META.device}


def test_random_numbers_are_the_same_on_every_machine():
    images = ImageSet(torch.rand(6, 1, 12, 14), tuple("abcdef"), (1.0, 1.0))
    states = []
    for machine in (CPU, META):
        new_registration(SMALL, (12, 14), machine)
        RandomPairs(images, 3, mirror=True, affine=0.1, machine=machine).draw()
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


# On a GPU


@on_gpu
def test_auto_takes_the_gpu_and_says_so(capsys):
    machine = machine_named("auto")
    assert machine == machine_named("cuda") == machine_named("cuda:0") == Machine(torch.device("cuda:0"))
    assert capsys.readouterr().out == 3 * f"Computing on cuda:0, {torch.cuda.get_device_name(0)}\n"


@on_gpu
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_runs_on_a_gpu(foldless, home, tmp_path, monkeypatch, name):
    monkeypatch.chdir(home)
    code, said, complained = foldless(*COMMANDS[name], "--output", tmp_path / "out", "--device", "cuda")
    assert (code, complained) in ((0, ""), (3, complained)), complained
    assert said.startswith("Computing on cuda:0, ")
    machine = json.loads((tmp_path / "out/run.json").read_text())["machine"]
    assert (machine["device"], machine["device_name"]) == ("cuda:0", torch.cuda.get_device_name(0))


@pytest.fixture
def exact(monkeypatch):
    """No multiplication in TF32, whose 10 bits would hide a fault."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@on_gpu
@pytest.mark.parametrize("name", ["register", "register by a model"])
def test_a_gpu_registers_like_the_cpu(foldless, home, tmp_path, monkeypatch, exact, name):
    monkeypatch.chdir(home)
    fields = []
    for device in ("cpu", "cuda"):
        foldless(*COMMANDS[name], "--output", tmp_path / device, "--device", device)
        fields.append(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / device / "warp.nii.gz"))))
    assert np.abs(fields[0]).max() > 0.1
    assert np.abs(fields[0] - fields[1]).max() < 0.01  # mm, of a voxel of 1


@on_gpu
def test_a_gpu_trains_like_the_cpu(foldless, tmp_path, exact):
    logs = []
    for device in ("cpu", "cuda"):
        foldless(*SHAPES, "--output", tmp_path / device, "--device", device)
        logs.append(read_log(tmp_path / device / "log.csv"))
    for one, other in zip(*logs, strict=True):
        assert one.keys() == other.keys()
        for score in one:
            assert one[score] == pytest.approx(other[score], rel=1e-3, abs=1e-5), score
    for name, tensor in weights(tmp_path / "cuda").items():
        assert_close(tensor, weights(tmp_path / "cpu")[name], rtol=0, atol=1e-3)


@on_gpu
@pytest.mark.parametrize(("there", "elsewhere"), [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")])
def test_a_run_goes_on_on_another_device(foldless, tmp_path, monkeypatch, exact, there, elsewhere):
    foldless(*SHAPES, "--output", tmp_path / "straight", "--device", "cpu")
    run = begun(foldless, tmp_path / "run", monkeypatch, "--device", there)
    code, said, complained = foldless(
        "train", "--resume", run, *([] if there == elsewhere else ["--device", elsewhere])
    )
    assert (code, complained) == (0, "")
    assert said.startswith("Computing on cuda:0") == (elsewhere == "cuda")
    for name, tensor in weights(run).items():
        assert_close(tensor, weights(tmp_path / "straight")[name], rtol=0, atol=1e-3)


@on_gpu
def test_what_is_random_is_drawn_on_the_cpu(tmp_path):
    recipe = replace(SMALL, affine=0.1, mirror=True, increase=0.1)
    split, states = shapes(16, 0, train=8, test=4), []
    for device in ("cpu", "cuda:0"):
        (tmp_path / device).mkdir()
        machine = Machine(torch.device(device))
        train(recipe, split, PREPARED[2], tmp_path / device, machine=machine)
        load_checkpoint(recipe, new_registration(recipe, (16, 16), machine), tmp_path / device)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@on_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_a_gpu(tmp_path, method, dim, precision):
    recipe = replace(method_recipe(method, SMALL), steps=1, batch=2, validate_every=1, save_every=1)
    recipe = planned(replace(recipe, precision=precision), method)
    labels = (torch.rand(4, *(16,) * dim) < 0.5).int()
    images = ImageSet(torch.rand(4, 1, *(16,) * dim), tuple("abcd"), (1.0,) * dim, labels)
    machine = Machine(torch.device("cuda:0"))
    split = replace(shapes(16, 0, train=4, test=4), train=images, val=images, test=images)
    model = train(recipe, split, PREPARED[dim], tmp_path, machine=machine)
    assert Machine.of(model.registration) == machine
    assert all(row["total"] == row["total"] for row in read_log(tmp_path / "log.csv"))
    [judged] = judge_images(model, images, [(0, 1)])
    assert judged.scores["similarity_after"] == judged.scores["similarity_after"]
    assert judged.drawn.warped.shape == (16,) * dim
