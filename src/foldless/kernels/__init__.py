"""Where speed lives: the compiled form of sampling, and the plain form that stands in where there is none."""

from foldless.kernels.library import native_status
from foldless.kernels.native import sample

__all__ = ["native_status", "sample"]
