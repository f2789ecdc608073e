"""The command line as a whole: it starts fast, it speaks plainly, and it survives odd terminals."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

import foldless as foldless_package
from foldless.cli import COMMANDS, console, outputs, words
from foldless.cli.apply import Apply
from foldless.cli.crossvalidate import CrossValidate
from foldless.cli.doctor import Doctor
from foldless.cli.evaluate import Evaluate
from foldless.cli.register import Register
from foldless.cli.train import Train
from foldless.cli.words import options_of
from foldless.errors import InputError, NotFiniteError
from foldless.io import Geometry, read_geometry, read_volume, read_warp, write_volume

NAMES_OF_SIGNALS = ("SIGHUP", "SIGINT", "SIGTERM")
LATTICE = Geometry((5, 4), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))

HEAVY = ("torch", "SimpleITK", "numpy", "matplotlib", "nibabel", "scipy", "safetensors")
HELPED = f"""
import json, sys
from foldless.cli import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit:
        print("LOADED", [name for name in {HEAVY} if name in sys.modules])
"""


def test_help_needs_nothing_heavy():
    """Not that of all commands, one after the other."""
    words = [["--help"], *([command, "--help"] for command in COMMANDS)]
    result = subprocess.run(
        [sys.executable, "-c", HELPED, json.dumps(words)], capture_output=True, text=True, timeout=60
    )
    assert result.stderr == ""
    *said, rest = result.stdout.split("LOADED []\n")
    assert rest == ""
    for (command, *_), text in zip(words, said, strict=True):
        assert f"usage: foldless {command}".removesuffix(" --help") in text


def test_help_lists_the_commands(foldless):
    code, said, _ = foldless("--help")
    assert code == 0
    assert all(re.search(rf"^\W+{command}\b", said, re.MULTILINE) for command in COMMANDS)


def test_exit_codes_are_where_a_user_looks(foldless):
    _, said, _ = foldless("--help")
    page = (Path(__file__).parents[1] / "docs/what-commands-leave.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d, ]+) \|", page.partition("| exit code |")[2].partition("\n\n")[0], re.MULTILINE)
    assert rows == ["0", "1", "2", "3", ", ".join(str(128 + getattr(signal, name)) for name in NAMES_OF_SIGNALS)]
    assert all(re.search(rf"\b{code} [\w+]", said) for code in (0, 1, 2, 3, 128))


@pytest.mark.parametrize(
    "program", [[str(Path(sys.executable).parent / "foldless")], [sys.executable, "-m", "foldless"]]
)
def test_as_a_program(tmp_path, program):
    words = [*program, "register", "a.nii", "b.nii", "--model", "m", "--output", "o"]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("foldless: a.nii does not exist")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="pipes of another kind")
def test_a_reader_that_leaves_early():
    command = (
        f'{sys.executable} -c "from foldless.cli import main; import sys; sys.exit(main())" train --help | head -1'
    )
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert result.stdout.startswith("usage:")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_letters_that_a_pipe_does_not_know(tmp_path, encoding):
    name = "\N{GREEK SMALL LETTER OMEGA}.npz"
    np.savez(tmp_path / name, np.zeros((2, 4, 5), np.float32))
    words = [sys.executable, "-m", "foldless", "certify", name]
    said = {**os.environ, "PYTHONIOENCODING": encoding}
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, env=said, timeout=60)
    assert (result.returncode, result.stderr) == (0, b"")
    assert name.encode(encoding, "backslashreplace") in result.stdout


ODD = os.fsdecode(b"caf\xe9.nii.gz")
"""A name of Latin 1, as old archives hold."""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
@pytest.mark.parametrize(
    "words",
    [
        ("register", ODD, "b.nii.gz", "--output", "out"),
        ("register", "a.nii.gz", "b.nii.gz", "--output", ODD),
        ("apply", "warp.h5", ODD, "--reference", "b.nii.gz", "--output", "out.nii.gz"),
        ("apply", "warp.h5", "a.nii.gz", "--reference", "b.nii.gz", "--output", ODD),
        ("certify", ODD),
        ("train", "--data", ".", "--output", "/nowhere/run"),
        ("crossvalidate", "--data", ".", "--output", "/nowhere/run"),
    ],
)
def test_names_that_are_no_text(foldless, tmp_path, monkeypatch, words):
    (tmp_path / "images").mkdir()
    for name in (ODD, "images/a.nii.gz", f"images/{ODD}"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    code, said, complained = foldless(*words)
    assert (code, said, complained.count("\n")) == (2, "", 1)
    assert r"caf\udce9.nii.gz is not in UTF-8" in complained


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_files_whose_names_are_no_text_are_neither_read_nor_written(tmp_path):
    file = tmp_path / ODD
    file.write_bytes(b"")
    image = np.zeros((4, 5), np.float32)
    for use in (read_volume, read_geometry, read_warp, lambda name: write_volume(image, LATTICE, name)):
        with pytest.raises(InputError, match="is not in UTF-8"):
            use(file)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_full_disk_under_what_is_said():
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "foldless", "--version"]
        result = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr


def test_doctor(foldless, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")  # for long paths
    code, said, complained = foldless("doctor", "--folder", tmp_path)
    assert (code, complained) == (0, "")
    for word in ("torch", "SimpleITK", "python", "cores", "memory", "bfloat16", "GPU", "sampling on the CPU"):
        assert re.search(rf"^{re.escape(word)} +│ .*\S", said, re.MULTILINE), word
    assert "works in" in said
    assert not list(tmp_path.iterdir())


def test_doctor_where_nothing_can_be_written(foldless, tmp_path):
    _, said, _ = foldless("doctor", "--folder", tmp_path / "nowhere")
    assert "fails: No such file" in said


def test_an_error_of_the_system_is_a_sentence(foldless, monkeypatch):
    def fail(self):
        raise PermissionError(13, "Permission denied", "/elsewhere/secret")

    monkeypatch.setattr(Doctor, "run", fail)
    code, _, complained = foldless("doctor")
    assert code == 1
    assert complained == "foldless: /elsewhere/secret could not be read or written: Permission denied\n"


def test_messages_are_one_line_and_verbatim(capsys):
    console.say("a [bold]file[/] :smile: of" + " many words" * 30)
    console.say_error("three\nlines [here]\n  indented")
    console.say_warning("in a\n library", UserWarning, "file.py", 3)
    said, complained = capsys.readouterr()
    assert said == "a [bold]file[/] :smile: of" + " many words" * 30 + "\n"
    assert complained == "foldless: three lines [here] indented\nnote: in a library\n"


def test_a_table_keeps_its_numbers_and_cuts_its_names(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    console.table("[Title]", [("a name that is far too long for this", "0.1234", "5")], ("name", "x", "y"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("0.1234 │ 5")
    assert "…" in lines[-1]
    assert len(lines[-1]) <= 40
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (3, "3"), (0.123456, "0.1235"), ("x", "x"), (float("nan"), "nan"), (0.0, "0")]
)
def test_numbers(value, text):
    assert console.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (600, "10 min 0 s")]
)
def test_durations(seconds, text):
    assert console.duration(float(seconds)) == text


def test_a_threads_disk_error_is_left_to_the_log(capsys):
    def raising(error):
        def run():
            raise error

        return run

    before = threading.excepthook
    threading.excepthook = console.quiet_thread
    try:
        for error, shown in ((OSError(28, "No space left"), False), (RuntimeError("a bug"), True)):
            thread = threading.Thread(target=raising(error))
            thread.start()
            thread.join()
            assert ("a bug" in capsys.readouterr().err) == shown
    finally:
        threading.excepthook = before


def test_results_appear_whole_or_not_at_all(tmp_path):
    output = tmp_path / "new" / "deep" / "out"

    def fail() -> None:
        with outputs.results_in(output, "register", overwrite=False) as folder:
            (folder / "half").touch()
            raise InputError("stop")

    with pytest.raises(InputError, match="stop"):
        fail()
    assert not list(tmp_path.iterdir())
    with outputs.results_in(output, "register", overwrite=False) as folder:
        (folder / "whole").touch()
        assert not output.exists()
    assert [path.name for path in output.iterdir()] == ["whole"]


def test_progress_is_silent_without_a_terminal(capsys):
    with console.progress() as bar:
        task = bar.add_task("training", total=2, news="")
        bar.update(task, completed=2)
    assert capsys.readouterr().out.strip() == ""


def test_warnings_reach_the_user_as_a_note(foldless, monkeypatch):
    monkeypatch.setattr(Doctor, "run", lambda self: warnings.warn("headers\ndisagree"))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code, _, complained = foldless("doctor")
    assert (code, complained) == (0, "note: headers disagree\n")


def whole_or_nothing(output):
    with outputs.results_in(output, "register", overwrite=True) as folder:
        (folder / "new").touch()


def earlier_result(output):
    output.mkdir()
    (output / "run.json").write_text('{"versions": {"foldless": "1"}, "command": "register"}')


def test_a_removal_that_fails_loses_nothing(tmp_path, monkeypatch):
    earlier_result(tmp_path / "out")
    real = shutil.rmtree

    def half_way(path, ignore_errors=False):
        if not ignore_errors:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", half_way)
    whole_or_nothing(tmp_path / "out")
    monkeypatch.setattr(shutil, "rmtree", real)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]


def test_results_that_cannot_take_their_place_are_kept(tmp_path, monkeypatch):
    earlier_result(tmp_path / "out")
    real = Path.rename

    def refuse(self, target):
        if (self / "new").exists():
            raise PermissionError(13, "Permission denied")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(InputError, match="the new results are in") as error:
        whole_or_nothing(tmp_path / "out")
    assert (Path(str(error.value).split()[-1]) / "new").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run.json"]


def test_a_failing_cleanup_does_not_hide_the_error(tmp_path):
    def fail():
        with outputs.results_in(tmp_path / "new" / "out", "register", overwrite=False):
            (tmp_path / "new" / "somebody else's").touch()
            raise InputError("stop")

    with pytest.raises(InputError, match="stop"):
        fail()


def failing(monkeypatch, command, error):
    def fail(self):
        raise error

    monkeypatch.setattr(command, "run", fail)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA out of memory."),
        RuntimeError("sitk::ERROR: Failed to allocate memory for image."),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_too_little_memory_is_one_sentence(foldless, monkeypatch, error):
    failing(monkeypatch, Doctor, error)
    code, _, complained = foldless("doctor")
    assert code == 1
    assert re.fullmatch(r"foldless: the memory is not enough; .*\n", complained)


@pytest.mark.parametrize(
    ("command", "words", "advice", "not_it"),
    [
        (Train, ("train",), "--levels 2", "crop"),
        (CrossValidate, ("crossvalidate", "--data", "d", "--output", "o"), "--pool 2", "--levels"),
        (Register, ("register", "a", "b", "--output", "o"), "crop the images", "--levels"),
        (Apply, ("apply", "w", "i", "--reference", "r", "--output", "o"), "--reference", "--levels"),
        (Evaluate, ("evaluate", "--model", "m", "--data", "d", "--output", "o"), "--steps", "--levels"),
    ],
)
def test_too_little_memory_is_told_what_helps_this_command(foldless, monkeypatch, command, words, advice, not_it):
    failing(monkeypatch, command, MemoryError())
    code, _, complained = foldless(*words)
    assert code == 1
    assert advice in complained
    assert not_it not in complained
    known = options_of(command)[0]
    assert set(re.findall(r"--[a-z-]+", complained)) <= set(known)


@pytest.mark.parametrize("error", [FloatingPointError("the objective became nan"), NotFiniteError("no exp(velocity)")])
def test_numbers_that_ran_away_are_one_sentence(foldless, monkeypatch, error):
    failing(monkeypatch, Doctor, error)
    code, _, complained = foldless("doctor")
    assert (code, complained) == (1, f"foldless: {error}; nothing was written\n")


def test_the_version(foldless):
    assert foldless("--version") == (0, f"foldless {foldless_package.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "says", "see"),
    [
        (("trian",), "did you mean train?", "foldless --help"),
        (("cv",), "did you mean crossvalidate?", "foldless --help"),
        (("help",), "did you mean --help?", "foldless --help"),
        (("xyzzy",), "the commands are demo, train,", "foldless --help"),
        (("train", "--lr", 1), "did you mean --rate?", "foldless train --help"),
        (("train", "--learning_rate=1"), "did you mean --rate?", "foldless train --help"),
        (("train", "--iterations", 1), "did you mean --steps?", "foldless train --help"),
        (("train", "--wieght", 1), "did you mean --weight?", "foldless train --help"),
        (("train", "--quux", 1), "nor one like it", "foldless train --help"),
        (("evaluate", "--weights", "x"), "did you mean --model?", "foldless evaluate --help"),
        (("demo", "--lambda", 1), "nor one like it", "foldless demo --help"),
        (("register", "--moving", "a"), "foldless register MOVING FIXED", "foldless register --help"),
    ],
)
def test_a_word_that_no_command_knows(foldless, words, says, see):
    code, _, complained = foldless(*words)
    assert code == 2
    assert says in complained
    assert complained.endswith(f"See {see}\n")
    assert complained.count("\n") == 1


def test_a_value_of_the_wrong_kind_points_to_the_right_help(foldless):
    code, _, complained = foldless("train", "--rate", "fast")
    assert code == 2
    assert "foldless train --help" in complained


def test_what_we_suggest_is_there():
    options = {option for command in COMMANDS.values() for option in options_of(command)[0]}
    assert set(words.OPTIONS.values()) <= options
    assert not set(words.OPTIONS) & options
    assert set(words.COMMANDS.values()) <= {*COMMANDS, "--help", "--version"}
