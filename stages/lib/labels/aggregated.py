"""Aggregated targets: of a diluted set, each image once with the counts of its labels.

The loss over one epoch is that of the diluted set label by label, for what its examples cost is
summed in another order; `docs/METHOD.md` derives what that changes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.lib.noise.sampling import Labels, chunks

DENSE = 256  # classes, at most, of which every image has a count; of more, of those that it has


class Aggregated(NamedTuple):
    """Distinct images of a diluted set, in the order in which its examples first show them.

    Attributes:
        images: ``(u,)`` uint32 indices into the image bank.
        counts: ``(u, L)`` int32, how often a label was given: of each of the ``L = m`` classes, or
            of the classes beside it.
        classes: ``(u, L)`` int32 the classes that counts are of, filled up with counts of zero;
            None where a column is its class.
    """

    images: NDArray[np.uint32]
    counts: NDArray[np.int32]
    classes: NDArray[np.int32] | None


def aggregate(labels: Labels, images: NDArray[np.uint32], num_classes: int) -> Aggregated:
    """Count the labels of each image.

    Args:
        labels: ``(N,)`` given labels.
        images: ``(n,)`` or ``(N,)`` indices into the image bank, repeated to ``N``.
        num_classes: m.
    """
    shown, first, image = np.unique(images, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    rows = place[image]  # of each entry of `images`
    if num_classes <= DENSE:
        counts = np.zeros(len(order) * num_classes, dtype=np.int32)
        for chunk in chunks(0, len(labels)):
            row = rows[np.arange(chunk.start, chunk.stop) % len(images)]
            np.add.at(counts, row * num_classes + labels[chunk], 1)
        return Aggregated(shown[order], counts.reshape(-1, num_classes), None)
    from scipy import sparse  # a tenth of a second, for what few need

    row = rows[np.arange(len(labels)) % len(images)]
    ones = np.ones(len(labels), dtype=np.int32)
    table = sparse.coo_array((ones, (row, labels)), (len(order), num_classes)).tocsr()
    sizes = np.diff(table.indptr)
    filled = np.arange(sizes.max()) < sizes[:, None]
    counts, classes = np.zeros((2, *filled.shape), dtype=np.int32)
    counts[filled], classes[filled] = table.data, table.indices
    return Aggregated(shown[order], counts, classes)
