"""The paper's figures: what each varies and shows, what the paper states, its grid at a scale.

A grid is written in ``scales/SCALE.yaml`` as the sections of one config and blocks of values that
replace some of them: the figure's points are all combinations within each block.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from stages.lib.config.params import Config, ConfusionParams
from stages.lib.config.reading import check_keys, parse_config, parse_section
from stages.lib.config.yaml_files import ParamsError, fail, read_yaml
from stages.lib.core import paths
from stages.lib.core.errors import UserError
from stages.lib.core.text import show_key
from stages.lib.data import datasets
from stages.lib.studies.registry import DISPLAY, FIGURES, check_key, coordinates

SECTIONS = ("data", "noise", "model", "train")

MOST_POINTS = 10_000  # of a block of a grid


@dataclass(frozen=True)
class Grid:
    """A figure's points at one scale; ``targets`` are figure 9's accuracies."""

    points: tuple[Config, ...]
    targets: tuple[float, ...] = ()


def read_scale(scale: str) -> tuple[Path, dict[str, Any]]:
    """Return a scale's file and its content.

    Raises:
        ParamsError: no such scale, or not valid YAML.
    """
    if not paths.NAME.fullmatch(scale):
        fail(paths.PARAMS, "", "scale", scale, "a file scales/SCALE.yaml")
    file = paths.scale_file(scale)
    content = read_yaml(file)
    known = ("defaults", "confusion", *FIGURES)
    for key in content:
        if key not in known:
            fail(file, "", show_key(key), content[key], f"only the keys {', '.join(known)}")
    return file, content


def read_confusion(scale: str) -> ConfusionParams:
    """Return how a scale estimates confusion for its figures of structured noise."""
    file, content = read_scale(scale)
    return parse_section(ConfusionParams, content.get("confusion", {}), file, "confusion")


def read_grid(scale: str, key: str) -> Grid:
    """Return a figure's points at a scale, each a whole and checked config.

    Raises:
        UserError: an unknown figure.
        ParamsError: the grid is missing, has unknown keys, values out of range, no points, or two
            at one place of a curve.
    """
    figure = check_key(key)
    file, content = read_scale(scale)
    check_keys(file, "defaults", content.get("defaults", {}), SECTIONS, ())
    needed = ["grids", *(["targets"] if figure.kind == "thresholds" else [])]
    entry: Any = content.get(key)
    check_keys(file, key, entry, [*SECTIONS, *needed], needed)
    blocks = entry["grids"]
    if not isinstance(blocks, list) or not blocks:
        fail(file, key, "grids", blocks, "a list of one or more blocks of values")
    points = [
        parse_config(_merged(content.get("defaults", {}), entry, values), file, f"{key}.")
        for block in blocks
        for values in _combinations(block, file, key)
    ]
    targets = entry.get("targets", [])
    if figure.kind == "thresholds" and not (
        isinstance(targets, list)
        and targets
        and all(isinstance(t, float) and 0 < t < 1 for t in targets)
        and len(set(targets)) == len(targets)
    ):
        wanted = "a list of one or more accuracies between 0 and 1, none twice"
        fail(file, key, "targets", targets, wanted)
    grid = Grid(tuple(dict.fromkeys(points)), tuple(targets))
    if figure.kind != "transitions":
        _check_places(grid, key, file)
    return grid


def _check_places(grid: Grid, key: str, file: Path) -> None:
    """Require that no two points would stand at one place of a curve."""
    figure = FIGURES[key]
    seen: dict[tuple[str, float, int], Config] = {}
    for point in grid.points:
        name, x = figure.series(point), coordinates(point)[figure.x]
        size = point.data.originals if figure.kind == "thresholds" else 0
        other = seen.setdefault((name, x, size), point)
        if other is not point:
            one, two = (_flat(each) for each in (other, point))
            differ = ", ".join(name for name in one if one[name] != two[name])
            raise ParamsError(
                f"{file}: {key}.grids: got two points of series {name!r} at {figure.x} = {x:g}, "
                f"which differ in {differ}; accepted: one, or a series for each"
            )


def _flat(config: Config) -> dict[str, Any]:
    """Return a config's values by ``section.key``."""
    sections = asdict(config).items()
    return {f"{name}.{key}": value for name, values in sections for key, value in values.items()}


