"""Confident learning: which given labels are probably wrong (Northcutt, Jiang, Chuang 2021).

The `cleanlab` package does it, over chunks of examples, for a diluted set shows an image many times
and the probabilities of all its examples would fill the memory. It is imported where it is needed.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 22  # probabilities at once, of so many examples and classes
CLOSE = 1e-6  # cleanlab's: a label that is as likely as the likeliest but for this is no issue


def load() -> None:
    """Import cleanlab."""
    import cleanlab.count  # noqa: F401


class Issues(NamedTuple):
    """What is found of given labels.

    Attributes:
        found: ``(N,)`` bool, whether a label is an issue.
        joint: ``(m, m)`` counts, calibrated to sum to the given labels' numbers: given label in the
            rows, estimated true class in the columns (``C``, Northcutt et al. 2021, equation 3).
    """

    found: NDArray[np.bool_]
    joint: NDArray[np.integer]


def _chunks(count: int, num_classes: int) -> Iterator[slice]:
    size = max(1, CHUNK // num_classes)
    return (slice(start, start + size) for start in range(0, count, size))


def confident_thresholds(
    labels: NDArray[np.integer], own: NDArray[np.floating], num_classes: int
) -> NDArray[np.float64]:
    """Return the mean probability of each class over the examples that are given it (equation 2).

    Args:
        labels: ``(N,)`` given classes.
        own: ``(N,)`` the probability of each.
        num_classes: m.

    Returns:
        ``(m,)``; 2, which no probability reaches, of a class that no example is given. cleanlab's
        mean over chunks would be 0 there.
    """
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, weights=own, minlength=num_classes)
    means = np.maximum(sums / np.maximum(counts, 1), 2 * CLOSE)  # as cleanlab bounds them
    return np.where(counts > 0, means, 2.0)


def find(
    labels: NDArray[np.integer], shown: NDArray[np.integer], probabilities: NDArray[np.floating]
) -> Issues:
    """Return the label issues: examples off the diagonal of the confident joint.

    That is ``cleanlab.filter.find_label_issues(..., filter_by="confident_learning")``, the method
    ``C_{noisy, true}`` of section 3.2: an image is of class k where k is its most likely class
    among those j whose probability is at least the mean of ``p_j`` over the examples labelled j,
    and then each of its labels but k is an issue. We take it because it judges each example by its
    own image alone: the others rank examples, and of thousands of equal ones, the same label on the
    same image, they leave out an arbitrary part.

    Args:
        labels: ``(N,)`` given classes.
        shown: ``(N,)`` which image each example shows.
        probabilities: ``(n, m)`` of each image, predicted by a network that has not seen it.
    """
    from cleanlab.count import calibrate_confident_joint, compute_confident_joint

    m = probabilities.shape[1]
    thresholds = confident_thresholds(labels, probabilities[shown, labels], m)
    found, joint = np.zeros(len(labels), dtype=bool), np.zeros((m, m), dtype=np.int64)
    sure = np.eye(m, dtype=probabilities.dtype)
    for chunk in _chunks(len(labels), m):
        given, likely = labels[chunk].astype(np.int64), probabilities[shown[chunk]]
        # It counts at least one right label of each class. In each chunk that would be too many:
        # one sure example of each class is added, and taken off again.
        counts, wrong = compute_confident_joint(
            np.concatenate([given, np.arange(m)]), np.concatenate([likely, sure]),
            thresholds=thresholds, calibrate=False, return_indices_of_off_diagonals=True,
        )  # fmt: skip
        joint += counts - np.eye(m, dtype=np.int64)
        mine = np.zeros(len(given), dtype=bool)
        mine[wrong] = True
        likely[np.arange(len(given)), given] += CLOSE
        found[chunk] = mine & (likely.argmax(axis=1) != given)
    np.fill_diagonal(joint, joint.diagonal().clip(min=1))
    return Issues(found, calibrate_confident_joint(joint, labels))


def class_weights(labels: NDArray[np.integer], joint: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the weight of each class's loss after pruning, ``(m,)`` (section 3.2).

    ``Q[true = k] / Q[given = k, true = k]``, the inverse of the estimated share of a class's
    examples whose label is right: what is pruned of a class, the rest of it stands for.

    Args:
        labels: ``(N,)`` given classes, before pruning.
        joint: as `find` returns it.
    """
    from cleanlab.count import estimate_latent

    _, noise, _ = estimate_latent(joint, labels)  # given label in the rows, columns sum to 1
    weights: NDArray[np.float64] = 1 / np.maximum(noise.diagonal(), 1e-12)
    return weights


def repeat(
    kept: NDArray[np.integer],
    classes: NDArray[np.integer],
    weights: NDArray[np.floating],
    most: int,
) -> NDArray[np.integer]:
    """Return examples as often as the weights of their classes say, in a list.

    The lightest class is there once. Another is there as often as its weight in proportion, its
    total rounded to the nearest number; examples of a class differ by one at most, and those that
    are there more often lie at equal distances.

    Args:
        kept: ``(M,)`` numbers of examples.
        classes: ``(M,)`` the class of each.
        weights: ``(m,)`` above 0.
        most: length of the list, about: were it longer, all classes are there less often.
    """
    counts = np.bincount(classes, minlength=len(weights))
    wanted = counts * weights / weights[counts > 0].min()
    wanted *= min(1.0, most / wanted.sum())
    parts = []
    for k in np.flatnonzero(counts):
        copies = max(1, round(float(wanted[k])))
        parts.append(kept[classes == k][np.arange(copies) * int(counts[k]) // copies])
    return np.concatenate(parts)
