"""Where speed lives: the compiled form of sampling, and the plain form that stands in where there is none."""

from foldless.kernels.native import native_status, sample

__all__ = ["native_status", "sample"]
