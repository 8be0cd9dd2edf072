"""How fast stacks of every size are, for each way to compute their convolutions.

Steps per second, all members together, of each network at 1, 8, 32 and 128 members, grouped,
unfolded and one by one (on CUDA each on a stream of its own); on a CPU one process on each core, at
fewer members. Medians and ranges over the rounds, in which all ways take turns. A stack that does
not fit is reported as ``out of memory``.

Prints JSON. ``python -m benchmarks.stacking [--device cpu] [--members 1 8 32 128]``
"""

from typing import Any

import torch

from benchmarks import rates
from benchmarks.reports import summary
from stages.lib.kernels import checks

MEMBERS = {"cpu": (1, 2, 4, 8), "cuda": (1, 8, 32, 128)}
SECONDS = 1.5
WAYS = ("loop", "batched", "grouped", "unfold")  # the most promising first


def ways(name: str, members: int, device: str) -> list[str]:
    """Return the ways that differ: dense layers and stacks of one have a single one."""
    if members == 1 or name in ("perceptron", "mlp2"):
        return ["grouped"]
    usable = checks.usable(torch.device(device), "convolution")
    return [way for way in WAYS if way != "batched" or usable]


def measure(name: str, sizes: list[int], rounds: int, device: str, precision: str) -> Any:
    """Return steps per second by size and way."""
    todo = [
        rates.Stack(name, size, device, way, precision)
        for size in sizes
        for way in ways(name, size, device)
    ]
    found: dict[rates.Stack, list[float]] = {stack: [] for stack in todo}
    for _ in range(rounds):
        for stack in todo:
            try:
                found[stack].append(rates.rate(stack, SECONDS))
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
    return [
        {
            "members": stack.members,
            "stacking": stack.stacking,
            "steps_per_second": summary(values) if values else "out of memory",
        }
        for stack, values in found.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = rates.options(__doc__, rounds=3)
    parser.add_argument("--members", type=int, nargs="+")
    given = parser.parse_args()
    sizes = given.members or list(MEMBERS[given.device])

    def measured(name: str) -> Any:
        return measure(name, sizes, given.rounds, given.device, given.precision)

    rates.report(given, measured)


if __name__ == "__main__":
    main()
