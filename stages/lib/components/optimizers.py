"""Optimizers of stacks, one entry each: the state that one keeps, and its update.

Every parameter of K networks lies in one ``(K, P)`` matrix, each network has its own learning rate,
and an update is what ``torch.optim``'s optimizer of that name does to rounding, had it each network
and its rate alone. State is tensors of K rows, changed in place, as a captured CUDA graph needs it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic.dataclasses import dataclass

from stages.lib.core.fields import STRICT, BelowOne, Fraction, Neutral, OneOf, Positive

if TYPE_CHECKING:
    from torch import Tensor

    State = dict[str, Tensor]

#: Elements updated at once on a CPU, so that the passes of one block find it in a cache;
#: `benchmarks.choices` compares sizes.
BLOCK = 65536


class Optimizer(NamedTuple):
    """An optimizer.

    Attributes:
        init: parameters ``(K, P)`` to the state before the first step.
        update: one step in place, of parameters, their gradients, the state, and rates ``(K, 1)``.
        takes: those of `OptimizerParams` that it reads, besides ``weight_decay``.
    """

    init: "Callable[[Tensor], State]"
    update: "Callable[[Tensor, Tensor, State, Tensor, OptimizerParams], None]"
    takes: tuple[str, ...]


def _zeros(*names: str) -> "Callable[[Tensor], State]":
    return lambda parameters: {name: parameters.new_zeros(parameters.shape) for name in names}


def _blocks(*matrices: "Tensor") -> "Iterator[tuple[Tensor, ...]]":
    """Yield views of some columns of all matrices ``(K, P)``, together about `BLOCK` elements."""
    members, width = matrices[0].shape
    width = max(1, BLOCK // members) if matrices[0].device.type == "cpu" else max(1, width)
    return zip(*(matrix.split(width, dim=1) for matrix in matrices), strict=True)


def _adadelta(
    parameters: "Tensor",
    gradients: "Tensor",
    state: "State",
    rates: "Tensor",
    params: "OptimizerParams",
) -> None:
    """Do a step of AdaDelta (Zeiler 2012, algorithm 1)."""
    rho, epsilon = params.rho, params.epsilon
    for p, g, squares, updates in _blocks(
        parameters, gradients, state["squares"], state["updates"]
    ):
        if params.weight_decay:
            g.add_(p, alpha=params.weight_decay)
        squares.mul_(rho).addcmul_(g, g, value=1 - rho)
        update = updates.add(epsilon).div_(squares.add(epsilon)).sqrt_().mul_(g)
        updates.mul_(rho).addcmul_(update, update, value=1 - rho)
        p.addcmul_(update, rates, value=-1)


def _sgd(
    parameters: "Tensor",
    gradients: "Tensor",
    state: "State",
    rates: "Tensor",
    params: "OptimizerParams",
) -> None:
    """Do a step of SGD with Nesterov's momentum (Sutskever et al. 2013)."""
    for p, g, velocity in _blocks(parameters, gradients, state["velocity"]):
        if params.weight_decay:
            g.add_(p, alpha=params.weight_decay)
        velocity.mul_(params.momentum).add_(g)
        p.addcmul_(g.add_(velocity, alpha=params.momentum), rates, value=-1)


def _adamw(
    parameters: "Tensor",
    gradients: "Tensor",
    state: "State",
    rates: "Tensor",
    params: "OptimizerParams",
) -> None:
    """Do a step of AdamW, whose decay is no part of the gradient (Loshchilov, Hutter 2019)."""
    beta1, beta2 = params.beta1, params.beta2
    state["steps"].add_(1)
    size = rates / (1 - beta1 ** state["steps"]).to(rates.dtype)
    root = (1 - beta2 ** state["steps"]).sqrt().to(rates.dtype)
    for p, g, means, squares in _blocks(parameters, gradients, state["means"], state["squares"]):
        if params.weight_decay:
            p.mul_(1 - rates * params.weight_decay)
        means.mul_(beta1).add_(g, alpha=1 - beta1)
        squares.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        p.addcmul_(means / (squares.sqrt() / root).add_(params.epsilon), size, value=-1)


def _adamw_state(parameters: "Tensor") -> "State":
    import torch

    # A power near 1 of few steps keeps few digits of float32; Apple's GPUs have no more.
    wide = torch.float32 if parameters.device.type == "mps" else torch.float64
    steps = parameters.new_zeros((len(parameters), 1), dtype=wide)
    return {**_zeros("means", "squares")(parameters), "steps": steps}


OPTIMIZERS = {
    "adadelta": Optimizer(_zeros("squares", "updates"), _adadelta, ("rho", "epsilon")),
    "sgd": Optimizer(_zeros("velocity"), _sgd, ("momentum",)),
    "adamw": Optimizer(_adamw_state, _adamw, ("beta1", "beta2", "epsilon")),
}


@dataclass(frozen=True, config=STRICT)
class OptimizerParams:
    """Which optimizer, and the numbers that optimizers take (section 3.4: AdaDelta's)."""

    optimizer: Annotated[str, OneOf(OPTIMIZERS)] = "adadelta"
    rho: Fraction = 0.95
    epsilon: Positive = 1e-8
    momentum: Fraction = 0.9
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    weight_decay: Annotated[Fraction, Neutral(0.0)] = 0.0


def unread(optimizer: str) -> set[str]:
    """Return those of `OptimizerParams` that other optimizers read, and this one does not."""
    every = {name for entry in OPTIMIZERS.values() for name in entry.takes}
    return every.difference(OPTIMIZERS[optimizer].takes)


class Stepper:
    """An optimizer at work on a stack.

    Args:
        parameters: ``(K, P)``, every parameter of every network.
        params: which optimizer, and its numbers.
        fused: the same in one pass over memory, if any: of the parameters, the gradients as `step`
            gets them, each tensor of the state, the rates, each number that it takes, and
            ``weight_decay``.

    Attributes:
        state: what the next step goes on from, by name, of K rows each.
    """

    def __init__(
        self,
        parameters: "Tensor",
        params: OptimizerParams,
        fused: Callable[..., None] | None = None,
    ) -> None:
        self.parameters, self.params, self.fused = parameters, params, fused
        self.optimizer = OPTIMIZERS[params.optimizer]
        self.state = self.optimizer.init(parameters)
        # The gradients in a row, which one pass does not need.
        self._row = parameters.new_empty(parameters.shape) if fused is None else None

    def step(self, gradients: "Sequence[Tensor]", rates: "Tensor") -> None:
        """Update the parameters.

        Args:
            gradients: ``(K, ...)`` each, in the parameters' order.
            rates: ``(K, 1)`` learning rates.
        """
        import torch

        if self.fused is not None:
            numbers = (getattr(self.params, name) for name in self.optimizer.takes)
            state, decay = self.state.values(), self.params.weight_decay
            self.fused(self.parameters, gradients, *state, rates, *numbers, decay)
            return
        row = torch.cat([g.flatten(1) for g in gradients], dim=1, out=self._row)
        self.optimizer.update(self.parameters, row, self.state, rates, self.params)

    def select(self, parameters: "Tensor", rows: "Tensor") -> "Stepper":
        """Return the optimizer of some networks, whose parameters ``(len(rows), P)`` are given."""
        chosen = Stepper(parameters, self.params, self.fused)
        for name, tensor in self.state.items():
            chosen.state[name].copy_(tensor[rows])
        return chosen
