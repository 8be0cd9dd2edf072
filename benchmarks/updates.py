"""How large AdaDelta's updates are when gradients are noise alone, in units of sqrt(epsilon).

Each parameter's gradients are independent draws of a normal distribution around zero: massive
label noise at its limit. The root of the mean square of an update at learning rate 1, over all
parameters, after so many steps. Prints JSON. ``python -m benchmarks.updates [--steps 4000]``
"""

import argparse
import itertools
from typing import Any

import torch

from benchmarks import reports
from stages.lib.components.optimizers import OptimizerParams, Stepper

RHOS = (0.9, 0.95)
EPSILONS = (1e-8, 1e-7, 1e-6)
SIZES = (1e-3, 1e-2, 1e-1)  # standard deviation of a gradient
PARAMETERS = 10_000


def update(rho: float, epsilon: float, sizes: tuple[float, ...], steps: int) -> list[float]:
    """Return the update after so many steps at learning rate 1, for each size of gradients."""
    generator = torch.Generator().manual_seed(0)
    parameters = torch.zeros(len(sizes), PARAMETERS, dtype=torch.float64)
    scale = torch.tensor(sizes, dtype=torch.float64)[:, None]
    optimizer = Stepper(parameters, OptimizerParams(rho=rho, epsilon=epsilon))
    rates = torch.ones(len(sizes), 1, dtype=torch.float64)
    before = parameters.clone()
    for _ in range(steps):
        before.copy_(parameters)
        noise = torch.randn(parameters.shape, generator=generator, dtype=torch.float64)
        optimizer.step([scale * noise], rates)
    return [float(row) for row in (parameters - before).square().mean(1).sqrt()]


def measured(steps: int) -> list[dict[str, Any]]:
    """Return the updates by rho, epsilon and size of gradients, in units of sqrt(epsilon)."""
    return [
        {"rho": rho, "epsilon": epsilon, "gradient": size, "update": moved / epsilon**0.5}
        for rho, epsilon in itertools.product(RHOS, EPSILONS)
        for size, moved in zip(SIZES, update(rho, epsilon, SIZES, steps), strict=True)
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    steps = parser.parse_args().steps
    reports.emit({"steps": steps, "updates": measured(steps)})


if __name__ == "__main__":
    main()
