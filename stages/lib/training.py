"""Trains a stack of networks side by side, each on its diluted set, top to bottom.

Images stay one uint8 tensor on the device, a batch is a gather by index, and a diluted set is
labels and indices. A stack's members share images, architecture and batch size and differ in
numbers: labels, learning rate, order, smoothing and length. All that is random comes from the seed
sequences of each member, so that a result does not depend on what trains beside it: on one CPU
thread it repeats to the bit, alone or in a stack of dense networks.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.lib import kernel_checks, losses, models
from stages.lib.adadelta import AdaDelta
from stages.lib.augmentation import BOX, Boxes, augment
from stages.lib.averaging import RunningMean
from stages.lib.errors import UserError
from stages.lib.params import MOST_CONFUSED, STACKINGS, TOP, ModelParams

EVALUATIONS = 10  # looks at the validation images: with early stopping each after twice the steps
EVALUATION_BATCH = 1000
CHUNK = {"cpu": 64, "cuda": 1024, "mps": 64}  # steps whose batches are looked up at once
WARM_UP = 3  # steps before a CUDA graph is captured
IN_WARM_UP, IN_CAPTURE = "in warm-up", "while a step was captured"  # where an error was raised
CHECKPOINT_SHARE = 0.05  # of the time, at most, goes into checkpoints

State = dict[str, Any]  # what a member's training goes on from: tensors on the CPU, plain values


@dataclass(frozen=True)
class TrainingData:
    """Tensors on one device.

    Attributes:
        bank: ``(B, height, width, channels)`` uint8, the image bank.
        labels: ``(N,)`` given labels, uint8 or int32.
        images: ``(n,)`` or ``(N,)`` int32 indices into the bank, repeated to ``N``.
        validation: ``(v,)`` int64 indices into the bank.
        validation_labels: ``(v,)`` true classes.
        validation_votes: ``(v, m)`` how often each label was given to each validation image.
        test_images: ``(t, height, width, channels)`` uint8.
        test_labels: ``(t,)`` true classes.
    """

    bank: Tensor
    labels: Tensor
    images: Tensor
    validation: Tensor
    validation_labels: Tensor
    validation_votes: Tensor
    test_images: Tensor
    test_labels: Tensor

    @property
    def num_classes(self) -> int:
        """Number of classes, m."""
        return self.validation_votes.shape[1]


@dataclass(frozen=True)
class Recipe:
    """What the members of a stack share (section 3.4).

    Attributes:
        model: the network.
        init: how its weights start.
        zero_output: whether the last layer starts at zero.
        rho: AdaDelta's decay.
        epsilon: AdaDelta's epsilon.
        batch_size: examples of a step.
        weight_decay: share of each weight that is added to its gradient.
        augmentation: how images are changed at each step: ``none``, or a key of `AUGMENTATIONS`.
        precision: ``float32``, ``tf32`` (matrix products of 19-bit floats, CUDA) or ``bfloat16``
            (autocast: weights and their updates stay float32).
    """

    model: ModelParams
    init: str
    zero_output: bool
    rho: float
    epsilon: float
    batch_size: int
    weight_decay: float
    augmentation: str
    precision: str


@dataclass(frozen=True)
class Member:
    """What is a member's own.

    Attributes:
        data: its diluted set; ``bank`` and ``test_images`` are the same for all of a stack.
        learning_rate: AdaDelta's.
        steps: batches to train for.
        average: share of the last steps before a report whose weights are averaged.
        alpha: that of ``H_alpha``, else 0.
        init: randomness of the weights.
        shuffle: randomness of the order of examples.
        augment: randomness of the changes to their images.
        early_stopping: whether the look with the best accuracy on clean validation images is
            reported, not the last. ``average`` is then at most one half, and counts for each look.
    """

    data: TrainingData
    learning_rate: float
    steps: int
    average: float
    alpha: float
    init: np.random.SeedSequence
    shuffle: np.random.SeedSequence
    augment: np.random.SeedSequence
    early_stopping: bool = False

    @property
    def looks(self) -> set[int]:
        """Steps after which the member is looked at; the last is among them."""
        if self.early_stopping:  # as if each were the end of a training half as long as the next
            return {math.ceil(self.steps / 2**k) for k in range(EVALUATIONS)}
        return {math.ceil(self.steps * k / EVALUATIONS) for k in range(1, EVALUATIONS + 1)}

    def first_averaged(self, step: int) -> int:
        """Return the first step whose weights are averaged for the next report from a step on.

        Beyond that report's where none are.
        """
        reports = self.looks if self.early_stopping else {self.steps}
        end = min(report for report in reports if report >= step)
        return end - math.floor(self.average * end) + 1

    @property
    def averages(self) -> bool:
        """Whether any report is of averaged weights."""
        return math.floor(self.average * self.steps) > 0


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


class Order:
    """The order in which a member sees its examples: every pass shows each exactly once.

    Batches are all full: one may end a pass and begin the next.

    Args:
        count: number of examples.
        sequence: source of randomness.
        device: where the examples are; CUDA draws its own orders, the others the CPU's.
    """

    def __init__(self, count: int, sequence: np.random.SeedSequence, device: torch.device) -> None:
        self.count, self.device = count, device
        self.generator = _generator(sequence, _draws_for(device))
        # int32 holds up to 2**31 examples at four bytes each
        self.left = torch.empty(0, dtype=torch.int32, device=self.generator.device)

    def take(self, number: int) -> Tensor:
        """Return the next ``(number,)`` example numbers, int64."""
        parts, missing = [self.left], number - len(self.left)
        while missing > 0:
            parts.append(
                torch.randperm(
                    self.count,
                    generator=self.generator,
                    dtype=torch.int32,
                    device=self.left.device,
                )
            )
            missing -= self.count
        drawn = torch.cat(parts) if len(parts) > 1 else self.left
        self.left = drawn[number:]
        return drawn[:number].to(self.device, torch.int64)


def train(
    recipe: Recipe,
    members: Sequence[Member],
    *,
    stacking: str = "grouped",
    states: Sequence[State] | None = None,
    checkpoint_seconds: float = math.inf,
    on_checkpoint: Callable[[int, State], None] = lambda *_: None,
    on_evaluation: Callable[[int, int, float | None], None] = lambda *_: None,
    on_report: Callable[[int, dict[str, Any]], None] = lambda *_: None,
    on_done: Callable[[int, dict[str, Any]], None] = lambda *_: None,
) -> list[dict[str, Any]]:
    """Train a stack and return what `stages.lib.points` stores of each member.

    A member that has done its steps is evaluated and ignored from then on; the others go on in a
    smaller stack: on CUDA at once, elsewhere when half of them are done.

    Args:
        recipe: what the members share.
        members: at least one; their sets lie on the device to train on.
        stacking: how convolutions of several members are computed, see `models.Network`.
        states: of each member, after the same step, as ``on_checkpoint`` was given them: the
            training goes on from there, on a CPU to the same bits as if it had never stopped.
        checkpoint_seconds: between two checkpoints, at least.
        on_checkpoint: called with member and state for each that is not done.
        on_evaluation: called with member, steps done and the last validation accuracy: after each
            look and, where looks are far apart, after each share of 1/`EVALUATIONS` of its steps.
        on_report: called with member and what its outcome would be, were this its end: when it has
            done its steps and, with early stopping, at every look that is the best so far.
        on_done: called with member and outcome when it has done its steps.

    Returns:
        For each member: accuracies as fractions (``val_accuracy`` and ``noisy_val_accuracy`` None
        without validation images, ``test_top5_accuracy`` where there are no more than five
        classes), ``stopped_at`` with early stopping (examples seen by the weights that are
        reported), confusion counts with the true class in the rows (None for more than
        `MOST_CONFUSED` classes), the curve over examples seen, ``diverged`` when a loss was not
        finite before the report, ``wall_seconds``: its share of the time, divided at every moment
        among the members that were not done.
    """
    records = [_Record() for _ in members]
    device = members[0].data.bank.device.type
    outcomes: dict[int, dict[str, Any]] = {}
    with Precision(recipe.precision):
        stack = _Stack(recipe, members, stacking)
        if states is not None:
            stack.restore(states)
            records = [_Record(**deepcopy(state["record"])) for state in states]
        saved, cost = time.perf_counter(), 0.0
        while len(outcomes) < len(members):
            started = time.perf_counter()
            active = [k for k in stack.rows if k not in outcomes]
            ahead = (look for k in active for look in members[k].looks if look > stack.step)
            stack.advance(min(min(ahead) - stack.step, stack.looked_up or stack.chunk))
            looking = [k for k in active if stack.step in members[k].looks]
            done = [k for k in looking if stack.step == members[k].steps]
            if looking:
                _look(stack, looking, records, on_report)
                stack.average_anew(looking)
            for k in active:
                records[k].seconds += (time.perf_counter() - started) / len(active)
            for k in (k for k in active if records[k].is_news(stack.step, members[k].steps)):
                on_evaluation(k, stack.step, records[k].curve[-1]["val_accuracy"])
                records[k].told = stack.step
            for k in done:
                outcomes[k] = records[k].outcome()
                on_done(k, outcomes[k])
            left = [k for k in active if k not in outcomes]
            # Which members share a stack changes rounding on CUDA in any case, and no bit on a CPU,
            # where a smaller stack is only sometimes the faster one.
            most = len(stack.rows) - 1 if device == "cuda" else len(stack.rows) // 2
            if 0 < len(left) <= most:
                stack.keep(left)
            # Between two chunks of batches, so that none of a chunk need be kept.
            waited = time.perf_counter() - saved
            if stack.looked_up == 0 and waited > max(checkpoint_seconds, cost / CHECKPOINT_SHARE):
                synchronise(device)  # the steps that are still queued are no cost of a checkpoint
                started = time.perf_counter()
                for k in left:
                    on_checkpoint(k, {**stack.state(k), "record": asdict(records[k])})
                saved = time.perf_counter()
                cost = saved - started
    return [outcomes[k] for k in range(len(members))]


@dataclass
class _Record:
    """What is noted of a member on the way."""

    curve: list[dict[str, Any]] = field(default_factory=list)
    looked: int = 0
    told: int = 0
    seconds: float = 0.0
    finite: bool = True
    report: dict[str, Any] = field(default_factory=dict)

    def is_news(self, step: int, steps: int) -> bool:
        """Tell whether it was looked at just now, or last told of a share of its steps ago."""
        return step == self.looked or step - self.told >= steps / EVALUATIONS

    def outcome(self) -> dict[str, Any]:
        """Return its outcome."""
        reported = self.report.get("stopped_at", math.inf)
        rows = [row for row in self.curve if row["examples_seen"] <= reported]
        lost = any(row["train_loss"] is None for row in rows)
        return {
            **self.report,
            "curve": self.curve,
            "diverged": lost or not self.finite,
            "wall_seconds": self.seconds,
        }


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


def steps_per_second(
    recipe: Recipe, members: Sequence[Member], *, stacking: str, seconds: float
) -> float:
    """Return steps per second, all members together, of training alone.

    That leaves out building networks, the first steps with a CUDA graph's capture, and looks.

    Args:
        recipe: what the members share.
        members: at least one; what they should do at the end is ignored.
        stacking: how convolutions of several members are computed, see `models.Network`.
        seconds: to measure for, about.
    """
    device = members[0].data.bank.device.type
    with Precision(recipe.precision):
        stack = _Stack(recipe, members, stacking)
        stack.advance(WARM_UP)
        done, block, spent = 0, 1, 0.0
        while spent < seconds:
            synchronise(device)
            started = time.perf_counter()
            stack.advance(block)
            synchronise(device)
            spent += time.perf_counter() - started
            done += block
            left = math.ceil((seconds - spent) * done / spent)
            block = max(1, min(left, 8 * block))  # a first block says little
    return len(members) * done / spent


class _Stack:
    """Networks, optimizer, averages and orders of the members that still train.

    Args:
        recipe: what the members share.
        members: at least one.
        stacking: how convolutions of several members are computed, see `models.Network`.
        eager: whether steps are launched kernel by kernel on CUDA too, not as a captured graph.

    Attributes:
        rows: which member each row of the stack is.
        step: steps done.
    """

    def __init__(
        self, recipe: Recipe, members: Sequence[Member], stacking: str, *, eager: bool = False
    ) -> None:
        self.recipe, self.members = recipe, members
        data, count = members[0].data, len(members)
        self.bank, self.device = data.bank, data.bank.device
        self.captures = self.device.type == "cuda" and not eager
        if (
            stacking == "batched"
            and count > 1
            and not kernel_checks.usable(self.device, "convolution")
        ):
            ways = ", ".join(way for way in STACKINGS if way != "batched")
            raise UserError(f"train.stacking: got 'batched'; accepted on this device: {ways}")
        self.rows, self.step = list(range(count)), 0
        self.network = models.build(
            recipe.model.name,
            (data.bank.shape[1], data.bank.shape[2], data.bank.shape[3]),
            data.num_classes,
            width=recipe.model.width,
            batch_norm=recipe.model.batch_norm,
            init=recipe.init,
            zero_output=recipe.zero_output,
            generators=[_generator(member.init, torch.device("cpu")) for member in members],
            stacking=stacking,
            device=self.device,
        )
        self.orders = [Order(len(m.data.labels), m.shuffle, self.device) for m in members]
        rates = self._column([member.learning_rate for member in members])
        self.optimizer = AdaDelta(
            self.network.weights,
            rates,
            recipe.rho,
            recipe.epsilon,
            recipe.weight_decay,
            fused=kernel_checks.usable(self.device, "adadelta"),
        )
        alphas = [member.alpha for member in members]
        self.alphas = self._column(alphas) if any(alphas) else None
        self.averaged: RunningMean | None = None
        if any(member.averages for member in members):
            firsts = [member.first_averaged(1) for member in members]
            self.averaged = RunningMean(self.network, firsts)
        # Sums of float32 over hundreds of thousands of steps drift; Apple's GPUs have no more.
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        self.losses = torch.zeros(count, dtype=wide, device=self.device)
        self.chunk = CHUNK[self.device.type]
        batches = (self.chunk, count, recipe.batch_size)
        self.batch_images = torch.zeros(batches, dtype=torch.int64, device=self.device)
        self.batch_labels = torch.zeros(batches, dtype=torch.int64, device=self.device)
        self.boxes: list[Boxes] = []
        self.batch_boxes: Tensor | None = None
        if recipe.augmentation != "none":
            size = data.bank.shape[1], data.bank.shape[2]
            draws = [_generator(member.augment, _draws_for(self.device)) for member in members]
            self.boxes = [Boxes(recipe.augmentation, size, own, self.device) for own in draws]
            self.batch_boxes = torch.zeros((*batches, BOX), dtype=torch.int32, device=self.device)
        self.place = self.chunk  # in the chunk of batches, of which none is left
        # The same two numbers where a captured step finds them.
        self.done = torch.zeros((), dtype=torch.int64, device=self.device)
        self.cursor = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def _column(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    def advance(self, steps: int) -> None:
        """Train for some steps, without ever waiting for the device."""
        for _ in range(steps):
            if not self.looked_up:
                self._look_up()
            if self.captures:
                if self.graph is None:
                    self.graph = self._capture()
                self.graph.replay()
            else:
                boxes = None if self.batch_boxes is None else self.batch_boxes[self.place]
                self._train(self.batch_images[self.place], self.batch_labels[self.place], boxes)
            self.place, self.step = self.place + 1, self.step + 1

    @property
    def looked_up(self) -> int:
        """How many batches have been looked up that were not trained on yet."""
        return self.chunk - self.place

    def _look_up(self) -> None:
        """Look up the images and labels of the next chunk of batches, and draw their boxes."""
        if self.averaged is not None:
            self.averaged.close_blocks(self.step)
        for row, k in enumerate(self.rows):
            data = self.members[k].data
            examples = self.orders[k].take(self.chunk * self.recipe.batch_size)
            images = data.images[examples % len(data.images)]
            self.batch_images[:, row] = images.view(self.chunk, -1)
            self.batch_labels[:, row] = data.labels[examples].view(self.chunk, -1)
            if self.batch_boxes is not None:
                boxes = self.boxes[k].take(self.chunk * self.recipe.batch_size)
                self.batch_boxes[:, row] = boxes.view(self.chunk, -1, BOX)
        self.place = 0
        self.cursor.zero_()

    def _train(self, images: Tensor, labels: Tensor, boxes: Tensor | None) -> None:
        """Train on one batch of each member, ``(K, b)`` images and labels, ``(K, b, 5)`` boxes."""
        shown = self.bank[images]
        if boxes is not None:
            shown = augment(self.recipe.augmentation, shown, boxes)
        logits = forward(self.network, shown, self.recipe.precision)
        loss = losses.noisy_loss(logits, labels, self.alphas)
        self.optimizer.step(torch.autograd.grad(loss.sum(), list(self.network.parameters())))
        self.losses += loss.detach()
        self.done += 1
        # A captured step always does: it is the same at every step.
        if self.averaged is not None and (self.captures or self.step + 1 >= self.averaged.first):
            self.averaged.update(self.done)

    def _capture(self) -> "torch.cuda.CUDAGraph":
        """Record a step once: replaying it costs one launch instead of hundreds."""

        def step() -> None:
            images = self.batch_images.index_select(0, self.cursor).squeeze(0)
            labels = self.batch_labels.index_select(0, self.cursor).squeeze(0)
            boxes = None
            if self.batch_boxes is not None:
                boxes = self.batch_boxes.index_select(0, self.cursor).squeeze(0)
            self._train(images, labels, boxes)
            self.cursor += 1

        networks = [self.network, *([] if self.averaged is None else [self.averaged.mean])]
        state = [
            *(network.weights for network in networks),
            *(buffer for network in networks for buffer in network.buffers()),
            self.optimizer.squares,
            self.optimizer.updates,
            self.losses,
            self.done,
            self.cursor,
        ]
        before = [tensor.clone() for tensor in state]
        side = side_stream()
        side.wait_stream(torch.cuda.current_stream())
        # Capture finds what warm-up chose: it must not begin to compare kernels itself.
        with fastest_convolutions(), torch.cuda.stream(side), noted(IN_WARM_UP):
            for _ in range(WARM_UP):
                step()
                self.cursor.zero_()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with noted(IN_CAPTURE), torch.cuda.graph(graph):
            step()
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
        return graph

    def snapshot(self, chosen: list[int]) -> models.Network:
        """Return a copy of members as they would be reported now, set to evaluate."""
        rows = [self.rows.index(k) for k in chosen]
        network = self.network.select(rows)
        firsts = [self.members[k].first_averaged(self.step) for k in chosen]
        averaging = [i for i, first in enumerate(firsts) if self.step >= first]
        if averaging and self.averaged is not None:
            averaged = self.averaged.of([rows[i] for i in averaging], self.step)
            index = torch.tensor(averaging, device=self.device)
            network.weights[index] = averaged.weights
            for mine, theirs in zip(network.buffers(), averaged.buffers(), strict=True):
                mine[index] = theirs
        return network.eval()

    def average_anew(self, looked_at: Sequence[int]) -> None:
        """Have members that were looked at average for their next report."""
        for k in looked_at:
            member = self.members[k]
            if self.averaged is not None and member.early_stopping and self.step < member.steps:
                first = member.first_averaged(self.step + 1)
                self.averaged.begin(self.rows.index(k), first)

    def state(self, k: int) -> State:
        """Return a copy of all that a member's training goes on from; between two chunks only."""
        row, order, boxes = self.rows.index(k), self.orders[k], self.boxes[k : k + 1]
        averaged = None
        if self.averaged is not None and self.members[k].averages:
            averaged = self.averaged.state(row)
            averaged["tensors"] = [_kept(tensor) for tensor in averaged["tensors"]]
        return {
            "step": self.step,
            "tensors": [_kept(tensor[row]) for tensor in self._tensors()],
            "averaged": averaged,
            "order": [_kept(order.generator.get_state()), _kept(order.left)],
            "boxes": [_kept(own.generator.get_state()) for own in boxes],
        }

    def restore(self, states: Sequence[State]) -> None:
        """Go on from the states of all members, which were taken after the same step."""
        self.step = states[0]["step"]
        self.done.fill_(self.step)
        for row, (state, order) in enumerate(zip(states, self.orders, strict=True)):
            for mine, theirs in zip(self._tensors(), state["tensors"], strict=True):
                mine[row] = theirs
            if self.averaged is not None and state["averaged"] is not None:
                self.averaged.restore(row, state["averaged"])
            generator, left = state["order"]
            order.generator.set_state(generator)
            order.left = left.to(order.left.device)
        for state, boxes in zip(states, self.boxes, strict=False):  # none without augmentation
            boxes.generator.set_state(*state["boxes"])

    def _tensors(self) -> list[Tensor]:
        """Return what a step changes, ``(K, ...)`` each, but for running means."""
        tensors = [self.losses, self.optimizer.squares, self.optimizer.updates]
        return [*tensors, self.network.weights, *self.network.buffers()]

    def take_losses(self, chosen: list[int]) -> list[float]:
        """Return the sums of members' losses since the last call for them."""
        rows = torch.tensor([self.rows.index(k) for k in chosen], device=self.device)
        sums: list[float] = self.losses[rows].tolist()
        self.losses[rows] = 0
        return sums

    def keep(self, members: list[int]) -> None:
        """Go on with some members alone."""
        rows = [self.rows.index(k) for k in members]
        index = torch.tensor(rows, device=self.device)
        self.rows, self.graph = members, None
        self.network = self.network.select(rows)
        self.optimizer = self.optimizer.select(self.network.weights, index)
        if self.averaged is not None:
            self.averaged = self.averaged.select(rows, self.network)
        self.alphas = None if self.alphas is None else self.alphas[index]
        self.losses = self.losses[index]
        self.batch_images = self.batch_images[:, index]
        self.batch_labels = self.batch_labels[:, index]
        if self.batch_boxes is not None:
            self.batch_boxes = self.batch_boxes[:, index]


