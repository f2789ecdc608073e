"""Two images without a model: what is found undoes itself, prefers no image, and lays on each other what lay apart."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from samples import SMALL, blob, lively_model, run_folder, save_cases, save_image
from tables import DIMS, random_points, smooth
from torch.testing import assert_close

from foldless.build import build_registration, pair_objective
from foldless.direct import Direct
from foldless.errors import InputError
from foldless.grid import Grid
from foldless.io import read_volume
from foldless.maps import Affine
from foldless.pairwise import FreeFlow, Stiff, flow_steps, optimise_flow
from foldless.recipe import Recipe, direct_recipe
from foldless.registering import predict, predict_tuned
from foldless.registration import warp
from foldless.regularity import GradICON
from foldless.similarity import MSE
from foldless.weighting import Constant

LATTICE = {1: (33,), 2: (25, 29), 3: (17, 21, 19)}
INTERPOLATED = 0.003  # unit cube: velocities of a voxel, read between the nodes of lattices this coarse
SAME_SUMS = 1e-4  # float32: two searches whose sums are taken in another order
LEFT = 0.25  # the share of the difference of two images that a short search may leave

every_dim = pytest.mark.parametrize("dim", DIMS)


def moved_image(dim):
    """A smooth picture, and the same read through a turned, scaled, sheared and shifted lattice."""
    torch.manual_seed(3)
    shape = LATTICE[dim]
    x = torch.stack(torch.meshgrid(*[torch.linspace(0, 1, n) for n in shape], indexing="ij"))[None]
    radius = torch.tensor([0.3, 0.2, 0.25])[:dim].reshape(1, dim, *[1] * dim)
    image = torch.sigmoid(12 * (1 - ((x - 0.5) / radius).square().sum(1, keepdim=True)))
    linear = torch.eye(dim) + 0.15 * torch.randn(dim, dim)
    away = Affine.from_deviation(torch.cat([linear - torch.eye(dim), torch.full((dim, 1), 0.08)], 1)[None])
    return image, warp(image, away)


@every_dim
def test_a_flow_back_undoes_the_flow_there(dim):
    generator = 0.1 * torch.randn(2, dim, dim + 1, dtype=torch.float64)
    velocity = smooth(LATTICE[dim], 1.0, batch=2)
    image = torch.zeros(4, 1, *LATTICE[dim], dtype=torch.float64)
    points = random_points(dim, batch=2, low=0.2, high=0.8)
    for flow, error in ((FreeFlow(generator, velocity), INTERPOLATED), (FreeFlow(generator), 1e-12)):
        phi = flow(image, image)
        there, back = phi[:2], phi[2:]
        assert (there(points) - points).abs().max() > 5 * INTERPOLATED
        assert (there(back(points)) - points).abs().max() < error
        assert (back(there(points)) - points).abs().max() < error


@every_dim
def test_stiffness_counts_what_consistency_cannot_see(dim):
    """By numpy, in voxels of the velocity's own lattice."""
    velocity = smooth(LATTICE[dim], 1.0)
    image = torch.zeros(2, 1, *LATTICE[dim], dtype=torch.float64)
    phi = FreeFlow(torch.zeros(1, dim, dim + 1, dtype=torch.float64), velocity)(image, image)
    voxels = velocity[0].numpy() * (np.array(LATTICE[dim]) - 1).reshape(dim, *[1] * dim)
    squares = np.mean([(np.diff(voxels, axis=axis) ** 2).mean() for axis in range(1, dim + 1)])
    grid, plain = Grid(LATTICE[dim]), GradICON(at="lattice")
    excess = Stiff(plain, 3.0)(phi[:1], phi[1:], grid) - plain(phi[:1], phi[1:], grid)
    assert excess.item() == pytest.approx(3 * squares)


@every_dim
def test_images_that_lie_apart_are_laid_on_each_other(dim):
    a, b = moved_image(dim)
    seen = []
    before = torch.get_rng_state()
    phi, back = optimise_flow(a, b, MSE(), GradICON(), Constant(0.01), (2, 1), 15, on_step=seen.append)
    assert len(seen) == flow_steps((2, 1), 15) == 60
    assert torch.equal(torch.get_rng_state(), before)
    assert MSE()(warp(a, phi), b) < LEFT * MSE()(a, b)
    assert MSE()(warp(b, back), a) < LEFT * MSE()(a, b)


def test_neither_image_is_preferred():
    a, b = moved_image(2)
    there = optimise_flow(a, b, MSE(), GradICON(at="lattice"), Constant(0.1), (2, 1), 5)
    other = optimise_flow(b, a, MSE(), GradICON(at="lattice"), Constant(0.1), (2, 1), 5)
    points = random_points(2).float()
    for one, same in zip(there, reversed(other), strict=True):
        assert (one(points) - points).abs().max() > 10 * SAME_SUMS
        assert_close(one(points), same(points), rtol=0, atol=SAME_SUMS)


