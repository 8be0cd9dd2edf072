"""Devices: which there are, how they round, how they draw, waiting for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch

from stages.lib.core.errors import UserError


def resolve_device(name: str) -> str:
    """Return ``cpu``, ``cuda`` or ``mps`` for a parameter; ``auto`` takes the fastest there is.

    Raises:
        UserError: the named device is not there.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return next(device for device, there in available.items() if there)
    if not available.get(name, False):
        there = ", ".join(device for device, yes in available.items() if yes)
        raise UserError(f"train.device: got {name!r}; accepted on this machine: auto, {there}")
    return name


class Precision:
    """Sets what CUDA's matrix products and convolutions round float32 to, and restores it.

    By PyTorch's newer flags alone: whoever sets one kind and reads the other gets an error.
    """

    def __init__(self, precision: str) -> None:
        self.rounding = "tf32" if precision == "tf32" else "ieee"

    def __enter__(self) -> None:
        self.before = [flags.fp32_precision for flags in _rounding_flags()]
        for flags in _rounding_flags():
            flags.fp32_precision = self.rounding

    def __exit__(self, *_: object) -> None:
        for flags, before in zip(_rounding_flags(), self.before, strict=True):
            flags.fp32_precision = before


def _rounding_flags() -> list[Any]:
    # The recurrent networks' goes along: the older flag is of them and of convolutions together.
    backends: Any = torch.backends
    return [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]


@cache
def side_stream() -> "torch.cuda.Stream":
    """Return the stream that warms up: cuBLAS keeps a workspace for every stream it has seen."""
    return torch.cuda.Stream()


@contextmanager
def fastest_convolutions() -> Iterator[None]:
    """Have cuDNN time its kernels for each shape that is new to it, and take the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def noted(place: str) -> Iterator[None]:
    """Note on an error where it was raised, which a report of it tells."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        error.add_note(place)
        raise


def synchronise(device: str) -> None:
    """Wait until a device has done all that it was told to."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def drawing_device(device: torch.device) -> torch.device:
    """Return the device that draws random numbers for one: CUDA its own, the CPU the others'."""
    return device if device.type == "cuda" else torch.device("cpu")


def make_generator(sequence: np.random.SeedSequence, device: torch.device) -> torch.Generator:
    """Return a generator on a device that a seed sequence decides."""
    seed = int(sequence.generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device).manual_seed(seed)
