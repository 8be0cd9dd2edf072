"""Methods: trainings in more than one phase, one entry each.

What networks of a first phase answer to images decides on which examples a second is trained anew,
from the run's own initial weights, for as many steps. True labels of training images are no part of
what a method is given.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass as plain
from importlib import metadata
from typing import Annotated, Any, NamedTuple, Protocol

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from stages.lib.components import label_issues
from stages.lib.core.errors import UserError
from stages.lib.core.fields import STRICT, Neutral, OneOf

CLEANINGS = ("prune", "reweight")
THRESHOLDS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)  # of self-training's confidence


@plain(frozen=True)
class Examples:
    """The diluted set of one network.

    Attributes:
        labels: ``(N,)`` given classes.
        images: ``(n,)`` or ``(N,)`` which of the distinct images is shown, repeated to ``N``.
    """

    labels: NDArray[np.integer]
    images: NDArray[np.int32]

    @property
    def shown(self) -> NDArray[np.int32]:
        """Which of the distinct images each example shows, ``(N,)``."""
        shown: NDArray[np.int32] = np.resize(self.images, len(self.labels))
        return shown


@plain(frozen=True)
class Answers:
    """What one network answers, as probabilities of classes.

    Attributes:
        training: ``(n, m)`` for the distinct images of its diluted set.
        validation: ``(v, m)`` for validation images.
        validation_labels: ``(v,)`` their true classes.
    """

    training: NDArray[np.float32]
    validation: NDArray[np.float32]
    validation_labels: NDArray[np.integer]


class FirstPhase(Protocol):
    """What a method can ask for: networks of a stack, each with its diluted set."""

    @property
    def examples(self) -> Sequence[Examples]:
        """The set of each network."""

    @property
    def batch_size(self) -> int:
        """Examples of a step."""

    def trained(self) -> list[Answers]:
        """Train networks on their sets, as without a method, and return what they answer."""

    def out_of_sample(self, folds: int) -> list[NDArray[np.float32]]:
        """Return what networks answer to images that they were not trained on, ``(n, m)`` each.

        By cross-validation whose folds split images: all labels of an image are in one fold.
        """


class Choice(NamedTuple):
    """What one network of the second phase is trained on.

    Attributes:
        images: ``(M,)`` of the distinct images; M = 0: the outcome is the first phase's.
        labels: ``(M,)`` the class that each is given.
        found: what is reported of it, plain numbers by name.
    """

    images: NDArray[np.integer]
    labels: NDArray[np.integer]
    found: dict[str, Any]


def confident_learning(first: FirstPhase, params: "MethodParams") -> list[Choice]:
    """Leave out examples with label issues (Northcutt, Jiang, Chuang 2021).

    With ``cleaning: reweight`` each that is left counts by its class's weight
    (`label_issues.class_weights`): by how often it is in the list (`label_issues.repeat`). Where
    fewer than a batch are left, or a fold's network diverged, all are kept.
    """
    choices = []
    predicted = first.out_of_sample(params.folds)
    for examples, probabilities in zip(first.examples, predicted, strict=True):
        labels, shown = examples.labels, examples.shown
        kept: NDArray[np.integer] = np.arange(len(labels))
        found: dict[str, Any] = {}
        if np.isfinite(probabilities).all():
            issues = label_issues.find(labels, shown, probabilities)
            left = np.flatnonzero(~issues.found)
            found["issues"] = len(labels) - len(left)
            found["estimated_accuracy"] = float(np.trace(issues.joint) / len(labels))
            if len(left) >= first.batch_size:
                kept = left
                if params.cleaning == "reweight":
                    weights = label_issues.class_weights(labels, issues.joint)
                    kept = label_issues.repeat(left, labels[left], weights, len(labels))
        choices.append(Choice(shown[kept], labels[kept], found))
    return choices


def best_threshold(
    confidence: NDArray[np.floating], right: NDArray[np.bool_], num_classes: int
) -> tuple[float | None, float]:
    """Return the confidence above which predictions are worth the most, and how many are above.

    ``coverage * margin**2`` is the largest, with ``margin = max(0, (m * accuracy - 1) / (m - 1))``:
    bounds on learning from noisy labels count labels by the square of their margin (Angluin, Laird
    1988: ``n (1 - 2 eta)**2``; of two classes it is that).

    Args:
        confidence: ``(v,)`` of validation images.
        right: ``(v,)`` whether they are predicted rightly.
        num_classes: m.

    Returns:
        One of `THRESHOLDS`, the lowest of equals, and the share of images of at least this
        confidence; None and 0 where at none of them predictions are better than chance.
    """
    best: tuple[float | None, float] = None, 0.0
    most = 0.0
    for threshold in THRESHOLDS:
        above = confidence >= threshold
        if above.any():
            margin = max(0.0, (num_classes * float(right[above].mean()) - 1) / (num_classes - 1))
            coverage = float(above.mean())
            if coverage * margin**2 > most:
                best, most = (threshold, coverage), coverage * margin**2
    return best


def self_training(first: FirstPhase, params: "MethodParams") -> list[Choice]:  # noqa: ARG001
    """Give each image the class that a first network is sure of (Scudder 1965; Lee 2013).

    Images whose largest probability is below a threshold (`best_threshold`) are left out, and all
    given labels. Where fewer than a batch are left, the outcome is the first network's.
    """
    choices = []
    for answers in first.trained():
        sure = answers.validation.max(axis=1).astype(np.float64)
        right = answers.validation.argmax(axis=1) == answers.validation_labels
        m = answers.training.shape[1]
        threshold, coverage = best_threshold(sure, right, m)
        found = {"threshold": threshold, "validation_coverage": coverage}
        confidence = answers.training.max(axis=1).astype(np.float64)
        kept = np.flatnonzero(confidence >= (np.inf if threshold is None else threshold))
        if len(kept) < first.batch_size:
            kept = kept[:0]
        choices.append(Choice(kept, answers.training[kept].argmax(axis=1), found))
    return choices


class Method(NamedTuple):
    """A method.

    Attributes:
        choose: what each network of the second phase is trained on; None: there is one phase.
        first: how many trainings of a run's steps its first phase is.
        takes: those of `MethodParams` that it reads.
        packages: what it needs to be installed, ...
        load: ... and imports that.
        validates: whether it needs validation images.
        of_known: whether it supposes that each image is of one of the classes.
    """

    choose: "Callable[[FirstPhase, MethodParams], list[Choice]] | None" = None
    first: "Callable[[MethodParams], int]" = lambda _: 0
    takes: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    load: Callable[[], None] = lambda: None
    validates: bool = False
    of_known: bool = False


METHODS = {
    "none": Method(),
    "confident_learning": Method(
        confident_learning,
        lambda params: params.folds,
        takes=("folds", "cleaning"),
        packages=("cleanlab",),
        load=label_issues.load,
        of_known=True,
    ),
    "self_training": Method(self_training, lambda _: 1, validates=True),
}


@dataclass(frozen=True, config=STRICT)
class MethodParams:
    """Which method, and what methods take; the paper trains once, on everything."""

    method: Annotated[str, OneOf(METHODS), Neutral("none")] = "none"
    folds: Annotated[int, Interval(ge=2, le=100)] = 3
    cleaning: Annotated[str, OneOf(CLEANINGS)] = "prune"


def unread(method: str) -> set[str]:
    """Return those of `MethodParams` that other methods read, and this one does not."""
    every = {name for entry in METHODS.values() for name in entry.takes}
    return every.difference(METHODS[method].takes)


def versions(method: str) -> dict[str, str]:
    """Return the versions of the packages that a method's outcome depends on, by name.

    Raises:
        UserError: one is not installed.
    """
    found = {}
    for name in METHODS[method].packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            others = ", ".join(key for key in METHODS if name not in METHODS[key].packages)
            raise UserError(
                f"train.method: got {method!r}; accepted without the package {name}: {others}; "
                "make setup installs it"
            ) from None
    return found
