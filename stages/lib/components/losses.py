"""Losses, one entry each: a function of a stack's logits and labels to each network's loss."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic.dataclasses import dataclass

from stages.lib.core.fields import STRICT, OneOf

if TYPE_CHECKING:
    from torch import Tensor


class Context(NamedTuple):
    """What few losses need.

    Attributes:
        alpha: ``(K,)`` noisy labels per clean label, at least 0.
    """

    alpha: "Tensor"


def cross_entropy(logits: "Tensor", labels: "Tensor", context: Context) -> "Tensor":  # noqa: ARG001
    """Return cross-entropy, averaged over the batch.

    Args:
        logits: ``(K, b, m)``, of K networks.
        labels: ``(K, b)`` given classes, int64.
        context: not needed.

    Returns:
        ``(K,)``, each network's loss.
    """
    log_p = logits.log_softmax(2)
    return -log_p.gather(2, labels.unsqueeze(2)).squeeze(2).mean(dim=1)


def expected_noisy_cross_entropy(logits: "Tensor", labels: "Tensor", context: Context) -> "Tensor":
    """Return ``H_alpha``, the loss of infinite batches under uniform noise (section 5, eq. 3).

    ``H_alpha = - 1/(1+alpha) * log p[true] - alpha/(m(1+alpha)) * sum_k log p[k]``, averaged
    over the batch: cross-entropy against the expected label distribution, which is label smoothing
    of ``alpha / (1 + alpha)``. At ``alpha = 0`` it is plain cross-entropy.

    Args:
        logits: ``(K, b, m)``, of K networks.
        labels: ``(K, b)`` true classes, int64.
        context: has alpha.

    Returns:
        ``(K,)``, each network's loss.
    """
    log_p = logits.log_softmax(2)
    clean = -log_p.gather(2, labels.unsqueeze(2)).squeeze(2).mean(dim=1)
    smoothing = context.alpha / (1 + context.alpha)
    return (1 - smoothing) * clean - smoothing * log_p.mean(dim=(1, 2))


class Loss(NamedTuple):
    """A loss, and whether it stands for the noisy labels, so that it takes the originals alone."""

    function: "Callable[[Tensor, Tensor, Context], Tensor]"
    originals_only: bool = False


LOSSES = {
    "cross_entropy": Loss(cross_entropy),
    "expected_noisy_cross_entropy": Loss(expected_noisy_cross_entropy, originals_only=True),
}


@dataclass(frozen=True, config=STRICT)
class LossParams:
    """Which loss: the paper trains by cross-entropy, and in section 5 by ``H_alpha``."""

    loss: Annotated[str, OneOf(LOSSES)] = "cross_entropy"