def forward(network: models.Network, images: Tensor, precision: str) -> Tensor:
    """Return float32 logits ``(K, b, m)``, computed at a precision."""
    if precision != "bfloat16":
        logits: Tensor = network(images)
        return logits
    # No cache: a captured step must cast the weights that it finds when it is replayed.
    with torch.autocast(images.device.type, torch.bfloat16, cache_enabled=False):
        logits = network(images)
    return logits.float()


def most_likely(logits: Tensor, _: Tensor) -> Tensor:
    """Return the predicted classes ``(K, n)`` from logits ``(K, n, m)``."""
    return logits.argmax(dim=2)


def ranks(logits: Tensor, true: Tensor) -> Tensor:
    """Return how many classes come before the true one, 0 where it is the most likely.

    Of equal logits the smaller class comes first. A true class whose logit is not finite is last.

    Args:
        logits: ``(K, n, m)``.
        true: ``(K, n)`` or ``(n,)`` true classes.

    Returns:
        ``(K, n)`` int64 in [0, m].
    """
    true = true.expand(logits.shape[:2]).unsqueeze(2)
    own = logits.gather(2, true)
    smaller = torch.arange(logits.shape[2], device=logits.device) < true
    before = ((logits > own) | ((logits == own) & smaller)).sum(dim=2)
    return before.where(own.squeeze(2).isfinite(), logits.shape[2])


