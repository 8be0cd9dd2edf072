"""What single choices of the CPU's path gain, each against its alternative in the same run.

- ``memory``: steps per second of conv4 where freed memory is kept (`processes.prepare`) and
  where glibc gives it back.
- ``layout``: milliseconds forward and backward through conv4, channels last and channels first.
- ``optimizer``: milliseconds of an AdaDelta step on as many weights as mlp2 and conv4 have, in
  blocks of several sizes, whole, and by ``torch.optim.Adadelta`` (foreach, and its default loop).
- ``denormals``: milliseconds of a step whose running averages have decayed to denormal numbers, as
  those of pixels that are always black do, flushed to zero and kept.

One thread each; medians and ranges over the rounds. Prints JSON. ``python -m benchmarks.choices``
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import torch

from benchmarks import plain, rates, reports, subjects
from stages.lib.components import optimizers
from stages.lib.components.optimizers import OptimizerParams, Stepper
from stages.lib.core import processes
from stages.lib.models import networks

BLOCKS = (4096, 16384, 65536, 262144)
CONV4 = "from benchmarks import rates as r; print(r.rate_of_one(r.usual('conv4', 'cpu'), 2.0))"


def weights(name: str) -> int:
    """Return a network's number of weights at full width."""
    shape = subjects.SHAPES[name]
    return networks.sizes(name, shape, subjects.CLASSES, width=1.0, batch_norm=False)[0]


def turns(calls: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Any]:
    """Return what the calls measure, taking turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(call())
    return {name: reports.summary(values) for name, values in found.items()}


def milliseconds(call: Callable[[], object], repeats: int = 10) -> float:
    """Return the mean milliseconds of a call, once it is warm."""
    call()
    return rates.timed(lambda: [call() for _ in range(repeats)], "cpu") * 1e3 / repeats


def memory(rounds: int) -> dict[str, Any]:
    """Return conv4's steps per second with freed memory kept and given back."""
    with mock.patch.dict(os.environ):
        processes.prepare()
        kept = dict(os.environ)
    given_back = {k: v for k, v in kept.items() if not k.startswith("MALLOC_")}

    def steps(environment: dict[str, str]) -> float:
        command = [sys.executable, "-c", CONV4]
        return float(subprocess.check_output(command, env=environment, text=True))

    return turns({"kept": lambda: steps(kept), "given_back": lambda: steps(given_back)}, rounds)


def layout(rounds: int) -> dict[str, Any]:
    """Return the milliseconds of conv4's convolutions in both orders of memory."""

    def one(memory_format: torch.memory_format) -> float:
        network = plain.model("conv4").to(memory_format=memory_format)
        images = torch.rand(subjects.BATCH, 1, 28, 28).to(memory_format=memory_format)
        return milliseconds(lambda: network(images).sum().backward(), 5)

    return turns(
        {
            "channels_last": lambda: one(torch.channels_last),
            "channels_first": lambda: one(torch.contiguous_format),
        },
        rounds,
    )


def optimizer(count: int, rounds: int) -> dict[str, Any]:
    """Return the milliseconds of AdaDelta's step on so many weights."""
    gradient = torch.randn(1, count) * 1e-3

    def ours(block: int) -> float:
        with mock.patch.object(optimizers, "BLOCK", block):
            stack = Stepper(torch.randn(1, count), OptimizerParams())
            return milliseconds(lambda: stack.step([gradient], torch.ones(1, 1)))

    def torchs(foreach: bool) -> float:
        parameter = torch.nn.Parameter(torch.randn(count))
        parameter.grad = gradient[0]
        one = torch.optim.Adadelta([parameter], lr=1.0, rho=0.95, eps=1e-8, foreach=foreach)
        return milliseconds(one.step)

    calls: dict[str, Callable[[], float]] = {
        f"blocks_of_{block}": lambda block=block: ours(block)  # type: ignore[misc]
        for block in BLOCKS
    }
    calls["whole"] = lambda: ours(count)
    calls["torch_foreach"] = lambda: torchs(True)
    calls["torch_default"] = lambda: torchs(False)
    return turns(calls, rounds)


def denormals(rounds: int) -> dict[str, Any]:
    """Return the milliseconds of AdaDelta's step on decayed averages."""
    count = weights("mlp2")

    def one(flush: bool) -> float:
        torch.set_flush_denormal(flush)
        stack = Stepper(torch.randn(1, count), OptimizerParams(rho=1.0))
        for average in stack.state.values():
            average.fill_(1e-40)
        taken = milliseconds(lambda: stack.step([torch.zeros(1, count)], torch.ones(1, 1)))
        torch.set_flush_denormal(False)
        return taken

    return turns({"flushed": lambda: one(True), "kept": lambda: one(False)}, rounds)


def main() -> None:
    """Measure and print."""
    rounds = reports.options(__doc__, rounds=5).parse_args().rounds
    torch.set_num_threads(1)
    report = {
        "rounds": rounds,
        "memory_steps_per_second": memory(rounds),
        "layout_milliseconds": layout(rounds),
        "optimizer_milliseconds": {
            name: optimizer(weights(name), rounds) for name in ("mlp2", "conv4")
        },
        "denormals_milliseconds": denormals(rounds),
    }
    reports.emit(report)


if __name__ == "__main__":
    main()
