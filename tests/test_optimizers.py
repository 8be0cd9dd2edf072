"""Optimizers of stacks against torch's, which train every member alone."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.lib.components import optimizers
from stages.lib.components.optimizers import OPTIMIZERS, OptimizerParams, Stepper, unread

K, STEPS = 5, 50
SHAPES = [(7, 3), (1,), (4, 2, 3, 3), (10,)]
SIZES = [math.prod(shape) for shape in SHAPES]
RATES = [1.0, 0.3, 0.01, 2.0, 0.5]

#: torch's optimizer of each name, from a member's parameters, rate and params.
TORCHS: dict[str, Callable[[list[Tensor], float, OptimizerParams], torch.optim.Optimizer]] = {
    "adadelta": lambda own, rate, p: torch.optim.Adadelta(
        own, lr=rate, rho=p.rho, eps=p.epsilon, weight_decay=p.weight_decay, foreach=False
    ),
    "sgd": lambda own, rate, p: torch.optim.SGD(
        own, lr=rate, momentum=p.momentum, weight_decay=p.weight_decay, nesterov=p.momentum > 0
    ),
    "adamw": lambda own, rate, p: torch.optim.AdamW(
        own, lr=rate, betas=(p.beta1, p.beta2), eps=p.epsilon, weight_decay=p.weight_decay
    ),
}
DECAYS = [0.0, 0.01]
OTHERS: dict[str, list[dict[str, float]]] = {
    "adadelta": [{"rho": 0.9, "epsilon": 1e-8}, {"rho": 0.0}, {"rho": 1.0}, {"epsilon": 1e-3}],
    "sgd": [{"momentum": 0.0}, {"momentum": 0.5}],
    "adamw": [{"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-3}, {"beta1": 0.0}],
}
CASES = [(name, change) for name in OPTIMIZERS for change in [{}, *OTHERS[name]]]


def start(dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the members' parameters, ``(K, P)``."""
    return torch.randn(K, sum(SIZES), generator=torch.Generator().manual_seed(0), dtype=dtype)


def gradients(dtype: torch.dtype = torch.float64, steps: int = STEPS) -> list[list[Tensor]]:
    """Return each step's gradients, of sizes from 1e-6 to 10, a tenth of them zero."""
    generator = torch.Generator().manual_seed(1)

    def draw(shape: tuple[int, ...]) -> Tensor:
        whole = (K, *shape)
        size = 10 ** (7 * torch.rand(whole, generator=generator, dtype=dtype) - 6)
        kept = torch.rand(whole, generator=generator) > 0.1
        return torch.randn(whole, generator=generator, dtype=dtype) * size * kept

    return [[draw(shape) for shape in SHAPES] for _ in range(steps)]


