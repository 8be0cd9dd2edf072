"""Draws noisy labels from a transition matrix, and counts them."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stages.lib.noise.transitions import Matrix, check_transition

CHUNK = 1 << 18  # labels drawn at a time: temporaries stay in cache, memory bounded
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


def chunks(start: int, stop: int) -> Iterator[slice]:
    """Yield the slices of at most `CHUNK` from ``start`` to ``stop``."""
    return (slice(i, min(i + CHUNK, stop)) for i in range(start, stop, CHUNK))


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
        m = self.num_classes = len(transition)
        # Another generator decides what the leading bits leave open: two noise levels share them.
        self.rng, self.rest = rng, rng.spawn(1)[0]
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
            u = (leading[rest] + self.rest.random(len(rest))) / (1 << self.bits)
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
    for chunk in chunks(0, len(labels)):
        labels[chunk] = draw(true_labels[chunk])
    return labels


def count_labels(true_labels: Labels, labels: Labels, num_classes: int) -> NDArray[np.int64]:
    """Return ``(m, m)`` counts: true class in the rows, given label in the columns."""
    counts = np.zeros(num_classes * num_classes, dtype=np.int64)
    for chunk in chunks(0, len(labels)):
        pair = true_labels[chunk].astype(np.int64) * num_classes + labels[chunk]
        counts += np.bincount(pair, minlength=len(counts))
    return counts.reshape(num_classes, num_classes)
