"""The networks of a stack with all that a step changes; on CUDA a step is one graph."""

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stages.lib.components import losses, schedules
from stages.lib.components.augmentation import augment
from stages.lib.components.optimizers import Stepper
from stages.lib.config.params import STACKINGS
from stages.lib.core.errors import UserError
from stages.lib.kernels import checks
from stages.lib.models import networks
from stages.lib.training.batch_norm import recompute
from stages.lib.training.batches import Batches
from stages.lib.training.devices import (
    Precision,
    fastest_convolutions,
    make_generator,
    noted,
    side_stream,
    synchronise,
)
from stages.lib.training.evaluation import forward
from stages.lib.training.replicas import Replica, TrainConfig
from stages.lib.training.running_mean import RunningMean

WARM_UP = 3  # steps before a CUDA graph is captured

IN_WARM_UP, IN_CAPTURE = "in warm-up", "while a step was captured"  # where an error was raised

State = dict[str, Any]  # what a member's training goes on from: tensors on the CPU, plain values


def steps_per_second(
    config: TrainConfig, members: Sequence[Replica], *, stacking: str, seconds: float
) -> float:
    """Return steps per second, all members together, of training alone.

    That leaves out building networks, the first steps with a CUDA graph's capture, and evaluations.

    Args:
        config: what the members share.
        members: at least one; what they should do at the end is ignored.
        stacking: how convolutions of several members are computed, see `models.Network`.
        seconds: to measure for, about.
    """
    device = members[0].data.bank.device.type
    with Precision(config.precision):
        stack = Ensemble(config, members, stacking)
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


