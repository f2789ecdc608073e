"""Where results go: apart from what is read, one command at a time, whole or not at all, nobody else's replaced."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from samples import run_folder, save_cases
from test_cli_train import SHAPES, same, weights

from foldless.cli.failures import ended
from foldless.cli.interruption import deferred, interruptible, shielded
from foldless.cli.leftovers import Replaced
from foldless.cli.lock import lock_file, locked
from foldless.cli.outputs import check_replaceable, claimed, put_in_order, untouched
from foldless.cli.watch import Watch
from foldless.errors import InputError
from foldless.io import read_geometry, write_warp

TAKEN = {
    "register": ("register", "data/images/case_1.nii.gz", "data/images/case_2.nii.gz", "--model", "run"),
    "evaluate": ("evaluate", "--model", "run", "--data", "data"),
    "train": ("train", "--data", "data", "--start", "run"),
    "train again": ("train", "--config", "run"),
    "crossvalidate": ("crossvalidate", "--data", "data", "--groups", "groups/groups.csv"),
    "prepare": ("prepare", "oai-knees", "data"),
}
"""Commands with results in a folder, and what they read."""

APART = "lie within each other|is one of the inputs"

PLACES = ("data", "data/new", "data/images", "link", "link/new", ".")
"""Outputs that are an input, lie in one or hold one: by name and through a link."""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder of images, a run and a link to the images; the working folder."""
    save_cases(tmp_path / "data", 4, (12, 12, 12))
    run_folder(tmp_path / "run", 3)
    save_record(tmp_path / "run", "train", settings={"source": {"data": "data"}, "recipe": {}})
    (tmp_path / "groups").mkdir()
    (tmp_path / "groups/groups.csv").write_text("case,group\n")
    (tmp_path / "link").symlink_to(tmp_path / "data", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save_record(folder, command, **more):
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"versions": {"foldless": "1"}, "command": command, **more}))


