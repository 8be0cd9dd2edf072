"""The two losses of the paper."""

import torch
from torch import Tensor


def expected_noisy_cross_entropy(
    logits: Tensor, labels: Tensor, alpha: Tensor | None = None
) -> Tensor:
    """Return ``H_alpha``, the loss of infinite batches under uniform noise (section 5, eq. 3).

    ``H_alpha = - 1/(1+alpha) * log p[true] - alpha/(m(1+alpha)) * sum_k log p[k]``, averaged
    over the batch: cross-entropy against the expected label distribution, which is label smoothing
    of ``alpha / (1 + alpha)``. At ``alpha = 0`` it is plain cross-entropy.

    Args:
        logits: ``(K, b, m)``, of K networks.
        labels: ``(K, b)`` true classes, int64.
        alpha: ``(K,)`` noisy labels per clean label, at least 0; None: all 0.

    Returns:
        ``(K,)``, each network's loss.
    """
    log_p = torch.log_softmax(logits, dim=2)
    clean = -log_p.gather(2, labels.unsqueeze(2)).squeeze(2).mean(dim=1)
    if alpha is None:
        return clean
    smoothing = alpha / (1 + alpha)
    return (1 - smoothing) * clean - smoothing * log_p.mean(dim=(1, 2))
