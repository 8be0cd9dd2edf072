"""Schedules against torch's, one for each network alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from test_training import MLP, make_data, member
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
)

from stages.lib.components.optimizers import Stepper
from stages.lib.components.schedules import SCHEDULES, ScheduleParams, factor, is_constant
from stages.lib.training.loop import train

STEPS = [10, 40, 7]

#: torch's schedule of each name over so many steps.
TORCHS: dict[str, Callable[[torch.optim.Optimizer, int], LRScheduler]] = {
    "constant": lambda optimizer, _: LambdaLR(optimizer, lambda _: 1.0),
    "linear": lambda optimizer, steps: LinearLR(optimizer, 1.0, 1e-300, steps),
    "cosine": lambda optimizer, steps: CosineAnnealingLR(optimizer, steps),
}


def torchs(name: str, steps: int, warm: int) -> list[float]:
    """Return the factor of each step: a linear warm-up, then torch's schedule."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    behind = TORCHS[name](optimizer, steps - warm)
    rising = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warm)))
    schedule = SequentialLR(optimizer, [rising, behind], [warm]) if warm else behind
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("name", SCHEDULES)
def test_each_networks_rates_are_those_of_torchs_schedule_alone(name: str, warmup: float) -> None:
    params = ScheduleParams(schedule=name, warmup=warmup)
    steps = torch.tensor(STEPS[:2], dtype=torch.float64).unsqueeze(1)
    got = torch.cat([factor(torch.tensor(done), steps, params) for done in range(40)], dim=1)
    for k, length in enumerate(STEPS[:2]):
        expected = torch.tensor(torchs(name, length, round(warmup * length)), dtype=torch.float64)
        torch.testing.assert_close(got[k, :length], expected, rtol=1e-12, atol=1e-12)
    assert is_constant(params) == bool((got == 1).all())


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
def test_no_step_is_without_a_rate(name: str, warmup: float) -> None:
    params = ScheduleParams(schedule=name, warmup=warmup)
    for length in STEPS:
        steps = torch.tensor([[float(length)]])
        got = [factor(torch.tensor(done), steps, params).item() for done in range(length)]
        assert all(0 < each <= 1 for each in got)


def test_each_member_of_a_training_follows_it_over_its_own_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken, step = [], Stepper.step

    def note(self: Stepper, gradients: Sequence[torch.Tensor], rates: torch.Tensor) -> None:
        taken.append(rates.flatten().tolist())
        step(self, gradients, rates)

    monkeypatch.setattr(Stepper, "step", note)
    members = [
        member(make_data(), k, steps=steps, learning_rate=0.5) for k, steps in enumerate(STEPS)
    ]
    train(replace(MLP, schedule="linear", warmup=0.2), members)
    for k, length in enumerate(STEPS[:2]):
        expected = [0.5 * each for each in torchs("linear", length, round(0.2 * length))]
        assert [rates[k] for rates in taken[:7]] == pytest.approx(expected[:7])
