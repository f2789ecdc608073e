"""Where speed lives: the compiled forms of sampling, and the plain form that stands in where there is none."""

from foldless.kernels.gpu import triton_status
from foldless.kernels.jitter import Jittered, jittered, new_seed
from foldless.kernels.library import native_status
from foldless.kernels.native import sample

__all__ = ["Jittered", "jittered", "native_status", "new_seed", "sample", "triton_status"]
