"""What a stack trains: its data, what its members share, and what is a member's own."""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic.dataclasses import dataclass as validated

from stages.lib.config.params import Config, ModelParams, TrainParams
from stages.lib.core.fields import STRICT

if TYPE_CHECKING:
    from torch import Tensor

    from stages.lib.training.memorisation import Examples

EVALUATIONS = 10  # of the validation images: with early stopping each after twice the steps


@dataclass(frozen=True)
class TrainingData:
    """Tensors on one device.

    Attributes:
        bank: ``(B, height, width, channels)`` uint8, the image bank.
        labels: ``(N,)`` given labels, uint8 or int32; of aggregated targets ``(u, L)`` int32, how
            often each was given to each distinct image, see `labels.aggregated.Aggregated`.
        images: int32 indices into the bank, one for each of labels, or repeated to as many.
        validation: ``(v,)`` int64 indices into the bank.
        validation_labels: ``(v,)`` true classes.
        validation_votes: ``(v, m)`` how often each label was given to each validation image.
        test_images: ``(t, height, width, channels)`` uint8.
        test_labels: ``(t,)`` true classes.
        classes: ``(u, L)`` int32 classes that counts of labels are of; None where a column is one.
        transition: ``(m, m)`` of the whole diluted set, for losses that read it.
        examples: the diluted set with true classes, for reports of memorisation alone.
    """

    bank: "Tensor"
    labels: "Tensor"
    images: "Tensor"
    validation: "Tensor"
    validation_labels: "Tensor"
    validation_votes: "Tensor"
    test_images: "Tensor"
    test_labels: "Tensor"
    classes: "Tensor | None" = None
    transition: "Tensor | None" = None
    examples: "Examples | None" = None

    @property
    def num_classes(self) -> int:
        """Number of classes, m."""
        return self.validation_votes.shape[1]


#: What a member of a stack has of its own, of `TrainParams`, and what its numbers do not depend on.
OWN = (
    "recipe", "learning_rates", "seeds", "epochs", "min_samples", "average", "early_stopping",
    "device", "stacking",
)  # fmt: skip


@validated(frozen=True, config=STRICT, kw_only=True)
class TrainConfig(TrainParams):
    """What the members of a stack share (section 3.4): `TrainParams` without `OWN`, and a network.

    Attributes:
        model: the network.
    """

    model: ModelParams


def shared(config: Config) -> TrainConfig:
    """Return what the runs of a config share with others in a stack."""
    train = {key: value for key, value in asdict(config.train).items() if key not in OWN}
    return TrainConfig(model=config.model, **train)


@dataclass(frozen=True)
class Replica:
    """What is a member's own.

    Attributes:
        data: its diluted set; ``bank`` and ``test_images`` are the same for all of a stack.
        learning_rate: before the schedule.
        steps: batches to train for.
        average: share of the last steps before a report whose weights are averaged.
        alpha: that of ``H_alpha``, else 0.
        init: randomness of the weights.
        shuffle: randomness of the order of examples.
        augment: randomness of the changes to their images.
        early_stopping: whether the evaluation with the best accuracy on clean validation images is
            reported, not the last. ``average`` is then at most one half, and counts for each.
    """

    data: TrainingData
    learning_rate: float
    steps: int
    average: float
    alpha: float
    init: np.random.SeedSequence
    shuffle: np.random.SeedSequence
    augment: np.random.SeedSequence
    early_stopping: bool = False

    @property
    def evaluations(self) -> set[int]:
        """Steps after which the member is evaluated; the last is among them."""
        if self.early_stopping:  # each after half as many steps as the next
            return {math.ceil(self.steps / 2**k) for k in range(EVALUATIONS)}
        return {math.ceil(self.steps * k / EVALUATIONS) for k in range(1, EVALUATIONS + 1)}

    def first_averaged(self, step: int) -> int:
        """Return the first step whose weights are averaged for the next report from a step on.

        Beyond that report's where none are.
        """
        reports = self.evaluations if self.early_stopping else {self.steps}
        end = min(report for report in reports if report >= step)
        return end - math.floor(self.average * end) + 1

    @property
    def averages(self) -> bool:
        """Whether any report is of averaged weights."""
        return math.floor(self.average * self.steps) > 0
