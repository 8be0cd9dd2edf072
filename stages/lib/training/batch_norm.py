"""Batch norm's running statistics, computed anew of the weights that are evaluated."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from stages.lib.models.layers import Norm
from stages.lib.models.networks import Network
from stages.lib.training.evaluation import forward

#: Training images that statistics are computed of, at most; they fill whole batches. Of so many a
#: channel's mean is known to a sixty-fourth of its standard deviation or better (of a batch of 128
#: to an eleventh), and an evaluation takes less time more than 32 steps of such batches do.
MOST = 4096


def recompute(
    network: Network, bank: Tensor, images: Sequence[Tensor], batch_size: int, precision: str
) -> None:
    """Replace running statistics by their mean over batches of a member's own training images.

    The equal mean of each batch's mean and unbiased variance, as `torch.optim.swa_utils.update_bn`
    has it: after averaging, the averages of running statistics are not those of the network with
    averaged weights (Izmailov et al. 2018, section 3). Images are taken at equal distances of those
    stored, unchanged by augmentation; nothing is drawn.

    Args:
        network: of K members, whose statistics are changed in place.
        bank: ``(B, height, width, channels)`` uint8 images.
        images: ``(n,)`` integers for each member, its images in the bank.
        batch_size: of the training.
        precision: of the network's arithmetic.
    """
    counts = [min(len(own), MOST) for own in images]
    for count in sorted(set(counts)):
        rows = [row for row, own in enumerate(counts) if own == count]
        # The last batch is filled with the first images: a smaller one would count as much as the
        # others, and batch norm has no variance of a single image.
        taken = torch.arange(math.ceil(count / batch_size) * batch_size, device=bank.device) % count
        # From all of a set alike: the originals stand first, and noisy examples may show others.
        index = torch.stack([images[row][taken * len(images[row]) // count] for row in rows]).long()
        part = network.select(rows)
        batches = (bank[batch] for batch in index.split(batch_size, dim=1))  # one at a time
        _go_through(part, batches, precision)
        places = torch.tensor(rows, device=network.device)
        for mine, theirs in zip(network.buffers(), part.buffers(), strict=True):
            mine[places] = theirs


def _go_through(network: Network, batches: Iterable[Tensor], precision: str) -> None:
    """Leave the means over batches ``(K, b, height, width, channels)`` as running statistics."""
    norms = [layer for layer in network.modules() if isinstance(layer, Norm | nn.BatchNorm2d)]
    for layer in norms:  # what is not finite would stay in the mean
        layer.running_mean.zero_()  # type: ignore[union-attr]
        layer.running_var.fill_(1)  # type: ignore[union-attr]
    network.train()
    with torch.no_grad():
        for number, images in enumerate(batches, 1):
            for layer in norms:
                layer.momentum = 1 / number
            forward(network, images, precision)
