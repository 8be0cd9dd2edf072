"""What networks are to answer: a given label of each image shown, or all the labels of each."""

from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic.dataclasses import dataclass

from stages.lib.core.fields import STRICT, Neutral, OneOf

if TYPE_CHECKING:
    from torch import Tensor

TARGETS = ("labels", "aggregated")


class Labels(NamedTuple):
    """One label of each image.

    Attributes:
        labels: ``(K, b)`` given classes, int64.
    """

    labels: "Tensor"

    def pick(self, values: "Tensor") -> "Tensor":
        """Return ``(K, b)``, each image's value at its label, of values ``(K, b, m)``."""
        return values.gather(2, self.labels.unsqueeze(2)).squeeze(2)


class LabelCounts(NamedTuple):
    """All labels of each image.

    Attributes:
        weights: ``(K, b, m)`` how often each class was given, by the mean number of labels that an
            image of the network's training set has.
    """

    weights: "Tensor"

    def pick(self, values: "Tensor") -> "Tensor":
        """Return ``(K, b)``, the sum of each image's values ``(K, b, m)`` by their weights."""
        return (values * self.weights).sum(dim=2)


@dataclass(frozen=True, config=STRICT)
class TargetsParams:
    """What a sample is: an example with its label (the paper), or an image with all its labels."""

    targets: Annotated[str, OneOf(TARGETS), Neutral("labels")] = "labels"
