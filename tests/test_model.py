"""A model file gives back the same maps, and whatever else is there is refused without running anything."""

import json
import os
import pickle
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import SMALL, lively_model

from foldless.errors import InputError
from foldless.grid import Grid
from foldless.model import FORMAT, Model
from foldless.registering import predict

RECIPES = {
    "batch norm": SMALL,
    "two levels": replace(SMALL, levels=(2, 1), normalisation="instance"),
    "exponential": replace(SMALL, as_map="exponential"),
    "voxelmorph": replace(SMALL, network="voxelmorph"),
}


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", RECIPES)
def test_a_loaded_model_gives_the_same_maps(tmp_path, dim, name):
    model = lively_model(dim, RECIPES[name])
    model.save(tmp_path / "model.safetensors")
    loaded = Model.load(tmp_path / "model.safetensors")
    assert (loaded.recipe, loaded.preparation, loaded.trained_on) == (
        model.recipe,
        model.preparation,
        model.trained_on,
    )
    assert not loaded.registration.training
    a, b = torch.rand(2, 1, 1, *model.preparation.lattice)
    grid = Grid.of(a)
    before, after = predict(model, a, b), predict(loaded, a, b)
    assert (before[0].on(grid) - grid.points()).abs().max() > 0.01, "it moves"
    for one, same in zip(before, after, strict=True):
        assert torch.equal(one.on(grid), same.on(grid))


def test_running_statistics_are_kept(tmp_path):
    model = lively_model(2)
    model.registration.train()
    model.registration(torch.rand(4, 1, 16, 16), torch.rand(4, 1, 16, 16))
    model.save(tmp_path / "m.safetensors")
    for name, tensor in Model.load(tmp_path / "m.safetensors").registration.state_dict().items():
        assert torch.equal(tensor, model.registration.state_dict()[name]), name


def test_a_run_is_its_best_checkpoint(tmp_path):
    lively_model(2, seed=1).save(tmp_path / "last.safetensors")
    assert Model.load(tmp_path).recipe == SMALL
    best = lively_model(2, seed=2)
    best.save(tmp_path / "best.safetensors")
    loaded = Model.load(tmp_path).registration.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in best.registration.state_dict().items())


def about(**changes):
    model = lively_model(2)
    content = {"format": FORMAT, "recipe": SMALL.as_dict(), "preparation": asdict(model.preparation), "trained_on": []}
    return {**content, **changes}


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"other": "x"},
        {"foldless": "{"},
        {"foldless": "[]"},
        {"foldless": "3"},
        {"foldless": json.dumps(about(format="foldless-model-9"))},
        {"foldless": json.dumps({"format": FORMAT})},
        {"foldless": json.dumps(about(recipe=3))},
        {"foldless": json.dumps(about(recipe={"network": "resnet"}))},
        {"foldless": json.dumps(about(recipe={"unheard": 1}))},
        {"foldless": json.dumps(about(preparation={"lattice": [16, 0], "spacing": [1, 1]}))},
        {"foldless": json.dumps(about(preparation={"lattice": [16] * 5, "spacing": [1] * 5}))},
        {"foldless": json.dumps(about(preparation=[]))},
        {"foldless": json.dumps(about(recipe={"widths": [4], "widths_up": [4]}))},
        {"foldless": json.dumps(about(recipe={**SMALL.as_dict(), "levels": [2, 1]}))},
        {"foldless": "[" * 10**6},
        {"foldless": json.dumps(about(weight=float("nan")))},
        {"foldless": json.dumps(about(weight="much"))},
        {"foldless": json.dumps(about(weight=[1.0]))},
        {"foldless": json.dumps(about(weight=-1))},
        {"foldless": json.dumps(about(trained_on=3))},
        {"foldless": json.dumps(about(trained_on=[1, 2]))},
        {"foldless": json.dumps(about(preparation=None))},
        {"foldless": json.dumps(about(preparation={"lattice": 16, "spacing": [1, 1]}))},
        {"foldless": json.dumps(about(preparation={"lattice": [16, 16], "spacing": [1, 1], "percentiles": [99, 1]}))},
        {"foldless": json.dumps(about(preparation={"lattice": [16, 16], "spacing": [1, 1], "unheard": 1}))},
        {"foldless": json.dumps(about(recipe={**SMALL.as_dict(), "widths": [10**13, 8]}))},
        {"foldless": json.dumps(about(recipe={**SMALL.as_dict(), "widths": [10**30, 8]}))},
        {"foldless": json.dumps(about(recipe={**SMALL.as_dict(), "rate": float("nan")}))},
        {"foldless": json.dumps(about(recipe={**SMALL.as_dict(), "widths": "48"}))},
        {"foldless": json.dumps(about(recipe={**SMALL.as_dict(), "stages": [3]}))},
    ],
)
def test_foreign_weights(tmp_path, metadata):
    tensors = {k: v.contiguous() for k, v in lively_model(2).registration.state_dict().items()}
    save_file(tensors, tmp_path / "m.safetensors", metadata)
    with pytest.raises(InputError, match=r"m\.safetensors") as refused:
        Model.load(tmp_path / "m.safetensors")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["net.last.weight", "net.normalise.0.running_var"])
