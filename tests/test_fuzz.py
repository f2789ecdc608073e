"""Damaged files by the dozen; `make fuzz` takes thousands."""

import pytest

from tests.fuzz.hunt import hunted, in_turn
from tests.fuzz.valid import FORMATS
from tests.fuzz.worker import answer

FOUND = {
    "nifti": (3, 47, 514, 1176, 5068, 5121, 5152, 7073),
    "mha": (918,),
    "h5": (5144,),
    "npz": (61, 69, 1425),
    "safetensors": (162,),
    "json": (5001,),
    "texts": (1222, 1250),
    "fields": (35, 71, 731, 991, 1219),
    "mgz": (78, 740, 1029),
    "arrays": (1974,),
    "points": (4, 6, 18, 25, 32, 72, 845, 1522),
}
"""Seeds of files that once met a traceback or came out wrong."""


@pytest.mark.parametrize(("kind", "seed"), [(kind, seed) for kind, seeds in FOUND.items() for seed in seeds])
def test_what_once_went_wrong_is_read_right_or_refused(kind, seed):
    assert answer(kind, seed)["wrong"] == ""


@pytest.mark.parametrize("kind", FORMATS)
def test_undamaged_files_are_read(kind, tmp_path):
    from tests.fuzz.judge import judged
    from tests.fuzz.valid import valid

    for name, content in valid(kind).items():
        (tmp_path / name).write_bytes(content)
        assert judged(kind, tmp_path / name) == "read"


def test_damaged_files_are_read_right_or_refused():
    found = list(hunted(in_turn(FORMATS, 0, 40, None)))
    assert [one for one in found if one.wrong] == []
    assert {one.outcome for one in found} == {"read", "refused"}
