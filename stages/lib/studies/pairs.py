"""Paired differences: what a series gains over its study's baseline, seed by seed.

All series of a study have the seeds in common, and with them labels, splits and initial weights
(docs/METHOD.md, "Common random numbers"): what differs between two values of one seed is what
differs between the series.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from stages.lib.studies import summaries

LEVEL = 0.95  # of the interval
FEWEST = 5  # pairs that an interval is given of

Point = dict[str, Any]


def difference(
    values: Sequence[float | None], others: Sequence[float | None]
) -> dict[str, float | int | None]:
    """Return the mean of paired differences, with the interval of Student's t.

    Args:
        values: of a seed each, None where there is none: the seed diverged, or has no threshold.
        others: the baseline's, of the same seeds in the same order.

    Returns:
        ``difference``, the mean over the pairs of which both are known, ``pairs``, how many these
        are, and ``difference_lo`` and ``difference_hi``, None of fewer than `FEWEST` pairs or where
        any is not whole: what diverges is not left out by chance.
    """
    both = zip(values, others, strict=True)
    known = [a - b for a, b in both if a is not None and b is not None]
    mean = float(np.mean(known)) if known else None
    low = high = None
    sd = summaries.spread(known)
    if mean is not None and sd is not None and len(values) == len(known) >= FEWEST:
        from scipy import stats

        half = float(stats.t.ppf((1 + LEVEL) / 2, len(known) - 1)) * sd / math.sqrt(len(known))
        low, high = mean - half, mean + half
    return {
        "difference": mean,
        "difference_lo": low,
        "difference_hi": high,
        "pairs": len(known),
    }


def add_differences(points: Sequence[Point], x: str) -> list[Point]:
    """Return points with the `difference` to their baseline's at the same place of the abscissa.

    Seeds are those that both points have. The baseline itself, and a point at a place that it does
    not have, have none.

    Args:
        points: with ``baseline``, the name of a series, where their study has one.
        x: the column of the abscissa.
    """
    places = {(point["series"], point[x]): point for point in points}
    found = []
    for point in points:
        if "baseline" in point:
            other = places.get((point["baseline"], point[x]))
            mine, theirs = by_seed(point), {} if other in (None, point) else by_seed(other)
            seeds = [seed for seed in mine if seed in theirs]
            compared = difference([mine[s] for s in seeds], [theirs[s] for s in seeds])
            found.append({**point, **compared})
        else:
            found.append(point)
    return found


def by_seed(point: Point) -> dict[int, float | None]:
    """Return a point's values by their seeds."""
    return dict(zip(point["seeds"], point["values"], strict=True))
