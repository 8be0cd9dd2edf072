"""Noise models: which label an example gets. Pure functions on numpy arrays.

Conventions, asserted at every boundary: ``transition[i, j] = P(noisy label = j | true class = i)``,
so rows are true classes and sum to 1; confusion counts have the true class in the rows.
"""

import numpy as np
from numpy.typing import NDArray

ORDERS = ("confusing", "reverse", "random")
ROUNDING = 1 + 1e-12  # forgiven above the largest delta: 0.3 / 3 is 0.09999999999999999
CHUNK = 1 << 18  # labels drawn at a time: temporaries stay in cache, memory bounded

Matrix = NDArray[np.float64]
Labels = NDArray[np.unsignedinteger]


def label_dtype(num_classes: int) -> np.dtype[np.unsignedinteger]:
    """Return the smallest unsigned type that holds labels in ``[0, m)``: uint8 up to 256 classes.

    Raises:
        ValueError: there are fewer than 2 classes or more than 65,536.
    """
    if not 2 <= num_classes <= 1 << 16:
        raise ValueError(f"got {num_classes} classes; there must be 2 to 65,536; change the data")
    return np.dtype(np.uint8 if num_classes <= 256 else np.uint16)


def count_noisy(originals: int, alpha: float) -> int:
    """Return how many noisy examples dilute ``originals`` ones: ``round(alpha * n)``."""
    return round(alpha * originals)


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
    m = counts.shape[0]
    rows = []
    for true_class in range(m):
        false = np.delete(np.arange(m), true_class)
        if rng is not None and order == "random":
            rows.append(rng.permutation(false))
        else:
            key = counts[true_class, false].astype(np.int64)
            rows.append(false[np.argsort(-key if order == "confusing" else key, kind="stable")])
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
        np.put_along_axis(transition, order.astype(np.int64), 1 / m + delta / alpha * r, axis=1)
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


def diluted_distribution(transition: Matrix, alpha: float) -> Matrix:
    """Return ``P(label = j | true class = i)`` over the whole diluted set, clean labels included.

    ``(I + alpha * T) / (1 + alpha)``; for uniform noise its diagonal is
    ``(1 + alpha/m) / (1 + alpha)`` (section 3.1).
    """
    check_transition(transition)
    return (np.eye(len(transition)) + alpha * transition) / (1 + alpha)


class LabelSampler:
    """Draws noisy labels from a transition matrix, a chunk of any length at a time.

    The inverse of each row's distribution function is looked up by the leading bits of a random
    number. A cell whose leading bits leave the label undecided is resolved with further random
    bits, so the labels follow the matrix to double precision, not to the table's.

    Args:
        transition: ``(m, m)``, row-stochastic, true class in the rows.
        rng: source of randomness.

    Raises:
        ValueError: the matrix is not row-stochastic.
    """

    def __init__(self, transition: Matrix, *, rng: np.random.Generator) -> None:
        check_transition(transition)
        m = len(transition)
        self.num_classes = m
        self.rng = rng
        self.uniform = bool(np.all(transition == 1.0 / m))
        if self.uniform:
            return
        # At most 8 Mi cells, so that the table of a thousand classes still fits 24 MiB.
        self.bits = min(16, 23 - (m - 1).bit_length())
        cells = 1 << self.bits
        self.cumulative = np.cumsum(np.clip(transition, 0, None), axis=1)
        self.cumulative[:, -1] = 1.0
        edges = np.arange(cells + 1) / cells
        self.label = np.empty((m, cells), dtype=label_dtype(m))
        self.undecided = np.empty((m, cells), dtype=bool)
        for row, cumulative in enumerate(self.cumulative):
            lowest = np.searchsorted(cumulative, edges[:-1], side="right").clip(max=m - 1)
            highest = np.searchsorted(cumulative, edges[1:], side="left").clip(max=m - 1)
            self.label[row] = lowest
            self.undecided[row] = lowest != highest

    def __call__(self, true_labels: Labels) -> Labels:
        """Return a noisy label for each true one.

        Args:
            true_labels: ``(n,)`` in ``[0, m)``.

        Raises:
            ValueError: a true label is outside ``[0, m)``.
        """
        if len(true_labels) and int(true_labels.max()) >= self.num_classes:
            accepted = f"0 to {self.num_classes - 1}"
            raise ValueError(f"true labels: got {int(true_labels.max())}; accepted: {accepted}")
        if self.uniform:
            dtype = label_dtype(self.num_classes)
            return self.rng.integers(0, self.num_classes, size=len(true_labels), dtype=dtype)
        leading = self.rng.integers(0, 1 << self.bits, size=len(true_labels), dtype=np.uint16)
        cell = (true_labels.astype(np.uint32) << np.uint32(self.bits)) | leading
        labels: Labels = self.label.reshape(-1).take(cell)
        rest = np.flatnonzero(self.undecided.reshape(-1).take(cell))
        if len(rest):
            u = (leading[rest] + self.rng.random(len(rest))) / (1 << self.bits)
            rows = self.cumulative[true_labels[rest]]
            labels[rest] = (u[:, None] >= rows).sum(axis=1).clip(max=self.num_classes - 1)
        return labels


def draw_labels(true_labels: Labels, transition: Matrix, *, rng: np.random.Generator) -> Labels:
    """Return ``(n,)`` noisy labels for ``(n,)`` true ones, with bounded memory beside them.

    Raises:
        ValueError: as `LabelSampler` says.
    """
    draw = LabelSampler(transition, rng=rng)
    labels = np.empty(len(true_labels), dtype=label_dtype(len(transition)))
    for start in range(0, len(labels), CHUNK):
        labels[start : start + CHUNK] = draw(true_labels[start : start + CHUNK])
    return labels


def count_labels(true_labels: Labels, labels: Labels, num_classes: int) -> NDArray[np.int64]:
    """Return ``(m, m)`` counts: true class in the rows, given label in the columns."""
    counts = np.zeros(num_classes * num_classes, dtype=np.int64)
    for start in range(0, len(labels), CHUNK):
        chunk = slice(start, start + CHUNK)
        pair = true_labels[chunk].astype(np.int64) * num_classes + labels[chunk]
        counts += np.bincount(pair, minlength=len(counts))
    return counts.reshape(num_classes, num_classes)
