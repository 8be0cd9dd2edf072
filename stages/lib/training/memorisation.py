"""Memorisation: what a network answers to its training images, by whether a label is true."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.lib.labels.aggregated import Aggregated
from stages.lib.models import networks
from stages.lib.training.evaluation import predict

OTHER = -1  # the true class of an image that is of none


class Examples(NamedTuple):
    """A diluted set for evaluation: its distinct images, with the counts of their labels.

    Attributes:
        images: ``(u,)`` int64 indices into the image bank.
        counts: ``(u, L)`` how often each label was given to each, see `Aggregated`.
        classes: ``(u, L)`` the classes that counts are of; None where a column is its class.
        true: ``(u,)`` int64 true classes, `OTHER` of images of other data sets.
    """

    images: Tensor
    counts: Tensor
    classes: Tensor | None
    true: Tensor

    def given(self, classes: Tensor) -> Tensor:
        """Return ``(u,)``, how often each image was given a class ``(u,)``; 0 of `OTHER`."""
        asked = classes.unsqueeze(1)
        if self.classes is None:
            found = self.counts.gather(1, asked.clamp(min=0)) * (asked >= 0)
        else:
            found = self.counts * (self.classes == asked)
        return found.sum(dim=1)


def examples(aggregated: Aggregated, true_labels: NDArray[Any], device: str) -> Examples:
    """Return a diluted set on a device.

    Args:
        aggregated: its distinct images and their labels.
        true_labels: ``(B',)`` classes of the first images of the bank; those behind have none.
        device: ``cpu``, ``cuda`` or ``mps``.
    """
    images = aggregated.images.astype(np.int64)
    known = images < len(true_labels)
    true = np.where(known, true_labels[np.where(known, images, 0)].astype(np.int64), OTHER)
    counts, classes = aggregated.counts, aggregated.classes
    parts = [torch.from_numpy(each).to(device) for each in (images, counts, true)]
    own = None if classes is None else torch.from_numpy(classes).to(device)
    return Examples(parts[0], parts[1], own, parts[2])


def shares(seen: Examples, predicted: Tensor) -> dict[str, float | None]:
    """Return how a network answers to examples whose label is true, and to the others.

    Args:
        seen: the diluted set.
        predicted: ``(u,)`` predicted classes of its distinct images.

    Returns:
        ``true_as_given``, the share of truly labelled examples that are predicted as labelled; of
        the others those predicted as labelled, which is memorised (``noisy_as_given``), and as
        their true class (``noisy_as_true``). None where there are none.
    """
    truly, of_predicted = seen.given(seen.true), seen.given(predicted)
    falsely, right = seen.counts.sum(dim=1) - truly, predicted == seen.true
    every_true, every_false = truly.sum().item(), falsely.sum().item()
    return {
        "true_as_given": truly[right].sum().item() / every_true if every_true else None,
        "noisy_as_given": of_predicted[~right].sum().item() / every_false if every_false else None,
        "noisy_as_true": falsely[right].sum().item() / every_false if every_false else None,
    }


def memorised(
    network: networks.Network, bank: Tensor, seen: Examples, precision: str
) -> dict[str, float | None]:
    """Return `shares` of a network of one member; each distinct image is shown once."""
    return shares(seen, predict(network, bank, seen.images.unsqueeze(0), precision)[0])