def test_weights_that_are_not_finite(tmp_path, value, name):
    model = lively_model(2)
    model.registration.state_dict()[name].fill_(value)
    model.save(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=f"not finite, {name}.*smaller --rate"):
        Model.load(tmp_path / "m.safetensors")


def test_paths_may_be_strings(tmp_path):
    model = lively_model(2)
    model.save(str(tmp_path / "best.safetensors"))
    for path in (str(tmp_path), str(tmp_path / "best.safetensors")):
        assert Model.load(path).recipe == model.recipe


@pytest.mark.parametrize("damage", [lambda d: d[:-100], lambda d: d[:30], lambda d: b"", lambda d: b"\xff" * len(d)])
def test_damaged_files(tmp_path, damage):
    lively_model(2).save(tmp_path / "m.safetensors")
    (tmp_path / "m.safetensors").write_bytes(damage((tmp_path / "m.safetensors").read_bytes()))
    with pytest.raises(InputError, match="not a safetensors file"):
        Model.load(tmp_path / "m.safetensors")


def test_a_tensor_missing_or_of_another_shape(tmp_path):
    lively_model(2).save(tmp_path / "m.safetensors")
    tensors = load_file(tmp_path / "m.safetensors")
    metadata = {"foldless": json.dumps(about())}
    name = "net.last.weight"
    for changed in ({k: v for k, v in tensors.items() if k != name}, {**tensors, name: torch.zeros(2)}):
        save_file(changed, tmp_path / "m.safetensors", metadata)
        with pytest.raises(InputError, match="do not fit"):
            Model.load(tmp_path / "m.safetensors")


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


def test_a_pickle_is_never_run(tmp_path):
    witness = tmp_path / "it-ran"
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Malicious(witness)))
    torch.save({"w": torch.zeros(3)}, tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        with pytest.raises(InputError, match="never loaded"):
            Model.load(tmp_path / name)
    assert not witness.exists()
    pickle.loads((tmp_path / "a.pt").read_bytes())
    assert witness.exists(), "the bait is live"


def test_others_may_read_it(tmp_path):
    lively_model(2).save(tmp_path / "m.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        Model.load(tmp_path / "nowhere.safetensors")
    with pytest.raises(InputError, match=r"no best\.safetensors"):
        Model.load(tmp_path)


def test_saving_is_all_or_nothing(tmp_path, monkeypatch):
    model = lively_model(2)
    model.save(tmp_path / "m.safetensors")
    before = (tmp_path / "m.safetensors").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        lively_model(2, seed=9).save(tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
