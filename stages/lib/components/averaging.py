"""Averages of weights, one entry each: how much of the latest weights goes into the mean."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from pydantic.dataclasses import dataclass

from stages.lib.core.fields import STRICT, Fraction, Neutral, OneOf

if TYPE_CHECKING:
    from torch import Tensor


def tail(count: "Tensor") -> "Tensor":
    """Return the share that makes an equal mean of all weights since the first (Ruppert 1988).

    Args:
        count: ``(K,)`` int64, how many weights the mean is of with the latest, at least 1.
    """
    return 1 / count


AVERAGING: "dict[str, Callable[[Tensor], Tensor]]" = {"tail": tail}


@dataclass(frozen=True, config=STRICT)
class AveragingParams:
    """How weights are averaged, and over which share of the last steps; the paper names none."""

    averaging: Annotated[str, OneOf(AVERAGING), Neutral("tail")] = "tail"
    average: Annotated[Fraction, Neutral(0.0)] = 0.0
