"""What BIDS' names of transform files say: sub-01_from-T1w_to-MNI_mode-image_xfm.h5."""

from __future__ import annotations

import re
from pathlib import Path

ENDS = re.compile(r"(?:^|_)from-([A-Za-z0-9+]+)_to-([A-Za-z0-9+]+)_mode-(image|points)")


def names_in(path: Path) -> tuple[str, str] | None:
    """What the fixed and the moving image are called, None if the name does not say.

    With mode-image, images of `from` are pulled to `to`, so points go from `to` to `from`.
    """
    found = ENDS.search(path.name)
    if found is None:
        return None
    source, target, mode = found.groups()
    return (target, source) if mode == "image" else (source, target)
