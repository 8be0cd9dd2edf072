"""Which runs train side by side: stacks of runs that share network, images and batch size.

On a CPU a stack saves the overhead of small operations, which only dense networks gain from:
docs/PERFORMANCE.md has the measurements. On a GPU one small network fills a fraction of the card,
and a stack is as large as its memory allows.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from stages.lib.components.losses import LOSSES
from stages.lib.core import files, machine
from stages.lib.data import datasets
from stages.lib.execution.runs import Run
from stages.lib.models.architectures import (
    ARCHITECTURES,
    ConvNet,
    Perceptron,
    ResNet,
    TorchvisionResNet,
)

CPU_MEMBERS = 4  # of dense networks
CPU_WEIGHTS = 1 << 18  # in a stack, which does not help what outgrows a core's cache
GPU_MEMBERS = 128  # at most; not measured yet
EXAMPLE_BYTES = 40  # of a diluted set in training: label, index, order and its drawing; an estimate
GPU_MEMORY = 0.8  # the share of what is free that a stack may fill

#: How ``train.stacking: auto`` computes convolutions on a GPU: by cuDNN's kernels for one network,
#: which it has tuned most, on streams. Not measured yet; `benchmarks.gpu` compares.
GPU_STACKING = {
    Perceptron: "grouped",  # it has none
    ConvNet: "loop",
    ResNet: "loop",
    TorchvisionResNet: "loop",  # however it is asked for
}

#: Of an example.
RELATIVE_COST = {Perceptron: 1.0, ConvNet: 30.0, ResNet: 100.0, TorchvisionResNet: 5000.0}


class ImageInfo(NamedTuple):
    """What is known of a run's images.

    Attributes:
        shape: (height, width, channels) of each.
        classes: how many there are.
        images: how many there are, for training and for testing.
    """

    shape: tuple[int, int, int]
    classes: int
    images: int


def fetched(run: Run) -> ImageInfo:
    """Return what is known of a run's images once they are fetched."""
    facts = files.read_json(run.data / run.config.data.name / datasets.DESCRIPTION)
    shape = facts["height"], facts["width"], facts["channels"]
    return ImageInfo(shape, facts["num_classes"], sum(facts["size"].values()))


def form(
    runs: Sequence[Run],
    device: str,
    started: Mapping[Run, int] | None = None,
    seen: Callable[[Run], ImageInfo] = fetched,
    free: int = 0,
) -> list[list[Run]]:
    """Return stacks of runs, the costliest first, so that no worker is left with a long one.

    Runs of similar length share a stack.

    Args:
        runs: to be trained; of any kinds.
        device: ``cpu``, ``cuda`` or ``mps``.
        started: the steps that runs have done already, if any have: the members of a stack are
            always at the same step.
        seen: what is known of a run's images.
        free: bytes of a CUDA device's memory that may be used.
    """
    done = started or {}
    groups: dict[Hashable, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: -run.steps):
        groups[run.stack_key, done.get(run, 0)].append(run)
    stacks = []
    for group in groups.values():
        size = _members(group, device, seen(group[0]), free)
        # In equal parts: a last stack of one would take as long as a full one.
        size = math.ceil(len(group) / math.ceil(len(group) / size))
        stacks += [group[start : start + size] for start in range(0, len(group), size)]
    return sorted(stacks, key=lambda stack: -sum(map(_cost, stack)))


def host_memory(queue: Sequence[Sequence[Run]]) -> int:
    """Return about how many bytes the diluted sets of stacks need that train at the same time."""
    sizes = sorted(EXAMPLE_BYTES * sum(run.config.examples for run in stack) for stack in queue)
    return sum(sizes[-machine.cores() :])


def stacking(run: Run, device: str) -> str:
    """Return how a run's convolutions are computed in a stack, see `models.Network`."""
    wanted = run.config.train.stacking
    if wanted != "auto":
        return wanted
    return GPU_STACKING[type(ARCHITECTURES[run.config.model.name])] if device == "cuda" else "loop"


def cpu_members(name: str, shape: tuple[int, int, int], num_classes: int, width: float) -> int:
    """Return how many networks of a kind may share a stack on a CPU."""
    architecture = ARCHITECTURES[name]
    if not isinstance(architecture, Perceptron):
        return 1
    units = architecture.units(math.prod(shape), num_classes, width)
    weights = sum((before + 1) * after for before, after in pairwise(units))
    return max(1, min(CPU_MEMBERS, CPU_WEIGHTS // weights))


def memory(run: Run, examples: int, device: str, seen: ImageInfo) -> int:
    """Return about how many bytes a member of a stack needs: its network and its diluted set.

    Args:
        run: the member.
        examples: of its diluted set.
        device: ``cpu``, ``cuda`` or ``mps``.
        seen: what is known of its images.
    """
    from stages.lib.models.networks import (
        sizes,  # torch takes seconds to import, and a CPU needs none here
    )
    from stages.lib.training.batches import CHUNK

    model, batch_size = run.config.model, run.config.train.batch_size
    weights, outputs = sizes(
        model.name, seen.shape, seen.classes, width=model.width, batch_norm=model.batch_norm
    )
    # Floats: weights, gradients twice, AdaDelta's two averages and update, mean weights, a
    # snapshot, what a captured step starts from again; each layer's output, its gradient and a copy
    # in another order, or its patches. Bytes: labels, indices, orders and their drawing; two int64
    # for each example that is looked up ahead.
    copies = 16 if stacking(run, device) == "unfold" else 4
    floats = 12 * weights + copies * batch_size * outputs
    ahead = 16 * CHUNK[device] * batch_size
    if run.config.train.augmentation != "none":
        # Images as floats, where their pixels are looked for, what is found; five int32 ahead.
        floats += 6 * batch_size * math.prod(seen.shape)
        ahead += 20 * CHUNK[device] * batch_size
    if LOSSES[run.config.train.loss].corrects:  # each label's share by true class, and gradients
        floats += 4 * batch_size * seen.classes**2
    votes = 8 * run.config.data.validation * seen.classes  # of noisy labels for validation images
    if run.config.train.targets == "aggregated":  # int32 counts, and classes where they are many
        ahead += 4 * CHUNK[device] * batch_size * seen.classes
    return 4 * floats + EXAMPLE_BYTES * examples + ahead + votes


def _members(group: list[Run], device: str, seen: ImageInfo, free: int) -> int:
    """Return how many of a group's runs, the longest first, may share a stack."""
    run = group[0]
    if device == "cpu":
        most = cpu_members(run.config.model.name, seen.shape, seen.classes, run.config.model.width)
        return max(1, min(most, len(group) // machine.cores()))
    if device != "cuda":
        return 1
    needed = memory(run, max(each.config.examples for each in group), device, seen)
    images = seen.images * math.prod(seen.shape)  # which lie there as well
    return max(1, min(GPU_MEMBERS, int((free - images) * GPU_MEMORY / needed)))


def _cost(run: Run) -> float:
    """Return a rough cost, which only serves to start the longest stacks first."""
    kind = type(ARCHITECTURES[run.config.model.name])
    relative = RELATIVE_COST[kind] * run.config.model.width
    return run.steps_total * run.config.train.batch_size * relative
