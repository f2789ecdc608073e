"""The machine that computes: made once, from the word that a user gives, and passed down."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from foldless.errors import InputError

_WORDS = re.compile(r"(auto|cpu|mps|cuda(:\d{1,4})?)", re.ASCII)


@dataclass(frozen=True)
class Machine:
    """Where weights, images and maps lie, and what is fast there.

    Random numbers are no part of it: all of them come from torch's generator for the CPU, so that a seed says the same
    on every device and a checkpoint has one random state to hold.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def named(cls, word: str) -> Machine:
        """The machine that a word names: auto (the first CUDA GPU, else the CPU), cpu, cuda, cuda:N or mps.

        Raises:
            InputError: another word, or there is no such device, or it cannot compute.
        """
        if not _WORDS.fullmatch(word):
            raise InputError(f"a device is auto, cpu, cuda, cuda:N or mps; got {word!r}")
        kind, _, number = word.partition(":")
        if kind == "cuda" or (kind == "auto" and _finds_gpu()):
            return cls(_working(_gpu(int(number or 0))))
        if kind == "mps":
            return cls(_working(_apple()))
        return cls()

    @classmethod
    def of(cls, module: nn.Module) -> Machine:
        """The machine that a module's weights lie on; the CPU where it has none."""
        return cls(next((tensor.device for tensor in module.parameters()), torch.device("cpu")))

    def takes(self, tensor: Tensor) -> Tensor:
        """The tensor on this machine; itself if it lies there."""
        return tensor.to(self.device)

    @property
    def name(self) -> str:
        """What the device is called by those who made it."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return platform.processor() or platform.machine()

    @property
    def gains_by_bfloat16(self) -> bool:
        """Whether networks run faster in it: where a CPU has it natively; on GPUs float32 was never slower."""
        return self.device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


CPU = Machine()


def _finds_gpu() -> bool:
    return torch.cuda.is_available()


def _gpu(number: int) -> torch.device:
    count = torch.cuda.device_count()
    if number >= count:
        there = f"torch {torch.__version__} finds {count or 'none'}"
        advice = f"give cuda:{count - 1} at most, or cpu" if count else "give cpu, or auto, which takes a GPU if it can"
        raise InputError(f"the device cuda:{number} is a CUDA GPU that is not there, {there}; {advice}")
    return torch.device("cuda", number)


def _apple() -> torch.device:
    if not torch.backends.mps.is_available():
        raise InputError(f"the device mps is Apple's GPU, but torch {torch.__version__} finds none; give cpu or auto")
    return torch.device("mps")


def _working(device: torch.device) -> torch.device:
    """The device, once it has added two numbers: drivers and builds of torch may not fit a card."""
    try:
        torch.ones(1, device=device).add(1).item()
    except (RuntimeError, AssertionError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"torch {torch.__version__} cannot compute on {device}: {why}; give the device cpu") from error
    return device
