"""Critical sizes: how many clean labels reach a target accuracy (figure 9)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stages.lib.studies import summaries

Point = dict[str, Any]


def critical_size(
    sizes: Sequence[int], accuracies: Sequence[float | None], target: float
) -> tuple[float | None, str]:
    """Return the number of originals at which accuracy reaches a target.

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


def critical_sizes(points: Sequence[Point], targets: Sequence[float], x: str) -> list[Point]:
    """Return the originals needed for each target at each place of the abscissa.

    A threshold is of a curve over sizes: of each series, where several meet at one place.

    A size at which every seed diverged is no part of a threshold; nor of a seed's own one at which
    that seed did.

    Args:
        points: trained ones, those of one series and place differing in ``originals`` alone.
        targets: accuracies.
        x: the column of the abscissa.
    """
    curves: dict[tuple[str, Any], list[Point]] = {}
    for point in sorted(points, key=lambda point: (point[x], point["originals"])):
        curves.setdefault((point["series"], point[x]), []).append(point)
    several = len(curves) > len({place for _, place in curves})

    def named(series: str, target: float) -> str:
        return f"{series}: {target:.2f}" if several else f"{target:.2f}"

    found = []
    for (series, place), curve in curves.items():
        sizes, means = [p["originals"] for p in curve], [p["test_accuracy"] for p in curve]
        known = [n for n, mean in zip(sizes, means, strict=True) if mean is not None]
        lost = [  # runs that diverged at the rates that the threshold is made of
            {"originals": point["originals"], **run}
            for point in curve
            for run in point["diverged_runs"]
            if point["learning_rate"] in (None, run["learning_rate"])
        ]
        # A curve is one seed's: of those that every size has.
        seeds = [s for s in curve[0]["seeds"] if all(s in point["seeds"] for point in curve)]
        own_curves = [[p["values"][p["seeds"].index(seed)] for p in curve] for seed in seeds]
        for target in targets:
            size, status = critical_size(sizes, means, target)
            values = [critical_size(sizes, accuracies, target)[0] for accuracies in own_curves]
            own = [value for value in values if value is not None]
            whole = size is not None and len(own) == len(values) > 1
            baseline = {}
            if "baseline" in curve[0]:
                baseline["baseline"] = named(curve[0]["baseline"], target)
            found.append(
                {
                    "series": named(series, target),
                    x: place,
                    "target": target,
                    "critical_size": size,
                    "status": status,
                    "values": values,
                    "seeds": seeds,
                    "sd": summaries.spread(own) if whole else None,
                    "lo": min(own) if whole else None,
                    "hi": max(own) if whole else None,
                    "sizes": known,
                    "diverged": len({run["seed"] for run in lost}),
                    "diverged_runs": lost,
                    "diverged_sizes": [n for n in sizes if n not in known],
                    "operations": sum(point["operations"] for point in curve),
                    "seeds_text": _seeds_text(len(own), len(values), lost),
                    "config": curve[-1]["config"],
                    **baseline,
                }
            )
    return found


def _seeds_text(own: int, seeds: int, lost: list[dict[str, Any]]) -> str:
    """Return ``3 seeds; diverged: 1 at n = 30 (lr 1)``: of how many seeds a threshold is."""
    text = summaries.number_of_seeds(own, seeds)
    text += " with a threshold of their own" * (own < seeds)
    parts = []
    for n in dict.fromkeys(run["originals"] for run in lost):
        here = [run for run in lost if run["originals"] == n]
        number = len({run["seed"] for run in here})
        rates = summaries.listed(run["learning_rate"] for run in here)
        parts.append(f"{'all' if number == seeds else number} at n = {n:,} (lr {rates})")
    return f"{text}; diverged: {', '.join(parts)}" if parts else text
