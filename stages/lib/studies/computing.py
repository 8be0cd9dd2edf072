"""Computes a figure's points: trains them, reads transition matrices, or finds thresholds."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.config.params import MOST_CONFUSED, TOP, Config
from stages.lib.core.errors import UserError
from stages.lib.execution import executors, packing, runs
from stages.lib.execution.runs import Run
from stages.lib.labels import dilution
from stages.lib.noise import transitions
from stages.lib.studies import grids, registry, summaries, thresholds
from stages.lib.studies.grids import Grid

Point = dict[str, Any]


def compute(
    key: str, scale: str, grid: Grid, data: Path, labels: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a figure is, with its points; and apart, what no two computations of it share.

    Args:
        key: the figure.
        scale: the scale that the grid comes from.
        grid: its points.
        data: folder with one folder per data set.
        labels: the figure's diluted label sets.

    Returns:
        The contents of `paths.figure_metrics` and of `paths.figure_times`: hardware, versions, and
        how long each trained point took. A training that points share counts at each.
    """
    figure = registry.FIGURES[key]
    if figure.kind == "transitions":
        band = "none: probabilities, and the frequencies of one draw"
        return _report(key, scale, grid, _transitions(key, grid, labels), [], "cpu", band)
    expanded = expand(key, grid, data, labels)
    fewest = min(packing.fetched(point[0]).classes for point in expanded)
    if figure.top5 and fewest <= TOP:
        raise UserError(f"{key}: got {fewest} classes; accepted: more than {TOP}, for top-{TOP}")
    outcomes, device = executors.train_or_load([run for point in expanded for run in point], key)
    return report(key, scale, grid, expanded, outcomes, device)


