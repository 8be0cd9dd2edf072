"""How fast networks are trained, against plain scripts and against the hardware's limits.

For each network, side by side in one run, after a warm-up, medians and ranges over the rounds:

- steps per second of the script that one would write (`benchmarks.plain`) with PyTorch's default
  threads, on torchvision's transforms and on a TensorDataset, and of `stages.lib.training`: on a
  CPU a process of one thread on each core, on CUDA one stack; the ratios to both scripts;
- operations of a step (counted by PyTorch) times steps per second, over the rate of a large matrix
  product; bytes that a step must move, over the measured bandwidth; and the floor that the larger
  of the two times puts under a step.

The scripts keep PyTorch's own precision. On CUDA, where there is one, or on the CPU.

Prints JSON. ``python -m benchmarks.training [--device cpu] [--members 32] [--precision tf32]``
"""

import math
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import plain, rates, subjects
from benchmarks.reports import summary
from stages.lib.models import networks
from stages.lib.training import devices

SECONDS = 3.0  # of each measurement, about
SIDE = 4096  # of the matrices whose product is timed
COPIED = 1 << 26  # floats copied to measure bandwidth


def product_rate(device: str, precision: str) -> float:
    """Return floating-point operations per second of a large matrix product."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.rand(SIDE, SIDE, device=device, dtype=dtype) for _ in range(2))
    with devices.Precision(precision):
        torch.mm(a, b)
        return 2 * SIDE**3 / rates.timed(lambda: torch.mm(a, b), device)


def bandwidth(device: str) -> float:
    """Return bytes per second, read and written, of a large copy."""
    source = torch.zeros(COPIED, device=device)
    target = torch.zeros_like(source)
    return 8 * COPIED / rates.timed(lambda: target.copy_(source), device)


def operations(name: str) -> int:
    """Return floating-point operations of one step: forward and backward, as PyTorch counts."""
    height, width, channels = subjects.SHAPES[name]
    network = plain.model(name)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(subjects.BATCH, channels, height, width)).sum().backward()
    return int(counter.get_total_flops())


def bytes_moved(name: str) -> int:
    """Return the bytes of one step if every array were read and written once for each use.

    Weights: read forward and backward, gradient written; AdaDelta reads weights, gradient and two
    averages, and writes three of them. Each layer's output: written, read by the next layer; its
    gradient likewise; read once more for the weights' gradient. Images: a byte read, a float
    written, and read twice. Caches can keep some of it from memory.
    """
    shape = subjects.SHAPES[name]
    weights, outputs = networks.sizes(name, shape, subjects.CLASSES, width=1.0, batch_norm=False)
    pixels = math.prod(shape)
    each = 4 * 5 * (outputs - pixels) + 13 * pixels
    return 4 * 10 * weights + subjects.BATCH * each


def measure(stack: rates.Stack, rounds: int) -> dict[str, Any]:
    """Return a network's measurements."""
    name, device = stack.name, stack.device
    bank = subjects.bank(subjects.SHAPES[name])
    images, labels = bank.repeat(15, 1, 1, 1), subjects.data(bank, 0).labels  # 60,000
    scripts, steps = {}, {}
    for kind in plain.SOURCES:
        scripts[kind] = plain.Script(name, images, labels, subjects.BATCH, device, kind)
        scripts[kind].train(3)
        seconds = rates.timed(lambda kind=kind: scripts[kind].train(5), device)  # type: ignore[misc]
        steps[kind] = max(3, round(SECONDS * 5 / seconds))
    keys = (*plain.SOURCES, "ours", *(f"ratio_to_{kind}" for kind in plain.SOURCES))
    found: dict[str, list[float]] = {key: [] for key in (*keys, "product", "bandwidth")}
    for _ in range(rounds):
        found["ours"].append(rates.rate(stack, SECONDS))
        for kind, script in scripts.items():
            count = steps[kind]
            seconds = rates.timed(lambda s=script, n=count: s.train(n), device)  # type: ignore[misc]
            found[kind].append(count / seconds)
            found[f"ratio_to_{kind}"].append(found["ours"][-1] / found[kind][-1])
        found["product"].append(product_rate(device, stack.precision))
        found["bandwidth"].append(bandwidth(device))
    summaries = {key: summary(values) for key, values in found.items()}
    ours, product, speed = (summaries[key]["median"] for key in ("ours", "product", "bandwidth"))
    flops, moved = operations(name), bytes_moved(name)
    floor = max(flops / product, moved / speed)
    return {
        "members_of_a_stack": stack.members,
        "stacking": stack.stacking,
        "steps_per_second": {key: summaries[key] for key in ("ours", *plain.SOURCES)},
        **{key: summaries[key] for key in keys if key.startswith("ratio")},
        "operations_per_step": flops,
        "bytes_per_step": moved,
        "product_operations_per_second": summaries["product"],
        "bandwidth_bytes_per_second": summaries["bandwidth"],
        "share_of_product_rate": ours * flops / product,
        "share_of_bandwidth": ours * moved / speed,
        "floor_seconds_per_step": floor,
        "share_of_floor": floor * ours,
    }


def main() -> None:
    """Measure and print."""
    parser = rates.options(__doc__, rounds=5)
    parser.add_argument("--members", type=int, help="of a stack; default: what stages use")
    given = parser.parse_args()

    def measured(name: str) -> Any:
        return measure(
            rates.usual(name, given.device, given.members, given.precision), given.rounds
        )

    rates.report(given, measured)


if __name__ == "__main__":
    main()