class Ensemble:
    """Networks, optimizer, averages and orders of the members that still train.

    Args:
        config: what the members share.
        members: at least one.
        stacking: how convolutions of several members are computed, see `models.Network`.
        eager: whether steps are launched kernel by kernel on CUDA too, not as a captured graph.

    Attributes:
        rows: which member each row of the stack is.
        step: steps done.
    """

    def __init__(
        self, config: TrainConfig, members: Sequence[Replica], stacking: str, *, eager: bool = False
    ) -> None:
        self.config, self.members = config, members
        data, count = members[0].data, len(members)
        self.bank, self.device = data.bank, data.bank.device
        self.captures = self.device.type == "cuda" and not eager
        if stacking == "batched" and count > 1 and not checks.usable(self.device, "convolution"):
            ways = ", ".join(way for way in STACKINGS if way != "batched")
            raise UserError(f"train.stacking: got 'batched'; accepted on this device: {ways}")
        self.rows, self.step = list(range(count)), 0
        self.network = networks.build(
            config.model.name,
            (data.bank.shape[1], data.bank.shape[2], data.bank.shape[3]),
            data.num_classes,
            width=config.model.width,
            batch_norm=config.model.batch_norm,
            init=config.init,
            zero_output=config.zero_output,
            generators=[make_generator(member.init, torch.device("cpu")) for member in members],
            stacking=stacking,
            device=self.device,
        )
        self.optimizer = Stepper(
            self.network.weights, config, checks.fused(self.device, config.optimizer)
        )
        self.rates = self._column([member.learning_rate for member in members]).unsqueeze(1)
        self.lengths = self._column([float(member.steps) for member in members]).unsqueeze(1)
        self.alphas = self._column([member.alpha for member in members])
        matrices = [m.data.transition for m in members if m.data.transition is not None]
        self.transitions = torch.stack(matrices) if matrices else None
        self.averaged: RunningMean | None = None
        if any(member.averages for member in members):
            firsts = [member.first_averaged(1) for member in members]
            self.averaged = RunningMean(self.network, firsts, config)
        # Sums of float32 over hundreds of thousands of steps drift; Apple's GPUs have no more.
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        self.losses = torch.zeros(count, dtype=wide, device=self.device)
        self.batches = Batches(config, members)
        self.chunk = self.batches.chunk
        self.position = self.chunk  # in the chunk of batches, of which none is left
        # The same two numbers where a captured step finds them.
        self.done = torch.zeros((), dtype=torch.int64, device=self.device)
        self.cursor = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def _column(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    def advance(self, steps: int) -> None:
        """Train for some steps, without ever waiting for the device."""
        for _ in range(steps):
            if not self.prefetched:
                self._prefetch()
            if self.captures:
                if self.graph is None:
                    self.graph = self._capture()
                self.graph.replay()
            else:
                self._train(self.batches.at(self.position))
            self.position, self.step = self.position + 1, self.step + 1

    @property
    def prefetched(self) -> int:
        """How many batches have been looked up that were not trained on yet."""
        return self.chunk - self.position

    def _prefetch(self) -> None:
        """Look up the images and labels of the next chunk of batches, and draw their boxes."""
        if self.averaged is not None:
            self.averaged.close_blocks(self.step)
        self.batches.look_up(self.rows)
        self.position = 0
        self.cursor.zero_()

    def _train(self, batch: dict[str, Tensor]) -> None:
        """Train on one batch of each member, ``(K, b, ...)`` each."""
        shown = self.bank[batch["images"]]
        if "boxes" in batch:
            shown = augment(self.config.augmentation, shown, batch["boxes"])
        logits = forward(self.network, shown, self.config.precision)
        context = losses.Context(self.alphas, self.config, self.transitions)
        targets = self.batches.targets(batch, logits)
        loss = losses.LOSSES[self.config.loss].function(logits, targets, context)
        gradients = torch.autograd.grad(loss.sum(), list(self.network.parameters()))
        rates = self.rates
        if not schedules.is_constant(self.config):
            rates = rates * schedules.factor(self.done, self.lengths, self.config)
        self.optimizer.step(gradients, rates)
        self.losses += loss.detach()
        self.done += 1
        # A captured step always does: it is the same at every step.
        if self.averaged is not None and (self.captures or self.step + 1 >= self.averaged.first):
            self.averaged.update(self.done)

    def _capture(self) -> "torch.cuda.CUDAGraph":
        """Record a step once: replaying it costs one launch instead of hundreds."""

        def step() -> None:
            self._train(self.batches.at(self.cursor))
            self.cursor += 1

        networks = [self.network, *([] if self.averaged is None else [self.averaged.mean])]
        state = [
            *(network.weights for network in networks),
            *(buffer for network in networks for buffer in network.buffers()),
            *self.optimizer.state.values(),
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

    def snapshot(self, chosen: list[int]) -> networks.Network:
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
        if self.config.recompute_batch_norm:
            images = [self.members[k].data.images for k in chosen]
            recompute(network, self.bank, images, self.config.batch_size, self.config.precision)
        return network.eval()

    def average_anew(self, evaluated: Sequence[int]) -> None:
        """Have members that were evaluated average for their next report."""
        for k in evaluated:
            member = self.members[k]
            if self.averaged is not None and member.early_stopping and self.step < member.steps:
                first = member.first_averaged(self.step + 1)
                self.averaged.begin(self.rows.index(k), first)

    def state(self, k: int) -> State:
        """Return a copy of all that a member's training goes on from; between two chunks only."""
        row, draws = self.rows.index(k), self.batches
        order, boxes = draws.orders[k], draws.boxes[k : k + 1]
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
        for row, (state, order) in enumerate(zip(states, self.batches.orders, strict=True)):
            for mine, theirs in zip(self._tensors(), state["tensors"], strict=True):
                mine[row] = theirs
            if self.averaged is not None and state["averaged"] is not None:
                self.averaged.restore(row, state["averaged"])
            generator, left = state["order"]
            order.generator.set_state(generator)
            order.left = left.to(order.left.device)
        for state, boxes in zip(states, self.batches.boxes, strict=False):
            boxes.generator.set_state(*state["boxes"])

    def _tensors(self) -> list[Tensor]:
        """Return what a step changes, ``(K, ...)`` each, but for running means."""
        own = [self.losses, *self.optimizer.state.values()]
        return [*own, self.network.weights, *self.network.buffers()]

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
        self.rates, self.lengths = self.rates[index], self.lengths[index]
        self.alphas, self.losses = self.alphas[index], self.losses[index]
        self.batches.keep(index)
        if self.transitions is not None:
            self.transitions = self.transitions[index]


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
