"""Steps per second of `stages.lib.training.loop`, run as `stages.lib.execution.executors` runs it.

Apart from the commands, so that worker processes can import it.
"""

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import reports, subjects
from stages.lib.config.params import PRECISIONS
from stages.lib.core import machine, processes
from stages.lib.execution import inputs
from stages.lib.execution.packing import GPU_MEMBERS, GPU_STACKING, cpu_members
from stages.lib.models.architectures import ARCHITECTURES
from stages.lib.training import ensemble

PATIENCE = 300  # seconds that a process waits for the others before it gives up


@dataclass(frozen=True)
class Stack:
    """What is measured: a network at full width, its stack's size, and how that is computed."""

    name: str
    members: int
    device: str
    stacking: str
    precision: str = "float32"


def usual(name: str, device: str, members: int | None = None, precision: str = "float32") -> Stack:
    """Return the stack that stages would form, were there room for the largest."""
    if device == "cuda":
        way = GPU_STACKING[type(ARCHITECTURES[name])]
        return Stack(name, members or GPU_MEMBERS, device, way, precision)
    most = cpu_members(name, subjects.SHAPES[name], subjects.CLASSES, 1.0)
    return Stack(name, members or most, device, "loop", precision)


def default_device() -> str:
    """Return ``cuda`` where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def options(doc: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Return a parser of what a measurement of networks is given."""
    names = list(subjects.SHAPES)
    parser = reports.options(doc, rounds=rounds)
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default_device())
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    return parser


def report(given: argparse.Namespace, measured: Callable[[str], Any]) -> None:
    """Measure the networks that `options` told of, one after another, and print."""
    found: dict[str, Any] = {"batch_size": subjects.BATCH}
    found |= {"rounds": given.rounds, "precision": given.precision}
    for name in given.models:
        found[name] = measured(name)
        print(f"{name}: done", file=sys.stderr)
    reports.emit(found, given.device)


def timed(function: Callable[[], object], device: str) -> float:
    """Return the seconds of a call, with all that it started on the device."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def rate_of_one(stack: Stack, seconds: float) -> float:
    """Return a stack's steps per second, all members together, in this process."""
    inputs.configure_torch(stack.device)
    bank = subjects.bank(subjects.SHAPES[stack.name]).to(stack.device)
    members = subjects.members(bank, stack.members, 1)
    config = subjects.train_config(stack.name, precision=stack.precision)
    if _barrier is not None:
        _barrier.wait(PATIENCE)
    return ensemble.steps_per_second(config, members, stacking=stack.stacking, seconds=seconds)


_barrier: Any = None  # set once in each worker process, where they wait for each other


def _set_barrier(barrier: Any) -> None:
    global _barrier  # a pool's initializer has no other way to hand something over
    _barrier = barrier


def rate(stack: Stack, seconds: float) -> float:
    """Return steps per second: of one stack on CUDA, of one on every core of a CPU together."""
    if stack.device == "cuda":
        return rate_of_one(stack, seconds)
    context, cores = processes.context("benchmarks.rates"), machine.cores()
    barrier = context.Barrier(cores)
    with ProcessPoolExecutor(
        cores, mp_context=context, initializer=_set_barrier, initargs=(barrier,)
    ) as pool:
        return sum(pool.map(rate_of_one, [stack] * cores, [seconds] * cores))
