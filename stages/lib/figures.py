"""Computes a figure's points: trains them, reads transition matrices, or finds thresholds."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib import dilution, files, hosts, noise, results, runs, studies, workers
from stages.lib.params import Config
from stages.lib.studies import Grid

Point = dict[str, Any]


def compute(key: str, scale: str, grid: Grid, data: Path, labels: Path) -> dict[str, Any]:
    """Return a figure's JSON: what it is, what it was computed on, and its points.

    Args:
        key: the figure.
        scale: the scale that the grid comes from.
        grid: its points.
        data: folder with one folder per data set.
        labels: the figure's diluted label sets.
    """
    figure = studies.FIGURES[key]
    band = results.BAND
    if figure.kind == "transitions":
        points, device = _transitions(key, grid, labels), "cpu"
        band = "none: probabilities, and the frequencies of one draw"
    else:
        points, device = _trained(key, grid, data, labels)
        if figure.kind == "thresholds":
            points = _thresholds(points, grid.targets)
            band = "smallest and largest of the seeds' own thresholds, where every seed has one"
    about = studies.describe(key, scale, grid)
    shared = {"series_title": figure.series_title, "caption": about["caption"]}
    return {
        **about,
        "band": band,
        "hardware": hosts.hardware(device),
        "versions": hosts.versions(),
        "points": [{**point, **shared} for point in _with_stated(key, points)],
    }


def _with_stated(key: str, points: list[Point]) -> list[Point]:
    """Add the paper's values, which rows repeat: a series' k-th with its k-th point, then the last.

    Rows are all that a DVC plot sees of a figure.
    """
    seen: Counter[str] = Counter()
    marked = []
    for point in points:
        series = point["series"]
        values = studies.FIGURES[key].stated.get(series, ())
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


def _coordinates(config: Config) -> Point:
    """Return the numbers that some figure has on its axis."""
    return {
        "alpha": config.noise.alpha,
        "delta": config.noise.delta,
        "originals": config.data.originals,
        "batch_size": config.train.batch_size,
    }


def _folder(labels: Path, config: Config) -> Path:
    return labels / dilution.name_of(config.data, config.noise)


def _trained(key: str, grid: Grid, data: Path, labels: Path) -> tuple[list[Point], str]:
    figure = studies.FIGURES[key]
    expanded: list[list[runs.Run]] = []
    for config in grid.points:
        name = f"{figure.series(config)}, {figure.x}={_coordinates(config)[figure.x]:g}"
        expanded.append(runs.expand(name, config, data, _folder(labels, config)))
    flat, device = workers.complete([run for point in expanded for run in point], key)
    points = []
    for config, todo in zip(grid.points, expanded, strict=True):
        outcomes, flat = flat[: len(todo)], flat[len(todo) :]
        points.append(
            {
                "series": figure.series(config),
                **_coordinates(config),
                **results.summarise(config.train, outcomes),
                **results.describe_set(todo),
                "config": asdict(config),
            }
        )
    return points, device


def _transitions(key: str, grid: Grid, labels: Path) -> list[Point]:
    """Return figure 4's cells: the label distributions of the diluted sets, and what was drawn."""
    points = []
    for config in grid.points:
        facts = files.read_json(
            _folder(labels, config) / f"seed-{config.train.seeds[0]}" / "noise.json"
        )
        transition = np.array(facts["transition"])
        diluted = noise.diluted_distribution(transition, config.noise.alpha)
        counts = np.array(facts["counts"])
        totals = counts.sum(axis=1)
        rank = np.argsort(np.argsort(-diluted, axis=1, kind="stable"), axis=1)
        points += [
            {
                "series": studies.FIGURES[key].series(config),
                **_coordinates(config),
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
    """Return figure 9's points: the originals needed for each target at each noise level."""
    found = []
    for alpha in sorted({point["alpha"] for point in points}):
        curve = sorted((p for p in points if p["alpha"] == alpha), key=lambda p: p["originals"])
        sizes = [point["originals"] for point in curve]
        for target in targets:
            size, status = results.critical_size(sizes, [p["test_accuracy"] for p in curve], target)
            seeds = [
                results.critical_size(sizes, [p["values"][i] for p in curve], target)[0]
                for i in range(len(curve[0]["values"]))
            ]
            known = [value for value in seeds if value is not None]
            whole = size is not None and len(known) == len(seeds)
            found.append(
                {
                    "series": f"{target:.2f}",
                    "alpha": alpha,
                    "target": target,
                    "critical_size": size,
                    "status": status,
                    "values": seeds,
                    "seeds": curve[0]["seeds"],
                    "sd": results.spread(known) if whole else None,
                    "lo": min(known) if whole else None,
                    "hi": max(known) if whole else None,
                    "sizes": sizes,
                    "config": curve[-1]["config"],
                }
            )
    return found
