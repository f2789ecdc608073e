"""From a template and values to a page that holds everything itself."""

from __future__ import annotations

from importlib.resources import files
from typing import Any


def rendered(template: str, **what: Any) -> str:
    """The page that a template of this package makes; style and viewer lie beside it."""
    import jinja2
    from markupsafe import Markup

    here = files(__package__)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = here.joinpath(template).read_text(encoding="utf-8")
    inline = {name: Markup(here.joinpath(name).read_text(encoding="utf-8")) for name in ("style.css", "viewer.js")}
    return environment.from_string(text).render(style=inline["style.css"], viewer=inline["viewer.js"], **what)
