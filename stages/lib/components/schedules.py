"""Schedules of the learning rate, one entry each: progress to a factor on the rate."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from pydantic.dataclasses import dataclass

from stages.lib.core.fields import STRICT, Neutral, OneOf

if TYPE_CHECKING:
    from torch import Tensor

SCHEDULES: "dict[str, Callable[[Tensor], Tensor]]" = {
    "constant": lambda progress: progress.new_ones(progress.shape),
}


@dataclass(frozen=True, config=STRICT)
class ScheduleParams:
    """How the learning rate changes (section 3.4: it does not)."""

    schedule: Annotated[str, OneOf(SCHEDULES), Neutral("constant")] = "constant"


def is_constant(params: ScheduleParams) -> bool:
    """Tell whether every step has the whole rate."""
    return params.schedule == "constant"


def factor(done: "Tensor", steps: "Tensor", params: ScheduleParams) -> "Tensor":
    """Return the factors on the learning rates of a step, ``(K, 1)`` in (0, 1].

    Args:
        done: int64 scalar, steps done before this one.
        steps: ``(K, 1)`` float, how many there are in all for each network.
        params: the schedule.
    """
    return SCHEDULES[params.schedule](done / steps)
