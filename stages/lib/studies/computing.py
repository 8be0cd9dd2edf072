"""Computes a study: trains its grid's points or reads their label sets, and reports them."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages.lib.config.params import TOP, Config
from stages.lib.core.errors import UserError
from stages.lib.execution import executors, packing, runs
from stages.lib.execution.runs import Run
from stages.lib.labels import dilution
from stages.lib.studies import experiment, grids, summaries
from stages.lib.studies.grids import Grid
from stages.lib.studies.kinds import KINDS, Point
from stages.lib.studies.registry import Study


def compute(grid: Grid, data: Path, labels: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a study is, with its points; and apart, what no two computations of it share.

    Args:
        grid: its points at a scale.
        data: folder with one folder per data set.
        labels: the study's diluted label sets.

    Returns:
        The contents of `paths.figure_metrics` and of `paths.figure_times`: hardware, versions, and
        how long each trained point took. A training that points share counts at each.

    Raises:
        UserError: there are too few classes for top-5 accuracy, or too many for transitions.
    """
    study, make = grid.study, KINDS[grid.study.kind].from_labels
    if make is not None:
        points = [
            {"series": study.series_of(config), **study.place_of(config), **row}
            for config in grid.points
            for row in make(config, _facts(labels, config))
        ]
        return _report(grid, points, [], "cpu")
    expanded = expand(grid, data, labels)
    fewest = min(packing.fetched(point[0]).classes for point in expanded)
    if study.top5 and fewest <= TOP:
        raise UserError(
            f"{grid.key}: got {fewest} classes; accepted: more than {TOP}, for top-{TOP}"
        )
    every = [run for point in expanded for run in point]
    outcomes, device = executors.train_or_load(every, grid.key)
    return report(grid, expanded, outcomes, device)


def expand(grid: Grid, data: Path, labels: Path) -> list[list[Run]]:
    """Return the runs of each point of a grid, in their order; arguments as of `compute`."""
    study, found = grid.study, []
    for config in grid.points:
        x = study.place_of(config)[study.column]
        name = f"{study.series_of(config)}, {study.column}={x:g}"
        found.append(runs.expand(name, config, data, _folder(labels, config)))
    return found


def _folder(labels: Path, config: Config) -> Path:
    return labels / dilution.name_of(config.data, config.noise)


def _facts(labels: Path, config: Config) -> dict[str, Any]:
    return dilution.read_facts(_folder(labels, config) / f"seed-{config.train.seeds[0]}")


def report(
    grid: Grid, expanded: list[list[Run]], outcomes: list[summaries.Outcome], device: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `compute` returns of trained points, from their finished runs.

    Args:
        grid: the points.
        expanded: the runs of each, as `expand` returns them.
        outcomes: of all runs, in their order.
        device: that they were trained on.
    """
    study, points, times = grid.study, [], []
    for config, todo in zip(grid.points, expanded, strict=True):
        mine, outcomes = outcomes[: len(todo)], outcomes[len(todo) :]
        series, place = study.series_of(config), study.place_of(config)
        times.append({"series": series, **place, "wall_seconds": summaries.seconds(mine)})
        summary = summaries.summarise(config.train, mine)
        shown = {series: summary}
        if study.top5:
            top5 = summaries.as_top5(summary)
            shown = {f"{series}, top-1": summary, f"{series}, top-5": top5}
        shared = {**place, **experiment.describe_set(todo), "config": asdict(config)}
        points += [{"series": name, **values, **shared} for name, values in shown.items()]
    if make := KINDS[study.kind].from_points:
        points = make(points, grid.targets, study.column)
    return _report(grid, points, times, device)


def _report(
    grid: Grid, points: list[Point], times: list[Point], device: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    about = grids.describe(grid)
    shared = {key: about[key] for key in ("series_title", "caption")}
    marked = [{**point, **shared} for point in _with_stated(grid.study, points)]
    return {**about, "points": marked}, {
        "figure": grid.key,
        "scale": grid.scale,
        **summaries.host(device),
        "wall_seconds": float(sum(point["wall_seconds"] for point in times)),
        "points": times,
    }


def _with_stated(study: Study, points: list[Point]) -> list[Point]:
    """Add the paper's values, which rows repeat: a series' k-th with its k-th point, then the last.

    Rows are all that a DVC plot sees of a study.
    """
    seen: Counter[str] = Counter()
    marked = []
    for point in points:
        series = point["series"]
        values = study.stated.get(series) or [{}]
        stated = values[min(seen[series], len(values) - 1)]
        seen[series] += 1
        marked.append({**point, **{f"paper_{key}": stated.get(key) for key in ("x", "y", "text")}})
    return marked
