"""What training length decides: whether a figure is long enough, and what very long training does.

- ``longer``: a figure's points as they are, and trained half as long again: how far the accuracies
  lie apart, beside the spread of their seeds, and which pairs of series change their order at the
  same abscissa, with how far apart they were.
- ``very_long``: the experiment's network at several alphas, trained many times as long: accuracy on
  clean validation images against examples seen, and the training loss beside the entropy of the
  noisy labels. A loss below that entropy can only be reached by memorising single labels.

Needs the figure's images and label sets, and the experiment's images: ``dvc repro`` first. Finished
trainings are kept in the run store. Prints JSON.
``python -m benchmarks.lengths [--figure KEY] [--factor 1.5] [--examples 1280000]``
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import reports
from benchmarks.variants import changed
from stages.lib.config.params import Config
from stages.lib.config.reading import read_params
from stages.lib.core import files, paths
from stages.lib.core.errors import UserError
from stages.lib.execution import executors, runs
from stages.lib.labels import dilution
from stages.lib.noise import sampling, transitions
from stages.lib.studies import computing, grids
from stages.lib.studies.grids import Grid

ALPHAS = (0.0, 10.0, 50.0)


def lengthened(grid: Grid, factor: float) -> Grid:
    """Return a grid whose points train so many times as long."""
    points = []
    for point in grid.points:
        passes, least = point.train.epochs * factor, round(point.train.min_samples * factor)
        points.append(changed(point, {"train.epochs": passes, "train.min_samples": least}))
    return replace(grid, points=tuple(points))


def trained(grid: Grid) -> list[dict[str, Any]]:
    """Return a figure's points."""
    folders = paths.datasets(grid.scale), paths.figure_labels(grid.scale, grid.key)
    points: list[dict[str, Any]] = computing.compute(grid, *folders)[0]["points"]
    return points


def compare(
    x: str, y: str, first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return how far points lie apart, and which pairs of series change their order at one place.

    Args:
        x: key of the abscissa.
        y: key of the ordinate.
        first: a figure's points.
        second: the same points, computed otherwise.
    """
    after = {(p["series"], p[x]): p[y] for p in second if p[y] is not None}
    first = [p for p in first if p[y] is not None and (p["series"], p[x]) in after]
    apart = [after[p["series"], p[x]] - p[y] for p in first]
    pairs = [(a, b) for a, b in combinations(first, 2) if a[x] == b[x]]
    swapped = [
        {"series": [a["series"], b["series"]], x: a[x], "gap": abs(a[y] - b[y])}
        for a, b in pairs
        if (a[y] - b[y]) * (after[a["series"], a[x]] - after[b["series"], b[x]]) < 0
    ]
    return {
        "points": len(first),
        "change": {"mean": mean(apart), "smallest": min(apart), "largest": max(apart)},
        "mean_sd_of_seeds": known_mean([p["sd"] for p in first]),
        "pairs": len(pairs),
        "pairs_swapped": swapped,
    }


def known_mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are there; a loss that diverged is none."""
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def entropy(alpha: float, classes: int) -> float:
    """Return the entropy of a diluted set's label given the true class, uniform noise, in nats."""
    label = transitions.diluted_distribution(np.full((classes, classes), 1 / classes), alpha)[0]
    label = label[label > 0]
    return float(-(label * np.log(label)).sum())


def very_long(config: Config, alphas: Sequence[float], examples: int) -> list[dict[str, Any]]:
    """Return the learning curves of long training, means and standard deviations over seeds."""
    rows, experiment = [], paths.datasets(paths.EXPERIMENT)
    classes = files.read_json(experiment / config.data.name / "dataset.json")["num_classes"]
    originals = config.data.originals
    with TemporaryDirectory() as folder:
        for alpha in alphas:
            labels, seeds = Path(folder) / f"alpha-{alpha:g}", config.train.seeds
            uniform = {"noise.kind": "uniform", "noise.delta": 0.0, "noise.alpha": alpha}
            length = {
                "train.learning_rates": config.train.learning_rates[:1],
                "train.epochs": 0.0,
                "train.min_samples": examples,
                "train.early_stopping": True,  # evaluates after twice as many examples each time
            }
            point = changed(config, {**uniform, **length})
            dilution.materialise(point.data, point.noise, seeds, data_folder=experiment, out=labels)
            outcomes, _ = executors.train_or_load(
                runs.expand(f"α = {alpha:g}", point, experiment, labels), f"α = {alpha:g}"
            )
            curves = [outcome["curve"] for outcome in outcomes]
            rows.append(
                {
                    "alpha": alpha,
                    "examples": originals + sampling.count_noisy(originals, alpha),
                    "learning_rate": point.train.learning_rates[0],
                    "seeds": len(seeds),
                    "entropy": entropy(alpha, classes),
                    "curve": [
                        _evaluation(evaluations) for evaluations in zip(*curves, strict=True)
                    ],
                }
            )
    return rows


def _evaluation(evaluations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one moment of several seeds' curves."""
    accuracies = [evaluation["val_accuracy"] for evaluation in evaluations]
    return {
        "examples_seen": evaluations[0]["examples_seen"],
        "val_accuracy": mean(accuracies),
        "val_accuracy_sd": stdev(accuracies) if len(accuracies) > 1 else None,
        "train_loss": known_mean([evaluation["train_loss"] for evaluation in evaluations]),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", default="fig1_uniform_mnist")
    parser.add_argument("--factor", type=float, default=1.5)
    parser.add_argument("--examples", type=int, default=1_280_000)
    given = parser.parse_args()
    params = read_params()
    experiment = Config(params.data, params.noise, params.model, params.train)
    key, grid = given.figure, grids.read_grid(params.scale, given.figure)
    study = grid.study
    if study.kind != "trained":
        raise UserError(f"{key}: is {study.kind}; accepted: a figure of trained points")
    with redirect_stdout(sys.stderr):  # what stages say is not part of the JSON
        first = trained(grid)
        second = trained(lengthened(grid, given.factor))
        curves = very_long(experiment, ALPHAS, given.examples)
    reports.emit(
        {
            "figure": key,
            "scale": params.scale,
            "factor": given.factor,
            "longer": compare(study.column, study.y, first, second),
            "very_long": curves,
        }
    )


if __name__ == "__main__":
    main()
