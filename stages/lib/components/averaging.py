"""Averages of weights, one entry each: how much of the latest weights goes into the mean."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic.dataclasses import dataclass

from stages.lib.core.fields import STRICT, BelowOne, Fraction, Neutral, OneOf

if TYPE_CHECKING:
    from torch import Tensor


def tail(count: "Tensor", params: "AveragingParams") -> "Tensor":  # noqa: ARG001
    """Return the share that makes an equal mean of all weights since the first (Ruppert 1988).

    Args:
        count: ``(K,)`` int64, how many weights the mean is of with the latest, at least 1.
        params: not needed.
    """
    return 1 / count


def ema(count: "Tensor", params: "AveragingParams") -> "Tensor":
    """Return the share that makes an exponential moving average (Tarvainen and Valpola 2017).

    It is ``max(1 / count, 1 - ema_decay)``: an equal mean (Polyak and Juditsky 1992) until that is
    of ``1 / (1 - ema_decay)`` weights, so that the first weights are forgotten like all others. Of
    one weight it is that weight.

    Args:
        count: ``(K,)`` int64, how many weights the mean is of with the latest, at least 1.
        params: has ``ema_decay``.
    """
    return (1 / count).clamp(min=1 - params.ema_decay)


class Averaging(NamedTuple):
    """An average.

    Attributes:
        share: how much of the mean the latest weights are, by the number of weights that it is of.
            A CUDA graph captures it: it copies nothing between host and device.
        equal: whether all weights count alike, so that a long mean may be put together of blocks.
        takes: those of `AveragingParams` that only some averages read, of them this one's.
    """

    share: "Callable[[Tensor, AveragingParams], Tensor]"
    equal: bool = False
    takes: tuple[str, ...] = ()


AVERAGING = {"tail": Averaging(tail, equal=True), "ema": Averaging(ema, takes=("ema_decay",))}


@dataclass(frozen=True, config=STRICT)
class AveragingParams:
    """How weights are averaged, and over which share of the last steps; the paper names none.

    Attributes:
        averaging: a key of `AVERAGING`.
        ema_decay: how much of an exponential moving average a step leaves of it.
        average: share of the last steps before a report whose weights are averaged.
        recompute_batch_norm: whether batch norm's running statistics are computed anew before a
            network is evaluated (Izmailov et al. 2018, section 3).
    """

    averaging: Annotated[str, OneOf(AVERAGING), Neutral("tail")] = "tail"
    ema_decay: BelowOne = 0.999
    average: Annotated[Fraction, Neutral(0.0)] = 0.0
    recompute_batch_norm: Annotated[bool, Neutral(False)] = False


def unread(params: AveragingParams) -> set[str]:
    """Return those of `AveragingParams` that decide nothing: of other averages, or of none."""
    every = {name for entry in AVERAGING.values() for name in entry.takes}
    if params.average == 0:
        return every | {"averaging"}
    return every.difference(AVERAGING[params.averaging].takes)