def test_pairs_of_a_batch_have_flows_of_their_own():
    a, b = moved_image(2)
    together, _ = optimise_flow(torch.cat([a, a]), torch.cat([a, b]), MSE(), GradICON(), Constant(0.1), (2, 1), 10)
    points = random_points(2, batch=2).float()
    moved = (together(points) - points).abs().amax((1, 2))
    assert moved[0] < 0.1 * moved[1]


@pytest.mark.parametrize("lattice", [(28, 28), (48, 64, 48), (80, 96, 80), (160, 192, 224)])
def test_defaults_serve_every_size(lattice):
    recipe = direct_recipe(lattice)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
    assert math.prod(lattice) / recipe.levels[-1] ** len(lattice) <= 1.5e6
    assert all(coarse == 2 * fine for coarse, fine in zip(recipe.levels, recipe.levels[1:], strict=False))


# The command


@pytest.fixture
def apart(tmp_path):
    """Two blobs of other shapes and spacings, one turned and pushed away inside its frame; with labels."""
    random = np.random.default_rng(0)
    for name, shape, spacing, seed in (
        ("a", (24, 26, 22), (1.0, 1.0, 1.2), 1),
        ("b", (22, 24, 26), (1.1, 1.0, 1.0), 2),
    ):
        labels = sitk.GetImageFromArray(blob(shape, seed).astype(np.uint8))
        labels.SetSpacing(spacing)
        if name == "a":
            turn = sitk.Euler3DTransform(
                labels.TransformContinuousIndexToPhysicalPoint([n / 2 for n in labels.GetSize()]), 0, 0, 0.3, (3, 2, -2)
            )
            labels = sitk.Resample(labels, turn, sitk.sitkNearestNeighbor)
        array = sitk.GetArrayFromImage(labels)
        save_image(array, tmp_path / f"{name}_seg.nii.gz", spacing)
        save_image(np.float32(array * 60 + random.normal(30, 2, shape)), tmp_path / f"{name}.nii.gz", spacing)
    return tmp_path


def words(folder, output, *more):
    images = (folder / "a.nii.gz", folder / "b.nii.gz")
    labels = ("--moving-labels", folder / "a_seg.nii.gz", "--fixed-labels", folder / "b_seg.nii.gz")
    return ("register", *images, *labels, "--output", folder / output, *more)


def test_two_images_are_all_it_takes(foldless, apart):
    code, said, complained = foldless(*words(apart, "out", "--steps", 60, 40, "--aligned"))
    assert (code, complained) == (0, "")
    assert "step 100 of 100" in said
    metrics = json.loads((apart / "out/metrics.json").read_text())
    assert metrics["dice_before"] < 0.7
    assert metrics["dice"] > metrics["dice_before"] + 0.1
    assert metrics["folds_percent"]["ten"] == 0
    assert metrics["inverse_consistency_voxels"]["mean"] < 1, "some of it where the map leaves the moving lattice"
    transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(apart / "out/warp.nii.gz"), sitk.sitkVectorFloat64))
    moving, fixed = (sitk.ReadImage(str(apart / f"{name}.nii.gz"), sitk.sitkFloat32) for name in "ab")
    low = float(sitk.GetArrayViewFromImage(moving).min())
    by_itk = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, low))
    warped = sitk.GetArrayFromImage(sitk.ReadImage(str(apart / "out/warped.nii.gz")))
    np.testing.assert_allclose(warped, by_itk, rtol=0, atol=1e-3)
    record = json.loads((apart / "out/run.json").read_text())
    assert record["recipe"]["levels"] == list(direct_recipe((32, 32, 32)).levels)
    assert len(record["data_sha256"]) == 4


def test_tuning_leaves_the_model_alone_and_helps(foldless, apart):
    run = run_folder(apart / "run", 3)
    file = run / "best.safetensors"
    before = file.read_bytes()
    for output, more in (
        ("plain", ()),
        ("tuned", ("--steps", 8, "--rate", 1e-3)),
        ("refined", ("--refine", "--steps", 10, 8, 20)),
    ):
        code, _, complained = foldless(*words(apart, output, "--model", run, *more))
        assert (code, complained) == (0, "")
    plain, tuned, refined = (
        json.loads((apart / name / "metrics.json").read_text()) for name in ("plain", "tuned", "refined")
    )
    assert tuned["similarity_after"] < plain["similarity_after"]
    assert refined["similarity_after"] < 0.6 * plain["similarity_after"]
    assert tuned["similarity_before"] == plain["similarity_before"]
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "one-way", "regularity": "diffusion"},
        {"objective": "image-cycle"},
        {"objective": "three-images"},
        {"ramp": 10},
        {"increase": 1.0},
    ],
)
def test_every_objective_tunes_a_pair(settings):
    recipe = Recipe(**{**SMALL.as_dict(), **settings})
    model = lively_model(2, recipe)
    a, b = moved_image(2)
    state = {name: tensor.clone() for name, tensor in model.registration.state_dict().items()}
    plain, tuned = predict(model, a, b), predict_tuned(model, a, b, steps=3, rate=1e-3)
    points = random_points(2).float()
    assert not torch.equal(tuned[0](points), plain[0](points))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.registration.state_dict().items())
    assert pair_objective(recipe, build_registration(recipe, (16, 16))).weight().item() == recipe.weight


