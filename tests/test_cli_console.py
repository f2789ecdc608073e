"""The command line as a whole: it starts fast, it speaks plainly, and it survives odd terminals."""

import os
import re
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from foldless.cli import console
from foldless.errors import InputError

COMMANDS = ("demo", "train", "register", "apply", "evaluate", "crossvalidate", "prepare", "doctor")
HEAVY = ("torch", "SimpleITK", "numpy", "matplotlib", "nibabel", "scipy", "safetensors")
STARTED = f"""
import sys
from foldless.cli import main
try:
    main(sys.argv[1:])
except SystemExit as left:
    code = left.code
print("LOADED", [name for name in {HEAVY} if name in sys.modules])
"""


def started(*words):
    return subprocess.run([sys.executable, "-c", STARTED, *words], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("words", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_needs_nothing_heavy(words):
    result = started(*words)
    assert "usage: foldless" in result.stdout
    assert "LOADED []" in result.stdout
    assert result.stderr == ""


def test_help_lists_the_commands(foldless):
    code, said, _ = foldless("--help")
    assert code == 0
    assert all(f"• {command}" in said for command in COMMANDS)


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


def test_doctor(foldless, tmp_path):
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
    from foldless.cli.doctor import Doctor

    def fail(self):
        raise PermissionError(13, "Permission denied", "/elsewhere/secret")

    monkeypatch.setattr(Doctor, "run", fail)
    code, _, complained = foldless("doctor")
    assert code == 1
    assert complained == "foldless: /elsewhere/secret could not be read or written: Permission denied\n"


def test_messages_are_one_line_and_verbatim(capsys):
    console.say("a [bold]file[/] :smile: of " + "many words " * 30)
    console.say_error("three\nlines [here]\n  indented")
    console.say_warning("in a\n library", UserWarning, "file.py", 3)
    said, complained = capsys.readouterr()
    assert said == "a [bold]file[/] :smile: of " + "many words " * 30 + "\n"
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
        with console.results_in(output, overwrite=False) as folder:
            (folder / "half").touch()
            raise InputError("stop")

    with pytest.raises(InputError, match="stop"):
        fail()
    assert not list(tmp_path.iterdir())
    with console.results_in(output, overwrite=False) as folder:
        (folder / "whole").touch()
        assert not output.exists()
    assert [path.name for path in output.iterdir()] == ["whole"]


def test_progress_is_silent_without_a_terminal(capsys):
    with console.progress() as bar:
        task = bar.add_task("training", total=2, news="")
        bar.update(task, completed=2)
    assert capsys.readouterr().out.strip() == ""


def test_warnings_reach_the_user_as_a_note(foldless, monkeypatch):
    from foldless.cli.doctor import Doctor

    monkeypatch.setattr(Doctor, "run", lambda self: warnings.warn("headers\ndisagree"))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code, _, complained = foldless("doctor")
    assert (code, complained) == (0, "note: headers disagree\n")


def whole_or_nothing(output):
    with console.results_in(output, overwrite=True) as folder:
        (folder / "new").touch()


def earlier_result(output):
    output.mkdir()
    (output / "run.json").write_text('{"versions": {"foldless": "1"}}')


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
        with console.results_in(tmp_path / "new" / "out", overwrite=False):
            (tmp_path / "new" / "somebody else's").touch()
            raise InputError("stop")

    with pytest.raises(InputError, match="stop"):
        fail()


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError("CUDA out of memory.")],
)
def test_too_little_memory_is_one_sentence(foldless, monkeypatch, error):
    from foldless.cli.doctor import Doctor

    def fail(self):
        raise error

    monkeypatch.setattr(Doctor, "run", fail)
    code, _, complained = foldless("doctor")
    assert code == 1
    assert re.fullmatch(r"foldless: .*--levels 2 .*--batch\n", complained)
