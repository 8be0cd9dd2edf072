"""Means of weights over the last steps of a training, for a stack of networks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stages.lib.components.averaging import AVERAGING, AveragingParams
from stages.lib.models.networks import Network

#: Steps of a running mean, at most, before another is begun: in float32 a mean of many more hardly
#: moves, since a step's share of it is rounded away. Longer means are of several such blocks.
BLOCK = 1 << 17


class RunningMean:
    """The mean of each member's weights and running statistics since some step.

    Args:
        network: K networks, whose memory every update reads.
        firsts: the first step of each member's mean, counted from 1.
        params: how weights are averaged.

    Attributes:
        first: the first step of any mean; before it an update changes nothing.
    """

    def __init__(self, network: Network, firsts: Sequence[int], params: AveragingParams) -> None:
        self.network, self.first, self.params = network, min(firsts), params
        self.averaging = AVERAGING[params.averaging]
        self.mean = network.select(range(network.members))  # of the block under way
        self._starts = list(firsts)  # of the block under way
        self._aside = [0] * network.members  # steps of the blocks before
        self._earlier: Network | None = None  # their mean
        # The starts where a captured update finds them.
        self._firsts = torch.tensor(firsts, device=network.device)

    def update(self, done: Tensor) -> None:
        """Take the weights after step ``done``, an int64 scalar, into each mean that has begun."""
        count = done - self._firsts + 1
        # No `torch.where`: it copies a number to the device, which a capture does not allow.
        share = self.averaging.share(count.clamp(min=1), self.params)
        share = ((count > 0) * share).unsqueeze(1)
        for mean, value in zip(_tensors(self.mean), _tensors(self.network), strict=True):
            mean.lerp_(value, share)

    def begin(self, row: int, first: int) -> None:
        """Begin a member's mean anew at a step."""
        self._aside[row] = 0
        self._start(row, first)

    def close_blocks(self, step: int) -> None:
        """Begin another block wherever one has grown to `BLOCK` steps; only between two updates."""
        rows = [row for row, start in enumerate(self._starts) if step - start + 1 >= BLOCK]
        if not rows or not self.averaging.equal:
            return
        if self._earlier is None:
            self._earlier = self.mean.select(range(self.mean.members))
        index = torch.tensor(rows, device=self.mean.device)
        for kept, value in zip(_tensors(self._earlier), _tensors(self.of(rows, step)), strict=True):
            kept[index] = value
        for row in rows:
            self._aside[row] += step - self._starts[row] + 1
            self._start(row, step + 1)

    def of(self, rows: Sequence[int], step: int) -> Network:
        """Return the means of some members after a step, all of which have begun."""
        means = self.mean.select(rows)
        if self._earlier is not None:
            counts = [(step - self._starts[row] + 1, self._aside[row]) for row in rows]
            # Of a mean without earlier blocks a share of 1, which is exactly what it is.
            shares = [count / (count + aside) if aside else 1.0 for count, aside in counts]
            share = torch.tensor(shares, device=means.device).unsqueeze(1)
            earlier = self._earlier.select(rows)
            for mean, value in zip(_tensors(means), _tensors(earlier), strict=True):
                mean.copy_(value.lerp(mean, share))
        return means

    def select(self, rows: Sequence[int], network: Network) -> "RunningMean":
        """Return the means of some members, which are now those of ``network``."""
        chosen = RunningMean(network, [self._starts[row] for row in rows], self.params)
        chosen.first = self.first
        chosen.mean = self.mean.select(rows)
        chosen._aside = [self._aside[row] for row in rows]
        chosen._earlier = None if self._earlier is None else self._earlier.select(rows)
        return chosen

    def state(self, row: int) -> dict[str, Any]:
        """Return what a member's mean goes on from: views of tensors, and plain values."""
        networks = [self.mean, *([] if self._earlier is None else [self._earlier])]
        return {
            "start": self._starts[row],
            "aside": self._aside[row],
            "tensors": [tensor[row] for network in networks for tensor in _tensors(network)],
        }

    def restore(self, row: int, state: dict[str, Any]) -> None:
        """Go on from a member's state."""
        self._aside[row] = state["aside"]
        self._start(row, state["start"])
        own = _tensors(self.mean)
        if len(state["tensors"]) > len(own):
            if self._earlier is None:
                self._earlier = self.mean.select(range(self.mean.members))
            own += _tensors(self._earlier)
        for mine, kept in zip(own, state["tensors"], strict=True):
            mine[row] = kept

    def _start(self, row: int, step: int) -> None:
        self._starts[row] = step
        self._firsts[row] = step


def _tensors(network: Network) -> list[Tensor]:
    return [network.weights, *network.buffers()]
