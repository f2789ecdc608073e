"""Every command line that foldless shows can be pasted as it is."""

import html
import re
import shlex

import numpy as np
import pytest
from samples import blob, run_folder, save_cases, save_image
from test_cli_train import SHAPES

ODD = "it's [a] $HOME; `folder` & more"
"""A name of which a shell would make much else."""


def shown(text):
    """The words of every line that begins with foldless, or goes on with it after a colon."""
    return [shlex.split(line) for line in re.findall(r"(?:^ *|: )(foldless [a-z]+ .*)$", text, re.MULTILINE)]


def command_in(report):
    (line,) = re.findall(r"<pre>(foldless .*?)</pre>", report.read_text(encoding="utf-8"))
    return shlex.split(html.unescape(line))


@pytest.fixture
def home(tmp_path):
    (home := tmp_path / ODD).mkdir()
    return home


def test_what_a_training_tells_to_do_next(foldless, home):
    code, said, _ = foldless(*SHAPES, "--output", home / "run")
    assert code == 0
    register, evaluate = shown(said)
    assert register == ["foldless", "register", "MOVING", "FIXED", "--model", str(home / "run"), "--output", "DIR"]
    assert evaluate[:4] == ["foldless", "evaluate", "--model", str(home / "run")]


def test_how_a_stopped_training_goes_on(foldless, home, monkeypatch):
    from foldless.cli.watch import Watch

    def interrupt(self, step, terms):
        if step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Watch, "on_step", interrupt)
    code, said, complained = foldless(*SHAPES, "--output", home / "run")
    assert code == 130
    monkeypatch.undo()
    (resume,) = shown(said + complained)
    assert foldless(*resume[1:])[0] == 0


def test_the_command_of_a_report(foldless, home):
    for seed, name in ((1, "a"), (2, "b")):
        save_image((blob((16, 16), seed) * 50.0).astype(np.float32), home / f"{name}.nii.gz")
    model = run_folder(home / "run", 2)
    words = ["register", str(home / "a.nii.gz"), str(home / "b.nii.gz"), "--model", str(model), "--output"]
    assert foldless(*words, home / "out")[0] == 0
    assert command_in(home / "out/report.html") == ["foldless", *words, str(home / "out")]
    words = ["evaluate", "--model", str(model), "--data", str(save_cases(home / "data", 3, (16, 16))), "--output"]
    assert foldless(*words, home / "scores")[0] == 0
    assert command_in(home / "scores/report.html") == ["foldless", *words, str(home / "scores")]


@pytest.mark.parametrize("cohort", ["mindboggle101", "oai-knees"])
def test_what_a_prepared_cohort_is_for(foldless, home, monkeypatch, cohort):
    maker = {"mindboggle101": "mindboggle.prepare_mindboggle", "oai-knees": "oai.prepare_oai_knees"}[cohort]
    monkeypatch.setattr(f"foldless.data.{maker}", lambda folder, output: ["one"])
    code, said, _ = foldless("prepare", cohort, home / "raw", "--output", home / "made")
    assert code == 0
    lines = shown(said)
    assert lines
    assert all(line[line.index("--data") + 1] == str(home / "made") for line in lines)
