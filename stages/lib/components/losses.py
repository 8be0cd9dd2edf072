"""Losses, one entry each: a function of a stack's logits and targets to each network's loss.

A loss is the mean over the batch of what each image's label costs; `targets` has one label of each
image or all of them, and then the loss is the sum of what they cost, over classes of
``count * loss(p, class)`` by the mean count.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, NamedTuple

from annotated_types import Interval
from pydantic.dataclasses import dataclass

from stages.lib.components.targets import LabelCounts, Labels
from stages.lib.core.fields import STRICT, Fraction, OneOf

if TYPE_CHECKING:
    from torch import Tensor

Targets = Labels | LabelCounts
TRANSITIONS = ("estimated", "known")


class Context(NamedTuple):
    """What few losses need.

    Attributes:
        alpha: ``(K,)`` noisy labels per clean label, at least 0.
        params: numbers that losses take.
        transition: ``(K, m, m)`` probability of a given label (column) by the true class (row) over
            the whole diluted set, or None where the loss reads none.
    """

    alpha: "Tensor"
    params: "LossParams"
    transition: "Tensor | None" = None


def cross_entropy(logits: "Tensor", targets: Targets, context: Context) -> "Tensor":  # noqa: ARG001
    """Return cross-entropy, averaged over the batch.

    Args:
        logits: ``(K, b, m)``, of K networks.
        targets: given labels.
        context: not needed.

    Returns:
        ``(K,)``, each network's loss.
    """
    return -targets.pick(logits.log_softmax(2)).mean(dim=1)


def expected_noisy_cross_entropy(logits: "Tensor", targets: Targets, context: Context) -> "Tensor":
    """Return ``H_alpha``, the loss of infinite batches under uniform noise (section 5, eq. 3).

    ``H_alpha = - 1/(1+alpha) * log p[true] - alpha/(m(1+alpha)) * sum_k log p[k]``, averaged
    over the batch: cross-entropy against the expected label distribution, which is label smoothing
    of ``alpha / (1 + alpha)``. At ``alpha = 0`` it is plain cross-entropy.

    Args:
        logits: ``(K, b, m)``, of K networks.
        targets: true labels, one of each image.
        context: has alpha.

    Returns:
        ``(K,)``, each network's loss.
    """
    log_p = logits.log_softmax(2)
    clean = -targets.pick(log_p).mean(dim=1)
    smoothing = context.alpha / (1 + context.alpha)
    return (1 - smoothing) * clean - smoothing * log_p.mean(dim=(1, 2))


def label_smoothing(logits: "Tensor", targets: Targets, context: Context) -> "Tensor":
    """Return cross-entropy against smoothed labels (Szegedy et al. 2016, section 7).

    A label is ``1 - smoothing`` of itself and ``smoothing / m`` of each class, itself included.

    Args:
        logits: ``(K, b, m)``, of K networks.
        targets: given labels.
        context: has ``smoothing`` in [0, 1].

    Returns:
        ``(K,)``, each network's loss.
    """
    log_p, smoothing = logits.log_softmax(2), context.params.smoothing
    smoothed = (1 - smoothing) * log_p + smoothing * log_p.mean(dim=2, keepdim=True)
    return -targets.pick(smoothed).mean(dim=1)


def generalised_cross_entropy(logits: "Tensor", targets: Targets, context: Context) -> "Tensor":
    """Return ``(1 - p[label]^q) / q``, averaged over the batch (Zhang and Sabuncu 2018, eq. 6).

    Between cross-entropy, its limit at ``q = 0``, and the mean absolute error, at ``q = 1``.

    Args:
        logits: ``(K, b, m)``, of K networks.
        targets: given labels.
        context: has ``q`` in (0, 1].

    Returns:
        ``(K,)``, each network's loss.
    """
    q = context.params.q
    # expm1 keeps the digits that 1 - p^q loses where p is near 1 or q near 0.
    return targets.pick(-(q * logits.log_softmax(2)).expm1() / q).mean(dim=1)


def forward_correction(logits: "Tensor", targets: Targets, context: Context) -> "Tensor":
    """Return cross-entropy of the labels that a network expects (Patrini et al. 2017, theorem 2).

    ``-log (p @ T)[label]``, averaged over the batch, T the whole diluted set's transition matrix,
    ``(I + alpha T') / (1 + alpha)`` of the noisy labels' T'. With the identity it is cross-entropy.

    Args:
        logits: ``(K, b, m)``, of K networks.
        targets: given labels.
        context: has the transition matrix.

    Returns:
        ``(K,)``, each network's loss.

    Raises:
        ValueError: there is no transition matrix.
    """
    if context.transition is None:
        raise ValueError("forward_correction: got no transition matrix; accepted: (K, m, m)")
    # Sums of probabilities as logarithms: a network that is sure and wrong has a finite loss.
    log_t = context.transition.log().unsqueeze(1)
    log_p = logits.log_softmax(2).unsqueeze(3)
    return -targets.pick((log_p + log_t).logsumexp(dim=2)).mean(dim=1)


class Loss(NamedTuple):
    """A loss.

    Attributes:
        function: of logits, targets and context.
        originals_only: whether it stands for the noisy labels, so that it takes originals alone.
        takes: those of `LossParams` that it reads.
    """

    function: "Callable[[Tensor, Targets, Context], Tensor]"
    originals_only: bool = False
    takes: tuple[str, ...] = ()

    @property
    def corrects(self) -> bool:
        """Whether it reads the transition matrix."""
        return "transition" in self.takes


LOSSES = {
    "cross_entropy": Loss(cross_entropy),
    "expected_noisy_cross_entropy": Loss(expected_noisy_cross_entropy, originals_only=True),
    "label_smoothing": Loss(label_smoothing, takes=("smoothing",)),
    "generalised_cross_entropy": Loss(generalised_cross_entropy, takes=("q",)),
    "forward_correction": Loss(forward_correction, takes=("transition",)),
}


@dataclass(frozen=True, config=STRICT)
class LossParams:
    """Which loss: the paper trains by cross-entropy, and in section 5 by ``H_alpha``.

    The transition matrix is counted on the validation images, whose true labels are known and which
    have noisy ones too, or it is the one that the noise was drawn from: then the loss is an oracle.
    """

    loss: Annotated[str, OneOf(LOSSES)] = "cross_entropy"
    smoothing: Fraction = 0.1
    q: Annotated[float, Interval(gt=0, le=1)] = 0.7
    transition: Annotated[str, OneOf(TRANSITIONS)] = "estimated"


def unread(loss: str) -> set[str]:
    """Return those of `LossParams` that other losses read, and this one does not."""
    every = {name for entry in LOSSES.values() for name in entry.takes}
    return every.difference(LOSSES[loss].takes)
