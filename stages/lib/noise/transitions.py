"""Transition matrices of label noise, and the orders of false classes that structure it."""

import numpy as np
from numpy.typing import NDArray

ORDERS = ("confusing", "reverse", "random")
ROUNDING = 1 + 1e-12  # forgiven above the largest delta: 0.3 / 3 is 0.09999999999999999
Matrix = NDArray[np.float64]


def largest_delta(alpha: float, num_classes: int) -> float:
    """Return the largest structure ``delta`` for which every probability stays at least 0.

    The last false class is drawn with ``1/m - delta/alpha``, hence ``delta <= alpha/m``.
    """
    return min(1.0, alpha / num_classes)


def uniform_transition(num_classes: int) -> Matrix:
    """Return the ``(m, m)`` matrix of uniform noise, the true class included (section 3.1)."""
    return np.full((num_classes, num_classes), 1.0 / num_classes)


def false_class_order(
    counts: NDArray[np.integer], order: str, *, rng: np.random.Generator | None = None
) -> NDArray[np.int64]:
    """Return each class's false classes, the most likely noisy label first (section 3.2).

    Args:
        counts: ``(m, m)`` confusion counts, true class in the rows; the diagonal is not read.
        order: ``confusing`` (most confused first), ``reverse`` (least confused first), ``random``.
        rng: needed by ``random`` only.

    Returns:
        ``(m, m - 1)`` class indices. Equal counts, never-seen errors among them, go by class
        index, the smaller first.

    Raises:
        ValueError: the counts are no square matrix or an order is unknown.
    """
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"confusion counts: got shape {counts.shape}; accepted: (m, m)")
    if order not in ORDERS:
        raise ValueError(f"order: got {order!r}; accepted: {', '.join(ORDERS)}")
    if order == "random" and rng is None:
        raise ValueError("order random: got no rng; pass one")
    rows = []
    for true_class, row in enumerate(counts.astype(np.int64)):
        false = np.delete(np.arange(len(row)), true_class)
        if rng is not None and order == "random":
            rows.append(rng.permutation(false))
        else:
            key = -row[false] if order == "confusing" else row[false]
            rows.append(false[np.argsort(key, kind="stable")])
    return np.array(rows, dtype=np.int64)


def structured_transition(order: NDArray[np.integer], alpha: float, delta: float) -> Matrix:
    """Return the ``(m, m)`` matrix of structured noise (section 3.2, figure 4).

    With ``r_k`` falling linearly from +1 (first false class) to -1 (last), a noisy label is drawn
    from ``q_true = 1/m``, ``q_k = 1/m + (delta/alpha) * r_k``. Over the whole diluted set the first
    false class then has chance plus ``delta * eps``: as much as the correct class at ``delta = 1``.

    Args:
        order: ``(m, m - 1)``, each class's false classes, the most likely first.
        alpha: noisy labels per clean label.
        delta: structure in ``[0, largest_delta(alpha, m)]``; 0 is uniform noise.

    Raises:
        ValueError: fewer than three classes, or ``delta`` out of range.
    """
    m = order.shape[0]
    if order.shape != (m, m - 1) or m < 3:
        raise ValueError(f"order: got shape {order.shape}; accepted: (m, m - 1) with m >= 3")
    largest = largest_delta(alpha, m)
    if not 0 <= delta <= largest * ROUNDING:
        raise ValueError(f"delta: got {delta}; accepted: 0 to {largest:g} at alpha {alpha:g}")
    transition = uniform_transition(m)
    if delta > 0:
        r = np.linspace(1.0, -1.0, m - 1)
        # The last class's probability may round to just below zero, of which no logarithm is.
        drawn = np.maximum(1 / m + delta / alpha * r, 0)
        np.put_along_axis(transition, order.astype(np.int64), drawn, axis=1)
    check_transition(transition)
    return transition


def check_transition(transition: Matrix) -> None:
    """Require a row-stochastic matrix with the true class in the rows.

    Raises:
        ValueError: not square, an entry outside [0, 1], or a row that does not sum to 1.
    """
    if transition.ndim != 2 or transition.shape[0] != transition.shape[1]:
        raise ValueError(f"transition: got shape {transition.shape}; accepted: (m, m)")
    if not (np.all(transition >= -1e-12) and np.all(transition <= 1 + 1e-12)):
        raise ValueError("transition: an entry is outside [0, 1]")
    sums = transition.sum(axis=1)
    if not np.allclose(sums, 1.0, rtol=0, atol=1e-9):
        row = int(np.abs(sums - 1).argmax())
        raise ValueError(f"transition: row {row} sums to {sums[row]:.6g}; accepted: rows sum to 1")


def estimate(true_labels: NDArray[np.integer], votes: NDArray[np.integer]) -> Matrix:
    """Return the whole set's transition matrix as counted on images whose true labels are known.

    A class that none of them is of keeps its label: nothing is known of it.

    Args:
        true_labels: ``(v,)`` in ``[0, m)``.
        votes: ``(v, m)`` how often each label was given to each image.
    """
    m = votes.shape[1]
    counts = np.zeros((m, m))
    np.add.at(counts, true_labels, votes)
    totals = counts.sum(axis=1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1), np.eye(m))


def diluted_distribution(transition: Matrix, alpha: float) -> Matrix:
    """Return ``P(label = j | true class = i)`` over the whole diluted set, clean labels included.

    ``(I + alpha * T) / (1 + alpha)``; for uniform noise its diagonal is
    ``(1 + alpha/m) / (1 + alpha)`` (section 3.1).
    """
    check_transition(transition)
    return (np.eye(len(transition)) + alpha * transition) / (1 + alpha)