def column(rates: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(rates, dtype=dtype).unsqueeze(1)


def stepped(params: OptimizerParams, rates: list[float]) -> Tensor:
    """Return a stack's parameters after all steps."""
    optimizer = Stepper(start(), params)
    for gradient in gradients():
        optimizer.step(gradient, column(rates))
    return optimizer.parameters


def stepped_alone(k: int, params: OptimizerParams, rate: float) -> Tensor:
    """Return a member's parameters after torch's optimizer had it alone."""
    parts = start()[k].split(SIZES)
    own = [part.clone().view(shape) for part, shape in zip(parts, SHAPES, strict=True)]
    optimizer = TORCHS[params.optimizer](own, rate, params)
    for gradient in gradients():
        for parameter, whole in zip(own, gradient, strict=True):
            parameter.grad = whole[k].clone()
        optimizer.step()
    return torch.cat([parameter.flatten() for parameter in own])


def furthest(params: OptimizerParams, rates: list[float], expected: list[Tensor]) -> float:
    """Return the largest difference of a parameter's whole way, relative to that way."""
    ways = torch.stack(expected) - start()
    moved = stepped(params, rates) - start()
    return float(((moved - ways).abs() / ways.abs().clamp(min=1e-12)).max())


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(("name", "change"), CASES)
def test_each_member_steps_as_torchs_optimizer_steps_it_alone(
    name: str, change: dict[str, Any], decay: float
) -> None:
    params = OptimizerParams(optimizer=name, weight_decay=decay, **change)
    expected = [stepped_alone(k, params, rate) for k, rate in enumerate(RATES)]
    assert furthest(params, RATES, expected) < 1e-9
    # The comparison tells other rates, members and numbers apart.
    assert furthest(params, [*RATES[1:], RATES[0]], expected) > 1e-3
    assert furthest(params, RATES, [*expected[1:], expected[0]]) > 1e-3
    if not change:
        for taken in (*OPTIMIZERS[name].takes, "weight_decay"):
            value = 0.9 * getattr(params, taken) or 1e-3
            other = OptimizerParams(optimizer=name, **{"weight_decay": decay, taken: value})
            assert furthest(other, RATES, expected) > 1e-7


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_float32_loses_no_more_than_torchs_optimizer_does(name: str) -> None:
    params = OptimizerParams(optimizer=name, beta2=0.99999)
    steps = gradients(torch.float32, steps=3)
    stack, own = Stepper(start(torch.float32), params), start(torch.float32)[0].clone()
    theirs, wide = TORCHS[name]([own], RATES[0], params), Stepper(start(), params)
    for gradient in steps:
        stack.step(gradient, column(RATES, torch.float32))
        wide.step([part.double() for part in gradient], column(RATES))
        own.grad = torch.cat([part[0].flatten() for part in gradient])
        theirs.step()
    right = wide.parameters[0]
    mine, torchs = ((each - right).abs().max() for each in (stack.parameters[0], own))
    assert mine <= 2 * torchs + 1e-6


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_stacking_blocks_and_selection_change_no_bit(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block has ``BLOCK // K`` columns: 1 to all, most of them across the parameters' ends."""
    params, rates = OptimizerParams(optimizer=name, weight_decay=0.01), column(RATES, torch.float32)
    whole = Stepper(start(torch.float32), params)
    alone = [Stepper(start(torch.float32)[k : k + 1].clone(), params) for k in range(K)]
    steps = gradients(torch.float32)
    for gradient in steps[:20]:
        whole.step(gradient, rates)
    rows = torch.tensor([3, 1])
    chosen = whole.select(whole.parameters[rows], rows)
    for i, gradient in enumerate(steps):
        monkeypatch.setattr(optimizers, "BLOCK", (1, 13, 64, 505, 10**9)[i % 5])
        for k in range(K):
            alone[k].step([part[k : k + 1] for part in gradient], rates[k : k + 1])
        if i >= 20:
            whole.step(gradient, rates)
            chosen.step([part[rows] for part in gradient], rates[rows])
    for k in range(K):
        assert torch.equal(alone[k].parameters[0], whole.parameters[k])
        assert all(torch.equal(alone[k].state[key][0], t[k]) for key, t in whole.state.items())
    assert torch.equal(chosen.parameters, whole.parameters[rows])
    assert not torch.equal(whole.parameters, start(torch.float32))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_member_that_is_lost_takes_no_other_along_and_gradients_stay(name: str) -> None:
    params = OptimizerParams(optimizer=name, weight_decay=0.01)
    lost, whole = Stepper(start(), params), Stepper(start(), params)
    for gradient in gradients(steps=5):
        before = [part.clone() for part in gradient]
        whole.step(gradient, column(RATES))
        assert all(torch.equal(a, b) for a, b in zip(before, gradient, strict=True))
        for part in gradient:
            part[2] = torch.nan
        lost.step(gradient, column(RATES))
    others = [0, 1, 3, 4]
    assert lost.parameters[2].isnan().all()
    assert torch.equal(lost.parameters[others], whole.parameters[others])


def test_what_an_optimizer_does_not_read_is_known() -> None:
    for name, entry in OPTIMIZERS.items():
        assert unread(name).isdisjoint(entry.takes)
        assert unread(name) | set(entry.takes) | {"optimizer", "weight_decay"} == set(
            OptimizerParams.__dataclass_fields__
        )
