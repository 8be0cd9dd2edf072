"""A study's grid: its points at a scale.

A grid is written in ``scales/SCALE.yaml`` as the sections of one config and blocks of values that
replace some of them: the study's points are all combinations within each block.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from stages.lib.config import recipes
from stages.lib.config.params import Config, ConfusionParams
from stages.lib.config.reading import check_keys, parse_config, parse_section
from stages.lib.config.yaml_files import ParamsError, fail, read_yaml
from stages.lib.core import fields, paths
from stages.lib.core.errors import UserError
from stages.lib.core.text import show_key
from stages.lib.data import datasets
from stages.lib.studies import registry
from stages.lib.studies.kinds import KINDS
from stages.lib.studies.registry import TITLES, Study, flat

SECTIONS = tuple(fields.types_of(Config))
MOST_POINTS = 10_000  # of a block of a grid


@dataclass(frozen=True)
class Grid:
    """A study's points at one scale; ``targets`` are the accuracies of thresholds."""

    scale: str
    key: str
    study: Study
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
    check_keys(file, "", content, ["defaults", "confusion", *registry.known()], ["defaults"])
    return file, content


def read_confusion(scale: str) -> ConfusionParams:
    """Return how a scale estimates confusion for its studies of structured noise."""
    file, content = read_scale(scale)
    return parse_section(ConfusionParams, content.get("confusion", {}), file, "confusion")


def read_grid(scale: str, key: str) -> Grid:
    """Return a study's points at a scale, each a whole and checked config.

    Raises:
        UserError: an unknown study.
        ParamsError: the study or its grid has unknown or missing keys or values that cannot be
            used, or two points at one place of a curve.
    """
    study = registry.read_study(key)
    file, content = read_scale(scale)
    check_keys(file, "defaults", content.get("defaults", {}), SECTIONS, ())
    swept = KINDS[study.kind].swept is not None
    needed = ["grids", *(["targets"] if swept else [])]
    entry: Any = content.get(key)
    check_keys(file, key, entry, [*SECTIONS, *needed], needed)
    blocks, targets = entry["grids"], entry.get("targets", [])
    if not isinstance(blocks, list) or not blocks:
        fail(file, key, "grids", blocks, "a list of one or more blocks of values")
    points = dict.fromkeys(
        parse_config(_merged(content.get("defaults", {}), entry, values), file, f"{key}.")
        for block in blocks
        for values in _combinations(block, file, key)
    )
    accuracies = isinstance(targets, list) and all(type(t) is float and 0 < t < 1 for t in targets)
    if not accuracies or len(set(targets)) < len(targets) or (swept and not targets):
        wanted = "a list of one or more accuracies between 0 and 1, none twice"
        fail(file, key, "targets", targets, wanted)
    grid = Grid(scale, key, study, tuple(points), tuple(targets))
    _check_places(grid, file)
    return grid


def _check_places(grid: Grid, file: Path) -> None:
    """Require one trained point at each place of a curve, and of a baseline that it is a series."""
    study, kind = grid.study, KINDS[grid.study.kind]
    seen: dict[Any, Config] = {}
    for point in grid.points if kind.from_labels is None else ():
        series, values = study.series_of(point), flat(point)
        if kind.along and not point.train.memorisation:
            wanted = f"true where the kind of a study is {study.kind}"
            fail(file, f"{grid.key}.train", "memorisation", False, wanted)
        x = values.get(study.x, 1)  # a kind's own is of no config
        if study.x_scale == "log" and x <= 0:
            fail(file, f"{grid.key}.{study.x}", "", x, "above 0 on a log scale")
        other = seen.setdefault((x, series, kind.swept and values[kind.swept]), point)
        if other is not point:
            place = "" if kind.x else f" at {study.column} = {x:g}"
            differ = ", ".join(name for name, old in flat(other).items() if values[name] != old)
            raise ParamsError(
                f"{file}: {grid.key}.grids: got two points of series {series!r}{place}, "
                f"which differ in {differ}; accepted: one, or a series for each"
            )
    named = {study.series_of(point) for point in grid.points}
    for baseline in (study.baseline_of(point) for point in grid.points):
        if baseline not in (None, *named):
            accepted = f"a series of the grid in {file}: {', '.join(sorted(named))}"
            fail(paths.STUDIES / f"{grid.key}.yaml", "", "baseline", baseline, accepted)


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
    """Return a config's sections: the scale's defaults, what the figure changes, and the point.

    A recipe's values come before those of the layer that names it, and after the ones before.
    """
    config: dict[str, Any] = {}
    for name in SECTIONS:
        parts = [part[name] for part in (defaults, entry) if name in part]
        odd = [part for part in parts if not isinstance(part, dict)]
        start = f"{name}."
        parts.append({k.removeprefix(start): v for k, v in values.items() if k.startswith(start)})
        if odd:
            config[name] = odd[0]
        elif name == "train":
            config[name] = recipes.expand(*parts)
        else:
            config[name] = {k: v for part in parts for k, v in part.items()}
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


def describe(grid: Grid) -> dict[str, Any]:
    """Return what a study's JSON says besides its points: titles, axes, claim, substitutions."""
    study, kind, points = grid.study, KINDS[grid.study.kind], grid.points
    names = " and ".join(sorted({TITLES[point.data.name] for point in points}))
    title = f"{study.topic}, {names}"
    if study.number is not None:
        title = f"Figure {study.number}: {title}"
    if study.dataset not in (None, names):
        title += f" (paper: {study.dataset})"
    alphas = {point.noise.alpha for point in points}
    if kind.from_labels is None:  # what all points share
        sizes = sorted({f"{p.data.size}x{p.data.size}" for p in points if p.data.size is not None})
        networks = dict.fromkeys(p.model.name for p in points)
        widths = {p.model.width for p in points if p.model.name != "perceptron"}
        parts = [
            f"images of {' or '.join(sizes)}" if sizes else "",
            f"n = {_range({p.data.originals for p in points})} clean labels",
            f"α = {_range(alphas)}" if len(alphas) == 1 else "",
            f"{', '.join(networks)} at {_range(widths or {1.0})} of full width",
            f"{_range({len(p.train.seeds) for p in points})} seeds",
        ]
    else:  # nothing is trained
        parts = [f"label distributions over the whole diluted sets, α = {_range(alphas)}"]
    subtitle = "; ".join(filter(None, parts))
    paper = f"; paper: {study.dataset}" if study.dataset else ""
    return {
        "figure": grid.key,
        "title": title,
        "subtitle": subtitle,
        "caption": f"{names}; {subtitle}{paper}",
        "scale": grid.scale,
        "kind": kind.drawing,
        "paper": study.claim,
        "x": study.column,
        **{k: getattr(study, k) for k in ("series_title", "x_title", "x_scale", "y", "y_title")},
        "y_scale": "linear",
        "band": kind.band,
    }


def _range(values: set[Any]) -> str:
    ordered = sorted(values)
    if len(ordered) <= 2:
        return " or ".join(f"{value:,g}" for value in ordered)
    return f"{ordered[0]:,g} to {ordered[-1]:,g}"
