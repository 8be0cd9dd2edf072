"""The two losses of the paper."""

from torch import Tensor
from torch.nn import functional


def noisy_loss(logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Return ``H_alpha``, the loss of infinite batches under uniform noise (section 5, eq. 3).

    ``H_alpha = - 1/(1+alpha) * log p[true] - alpha/(m(1+alpha)) * sum_k log p[k]``, averaged
    over the batch: cross-entropy against the expected label distribution, which is label smoothing
    of ``alpha / (1 + alpha)``. At ``alpha = 0`` it is plain cross-entropy.

    Args:
        logits: ``(b, m)``.
        labels: ``(b,)`` true classes, int64.
        alpha: noisy labels per clean label, at least 0.
    """
    return functional.cross_entropy(logits, labels, label_smoothing=alpha / (1 + alpha))