def predict(
    network: models.Network,
    bank: Tensor,
    index: Tensor,
    precision: str,
    answer: Callable[[Tensor, Tensor], Tensor] = most_likely,
) -> Tensor:
    """Return what a network answers to images ``bank[index]``, by default their predicted classes.

    Args:
        network: of K members.
        bank: ``(B, height, width, channels)`` uint8 images.
        index: ``(K, n)`` into the bank.
        precision: of the network's arithmetic.
        answer: from the logits ``(K, b, m)`` of a part of the images and their index ``(K, b)`` to
            what is kept of them, ``(K, b, ...)``.

    Returns:
        ``(K, n, ...)``
    """
    with torch.inference_mode():
        parts = [
            answer(forward(network, bank[part], precision), part)
            for part in index.split(_evaluated_at_once(len(index)), dim=1)
            if part.shape[1]
        ]
    return torch.cat(parts, dim=1) if parts else index


def _evaluated_at_once(members: int) -> int:
    return max(EVALUATION_BATCH // 8, min(EVALUATION_BATCH, 8 * EVALUATION_BATCH // members))


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _draws_for(device: torch.device) -> torch.device:
    """Return the device that draws random numbers for one: CUDA its own, the CPU the others'."""
    return device if device.type == "cuda" else torch.device("cpu")


def _generator(sequence: np.random.SeedSequence, device: torch.device) -> torch.Generator:
    seed = int(sequence.generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device).manual_seed(seed)


def _look(
    stack: _Stack,
    looking: list[int],
    records: list[_Record],
    on_report: Callable[[int, dict[str, Any]], None],
) -> None:
    """Note how members do, and report on those that are due."""
    index = torch.stack([stack.members[k].data.validation for k in looking])
    network = stack.snapshot(looking)
    predicted = predict(network, stack.bank, index, stack.recipe.precision)
    finite = network.weights.isfinite().all(dim=1).tolist()
    sums = stack.take_losses(looking)
    due = []
    for i, k in enumerate(looking):
        mean_loss = sums[i] / (stack.step - records[k].looked)
        records[k].looked = stack.step
        true = stack.members[k].data.validation_labels
        records[k].curve.append(
            {
                "examples_seen": stack.step * stack.recipe.batch_size,
                "val_accuracy": _share(predicted[i], true),
                "train_loss": mean_loss if math.isfinite(mean_loss) else None,
            }
        )
        if _is_due(stack.members[k], stack.step, records[k].curve, finite[i]):
            records[k].finite = finite[i]
            due.append(i)
    if due:
        reports = _report(
            stack, [looking[i] for i in due], network.select(due).eval(), predicted[due]
        )
        for i, report in zip(due, reports, strict=True):
            records[looking[i]].report = report
            on_report(looking[i], records[looking[i]].outcome())


def _is_due(member: Member, step: int, curve: list[dict[str, Any]], finite: bool) -> bool:
    """Tell whether to report on a member as it is: at its end, or where it is the best so far."""
    if not member.early_stopping:
        return step == member.steps
    *before, now = (look["val_accuracy"] for look in curve)
    return not before or (finite and now > max(before))


def _report(
    stack: _Stack, due: list[int], network: models.Network, validation: Tensor
) -> list[dict[str, Any]]:
    """Return accuracies and confusion of members, from what they predict of validation images."""
    data = stack.members[0].data
    every = torch.arange(len(data.test_images), device=stack.device).expand(len(due), -1)

    def classes_and_ranks(logits: Tensor, part: Tensor) -> Tensor:
        true = data.test_labels[part]
        return torch.stack([most_likely(logits, part), ranks(logits, true)], dim=2)

    precision = stack.recipe.precision
    tested = predict(network, data.test_images, every, precision, classes_and_ranks)
    shared = {"parameters": network.weights.shape[1]}
    stopped = {"stopped_at": stack.step * stack.recipe.batch_size}
    return [
        _accuracies(stack.members[k].data, seen, *test)
        | (shared | stopped if stack.members[k].early_stopping else shared)
        for k, seen, test in zip(due, validation, tested.movedim(2, 1), strict=True)
    ]


def _accuracies(
    data: TrainingData, validation: Tensor, test: Tensor, test_ranks: Tensor
) -> dict[str, Any]:
    """Return accuracies and confusion of predicted classes and ranks, ``(v,)`` and ``(t,)``."""
    m = data.num_classes
    votes = data.validation_votes
    noisy: float | None = None
    if len(validation):
        noisy = votes.gather(1, validation[:, None]).sum().item() / votes.sum().item()
    return {
        "val_accuracy": _share(validation, data.validation_labels),
        "noisy_val_accuracy": noisy,
        "test_accuracy": _share(test, data.test_labels),
        "test_top5_accuracy": (test_ranks < TOP).sum().item() / len(test) if m > TOP else None,
        "val_confusion": _confusion(data.validation_labels, validation, m),
        "test_confusion": _confusion(data.test_labels, test, m),
    }


def _share(predicted: Tensor, true: Tensor) -> float | None:
    """Return the fraction of right predictions; None where there are none to be right."""
    return (predicted == true).sum().item() / len(true) if len(true) else None


def _confusion(true: Tensor, predicted: Tensor, m: int) -> list[list[int]] | None:
    """Return ``(m, m)`` counts, true class in the rows, predicted class in the columns.

    None where they would be more than are worth keeping.
    """
    if m > MOST_CONFUSED:
        return None
    counts = torch.bincount(true.long() * m + predicted.long(), minlength=m * m)
    rows: list[list[int]] = counts.reshape(m, m).tolist()
    return rows
