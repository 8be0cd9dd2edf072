"""Computes a study: trains its grid's points or reads their label sets, and reports them."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages.lib.config.params import TOP
from stages.lib.core.errors import UserError
from stages.lib.execution import executors, packing, runs
from stages.lib.execution.runs import Run
from stages.lib.labels import dilution
from stages.lib.studies import curves, experiment, grids, pairs, summaries
from stages.lib.studies.grids import Grid
from stages.lib.studies.kinds import KINDS, Point


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
            {**study.place_of(config), **row}
            for config in grid.points
            for folder in [labels / dilution.name_of(config.data, config.noise)]
            for row in make(config, dilution.read_facts(folder / f"seed-{config.train.seeds[0]}"))
        ]
        return _report(grid, points, [], "cpu")
    expanded = expand(grid, data, labels)
    fewest = min(packing.fetched(point[0]).classes for point in expanded)
    if study.top5 and fewest <= TOP:
        raise UserError(
            f"{grid.key}: got {fewest} classes; accepted: more than {TOP}, for top-{TOP}"
        )
    outcomes, device = executors.train_or_load([run for each in expanded for run in each], grid.key)
    return report(grid, expanded, outcomes, device)


def expand(grid: Grid, data: Path, labels: Path) -> list[list[Run]]:
    """Return the runs of each point of a grid, in their order; arguments as of `compute`."""
    found = []
    for config in grid.points:
        place, x = grid.study.place_of(config), grid.study.column
        folder = labels / dilution.name_of(config.data, config.noise)
        name = f"{place['series']}, {x}={place[x]:g}" if x in place else place["series"]
        found.append(runs.expand(name, config, data, folder))
    return found


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
    study, kind = grid.study, KINDS[grid.study.kind]
    points, times = list[Point](), list[Point]()
    for config, todo in zip(grid.points, expanded, strict=True):
        mine, outcomes = outcomes[: len(todo)], outcomes[len(todo) :]
        place, summary = study.place_of(config), summaries.summarise(config.train, mine)
        spent = summaries.seconds(mine)
        # As `operations`: of a seed at all rates. On a CPU a training has one core.
        each = spent / len(config.train.seeds) if device == "cpu" else None
        times.append({**place, "wall_seconds": spent, "core_seconds": each})
        shown = {"": summary}
        if study.top5:
            shown = {", top-1": summary, ", top-5": summaries.as_top5(summary)}
        shared = {**experiment.describe_set(todo), "config": asdict(config)}
        if kind.along:
            shared["curves"] = curves.chosen(config, mine, summary["learning_rate"])
        baseline = study.baseline_of(config)
        points += [
            {**values, **place, **shared, "series": place["series"] + suffix}
            | ({} if baseline is None else {"baseline": baseline + suffix})
            for suffix, values in shown.items()
        ]
    if kind.from_points:
        points = kind.from_points(points, grid.targets, study.column)
    return _report(grid, pairs.add_differences(points, study.column), times, device)


def _report(
    grid: Grid, points: list[Point], times: list[Point], device: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both reports; each row repeats what is stated of it, for a DVC plot sees rows alone.

    That is the paper's k-th value for the k-th point of a series, and its last for those beyond.
    """
    about = grids.describe(grid)
    seen: Counter[str] = Counter()
    rows = []
    for point in points:
        stated = grid.study.stated.get(point["series"], [])[: seen[point["series"]] + 1]
        seen[point["series"]] += 1
        paper = {f"paper_{k}": stated[-1][k] if stated else None for k in ("x", "y", "text")}
        rows.append({**point, **paper, **{key: about[key] for key in ("series_title", "caption")}})
    return {**about, "points": rows}, {
        "figure": grid.key,
        "scale": grid.scale,
        **summaries.host(device),
        "wall_seconds": float(sum(point["wall_seconds"] for point in times)),
        "points": times,
    }