def _combinations(block: Any, file: Path, key: str) -> list[dict[str, Any]]:
    if not isinstance(block, dict) or not all(isinstance(v, list) and v for v in block.values()):
        fail(file, key, "grids", block, "blocks of SECTION.KEY: [value, ...]")
    for name in block:
        section, _, rest = name.partition(".") if isinstance(name, str) else ("", "", "")
        if section not in SECTIONS or not rest:
            wanted = f"SECTION.KEY of {', '.join(SECTIONS)}"
            fail(file, f"{key}.grids", show_key(name), block[name], wanted)
    points = math.prod(len(values) for values in block.values())
    if points > MOST_POINTS:
        fail(file, key, "grids", points, f"blocks of at most {MOST_POINTS} points")
    return [dict(zip(block, values, strict=True)) for values in product(*block.values())]


def _merged(
    defaults: Mapping[str, Any], entry: Mapping[str, Any], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a config's sections: the scale's defaults, what the figure changes, and the point."""
    config: dict[str, Any] = {}
    for name in SECTIONS:
        parts = [part[name] for part in (defaults, entry) if name in part]
        odd = [part for part in parts if not isinstance(part, dict)]
        config[name] = odd[0] if odd else {k: v for part in parts for k, v in part.items()}
    for name, value in values.items():
        section, _, key = name.partition(".")
        if isinstance(config[section], dict):
            config[section][key] = value
    return config


def needs_confusion(grid: Grid) -> bool:
    """Tell whether a grid has structured noise, whose order comes from confusion counts."""
    return any(point.noise.kind == "structured" for point in grid.points)


def needed_datasets(points: Sequence[Config]) -> dict[str, datasets.DatasetRequest]:
    """Return the data sets that points need, by the name of their folder.

    Raises:
        UserError: one is needed in two sizes or from two places.
    """
    needed: dict[str, datasets.DatasetRequest] = {}
    for point in points:
        data = point.data
        needs = datasets.needed(data.name, data.path, data.size, point.noise.images)
        for folder, wanted in needs.items():
            if needed.setdefault(folder, wanted) != wanted:
                raise UserError(
                    f"{folder}: wanted with path and size {needed[folder][1:]} and {wanted[1:]}; "
                    "accepted: the same for every figure of a scale"
                )
    return needed


def describe(key: str, scale: str, grid: Grid) -> dict[str, Any]:
    """Return what a figure's JSON says besides its points: titles, axes, claim, substitutions."""
    figure = FIGURES[key]
    names = sorted({DISPLAY[point.data.name] for point in grid.points})
    title = f"Figure {figure.number}: {figure.topic}, {' and '.join(names)}"
    if names != [figure.dataset]:
        title += f" (paper: {figure.dataset})"
    subtitle = _noise_only(grid) if figure.kind == "transitions" else _subtitle(grid)
    return {
        "figure": key,
        "title": title,
        "subtitle": subtitle,
        "caption": f"{' and '.join(names)}; {subtitle}; paper: {figure.dataset}",
        "scale": scale,
        "kind": "heatmap" if figure.kind == "transitions" else "curves",
        "paper": figure.claim,
        "series_title": figure.series_title,
        "x": figure.x,
        "x_title": figure.x_title,
        "x_scale": figure.x_scale,
        "y": figure.y,
        "y_title": figure.y_title,
        "y_scale": "linear",
    }


def _subtitle(grid: Grid) -> str:
    """Say what all points share: images, clean labels, noise where it is one, networks, seeds."""
    points = grid.points
    sizes = {f"{p.data.size}x{p.data.size}" for p in points if p.data.size is not None}
    alphas, deltas = {p.noise.alpha for p in points}, {p.noise.delta for p in points}
    networks = dict.fromkeys(p.model.name for p in points)
    widths = {p.model.width for p in points if p.model.name != "perceptron"}
    parts = [
        *([f"images of {' or '.join(sorted(sizes))}"] if sizes else []),
        f"n = {_range({p.data.originals for p in points})} clean labels",
        *([f"α = {_range(alphas)}"] if len(alphas) == 1 and len(deltas) > 1 else []),
        f"{', '.join(networks)} at {_range(widths or {1.0})} of full width",
        f"{_range({len(p.train.seeds) for p in points})} seeds",
    ]
    return "; ".join(parts)


def _range(values: set[Any]) -> str:
    ordered = sorted(values)
    if len(ordered) <= 2:
        return " or ".join(f"{value:,g}" for value in ordered)
    return f"{ordered[0]:,g} to {ordered[-1]:,g}"


def _noise_only(grid: Grid) -> str:
    """Say what figure 4's distributions hold for: nothing is trained."""
    alphas = _range({point.noise.alpha for point in grid.points})
    return f"label distributions over the whole diluted sets, α = {alphas}"
