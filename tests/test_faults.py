"""Faults on purpose: commands that are killed, that find no room and no memory, and that meet each other.

FOLDLESS_KILLS=100 kills more often.
"""

import gzip
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from forks import Forks
from safetensors.torch import load_file
from samples import run_folder, save_cases

from foldless.io.files import HALF

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no forks")

KILLS = int(os.environ.get("FOLDLESS_KILLS", "8"))
TINY = (
    "--levels", 2, "--widths", 4, 8, "--widths-up", 4, 4, "--batch", 2, "--validate-every", 4, "--save-every", 3,
    "--precision", "float32",
)  # fmt: skip
COMMANDS = {
    "register": ("register", "data/images/case_1.nii.gz", "data/images/case_2.nii.gz", "--steps", 4, "--aligned"),
    "evaluate": ("evaluate", "--model", "run", "--data", "data", "--pairs", "pairs.csv"),
    "train": ("train", "--data", "data", *TINY, "--steps", 10),
    "crossvalidate": ("crossvalidate", "--data", "data", "--groups", "groups.csv", *("--steps", 4), "--pairs", 2),
}
WHOLE = ("register", "evaluate")
"""Commands whose results appear all at once."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("faults")
    save_cases(home / "data", 6, (12, 12, 12))
    run_folder(home / "run", 3)
    names = "".join(f"case_{k},{'ab'[k % 2]}\n" for k in range(1, 7))
    (home / "pairs.csv").write_text("moving,fixed\ncase_1,case_2\ncase_3,case_1\n")
    (home / "groups.csv").write_text("case,group\n" + names)
    return home


@pytest.fixture(scope="module")
def forks(home):
    before = Path.cwd()
    os.chdir(home)
    forks = Forks(home / "forks")
    yield forks
    forks.close()
    os.chdir(before)


@pytest.fixture(scope="module")
def undisturbed(forks, home):
    """Command -> what it writes, and how long it takes."""
    known = {}

    def result(command):
        if command not in known:
            started = time.perf_counter()
            output = home / f"{command}-undisturbed"
            code, _, complained = forks.run(*COMMANDS[command], "--output", output)
            assert code == 0, complained
            known[command] = content(output), time.perf_counter() - started
        return known[command]

    return result


def content(output):
    """Numbers by file: what repeats of a result. Every file is read, so none is half-written."""
    found = {}
    for path in sorted(output.rglob("*")):
        if path.is_dir() or HALF.fullmatch(path.name) or "tfevents" in path.name:
            continue
        name = str(path.relative_to(output))
        if path.suffix == ".gz":
            found[name] = gzip.decompress(path.read_bytes())
        elif path.suffix == ".safetensors":
            found[name] = {key: value.numpy().tobytes() for key, value in load_file(path).items()}
        elif path.suffix == ".json":
            read = json.loads(path.read_text())
            found[name] = None if path.name == "run.json" else timeless(read)
        elif path.suffix == ".pt":
            found[name] = torch.load(path, weights_only=True)["step"]
        else:
            found[name] = path.read_text() if path.name == "log.csv" else None
    return found


def timeless(read):
    if isinstance(read, dict):
        return {name: timeless(value) for name, value in read.items() if "seconds" not in name}
    return [timeless(value) for value in read] if isinstance(read, list) else read


def aside(output):
    return sorted(output.parent.glob(f".{output.name}.old-*"))


def going_on(command, output):
    """What a person types after a kill."""
    if command == "train" and ((output / "resume.pt").exists() or aside(output)):
        return ("train", "--resume", output)
    again = ("--overwrite",) if command != "crossvalidate" and output.exists() else ()
    return (*COMMANDS[command], "--output", output, *again)


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_random_moments(forks, home, undisturbed, command):
    """Nothing is lost or half-written, and going on ends with what an undisturbed command writes."""
    expected, seconds = undisturbed(command)
    draw, met, output = random.Random(command), Counter(), home / f"{command}-killed"
    kills = -(-KILLS // len(COMMANDS))
    had_one = False
    while True:
        started, job = time.perf_counter(), forks.start(*going_on(command, output))
        if met["kills"] < kills:
            time.sleep(draw.uniform(0, seconds))
            job.send(draw.choice((signal.SIGKILL, signal.SIGTERM)))
        code = job.wait()
        assert "Traceback" not in job.complained, job.complained
        if code == 0:
            assert content(output) == expected
            assert not list(home.glob(f".{output.name}*"))
            had_one = True
            met["ended"] += 1
            seconds = min(seconds, time.perf_counter() - started)
            if met["kills"] >= kills:
                break
            continue
        assert code in (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM), job.complained
        met["kills"] += 1
        met[str(code)] += 1
        places = [place for place in (output, *aside(output)) if place.exists()]
        found = [content(place) for place in places]
        met["set aside"] += bool(aside(output))
        if command in WHOLE:
            assert not had_one or expected in found
        if code == 128 + signal.SIGTERM:
            assert job.complained.splitlines()[-1].startswith("foldless: stopped; ")
            met["left by SIGTERM"] += bool(list(home.glob(f".{output.name}.*-*")))  # the next command sees to it
    sys.stdout.write(f"{command}: {dict(met)}, undisturbed {seconds:.1f} s\n")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("room", [1000, 8000])
def test_a_full_disk(forks, home, undisturbed, command, room):
    """No file may grow beyond so many bytes."""
    output = home / f"{command}-full-{room}"
    code, _, complained = forks.run(*COMMANDS[command], "--output", output, file=room)
    assert code in (1, 2)
    assert "Traceback" not in complained
    assert complained.splitlines()[-1].startswith("foldless: ")
    assert "too large" in complained
    if command in WHOLE:
        assert not list(home.glob(f"*{output.name}*"))
    code, _, complained = forks.run(*going_on(command, output))
    assert code == 0, complained
    assert content(output) == undisturbed(command)[0]


def test_a_disk_that_becomes_full(forks, home, undisturbed):
    """The last checkpoint outlives it."""
    output = home / "train-filled"
    job = forks.start(*COMMANDS["train"], "--output", output)
    while not (output / "resume.pt").exists():
        time.sleep(0.01)
    job.send(signal.SIGTERM)
    job.wait()
    before = content(output)
    code, _, complained = forks.run("train", "--resume", output, file=4000)
    if before["resume.pt"] < 10:
        assert code == 1
        assert "could not be written" in complained
        assert "the last good checkpoint is intact" in complained
        assert content(output)["resume.pt"] == before["resume.pt"]
    assert forks.run("train", "--resume", output)[0] == 0
    assert content(output) == undisturbed("train")[0]


HUNGRY = {
    "register": ("register", "large.mha", "large.mha", "--aligned"),
    "train": ("train", "--data", "shapes", "--size", 64, "--batch", 4000, "--steps", 2),
}


@pytest.mark.parametrize("command", HUNGRY)
def test_no_memory(forks, home, command):
    import numpy as np
    from samples import save_image

    save_image(np.random.default_rng(0).random((320, 320, 320), np.float32), home / "large.mha")
    output = home / f"{command}-hungry"
    code, _, complained = forks.run(*HUNGRY[command], "--output", output, memory=500)
    assert (code, complained.count("\n")) == (1, 1), complained
    assert complained.startswith("foldless: the memory is not enough; ")
    if command in WHOLE:
        assert not list(home.glob(f"*{output.name}*"))


def test_two_at_once(forks, foldless, home, undisturbed):
    output = home / "train-twice"
    job = forks.start(*COMMANDS["train"], "--output", output)
    while not (output / "run.json").exists():
        time.sleep(0.01)
    job.send(signal.SIGSTOP)
    for words in (("train", "--resume", output), (*COMMANDS["train"], "--output", output, "--overwrite")):
        code, _, complained = foldless(*words)
        assert (code, complained.count("\n")) == (2, 1)
        assert f"is being written by process {job.pid}" in complained
    job.send(signal.SIGCONT)
    assert job.wait() == 0
    assert content(output) == undisturbed("train")[0]
