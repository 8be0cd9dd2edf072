"""AdaDelta for a stack of networks: one learning rate for each member."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stages.lib.kernels import stacked

#: Elements updated at once on a CPU, so that the passes of one block find it in a cache;
#: `benchmarks.choices` compares sizes.
BLOCK = 65536


class AdaDelta:
    """Zeiler's AdaDelta (2012, algorithm 1) on K members' parameters, in place.

    ``torch.optim.Adadelta``'s update to rounding, where one optimizer had each member and its rate.

    Args:
        parameters: ``(K, P)``, every parameter of every member.
        rates: ``(K,)`` learning rates.
        rho: decay of the running averages.
        epsilon: added under the roots.
        weight_decay: of L2 regularisation: so much of every parameter is added to its gradient.
        fused: whether `stages.lib.kernels.stacked` does a step in one pass over memory, on CUDA.
    """

    def __init__(
        self,
        parameters: Tensor,
        rates: Tensor,
        rho: float,
        epsilon: float,
        weight_decay: float = 0.0,
        *,
        fused: bool = False,
    ) -> None:
        self.parameters, self.fused = parameters, fused
        self.rates = rates.unsqueeze(1)
        self.rho, self.epsilon, self.weight_decay = rho, epsilon, weight_decay
        #: running averages of squared gradients and of squared updates
        self.squares, self.updates = torch.zeros_like(parameters), torch.zeros_like(parameters)
        # The gradients in a row, which one pass does not need.
        self._gradients = None if fused else torch.empty_like(parameters)

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Update the parameters; ``gradients`` are ``(K, ...)`` each, in the parameters' order."""
        if self._gradients is None:
            numbers = self.rho, self.epsilon, self.weight_decay
            matrices = self.squares, self.updates, self.rates
            stacked.adadelta_step(self.parameters, gradients, *matrices, *numbers)
            return
        flat = torch.cat([g.flatten(1) for g in gradients], dim=1, out=self._gradients)
        block = max(1, BLOCK // len(flat)) if flat.device.type == "cpu" else flat.shape[1]
        for p, g, squares, updates in zip(
            *(
                matrix.split(block, dim=1)
                for matrix in (self.parameters, flat, self.squares, self.updates)
            ),
            strict=True,
        ):
            if self.weight_decay:
                g.add_(p, alpha=self.weight_decay)
            squares.mul_(self.rho).addcmul_(g, g, value=1 - self.rho)
            update = updates.add(self.epsilon).div_(squares.add(self.epsilon)).sqrt_().mul_(g)
            updates.mul_(self.rho).addcmul_(update, update, value=1 - self.rho)
            p.addcmul_(update, self.rates, value=-1)

    def select(self, parameters: Tensor, rows: Tensor) -> "AdaDelta":
        """Return the optimizer of some members, whose parameters ``(len(rows), P)`` are given."""
        rates, numbers = self.rates[rows, 0], (self.rho, self.epsilon, self.weight_decay)
        chosen = AdaDelta(parameters, rates, *numbers, fused=self.fused)
        chosen.squares.copy_(self.squares[rows])
        chosen.updates.copy_(self.updates[rows])
        return chosen
