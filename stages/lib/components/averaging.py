"""Averages of weights, one entry each: how much of the latest weights goes into the mean."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, NamedTuple

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


class Averaging(NamedTuple):
    """An average.

    Attributes:
        share: how much of the mean the latest weights are, by the number of weights that it is of.
        equal: whether all weights count alike, so that a long mean may be put together of blocks.
    """

    share: "Callable[[Tensor], Tensor]"
    equal: bool = False


AVERAGING = {"tail": Averaging(tail, equal=True)}


@dataclass(frozen=True, config=STRICT)
class AveragingParams:
    """How weights are averaged, and over which share of the last steps; the paper names none."""

    averaging: Annotated[str, OneOf(AVERAGING), Neutral("tail")] = "tail"
    average: Annotated[Fraction, Neutral(0.0)] = 0.0
