"""The paper's figures: what each varies and shows, what the paper states, its grid at a scale.

A grid is written in ``scales/SCALE.yaml`` as the sections of one config and blocks of values that
replace some of them: the figure's points are all combinations within each block.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from stages.lib import datasets, paths
from stages.lib.errors import UserError
from stages.lib.params import (
    Config,
    ConfusionParams,
    check_keys,
    fail,
    parse_config,
    parse_section,
    read_yaml,
    show_key,
)

#: How data sets are called in titles.
DISPLAY = {
    "mnist5k": "5,000 MNIST images",
    "digits": "scikit-learn's digits",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "kmnist": "KMNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "folder": "a folder of images",
    "imagenet": "ImageNet",
}
ALPHA = "noisy labels per clean label, α"
ACCURACY = "test accuracy"
SECTIONS = ("data", "noise", "model", "train")
MOST_POINTS = 10_000  # of a block of a grid


@dataclass(frozen=True)
class Stated:
    """A value that the paper states for a series: where it stands and in which words."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Figure:
    """What a figure shows.

    Attributes:
        number: its number in the paper.
        topic: its title, before the data set.
        dataset: the paper's data set, as `DISPLAY` calls it.
        claim: what the paper states, in a sentence.
        series: label of the curve that a config belongs to.
        series_title: what the labels are.
        x: key of a point that is the abscissa.
        x_title: its axis title.
        x_scale: ``linear`` or ``symlog``.
        y: key of a point that is the ordinate.
        y_title: its axis title.
        kind: ``trained`` points, ``transitions`` (figure 4) or ``thresholds`` (figure 9).
        top5: whether top-5 accuracy is shown beside top-1, as a series of its own.
        stated: series -> the paper's values.
    """

    number: int
    topic: str
    dataset: str
    claim: str
    series: Callable[[Config], str]
    series_title: str
    x: str = "alpha"
    x_title: str = ALPHA
    x_scale: str = "symlog"
    y: str = "test_accuracy"
    y_title: str = ACCURACY
    kind: str = "trained"
    top5: bool = False
    stated: Mapping[str, tuple[Stated, ...]] = field(default_factory=dict)


def _network(config: Config) -> str:
    return config.model.name


def _alpha(config: Config) -> str:
    return f"α = {config.noise.alpha:g}"


def _noise_model(config: Config) -> str:
    if config.noise.kind == "uniform":
        return "uniform"
    return f"{config.noise.order}, δ = {config.noise.delta:g}"


def _order(config: Config) -> str:
    return config.noise.order


def _source(config: Config) -> str:
    images = config.noise.images
    if images == "same":
        return f"{DISPLAY[config.data.name]}, mislabeled"
    return "white noise" if images == "white" else DISPLAY.get(images, f"{images} images")


def _repetition(config: Config) -> str:
    return {"same": "repeated images"}.get(config.noise.images, f"{config.noise.images} images")


def _batch(config: Config) -> str:
    if config.train.loss == "noisy_loss":
        return "H_α (infinite batch)"
    return f"batch {config.train.batch_size}"


def _rate(config: Config) -> str:
    return ", ".join(f"{rate:g}" for rate in config.train.learning_rates)


