"""Curves: what was evaluated on the way, by epochs, of a point's runs at its chosen rate."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stages.lib.components.losses import LOSSES
from stages.lib.config.params import Config
from stages.lib.studies import summaries

Point = dict[str, Any]
Curves = list[list[dict[str, Any]]]

#: Columns of an evaluation -> what a series of them is called.
QUANTITIES = {
    "test_accuracy": "test images",
    "true_as_given": "truly labelled",
    "noisy_as_given": "mislabelled as given",
    "noisy_as_true": "mislabelled as true",
}


def chosen(config: Config, outcomes: Sequence[summaries.Outcome], rate: float | None) -> Curves:
    """Return each seed's evaluations at a rate with their ``epoch``: samples seen, by all samples.

    Of a rate of None, where every run diverged, those at the first. An evaluation of a run that
    diverged has no quantities.

    Args:
        config: the point's.
        outcomes: of `runs.expand`'s runs, in its order: rates within seeds.
        rate: one of its learning rates, or None.
    """
    train, data = config.train, config.data
    samples = data.originals if LOSSES[train.loss].originals_only else config.samples
    rates = train.learning_rates
    first = 0 if rate is None else rates.index(rate)
    return [
        [
            {
                "epoch": row["examples_seen"] / samples,
                **({} if outcome["diverged"] else {key: row.get(key) for key in QUANTITIES}),
            }
            for row in outcome["curve"]
        ]
        for outcome in outcomes[first :: len(rates)]
    ]


def along(points: Sequence[Point], _targets: Sequence[float], _x: str) -> list[Point]:
    """Return a point for each evaluation and quantity: a mean over the seeds that did not diverge.

    Args:
        points: trained ones with ``curves``, as `chosen` returns them.
    """
    found = []
    for point in points:
        shared = {key: value for key, value in point.items() if key not in (*OF_THE_END, "curves")}
        last = point["curves"][0][-1]["epoch"]
        for column, words in QUANTITIES.items():
            for rows in zip(*point["curves"], strict=True):
                values = [row.get(column) for row in rows]
                known = [value for value in values if value is not None]
                if not known and any(column in row for row in rows):
                    continue  # without noise there are no noisily labelled examples
                mean = float(np.mean(known)) if known else None
                found.append(
                    {
                        **shared,
                        "series": f"{point['series']}: {words}",
                        "epoch": rows[0]["epoch"],
                        "accuracy": mean,
                        **{key: round(point[key] * rows[0]["epoch"] / last) for key in SO_FAR},
                        "values": values,
                        **summaries.band(mean, summaries.spread(known)),
                    }
                )
    return found


#: What a trained point has spent at its end, and in proportion at an evaluation before.
SO_FAR = ("operations", "examples_seen", "labels_seen")

#: What it has of its end alone.
OF_THE_END = (
    *(f"test_accuracy{suffix}" for suffix in summaries.SELECTIONS),
    *("val_accuracy", "top5_accuracy", "top5_accuracy_sd", "top5_values", "rates"),
)
