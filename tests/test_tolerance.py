"""A tolerance is the largest way from home in voxels, and what holds it is an augmented Lagrangian's gradient."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from samples import SMALL, blob, run_folder, save_cases, save_image
from tables import DIMS, SHAPES, random_affine, smooth
from torch.testing import assert_close

from foldless.build import objective_of, pair_objective, stage_objective
from foldless.direct import Direct
from foldless.errors import InputError
from foldless.grid import Grid, in_voxels
from foldless.io import Volume, inverse_consistency_of_files
from foldless.maps import Displacement
from foldless.mending import mended
from foldless.objective import Objective
from foldless.outcome import Outcome
from foldless.pairwise import FreeMaps, optimise
from foldless.proofs import brought_home, home, largest_inverse_error
from foldless.recipe import Recipe, Stage
from foldless.registering import Fields
from foldless.registration import Predict
from foldless.regularity import GradICON
from foldless.similarity import MSE
from foldless.tolerance import AIM, Tolerance, body, inverse_errors
from foldless.training.log import read_log
from foldless.weighting import Constant

every_dim = pytest.mark.parametrize("dim", DIMS)


def nodes_of(dim, pairs=2, voxels=0.5):
    """A lattice under two families of maps that do not undo each other."""
    phi = Displacement(smooth(SHAPES[dim], voxels, 2 * pairs))
    return phi.on(Grid(SHAPES[dim]))


def whole(dim, batch=4):
    """Images whose body is all of them."""
    return 1 + torch.rand(batch, 1, *SHAPES[dim], dtype=torch.float64)


@every_dim
def test_errors_are_what_both_orders_lack(dim):
    nodes, grid = nodes_of(dim), Grid(SHAPES[dim])
    there, back = (Displacement(part - grid.points(nodes)) for part in nodes.chunk(2))
    for error, (outer, inner) in zip(inverse_errors(nodes).chunk(2), ((back, there), (there, back)), strict=True):
        expected = in_voxels(outer(inner.on(grid)), grid).norm(dim=1)
        assert expected.max() > 0.1
        assert_close(error, expected, rtol=1e-10, atol=1e-12)


@every_dim
def test_exact_inverses_come_home(dim):
    phi, grid = random_affine(dim), Grid(SHAPES[dim])
    u = [part.on(grid) for part in (phi, phi.inverse)]
    inside = ((u[0] >= 0) & (u[0] <= 1)).all(1)
    assert inside.any()
    assert inverse_errors(torch.cat(u))[:1][inside].max() < 1e-10


def test_the_body_is_all_but_an_even_background():
    image = torch.zeros(2, 1, 9, 9)
    image[0, 0, 3:6, 3:6] = 1.0
    image[0, 0, 4, 4] = 0.0  # a dark voxel inside
    image[1] = torch.rand(1, 9, 9)
    found = body(image)
    assert found[0].sum() == 25
    assert found[0, 2:7, 2:7].all()
    assert found[1].all()
    assert not body(torch.ones(1, 1, 5, 5)).any()


@pytest.mark.parametrize("everywhere", [True, False])
def test_the_gradient_is_the_augmented_lagrangians(everywhere):
    torch.manual_seed(2)
    nodes, image = nodes_of(2, voxels=0.3), whole(2)
    held = Tolerance(0.2, penalty=3.0, everywhere=everywhere)
    held.multiplier = torch.rand(4, *SHAPES[2], dtype=torch.float64) if everywhere else torch.tensor(0.7)
    multiplier = held.multiplier.double()
    held.eval()
    assert torch.autograd.gradcheck(lambda x: held(x, image), nodes.clone().requires_grad_(), atol=1e-6)
    over = inverse_errors(nodes) / (AIM * 0.2) - 1
    arriving = ((nodes >= 0) & (nodes <= 1)).all(1)
    assert 0.5 < arriving.double().mean() < 1
    expected = (arriving * ((multiplier + 3 * over).clamp_min(0) ** 2 - multiplier**2) / 6).mean()
    assert (over > 0).any()
    assert (over < 0).any()
    assert_close(held(nodes, image), expected, rtol=1e-6, atol=0)


def test_multipliers_grow_where_the_error_is_too_large_and_fall_where_it_is_not():
    nodes, image = nodes_of(2), whole(2)
    held = Tolerance(0.2, everywhere=True)
    error = inverse_errors(nodes)
    held(nodes, image)
    assert torch.equal(held.multiplier > 0, error > AIM * 0.2)
    assert held.largest == error.max()
    assert not held.reached
    before = held.multiplier
    held(Grid(SHAPES[2]).points(nodes).expand_as(nodes), image)
    assert held.reached
    assert (held.multiplier <= before).all()
    assert (held.multiplier < before).any()


def test_one_multiplier_follows_the_largest_error():
    nodes, image = nodes_of(2), whole(2)
    held = Tolerance(0.2)
    for _ in range(3):
        held(nodes, image)
    assert held.multiplier.shape == ()
    raised = held.multiplier.item()
    assert raised > 0
    held.eval()(nodes, image)
    assert held.multiplier == raised, "looking does not raise it"
    held.train()
    for _ in range(5):
        held(Grid(SHAPES[2]).points(nodes).expand_as(nodes), image)
    assert held.multiplier < raised


def test_its_multiplier_is_kept_in_a_checkpoint():
    net = FreeMaps(Displacement(torch.zeros(1, 2, 5, 5)))
    one, other = (Objective(net, MSE(), GradICON(), Constant(1.0), Tolerance(0.5)) for _ in range(2))
    one.tolerance(nodes_of(2), whole(2))
    assert one.tolerance.multiplier > 0
    other.load_state_dict(one.state_dict())
    assert other.tolerance.multiplier == one.tolerance.multiplier


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_a_tolerance_is_above_zero(wrong):
    with pytest.raises(ValueError, match="the tolerance is a finite number above 0"):
        Tolerance(wrong)


@every_dim
def test_maps_that_do_not_undo_each_other_are_held_to_it(dim):
    """Without any regularity: the images are noise, which wants the two maps to go their own ways."""
    torch.manual_seed(1)
    a, b = whole(dim, 1).float(), whole(dim, 1).float()
    start = Displacement(smooth(SHAPES[dim], 0.5, 2).float())
    found = []
    for tolerance in (None, Tolerance(0.25, everywhere=True)):
        objective = Objective(FreeMaps(start), MSE(), GradICON(), Constant(0.0), tolerance)
        optimise(objective, a, b, 200, 2e-3, falling=True)
        judge = Tolerance(1.0).eval()
        judge(objective.registration(a, b).on(Grid(SHAPES[dim])), torch.cat([b, a]))
        found.append(judge.largest.item())
    assert found[1] < 0.3 < found[0]


# Fields in files


def two_fields(dim, flip=False, voxels=0.6):
    """Images on lattices of their own, the second one perhaps stored the other way round, and fields between them."""
    torch.manual_seed(6)
    volumes, fields = [], []
    for k in range(2):
        shape = tuple(n + k for n in {2: (30, 26), 3: (16, 14, 18)}[dim])
        image = sitk.GetImageFromArray(np.random.default_rng(k).random(shape).astype(np.float32))
        image.SetSpacing((1.2, 0.9, 1.0)[:dim])
        if flip and k:
            image = sitk.Flip(image, [True, False, False][:dim])
        volume = Volume(image, Path(f"{k}.nii.gz"))
        u = Displacement(smooth(shape, voxels)).voxels[0].flip(0).movedim(0, -1).numpy()
        volumes.append(volume)
        fields.append((u @ volume.geometry.matrix.T).astype(np.float32))
    return volumes, fields


EVERYTHING = (0.0, 100.0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
def test_the_largest_error_is_that_of_the_files(dim, flip):
    (fixed, moving), (forward, inverse) = two_fields(dim, flip)
    expected = []
    for one, there, other, back in ((fixed, forward, moving, inverse), (moving, inverse, fixed, forward)):
        error = inverse_consistency_of_files(there, one.geometry, back, other.geometry)
        at = other.geometry.physical_to_index(np.moveaxis(one.geometry.voxel_centres, 0, -1) + there)
        inside = ((at >= 0) & (at <= np.array(other.geometry.size) - 1)).all(-1)
        assert 0.3 < inside.mean() < 1
        expected.append(error[inside].max())
    found = largest_inverse_error(moving, fixed, forward, inverse, EVERYTHING)
    assert found == pytest.approx(max(expected), rel=1e-6)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("tolerance", [0.5, 0.1])
def test_fields_are_brought_home(dim, flip, tolerance):
    (fixed, moving), (forward, inverse) = two_fields(dim, flip)
    there, back, homing = brought_home(moving, fixed, forward, inverse, EVERYTHING, tolerance)
    assert homing.before == pytest.approx(largest_inverse_error(moving, fixed, forward, inverse, EVERYTHING))
    assert homing.before > 1.5 * tolerance
    assert homing.after <= tolerance
    assert largest_inverse_error(moving, fixed, there, back, EVERYTHING) == pytest.approx(homing.after, abs=1e-5)
    assert 0 < homing.largest < 2 * homing.before
    assert there.dtype == back.dtype == np.float32


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
def test_slopes_are_autograds_and_bends_bound_how_they_grow(dim, flip):
    (fixed, moving), (forward, inverse) = two_fields(dim, flip)
    legs, aim = (home._Leg(fixed, forward, EVERYTHING), home._Leg(moving, inverse, EVERYTHING)), 0.2
    points = [leg.inside for leg in legs]

    def excess(fields):
        return sum((error - aim).clamp_min(0).square().sum() / 2 for error in home._errors(legs, fields, points))

    fields = [leg.field.requires_grad_() for leg in legs]
    wanted = torch.autograd.grad(excess(fields), fields)
    with torch.no_grad():
        found = home._slopes(legs, fields, points, aim)
        stepped = [field - slope / bend for field, (slope, bend) in zip(fields, found, strict=True)]
        promised = sum((slope.square() / bend).sum() / 2 for slope, bend in found)
        assert excess(stepped) <= excess(fields) - promised
    for slope, (got, _) in zip(wanted, found, strict=True):
        assert_close(got, slope, rtol=1e-9, atol=1e-12)


def test_steep_fields_are_brought_home_too():
    """Where many points arrive at one place, and what is read there is steep, a step of a quarter runs away."""
    image = sitk.GetImageFromArray(np.random.default_rng(0).random((9, 48)).astype(np.float32))
    volume = Volume(image, Path("0.nii.gz"))
    x = np.arange(48) - 23.5
    press = -0.85 * x * np.exp(-((x / 12) ** 2))
    spread = np.interp(x, x + press, -press)
    forward, inverse = (
        np.stack([np.broadcast_to(u, (9, 48)), np.zeros((9, 48))], -1).astype(np.float32)
        for u in (press, spread + 0.8 * np.sin(2 * x))
    )
    there, back, homing = brought_home(volume, volume, forward, inverse, EVERYTHING, 0.1)
    assert homing.before > 0.7
    assert homing.after <= 0.1
    assert homing.largest < 1
    assert largest_inverse_error(volume, volume, there, back, EVERYTHING) == pytest.approx(homing.after, abs=1e-5)


def test_fields_that_are_home_keep_every_bit():
    (fixed, moving), (forward, inverse) = two_fields(2)
    there, back, homing = brought_home(moving, fixed, forward, inverse, EVERYTHING, 50.0)
    assert there is forward
    assert back is inverse
    assert (homing.sweeps, homing.largest) == (0, 0.0)


def test_what_lies_far_from_where_points_come_back_from_far_away_keeps_every_bit():
    (fixed, moving), (forward, inverse) = two_fields(2, voxels=0.0)
    forward[5, 6] = 1.0
    there, back, homing = brought_home(moving, fixed, forward, inverse, EVERYTHING, 0.2)
    assert homing.after <= 0.2
    assert np.array_equal(there[12:], forward[12:])
    assert np.array_equal(back[12:], inverse[12:])
    assert not np.array_equal(there, forward)


def test_fields_are_made_provable_and_brought_home():
    (fixed, moving), (forward, inverse) = two_fields(2)
    forward[10, 10] += 1.5
    fields = Fields(forward, inverse, forward, 1.0)
    direct = Direct.of_pair(moving, fixed, tolerance=0.2)
    done = mended(fields, moving, fixed, direct)
    outcome = Outcome(moving, fixed, done, direct)
    assert all(certificate.proven for certificate in outcome.certificates)
    assert done.repairs[0].failed > 0
    assert outcome.metrics()["tolerance"]["kept"] == 1
    assert outcome.largest_inverse_error <= 0.2
    assert mended(fields, moving, fixed, Direct.of_pair(moving, fixed), provable=False) is fields


# Words and commands


def test_a_recipe_with_a_tolerance_builds_what_holds_it():
    recipe = replace(SMALL, levels=(2,), tolerance=0.5, stages=(Stage(level=2),))
    net = Predict(torch.nn.Identity(), Displacement)
    assert objective_of(replace(recipe, tolerance=0.0), net).tolerance is None
    assert objective_of(recipe, net).tolerance.voxels == 0.5
    assert stage_objective(recipe, recipe.stages[0], net).tolerance.voxels == 0.25, "of pooled voxels"
    assert pair_objective(recipe, net).tolerance.everywhere


@pytest.mark.parametrize(
    "wrong", [{"tolerance": -1.0}, {"tolerance": float("nan")}, {"tolerance": 0.5, "objective": "image-cycle"}]
)
def test_tolerances_that_make_no_sense(wrong):
    with pytest.raises(InputError, match="tolerance"):
        Recipe(**wrong)


@pytest.fixture
def pair(tmp_path):
    return [
        save_image((blob((16, 16), seed) * 60 + np.random.default_rng(seed).normal(30, 3, (16, 16))).astype(np.float32),
                   tmp_path / f"{seed}.nii.gz")
        for seed in (1, 2)
    ]  # fmt: skip


def test_register_says_whether_a_tolerance_is_kept(foldless, pair, tmp_path):
    words = ("register", *pair, "--steps", 4, "--placement", "centre")
    code, said, complained = foldless(*words, "--output", tmp_path / "kept", "--tolerance", 0.5)
    assert (code, complained.count("\n"), complained.count("the header has the origin 0")) == (0, 2, 2)
    assert "inside the bodies points come back" in said
    found = json.loads((tmp_path / "kept/metrics.json").read_text())["tolerance"]
    assert found["kept"] == 1
    assert found["largest_error"] <= found["voxels"] == 0.5


def test_a_tolerance_that_cannot_be_kept_is_said(foldless, pair, tmp_path):
    model = run_folder(tmp_path / "run", 2)
    words = ("register", *pair, "--model", model, "--tolerance", 1e-6, "--output", tmp_path / "out")
    code, _, complained = foldless(*words)
    assert code == 3
    assert "the tolerance of 1e-06 voxel is not kept" in complained
    assert (tmp_path / "out/warp.nii.gz").is_file()
    found = json.loads((tmp_path / "out/metrics.json").read_text())
    assert found["tolerance"]["largest_error"] > 1e-6


@pytest.mark.parametrize("wrong", ["0", "-1", "1e400"])
def test_register_refuses_other_tolerances(foldless, pair, tmp_path, wrong):
    code, _, complained = foldless("register", *pair, "--output", tmp_path / "out", f"--tolerance={wrong}")
    assert code == 2
    assert "--tolerance" in complained
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("tolerance", "ends"), [(50.0, 0), (1e-4, 3)])
def test_training_says_whether_a_tolerance_is_kept(foldless, tmp_path, tolerance, ends):
    data = save_cases(tmp_path / "data", 8, (16, 16))
    words = (
        "train", "--data", data, "--output", tmp_path / "run", "--widths", 4, 8, "--widths-up", 4, 4, "--batch", 1,
        "--steps", 4, "--validate-every", 2, "--precision", "float32", "--levels", 1, "--tolerance", tolerance,
    )  # fmt: skip
    code, said, complained = foldless(*words)
    assert code == ends
    rows = [row for row in read_log(tmp_path / "run/log.csv") if "val_total" in row]
    assert all(row["val_error"] > 0 for row in rows)
    assert "largest inverse-consistency error" in said
    assert (f"the tolerance of {tolerance:g} voxel is not kept" in complained) == (ends == 3)
    assert (tmp_path / "run/best.safetensors").is_file()
