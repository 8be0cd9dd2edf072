"""Schedules of the learning rate, one entry each: progress to a factor on the rate."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from pydantic.dataclasses import dataclass

from stages.lib.core.fields import STRICT, Fraction, Neutral, OneOf

if TYPE_CHECKING:
    from torch import Tensor

#: From the share of the steps behind the warm-up that are done, ``(K, 1)`` in [0, 1).
SCHEDULES: "dict[str, Callable[[Tensor], Tensor]]" = {
    "constant": lambda done: done.new_ones(done.shape),
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + (math.pi * done).cos()) / 2,  # Loshchilov and Hutter 2017
}


@dataclass(frozen=True, config=STRICT)
class ScheduleParams:
    """How the learning rate changes (section 3.4: it does not).

    Over the first ``warmup`` of all steps it grows linearly to the whole rate.
    """

    schedule: Annotated[str, OneOf(SCHEDULES), Neutral("constant")] = "constant"
    warmup: Annotated[Fraction, Neutral(0.0)] = 0.0


def is_constant(params: ScheduleParams) -> bool:
    """Tell whether every step has the whole rate."""
    return params.schedule == "constant" and params.warmup == 0


def factor(done: "Tensor", steps: "Tensor", params: ScheduleParams) -> "Tensor":
    """Return the factors on the learning rates of a step, ``(K, 1)`` in (0, 1].

    Args:
        done: int64 scalar, steps done before this one.
        steps: ``(K, 1)`` float, how many there are in all for each network.
        params: the schedule.
    """
    warm = params.warmup * steps
    rising = ((done + 1) / warm.clamp(min=1)).clamp(max=1)
    progress = ((done - warm) / (steps - warm).clamp(min=1)).clamp(min=0, max=1)
    return rising * SCHEDULES[params.schedule](progress)
