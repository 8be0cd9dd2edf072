"""Kinds of study: what is made of the points of a grid."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stages.lib.config.params import MOST_CONFUSED, Config
from stages.lib.core.errors import UserError
from stages.lib.noise import transitions
from stages.lib.studies import curves, summaries, thresholds

Point = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """What is made of the points of a grid.

    Attributes:
        y: the column that is the ordinate.
        band: what the columns ``lo`` and ``hi`` are, in words.
        drawing: how it is drawn, one of `plots.pictures.DRAWINGS`.
        x: the column that is the abscissa; None where that is a number of the config.
        from_labels: makes a config's rows from the facts of its first diluted label set; None where
            a config is trained.
        from_points: makes points from trained ones, targets, and the column of the abscissa; None
            where the trained ones are shown.
        swept: ``section.key`` in which trained points at one x of a series may differ.
        along: whether points are made of what was evaluated on the way, see `curves.chosen`.
    """

    y: str
    band: str
    drawing: str = "curves"
    x: str | None = None
    from_labels: Callable[[Config, dict[str, Any]], list[Point]] | None = None
    from_points: Callable[[Sequence[Point], Sequence[float], str], list[Point]] | None = None
    swept: str | None = None
    along: bool = False


def distribution(config: Config, facts: dict[str, Any]) -> list[Point]:
    """Return the cells of figure 4: label distributions of a diluted set, and what was drawn.

    Raises:
        UserError: it has more classes than transitions are kept of.
    """
    if facts["transition"] is None:
        raise UserError(f"transitions: got more than {MOST_CONFUSED} classes; accepted: fewer")
    transition, counts = np.array(facts["transition"]), np.array(facts["counts"])
    diluted = transitions.diluted_distribution(transition, config.noise.alpha)
    rank = np.argsort(np.argsort(-diluted, axis=1, kind="stable"), axis=1)
    totals = counts.sum(axis=1)
    return [
        {
            "true_class": i,
            "label": j,
            "rank": int(rank[i, j]),
            "transition": float(transition[i, j]),
            "probability": float(diluted[i, j]),
            "drawn": float(counts[i, j] / totals[i]) if totals[i] else None,
            "config": {"noise": asdict(config.noise)},  # nothing is trained
        }
        for i, j in np.ndindex(diluted.shape)
    ]


KINDS = {
    "trained": Kind("test_accuracy", summaries.BAND),
    "transitions": Kind(
        "true_class",
        "none: probabilities, and the frequencies of one draw",
        drawing="heatmap",
        x="label",
        from_labels=distribution,
    ),
    "thresholds": Kind(
        "critical_size",
        "smallest and largest of the seeds' own thresholds, where every seed has one",
        from_points=thresholds.critical_sizes,
        swept="data.originals",
    ),
    "curves": Kind("accuracy", summaries.BAND, x="epoch", from_points=curves.along, along=True),
}
