"""Where speed lives: the compiled forms of sampling, and the plain form that stands in where there is none."""

from foldless.kernels.gpu import triton_status
from foldless.kernels.library import native_status
from foldless.kernels.native import sample

__all__ = ["native_status", "sample", "triton_status"]
