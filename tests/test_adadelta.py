"""AdaDelta for a stack against `torch.optim.Adadelta`, which trains every member alone."""

import math

import pytest
import torch
from torch import Tensor

from stages.lib.training import adadelta
from stages.lib.training.adadelta import AdaDelta

K, STEPS = 5, 50
SHAPES = [(7, 3), (1,), (4, 2, 3, 3), (10,)]
SIZES = [math.prod(shape) for shape in SHAPES]
RATES = [1.0, 0.3, 0.01, 2.0, 0.5]


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


def stepped_alone(k: int, rate: float, rho: float, epsilon: float, decay: float) -> Tensor:
    """Return a member's parameters after torch's optimizer had it alone."""
    parts = start()[k].split(SIZES)
    own = [part.clone().view(shape) for part, shape in zip(parts, SHAPES, strict=True)]
    optimizer = torch.optim.Adadelta(
        own, lr=rate, rho=rho, eps=epsilon, weight_decay=decay, foreach=False
    )
    for gradient in gradients():
        for parameter, whole in zip(own, gradient, strict=True):
            parameter.grad = whole[k].clone()
        optimizer.step()
    return torch.cat([parameter.flatten() for parameter in own])


@pytest.mark.parametrize(
    ("rho", "epsilon", "decay"),
    [(0.95, 1e-6, 0.0), (0.95, 1e-6, 1e-4), (0.5, 1e-3, 0.1), (0.0, 1e-6, 0.0), (1.0, 1e-6, 0.0)],
)
def test_each_member_steps_as_torchs_optimizer_steps_it_alone(
    rho: float, epsilon: float, decay: float
) -> None:
    """By each parameter's whole way, relative to that way."""
    parameters, begin = start(), start()
    rates = torch.tensor(RATES, dtype=torch.float64)
    optimizer = AdaDelta(parameters, rates, rho, epsilon, *filter(None, [decay]))
    for gradient in gradients():
        before = [part.clone() for part in gradient]
        optimizer.step(gradient)
        assert all(torch.equal(a, b) for a, b in zip(before, gradient, strict=True))
    alone = [stepped_alone(k, rate, rho, epsilon, decay) for k, rate in enumerate(RATES)]
    ways = torch.stack(alone) - begin
    assert ((parameters - begin - ways).abs() / ways.abs().clamp(min=1e-12)).max() < 1e-9


@pytest.mark.parametrize("block", [1, 13, 505])
def test_blocks_change_no_bit(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block has ``BLOCK // K`` columns: 1 to all, most of them across the parameters' ends."""
    results = []
    for size in (10**9, block):
        monkeypatch.setattr(adadelta, "BLOCK", size)
        parameters = start(torch.float32)
        optimizer = AdaDelta(parameters, torch.tensor(RATES), 0.95, 1e-6)
        for gradient in gradients(torch.float32):
            optimizer.step(gradient)
        results.append((parameters, optimizer.squares, optimizer.updates))
    assert not torch.equal(results[0][0], start(torch.float32))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("rows", [[4], [2, 0, 3]])
def test_selected_members_go_on_as_in_the_whole(rows: list[int]) -> None:
    whole = start(torch.float32)
    optimizer = AdaDelta(whole, torch.tensor(RATES), 0.95, 1e-6, 0.01)
    steps = gradients(torch.float32)
    for gradient in steps[:20]:
        optimizer.step(gradient)
    mine = whole[rows]
    chosen = optimizer.select(mine, torch.tensor(rows))
    for gradient in steps[20:]:
        chosen.step([part[rows] for part in gradient])
    assert torch.equal(chosen.rates.flatten(), torch.tensor(RATES)[rows])
    kept = whole.clone()
    for gradient in steps[20:]:
        optimizer.step(gradient)  # which would go wrong if both shared their averages
    assert torch.equal(mine, whole[rows])
    assert not torch.equal(kept, whole)


@pytest.mark.parametrize("k", [0, 3])
def test_stacking_changes_no_bit(k: int) -> None:
    whole, alone = start(torch.float32), start(torch.float32)[k : k + 1].clone()
    rates = torch.tensor(RATES)
    together = AdaDelta(whole, rates, 0.95, 1e-6)
    single = AdaDelta(alone, rates[k : k + 1], 0.95, 1e-6)
    for gradient in gradients(torch.float32):
        together.step(gradient)
        single.step([part[k : k + 1] for part in gradient])
    assert torch.equal(alone[0], whole[k])


def test_a_member_that_is_lost_takes_no_other_along() -> None:
    parameters, expected = start(), start()
    rates = torch.tensor(RATES, dtype=torch.float64)
    lost, whole = AdaDelta(parameters, rates, 0.95, 1e-6), AdaDelta(expected, rates, 0.95, 1e-6)
    for gradient in gradients(steps=5):
        whole.step(gradient)
        for part in gradient:
            part[2] = torch.nan
        lost.step(gradient)
    others = [0, 1, 3, 4]
    assert parameters[2].isnan().all()
    assert torch.equal(parameters[others], expected[others])
