"""The order in which a replica sees its examples."""

import numpy as np
import torch
from torch import Tensor

from stages.lib.training.devices import drawing_device, make_generator


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
        self.generator = make_generator(sequence, drawing_device(device))
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