def test_a_pair_is_tuned_under_the_weight_that_training_came_to():
    a, b = moved_image(2)
    plain = lively_model(2)
    heavy = replace(plain, weight=1e4)
    points = random_points(2).float()
    tuned = [predict_tuned(model, a, b, steps=3, rate=1e-3)[0](points) for model in (plain, plain, heavy)]
    assert torch.equal(tuned[0], tuned[1])
    assert not torch.equal(tuned[0], tuned[2])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--rate", 1e-4), "with --steps 50 beside it"),
        (("--rate", 0, "--steps", 3), "with --steps 50 beside it"),
        (("--rate", "nan", "--steps", 3), "--rate takes a finite number"),
        (("--refine", "--steps", 3), "give one of them"),
    ],
)
def test_evaluate_takes_a_rate_with_steps_only(foldless, tmp_path, more, said):
    save_cases(tmp_path / "data", 2, (14, 15, 13))
    words = ("--model", run_folder(tmp_path / "run", 3), "--data", tmp_path / "data", "--output", tmp_path / "out")
    code, _, complained = foldless("evaluate", *words, *more)
    assert code == 2
    assert said in complained
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tuning", [("--steps", 3, "--rate", 1e-4), ("--refine",)])
def test_evaluate_tunes_every_pair_anew(foldless, tmp_path, tuning):
    """The numbers of a pair are those of `register`, whatever was judged before it."""
    save_cases(tmp_path / "data", 2, (14, 15, 13))
    run = run_folder(tmp_path / "run", 3)
    common = ("--model", run, *tuning)
    assert foldless("evaluate", *common, "--data", tmp_path / "data", "--output", tmp_path / "out")[0] == 0
    images = tmp_path / "data/images"
    for row in json.loads((tmp_path / "out/metrics.json").read_text())["pairs"]:
        pair = [images / f"{row[role]}.nii.gz" for role in ("moving", "fixed")]
        assert foldless("register", *pair, *common, "--output", tmp_path / "one", "--overwrite")[0] == 0
        alone = json.loads((tmp_path / "one/metrics.json").read_text())
        assert row["similarity_after"] == pytest.approx(alone["similarity_after"], rel=1e-6)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--steps", 0), "1 or more"),
        (("--optimiser", "adam", "--rate", -1), "above 0"),
        (("--model", "run", "--steps", -1), "0 or more"),
        (("--model", "run", "--weight", 1), "a model brings its own"),
        (("--model", "run", "--similarity", "nmi"), "a model brings its own"),
        (("--model", "run", "--rate", 1e-3), "--steps 50"),
        (("--model", "run", "--smooth-total", 1), "a model brings its own"),
        (("--model", "run", "--refine", "--steps", 0), "1 or more"),
        (("--model", "run", "--refine", "--rate", 1e-3), "no network is tuned"),
        (("--refine",), "--model RUN"),
        (("--aligned", "--optimiser", "adam"), "--aligned leaves out"),
        (("--aligned", "--model", "run"), "--aligned leaves out"),
        (("--model", "run", "--transform", "rigid"), "a model brings its own"),
        (("--transform", "rigid", "--steps", 3), "deforms nothing"),
        (("--transform", "affine", "--aligned"), "finds how they do"),
        (("--initial", "a.txt", "--placement", "world"), "give one of them"),
        (("--aligned", "--placement", "anywhere"), "--placement world or centre"),
        (("--aligned", "--moving-mask", "a_seg.nii.gz"), "with --aligned add --placement world"),
    ],
)
def test_options_that_do_not_go_together(foldless, apart, more, says):
    code, _, complained = foldless(*words(apart, "out", *more))
    assert code == 2
    assert says in complained
    assert not (apart / "out").exists()


def test_pairs_that_cannot_be(tmp_path):
    flat = read_volume(save_image(np.float32(blob((20, 20), 1)), tmp_path / "flat.nii.gz"))
    deep = read_volume(save_image(np.float32(blob((20, 20, 20), 1)), tmp_path / "deep.nii.gz"))
    away = read_volume(save_image(np.float32(blob((20, 20, 20), 1)), tmp_path / "away.nii.gz", Origin=(900.0, 0, 0)))
    with pytest.raises(InputError, match="2-D"):
        Direct.of_pair(flat, deep)
    with pytest.raises(InputError, match="overlap"):
        Direct.of_pair(deep, away, "world")
    assert Direct.of_pair(deep, away).preparation.placement == "centre"