def report(
    key: str,
    scale: str,
    grid: Grid,
    expanded: list[list[Run]],
    outcomes: list[summaries.Outcome],
    device: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `compute` returns of a trained figure, from its finished runs.

    Args:
        key: the figure.
        scale: the scale that the grid comes from.
        grid: its points.
        expanded: the runs of each point, as `expand` returns them.
        outcomes: of all runs, in their order.
        device: that they were trained on.
    """
    points, times = _trained(key, grid, expanded, outcomes)
    band = summaries.BAND
    if registry.FIGURES[key].kind == "thresholds":
        points = _thresholds(points, grid.targets)
        band = "smallest and largest of the seeds' own thresholds, where every seed has one"
    return _report(key, scale, grid, points, times, device, band)


def _report(
    key: str,
    scale: str,
    grid: Grid,
    points: list[Point],
    times: list[Point],
    device: str,
    band: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    about = grids.describe(key, scale, grid)
    shared = {"series_title": registry.FIGURES[key].series_title, "caption": about["caption"]}
    content = {
        **about,
        "band": band,
        "points": [{**point, **shared} for point in _with_stated(key, points)],
    }
    return content, {
        "figure": key,
        "scale": scale,
        **summaries.host(device),
        "wall_seconds": float(sum(point["wall_seconds"] for point in times)),
        "points": times,
    }


def _with_stated(key: str, points: list[Point]) -> list[Point]:
    """Add the paper's values, which rows repeat: a series' k-th with its k-th point, then the last.

    Rows are all that a DVC plot sees of a figure.
    """
    seen: Counter[str] = Counter()
    marked = []
    for point in points:
        series = point["series"]
        values = registry.FIGURES[key].stated.get(series, ())
        stated = values[min(seen[series], len(values) - 1)] if values else None
        seen[series] += 1
        marked.append(
            {
                **point,
                "paper_x": stated.x if stated else None,
                "paper_y": stated.y if stated else None,
                "paper_text": stated.text if stated else None,
            }
        )
    return marked


def _folder(labels: Path, config: Config) -> Path:
    return labels / dilution.name_of(config.data, config.noise)


def expand(key: str, grid: Grid, data: Path, labels: Path) -> list[list[Run]]:
    """Return the runs of each of a figure's points, in their order; arguments as of `compute`."""
    figure = registry.FIGURES[key]
    return [
        runs.expand(
            f"{figure.series(config)}, {figure.x}={registry.coordinates(config)[figure.x]:g}",
            config,
            data,
            _folder(labels, config),
        )
        for config in grid.points
    ]


def _trained(
    key: str, grid: Grid, expanded: list[list[Run]], flat: list[summaries.Outcome]
) -> tuple[list[Point], list[Point]]:
    """Return the trained points, and how long each took."""
    figure, points, times = registry.FIGURES[key], [], []
    for config, todo in zip(grid.points, expanded, strict=True):
        outcomes, flat = flat[: len(todo)], flat[len(todo) :]
        series, place = figure.series(config), registry.coordinates(config)
        times.append({"series": series, **place, "wall_seconds": summaries.seconds(outcomes)})
        shared = {**summaries.describe_set(todo), "config": asdict(config)}
        summary = summaries.summarise(config.train, outcomes)
        if figure.top5:
            points += [
                {"series": f"{series}, top-1", **place, **summary, **shared},
                {"series": f"{series}, top-5", **place, **summaries.as_top5(summary), **shared},
            ]
        else:
            points.append({"series": series, **place, **summary, **shared})
    return points, times


def _transitions(key: str, grid: Grid, labels: Path) -> list[Point]:
    """Return figure 4's cells: the label distributions of the diluted sets, and what was drawn."""
    points = []
    for config in grid.points:
        facts = dilution.read_facts(_folder(labels, config) / f"seed-{config.train.seeds[0]}")
        if facts["transition"] is None:
            raise UserError(f"{key}: got more than {MOST_CONFUSED} classes; accepted: fewer")
        transition = np.array(facts["transition"])
        diluted = transitions.diluted_distribution(transition, config.noise.alpha)
        counts = np.array(facts["counts"])
        totals = counts.sum(axis=1)
        rank = np.argsort(np.argsort(-diluted, axis=1, kind="stable"), axis=1)
        points += [
            {
                "series": registry.FIGURES[key].series(config),
                **registry.coordinates(config),
                "true_class": i,
                "label": j,
                "rank": int(rank[i, j]),
                "transition": float(transition[i, j]),
                "probability": float(diluted[i, j]),
                "config": {"noise": asdict(config.noise)},  # nothing is trained
                "drawn": float(counts[i, j] / totals[i]) if totals[i] else None,
            }
            for i in range(len(diluted))
            for j in range(len(diluted))
        ]
    return points


def _thresholds(points: list[Point], targets: tuple[float, ...]) -> list[Point]:
    """Return figure 9's points: the originals needed for each target at each noise level.

    A size at which every seed diverged is no part of a threshold; nor of a seed's own one at which
    that seed did.
    """
    found = []
    for alpha in sorted({point["alpha"] for point in points}):
        curve = sorted((p for p in points if p["alpha"] == alpha), key=lambda p: p["originals"])
        sizes = [point["originals"] for point in curve]
        known = [point["originals"] for point in curve if point["test_accuracy"] is not None]
        lost = _diverged_runs(curve)
        # A curve is one seed's: of those that every size has.
        seeds = [s for s in curve[0]["seeds"] if all(s in point["seeds"] for point in curve)]
        for target in targets:
            size, status = thresholds.critical_size(
                sizes, [p["test_accuracy"] for p in curve], target
            )
            values = [
                thresholds.critical_size(sizes, [_value_of(seed, p) for p in curve], target)[0]
                for seed in seeds
            ]
            own = [value for value in values if value is not None]
            whole = size is not None and len(own) == len(values) > 1
            found.append(
                {
                    "series": f"{target:.2f}",
                    "alpha": alpha,
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
                    "seeds_text": _seeds_text(values, lost),
                    "config": curve[-1]["config"],
                }
            )
    return found


def _value_of(seed: int, point: Point) -> float | None:
    value: float | None = point["values"][point["seeds"].index(seed)]
    return value


def _diverged_runs(curve: list[Point]) -> list[dict[str, Any]]:
    """Return which runs a threshold lacks: those that diverged at the rates that it is made of."""
    return [
        {"originals": point["originals"], **run}
        for point in curve
        for run in point["diverged_runs"]
        if point["learning_rate"] in (None, run["learning_rate"])
    ]


def _seeds_text(values: list[float | None], lost: list[dict[str, Any]]) -> str:
    """Return ``3 seeds; diverged: 1 at n = 30 (lr 1)``: of how many seeds a threshold is."""
    seeds, own = len(values), len([value for value in values if value is not None])
    text = summaries.number_of_seeds(own, seeds)
    if own < seeds:
        text += " with a threshold of their own"
    if not lost:
        return text
    parts = []
    for n in dict.fromkeys(run["originals"] for run in lost):
        here = [run for run in lost if run["originals"] == n]
        number = len({run["seed"] for run in here})
        rates = summaries.listed(run["learning_rate"] for run in here)
        parts.append(f"{'all' if number == seeds else number} at n = {n:,} (lr {rates})")
    return f"{text}; diverged: {', '.join(parts)}"