def content(folder):
    return {str(p.relative_to(folder)): p.is_file() and p.read_bytes() for p in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("command", TAKEN)
@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_written_into_what_is_read(foldless, home, command, place):
    if command == "register" and place.endswith("new"):
        pytest.skip("a new folder among the images replaces none of them")
    before = content(home)
    code, _, complained = foldless(*TAKEN[command], "--output", place, *["--overwrite"] * (command in TAKEN_OVER))
    assert (code, complained.count("\n")) == (2, 1), complained
    assert re.search(APART, complained)
    assert content(home) == before


TAKEN_OVER = ("register", "evaluate", "train", "train again")


@pytest.mark.parametrize("command", [name for name in TAKEN if name not in ("prepare",)])
def test_what_else_is_named_is_an_input_as_well(foldless, home, command):
    place = "groups" if command == "crossvalidate" else "run"
    before = content(home)
    code, _, complained = foldless(*TAKEN[command], "--output", place)
    assert (code, complained.count("\n")) == (2, 1), complained
    assert re.search(APART, complained)
    assert content(home) == before


@pytest.mark.parametrize("part", ["images", "labels", "full_labels"])
def test_a_part_of_the_output_that_is_a_link_to_an_input(foldless, home, part):
    (home / "made").mkdir()
    (home / "made" / part).symlink_to(home / "data/images", target_is_directory=True)
    before = content(home)
    code, _, complained = foldless("prepare", "oai-knees", "data", "--output", "made")
    assert (code, complained.count("\n")) == (2, 1)
    assert re.search(APART, complained)
    assert content(home) == before


@pytest.mark.parametrize("place", ["data/images/case_1.nii.gz", "link/images/case_1.nii.gz", "hard.nii.gz"])
def test_apply_replaces_no_input(foldless, home, place):
    os.link(home / "data/images/case_1.nii.gz", home / "hard.nii.gz")
    images = ("data/images/case_1.nii.gz", "--reference", "data/images/case_2.nii.gz")
    before = content(home)
    code, _, complained = foldless("apply", "run/warp.nii.gz", *images, "--output", place, "--overwrite")
    assert (code, complained.count("\n")) == (2, 1)
    assert re.search(APART, complained)
    assert content(home) == before


@pytest.mark.parametrize("command", ["register", "evaluate", "train", "demo"])
@pytest.mark.parametrize("wrote", ["register", "evaluate", "train", "crossvalidate", None])
def test_only_the_same_kind_of_result_is_replaced(foldless, home, command, wrote):
    if command == wrote:
        pytest.skip("the same kind")
    (home / "out").mkdir()
    (home / "out/thesis.txt").write_text("years of work")
    if wrote:
        save_record(home / "out", wrote)
    before = content(home)
    words = TAKEN.get(command, (command,))
    code, _, complained = foldless(*words, "--output", "out", "--overwrite")
    assert (code, complained.count("\n")) == (2, 1)
    assert (f"was written by `foldless {wrote}`" if wrote else "something else wrote it") in complained
    assert content(home) == before


@pytest.mark.parametrize(
    ("wrote", "settings", "says"),
    [
        ("train", {}, "holds no cross-validation"),
        ("crossvalidate", {}, "is damaged, it names no recipes"),
        ("crossvalidate", {"recipes": ["baseline"]}, "is damaged, it names no recipes"),
        ("crossvalidate", {"recipes": {}}, "other settings"),
    ],
)
def test_a_cross_validation_goes_on_in_no_other_result(foldless, home, wrote, settings, says):
    (home / "groups/groups.csv").write_text("case,group\ncase_1,a\ncase_2,a\ncase_3,b\ncase_4,b\n")
    save_record(home / "out", wrote, settings=settings)
    before = content(home)
    code, _, complained = foldless(*TAKEN["crossvalidate"], "--output", "out")
    assert (code, complained.count("\n")) == (2, 1)
    assert says in complained
    assert content(home) == before


def test_what_a_person_put_beside_results_outlives_them(foldless, home):
    words = (*TAKEN["register"], "--output", "out")
    assert foldless(*words)[0] == 0
    (home / "out/notes.txt").write_text("look at slice 7")
    assert foldless(*words, "--overwrite")[0] == 0
    assert (home / "out/notes.txt").read_text() == "look at slice 7"
    assert not list(home.glob(".*"))


@pytest.mark.parametrize("command", [*TAKEN, "resume", "demo"])
def test_the_second_of_two_commands_on_an_output_is_refused(foldless, home, command):
    more = {"resume": ("train", "--resume", "out"), "demo": ("demo", "--output", "out")}
    words = more.get(command) or (*TAKEN[command], "--output", "out")
    (home / "out").mkdir()
    with locked(home / "out"):
        code, _, complained = foldless(*words)
    assert (code, complained.count("\n")) == (2, 1)
    assert f"is being written by process {os.getpid()}" in complained
    assert not list((home / "out").iterdir())


def test_a_lock_vanishes_with_its_process(tmp_path):
    holds = "import sys, time; from pathlib import Path; from foldless.cli.lock import locked\n"
    holds += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", holds, tmp_path / "out"], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(InputError, match=f"process {process.pid} on"), locked(tmp_path / "out"):
            pass
        process.kill()
    assert lock_file(tmp_path / "out").exists()
    with locked(tmp_path / "out"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_run_that_is_to_be_replaced_stays_until_there_is_a_checkpoint(foldless, tmp_path, monkeypatch, number):
    foldless(*SHAPES, "--output", tmp_path / "run")
    before = content(tmp_path)
    send_at(monkeypatch, 1, number)
    code, _, complained = foldless(*SHAPES, "--rate", 0.1, "--output", tmp_path / "run", "--overwrite")
    assert code == 128 + getattr(signal, number)
    assert (
        complained == f"foldless: stopped; there was no checkpoint yet, so {tmp_path / 'run'} is what it was before\n"
    )
    assert content(tmp_path) == before


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_training_that_is_stopped_keeps_its_last_step(foldless, tmp_path, monkeypatch, number):
    words = (*SHAPES, "--save-every", 100, "--validate-every", 100)
    foldless(*words, "--output", tmp_path / "straight")
    send_at(monkeypatch, 3, number)
    run = tmp_path / "run"
    code, _, complained = foldless(*words, "--output", run)
    assert code == 128 + getattr(signal, number)
    assert complained.splitlines()[-1].startswith(f"foldless: stopped; {run} keeps all 3 steps; to go on: foldless tra")
    monkeypatch.undo()
    code, said, complained = foldless("train", "--resume", run)
    assert (code, complained) == (0, "")
    assert "1 steps in" in said
    assert same(weights(tmp_path / "straight"), weights(run))
    assert (tmp_path / "straight/log.csv").read_text() == (run / "log.csv").read_text()


def send_at(monkeypatch, step, number):
    """Have a training send itself a signal after a step."""
    before = Watch.on_step

    def on_step(self, now, terms):
        before(self, now, terms)
        if now == step:
            os.kill(os.getpid(), getattr(signal, number))

    monkeypatch.setattr(Watch, "on_step", on_step)


def test_signals_that_are_ignored_stay_so():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.filterwarnings("default")
def test_a_run_that_a_killed_command_kept_aside_comes_back(foldless, tmp_path):
    foldless(*SHAPES, "--output", tmp_path / "run")
    before = content(tmp_path)
    (tmp_path / "run").rename(tmp_path / ".run.old-0123abcd")
    save_record(tmp_path / "run", "train")
    code, said, complained = foldless("train", "--resume", tmp_path / "run")
    assert (code, "All steps were done." in said) == (0, True)
    assert "the earlier one is back in place" in complained
    assert {n: b for n, b in content(tmp_path).items() if "tensorboard" not in n} == {
        n: b for n, b in before.items() if "tensorboard" not in n
    }


@pytest.mark.filterwarnings("default")
def test_an_earlier_run_that_has_an_heir_is_removed(foldless, tmp_path):
    foldless(*SHAPES, "--output", tmp_path / "run")
    save_record(tmp_path / ".run.old-0123abcd", "train")
    (tmp_path / ".run.old-0123abcd/notes.txt").write_text("mine")
    code, _, complained = foldless("train", "--resume", tmp_path / "run")
    assert (code, complained.count("\n")) == (0, 1)
    assert "removed the earlier one" in complained
    assert (tmp_path / "run/notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.filterwarnings("default")
def test_half_made_results_of_a_killed_command_are_removed(foldless, home):
    (home / ".out.new-0123abcd").mkdir()
    (home / ".out.new-0123abcd/warp.nii.gz").write_bytes(b"half")
    code, _, complained = foldless(*TAKEN["register"], "--output", "out")
    assert code == 0
    assert "removed the half-made results" in complained
    assert not list(home.glob(".*"))


@pytest.mark.filterwarnings("default")
def test_a_result_kept_aside_is_put_back_for_who_reads_it(foldless, home):
    (home / "run").rename(home / ".run.old-0123abcd")
    code, _, complained = foldless(*TAKEN["register"], "--output", "out")
    assert code == 0, complained
    assert "run: what was to replace it was killed too early" in complained
    assert (home / "run/best.safetensors").is_file()


@pytest.fixture(params=["apply", "repair", "certify"])
def into_a_file(request, home):
    """The words of a command whose result is a file, and that file; run/warp.nii.gz is among what it reads."""
    image = home / "data/images/case_1.nii.gz"
    lattice = read_geometry(image)
    write_warp(np.zeros((*lattice.shape, 3), np.float32), lattice, home / "run/warp.nii.gz")
    out = "out.json" if request.param == "certify" else "out.nii.gz"
    more = (image, "--reference", image) if request.param == "apply" else ()
    return (request.param, "run/warp.nii.gz", *more, "--output", out), home / out


@pytest.mark.filterwarnings("default")
def test_a_file_of_a_result_kept_aside_is_put_back_for_who_reads_it(foldless, home, into_a_file):
    words, out = into_a_file
    (home / "run").rename(home / ".run.old-0123abcd")
    code, _, complained = foldless(*words)
    assert code == 0, complained
    assert "run: what was to replace it was killed too early" in complained
    assert out.is_file()


def test_the_second_of_two_commands_on_a_file_is_refused(foldless, into_a_file):
    words, out = into_a_file
    with locked(out):
        code, said, complained = foldless(*words)
    assert (code, said, complained.count("\n")) == (2, "", 1)
    assert "is being written by process" in complained
    assert not out.exists()


def test_no_result_takes_the_place_of_a_folder(foldless, into_a_file):
    words, out = into_a_file
    out.mkdir()
    code, said, complained = foldless(*words, "--overwrite")
    assert (code, said, complained.count("\n")) == (2, "", 1)
    assert "is a folder; give a file name" in complained


@pytest.mark.filterwarnings("default")
def test_what_was_half_written_of_a_file_is_removed(foldless, home, into_a_file):
    words, out = into_a_file
    (home / f".{out.name}.new-0123abcd.nii.gz").write_bytes(b"half")
    (home / f".{out.name}.news").write_text("mine")
    code, _, complained = foldless(*words)
    assert (code, complained.count("\n")) == (0, 1)
    assert "had half-written of it" in complained
    assert [path.name for path in home.glob(".*")] == [f".{out.name}.news"]


@pytest.mark.parametrize("command", ["train", "evaluate", "crossvalidate"])
def test_a_folder_with_nothing_but_a_half_written_record_is_new(home, command):
    (home / "out").mkdir()
    (home / "out/.run.json.new-0123abcd.json").write_text('{"versi')
    assert untouched(home / "out")
    check_replaceable(home / "out", command, overwrite=False)
    (home / "out/thesis.txt").touch()
    assert not untouched(home / "out")


def test_where_no_locks_are_known_a_living_training_is_not_taken_for_a_dead_one(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def unknown(*_):
        raise OSError(errno.ENOSYS, "unknown")

    out = tmp_path / "run"
    save_record(out, "train")
    (out / "resume.pt").write_text("earlier")
    monkeypatch.setattr(fcntl, "flock", unknown)
    with claimed(out), Replaced(out, sign="resume.pt"):
        save_record(out, "train")
        (out / "log.csv").write_text("living")
        put_in_order(out)
        assert (out / "log.csv").is_file()
        assert not (out / "resume.pt").exists()
        with pytest.warns(UserWarning, match="no locks"), claimed(out):
            assert (out / "log.csv").is_file()
        (out / "resume.pt").write_text("later")
    assert (out / "resume.pt").read_text() == "later"


def test_a_folder_with_nothing_but_its_lock_is_untouched(tmp_path):
    (tmp_path / ".lock").touch()
    assert untouched(tmp_path)


def test_what_puts_things_back_in_place_is_not_interrupted():
    with interruptible() as signals, shielded():
        for number in (signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert signals.came == signal.SIGTERM


def stop_itself():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)


def test_a_signal_that_comes_while_python_clears_up_is_not_lost(capsys):
    class Cleared:
        def __del__(self):
            stop_itself()

    def run():
        Cleared()
        for _ in range(500):
            time.sleep(0.01)

    started = time.perf_counter()
    assert ended(run) == 128 + signal.SIGTERM
    assert time.perf_counter() - started < 5
    assert capsys.readouterr().err == "foldless: stopped; nothing was written\n"


def test_a_signal_that_becomes_another_error_is_a_signal_all_the_same(capsys):
    def run():
        try:
            stop_itself()
        except KeyboardInterrupt:
            raise RuntimeError("an extension's words") from None

    assert ended(run) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "foldless: stopped; nothing was half-written\n"


@pytest.mark.skipif(os.name != "posix", reason="signals of another kind")
def test_a_signal_is_forgotten_with_the_command_that_it_stopped():
    with pytest.raises(KeyboardInterrupt), interruptible() as signals:
        signal.raise_signal(signal.SIGTERM)
    assert not signals.came
    with deferred() as stop:
        assert not stop()
