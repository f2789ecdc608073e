"""Transform files of many programs, in a table."""

from foldless.io.formats.frames import Spaces
from foldless.io.formats.recognition import recognised
from foldless.io.formats.table import FORMATS, Format, for_name, read_transform, write_transform

__all__ = ["FORMATS", "Format", "Spaces", "for_name", "read_transform", "recognised", "write_transform"]