FIGURES: dict[str, Figure] = {
    "fig1_uniform_mnist": Figure(
        1,
        "uniform label noise",
        "MNIST",
        "At α = 100 the ConvNet stays above 0.90 and the perceptron reaches 0.40; "
        "perceptron < MLP < ConvNet.",
        _network,
        "network",
        stated={
            "conv4": (Stated(100, 0.90, "paper: > 0.90 at α = 100"),),
            "perceptron": (Stated(100, 0.40, "paper: 0.40 at α = 100"),),
        },
    ),
    "fig2_uniform_cifar10": Figure(
        2,
        "uniform label noise",
        "CIFAR-10",
        "The best network stays above 0.85 at α = 10; the ResNet's accuracy drops more slowly.",
        _network,
        "network",
        stated={"resnet20": (Stated(10, 0.85, "paper: best > 0.85 at α = 10"),)},
    ),
    "fig3_uniform_imagenet": Figure(
        3,
        "uniform label noise",
        "ImageNet",
        "At α = 5 top-5 accuracy stays above 0.70.",
        _network,
        "network",
        y_title="test accuracy, top-1 and top-5",
        top5=True,
        stated={"resnet50, top-5": (Stated(5, 0.70, "paper: top-5 > 0.70 at α = 5"),)},
    ),
    "fig4_noise_models": Figure(
        4,
        "noise models",
        "MNIST",
        "Uniform noise, and noise in which δ says how much more likely than chance the second most "
        "likely class is, in three orders of the false classes.",
        _noise_model,
        "noise model",
        x="label",
        x_title="given label",
        x_scale="linear",
        y="true_class",
        y_title="true class",
        kind="transitions",
    ),
    "fig5_structured": Figure(
        5,
        "structured label noise",
        "MNIST",
        "Flat until δ is near 1; random order hurts a little more than confusing order.",
        _order,
        "order of false classes",
        x="delta",
        x_title="structure of the noise, δ",
        x_scale="linear",
    ),
    "fig6_sources": Figure(
        6,
        "sources of noisy images",
        "CIFAR-10",
        "Noisy images of another data set cost half the drop, white noise almost nothing.",
        _source,
        "images with noisy labels",
    ),
    "fig7_unique_images": Figure(
        7,
        "repeated or unique noisy images",
        "MNIST",
        "Essentially no difference between repeated and unique images.",
        _repetition,
        "noisy labels on",
    ),
    "fig8_training_size": Figure(
        8,
        "number of clean labels",
        "MNIST",
        "Every noise level is learnt from enough clean labels; noise shifts how many are needed.",
        _alpha,
        "noise level",
        x="originals",
        x_title="clean training labels, n",
    ),
    "fig9_critical_size": Figure(
        9,
        "clean labels needed for a target accuracy",
        "MNIST",
        "0.90 needs 2,000 clean labels at α = 10 and 10,000 at α = 50: slightly more than linear.",
        _alpha,
        "target accuracy",
        x_scale="linear",
        y="critical_size",
        y_title="clean training labels needed",
        kind="thresholds",
        stated={
            "0.90": (
                Stated(10, 2000, "paper: 2,000 at α = 10"),
                Stated(50, 10000, "paper: 10,000 at α = 50"),
            )
        },
    ),
    "fig10_training_size_imagenet": Figure(
        10,
        "number of clean labels",
        "ImageNet",
        "As on MNIST: every noise level is learnt from enough clean labels.",
        _alpha,
        "noise level",
        x="originals",
        x_title="clean training labels, n",
        y_title="test accuracy, top-1 and top-5",
        top5=True,
    ),
    "fig11_batch_size": Figure(
        11,
        "batch size and the noisy loss",
        "MNIST",
        "Larger batches hold up longer; H_α, an infinite batch, stays flat.",
        _batch,
        "training",
    ),
    "fig12_learning_rate": Figure(
        12,
        "learning rate",
        "CIFAR-10",
        "The best rate falls as α grows; 1 is best without noise and unstable with it.",
        _rate,
        "learning rate",
    ),
}


@dataclass(frozen=True)
class Grid:
    """A figure's points at one scale; ``targets`` are figure 9's accuracies."""

    points: tuple[Config, ...]
    targets: tuple[float, ...] = ()


def check_key(key: str) -> Figure:
    """Return a figure by its key.

    Raises:
        UserError: no figure has this key.
    """
    if key not in FIGURES:
        raise UserError(f"figures: got {key!r}; accepted: {', '.join(FIGURES)}")
    return FIGURES[key]


def read_scale(scale: str) -> tuple[Path, dict[str, Any]]:
    """Return a scale's file and its content.

    Raises:
        ParamsError: no such scale, or not valid YAML.
    """
    if not paths.NAME.fullmatch(scale):
        fail(paths.PARAMS, "", "scale", scale, "a file scales/SCALE.yaml")
    file = paths.scale_file(scale)
    content = read_yaml(file)
    known = ("confusion", *FIGURES)
    for key in content:
        if key not in known:
            fail(file, "", show_key(key), content[key], f"only the keys {', '.join(known)}")
    return file, content


def read_confusion(scale: str) -> ConfusionParams:
    """Return how a scale estimates confusion for its figures of structured noise."""
    file, content = read_scale(scale)
    return parse_section(ConfusionParams, content.get("confusion"), file, "confusion")


def read_grid(scale: str, key: str) -> Grid:
    """Return a figure's points at a scale, each a whole and checked config.

    Raises:
        UserError: an unknown figure.
        ParamsError: the grid is missing, has unknown keys, values out of range, or no points.
    """
    figure = check_key(key)
    file, content = read_scale(scale)
    accepted = [*SECTIONS, "grids", *(["targets"] if figure.kind == "thresholds" else [])]
    entry: Any = content.get(key)
    check_keys(file, key, entry, dict.fromkeys(accepted))
    blocks = entry["grids"]
    if not isinstance(blocks, list) or not blocks:
        fail(file, key, "grids", blocks, "a list of one or more blocks of values")
    points = [
        parse_config(_replaced(entry, values), file, f"{key}.")
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
    return Grid(tuple(dict.fromkeys(points)), tuple(targets))


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


def _replaced(entry: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    config = {
        name: dict(entry[name]) if isinstance(entry[name], dict) else entry[name]
        for name in SECTIONS
    }
    for name, value in values.items():
        section, _, rest = name.partition(".")
        if isinstance(config[section], dict):
            config[section][rest] = value
    return config


def needs_confusion(grid: Grid) -> bool:
    """Tell whether a grid has structured noise, whose order comes from confusion counts."""
    return any(point.noise.kind == "structured" for point in grid.points)


def needed_datasets(points: Sequence[Config]) -> dict[str, datasets.Wanted]:
    """Return the data sets that points need, by the name of their folder.

    Raises:
        UserError: one is needed in two sizes or from two places.
    """
    needed: dict[str, datasets.Wanted] = {}
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
