"""What networks answer to images."""

from collections.abc import Callable

import torch
from torch import Tensor

from stages.lib.models import networks

EVALUATION_BATCH = 1000


def forward(network: networks.Network, images: Tensor, precision: str) -> Tensor:
    """Return float32 logits ``(K, b, m)``, computed at a precision."""
    if precision != "bfloat16":
        logits: Tensor = network(images)
        return logits
    # No cache: a captured step must cast the weights that it finds when it is replayed.
    with torch.autocast(images.device.type, torch.bfloat16, cache_enabled=False):
        logits = network(images)
    return logits.float()


def most_likely(logits: Tensor, _: Tensor) -> Tensor:
    """Return the predicted classes ``(K, n)`` from logits ``(K, n, m)``."""
    return logits.argmax(dim=2)


def ranks(logits: Tensor, true: Tensor) -> Tensor:
    """Return how many classes come before the true one, 0 where it is the most likely.

    Of equal logits the smaller class comes first. A true class whose logit is not finite is last.

    Args:
        logits: ``(K, n, m)``.
        true: ``(K, n)`` or ``(n,)`` true classes.

    Returns:
        ``(K, n)`` int64 in [0, m].
    """
    true = true.expand(logits.shape[:2]).unsqueeze(2)
    own = logits.gather(2, true)
    smaller = torch.arange(logits.shape[2], device=logits.device) < true
    before = ((logits > own) | ((logits == own) & smaller)).sum(dim=2)
    return before.where(own.squeeze(2).isfinite(), logits.shape[2])


def predict(
    network: networks.Network,
    bank: Tensor,
    index: Tensor,
    precision: str,
    answer: Callable[[Tensor, Tensor], Tensor] = most_likely,
) -> Tensor:
    """Return what a network answers to images ``bank[index]``, by default their predicted classes.

    Args:
        network: of K members.
        bank: ``(B, height, width, channels)`` uint8 images.
        index: ``(K, n)`` into the bank.
        precision: of the network's arithmetic.
        answer: from the logits ``(K, b, m)`` of a part of the images and their index ``(K, b)`` to
            what is kept of them, ``(K, b, ...)``.

    Returns:
        ``(K, n, ...)``
    """
    with torch.inference_mode():
        parts = [
            answer(forward(network, bank[part], precision), part)
            for part in index.split(_evaluated_at_once(len(index)), dim=1)
            if part.shape[1]
        ]
    return torch.cat(parts, dim=1) if parts else index


def _evaluated_at_once(members: int) -> int:
    return max(EVALUATION_BATCH // 8, min(EVALUATION_BATCH, 8 * EVALUATION_BATCH // members))
