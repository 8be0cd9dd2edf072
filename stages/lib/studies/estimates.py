"""What a figure would take, before anything runs: runs, examples, memory, and time on this device.

Time comes from a short measurement: of each kind of stack that the figure would train, one on every
core of a CPU, or one on the accelerator, for some seconds, on random images and labels.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from stages.lib.components.losses import LOSSES
from stages.lib.core import files, machine, paths, processes
from stages.lib.core.errors import UserError
from stages.lib.core.randomness import stream
from stages.lib.data import datasets
from stages.lib.data.registry import FACTS, IMAGENET_CLASSES, IMAGENET_COUNTS
from stages.lib.execution import inputs, packing
from stages.lib.execution.packing import ImageInfo
from stages.lib.execution.runs import Run
from stages.lib.labels import dilution
from stages.lib.studies import computing, grids
from stages.lib.studies.kinds import KINDS

SECONDS = 2.0  # of a measurement, about
MOST_IMAGES = 4000  # in a measurement
FEWER = ", fewer where some are in the run store"


@dataclass(frozen=True)
class Kind:
    """Runs that train alike.

    Attributes:
        run: one of them.
        runs: how many there are.
        steps: of all of them together.
        rate: steps per second, of all that trains at the same time together.
    """

    run: Run
    runs: int
    steps: int
    rate: float

    @property
    def seconds(self) -> float:
        """How long they take, about."""
        return self.steps / self.rate


@dataclass(frozen=True)
class Plan:
    """What a figure would take.

    Attributes:
        points: of the figure.
        runs: of all points: every seed at every learning rate; those that points share count once.
        largest: examples of the largest diluted set.
        memory: bytes for images, diluted sets and networks that are there at the same time, without
            the libraries themselves.
        kinds: of runs.
        device: what was measured.
    """

    points: int
    runs: int
    largest: int
    memory: int
    kinds: tuple[Kind, ...]
    device: str

    @property
    def examples(self) -> int:
        """What all runs see together."""
        return sum(kind.steps * kind.run.config.train.batch_size for kind in self.kinds)

    @property
    def seconds(self) -> float:
        """How long training takes, about."""
        return sum(kind.seconds for kind in self.kinds)


def known(run: Run) -> ImageInfo:
    """Return what is known of a run's images before they are fetched.

    Raises:
        UserError: only their folder tells, and it has not been read yet.
    """
    wanted = run.config.data
    if facts := FACTS.get(wanted.name):
        size = (wanted.size, wanted.size) if wanted.size else (facts.height, facts.width)
        count = facts.train_size + facts.test_size
        return ImageInfo((*size, facts.channels), facts.num_classes, count)
    if (run.data / wanted.name / datasets.DESCRIPTION).exists():
        return packing.fetched(run)
    if wanted.name == "imagenet" and wanted.size:  # the whole of it
        shape = (wanted.size, wanted.size, 3)
        return ImageInfo(shape, IMAGENET_CLASSES, sum(IMAGENET_COUNTS.values()))
    raise UserError(
        f"data.name: {wanted.name} says its classes only once it is fetched; run first: "
        "dvc repro fetch_figures"
    )


def make(key: str, scale: str) -> Plan:
    """Return what a figure would take at a scale on this machine; takes some seconds for each kind.

    Raises:
        UserError: a param is not as it must be, or the device isn't there.
    """
    from stages.lib.training.devices import resolve_device

    grid = grids.read_grid(scale, key)
    device = resolve_device(grid.points[0].train.device)
    expanded: list[list[Run]] = []
    if KINDS[grid.study.kind].from_labels is None:  # else nothing is trained
        folders = paths.datasets(scale), paths.figure_labels(scale, key)
        expanded = computing.expand(grid, *folders)
    every = list({_outcome(run): run for point in expanded for run in point}.values())
    free = machine.free_gpu_memory() if device == "cuda" else 0
    queue = packing.form(every, device, seen=known, free=free)
    kinds, groups = [], defaultdict(list)
    for stack in queue:
        groups[_cost(stack[0])].append(stack)
    for group in groups.values():
        alike, largest = [run for stack in group for run in stack], max(group, key=len)
        steps = sum(run.steps_total for run in alike)
        kinds.append(Kind(largest[0], len(alike), steps, _rate(largest, device)))
    return Plan(
        points=len(grid.points),
        runs=len(every),
        largest=max(point.examples for point in grid.points),
        memory=_memory(queue, device),
        kinds=tuple(kinds),
        device=device,
    )


def _outcome(run: Run) -> Hashable:
    """Return what runs share whose outcome is the same, so that one of them is trained."""
    config, wanted = run.config, dilution.canonical(run.config.noise)
    if wanted.alpha == 0:
        wanted = replace(wanted, images="same")  # no noisy example shows another
    train = replace(config.train, learning_rates=(run.learning_rate,), seeds=(run.seed,))
    return config.data, wanted, config.model, train


def _cost(run: Run) -> Hashable:
    """Return what decides how long a step takes."""
    train = run.config.train
    cost = run.config.model, known(run), train.batch_size, train.precision, train.stacking
    return cost, train.augmentation, train.average > 0, train.loss, train.targets, train.optimizer


def _memory(queue: Sequence[list[Run]], device: str) -> int:
    """Return about how many bytes are needed at the same time: by the largest, one a process."""
    side_by_side = machine.cores() if device == "cpu" else 1
    needed, bank = [], 0
    for stack in queue:
        seen, noisy = known(stack[0]), stack[0].config.noise.images
        needed.append(sum(packing.memory(run, run.config.examples, device, seen) for run in stack))
        # Beside the data set's images lie those that noise is drawn on.
        white = stack[0].config.data.originals if noisy == "white" else 0
        images = seen.images + (FACTS[noisy].train_size if noisy in FACTS else white)
        bank = max(bank, images * math.prod(seen.shape))
    copies = 1 if bank >= files.MAPPED_BYTES else side_by_side  # processes share what is mapped
    return sum(sorted(needed)[-side_by_side:]) + copies * bank


def _rate(stack: list[Run], device: str) -> float:
    """Return steps per second of a stack; on a CPU of one on every core, as workers train."""
    if device != "cpu":
        return measure(stack, device)
    cores = machine.cores()
    with ProcessPoolExecutor(cores, processes.context("stages.lib.training.loop")) as pool:
        waiting = [pool.submit(measure, stack, device) for _ in range(cores)]
        return sum(future.result() for future in waiting)


def measure(stack: list[Run], device: str) -> float:
    """Return steps per second of all members together, in this process.

    Args:
        stack: runs that may share one.
        device: ``cpu``, ``cuda`` or ``mps``.
    """
    import torch

    from stages.lib.training.ensemble import steps_per_second
    from stages.lib.training.replicas import Replica, TrainingData, shared

    shape, classes, _ = known(stack[0])
    pixels = np.random.default_rng(0).integers(0, 256, (MOST_IMAGES, *shape), dtype=np.uint8)
    images = torch.from_numpy(pixels).to(device)
    places = torch.arange(MOST_IMAGES, dtype=torch.int32, device=device)
    none = torch.empty(0, dtype=torch.int64, device=device)
    labels, train = places % classes, stack[0].config.train
    if train.targets == "aggregated":
        labels = torch.nn.functional.one_hot(labels.long(), classes).int()
    data = TrainingData(
        bank=images,
        labels=labels,
        images=places,
        validation=none,
        validation_labels=none,
        validation_votes=none.new_zeros((0, classes)),
        test_images=images[:1],
        test_labels=none.new_zeros(1),
        transition=torch.eye(classes, device=device) if LOSSES[train.loss].corrects else None,
    )
    members = [
        Replica(
            data=data,
            learning_rate=run.learning_rate,
            steps=2,  # the second is averaged, where any is, and so is every one beyond it
            average=run.config.train.average,
            alpha=run.alpha,
            init=stream(k, "init"),
            shuffle=stream(k, "shuffle"),
            augment=stream(k, "augmentation"),
        )
        for k, run in enumerate(stack)
    ]
    inputs.configure_torch(device)
    stacking = packing.stacking(stack[0], device)
    return steps_per_second(shared(stack[0].config), members, stacking=stacking, seconds=SECONDS)


def show(key: str, scale: str, plan: Plan) -> list[str]:
    """Return the lines in which a plan is printed."""
    hardware = machine.hardware(plan.device)
    where = hardware.get("accelerator") or f"{hardware['cores']} cores of {hardware['processor']}"
    lines = [
        f"{key} at scale {scale}, on {plan.device} ({where})",
        f"  points                 {plan.points:,}",
        f"  runs                   {plan.runs:,}" + FEWER * (plan.runs > 0),
        f"  examples to be seen    {plan.examples:,}",
        f"  largest diluted set    {plan.largest:,} examples",
        f"  memory                 about {_bytes(plan.memory)}, besides PyTorch itself",
    ]
    if not plan.kinds:
        return [*lines, "  time                   none: nothing is trained"]
    lines.append(f"  time                   about {_duration(plan.seconds)}, measured just now:")
    for kind in plan.kinds:
        model, batch_size = kind.run.config.model, kind.run.config.train.batch_size
        height, width, channels = known(kind.run).shape
        lines.append(
            f"    {model.name:11} width {model.width:<5g} {height}x{width}x{channels} "
            f"batch {batch_size:<4} {kind.runs:5} runs  {kind.steps:>12,} steps  "
            f"{kind.rate:>9,.0f} steps/s  {_duration(kind.seconds)}"
        )
    return lines


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
