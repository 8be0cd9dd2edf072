"""Critical sizes: how many clean labels reach a target accuracy."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    pass


def critical_size(
    sizes: Sequence[int], accuracies: Sequence[float | None], target: float
) -> tuple[float | None, str]:
    """Return the number of originals at which accuracy reaches a target (figure 9).

    Accuracy is made monotone in size by isotonic regression and interpolated linearly over log n.

    Args:
        sizes: numbers of originals, ascending.
        accuracies: accuracy at each; None where training diverged, which leaves the size out.
        target: accuracy to be reached.

    Returns:
        The size and ``reached``; or None with ``not reached`` (the largest size stays below the
        target), ``below the grid`` (the smallest is already there: never an extrapolation) or
        ``diverged`` (which left fewer than two sizes).
    """
    from sklearn.isotonic import IsotonicRegression

    known = [(n, a) for n, a in zip(sizes, accuracies, strict=True) if a is not None]
    if len(known) < min(2, len(sizes)):
        return None, "diverged"
    log_n = np.log(np.asarray([n for n, _ in known], dtype=np.float64))
    monotone = IsotonicRegression().fit_transform(log_n, np.asarray([a for _, a in known]))
    if monotone[-1] < target:
        return None, "not reached"
    if monotone[0] >= target:
        return None, "below the grid"
    i = int(np.searchsorted(monotone, target))  # monotone[i - 1] < target <= monotone[i]
    part = (target - monotone[i - 1]) / (monotone[i] - monotone[i - 1])
    return float(np.exp(log_n[i - 1] + part * (log_n[i] - log_n[i - 1]))), "reached"
