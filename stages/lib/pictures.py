"""Pictures of the figures, drawn from their points with seaborn and matplotlib.

A figure is the content of ``metrics/figures/SCALE/KEY.json``: titles, the names of the columns for
the two axes, and ``points``, one dictionary per mark. The same figure always gives the same bytes.
"""

import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

Point = Mapping[str, Any]
Picture = Mapping[str, Any]

# seaborn's colour-blind-safe palette, its palest two last, as in the templates of .dvc/plots.
PALETTE = [
    *("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc"),
    *("#ca9161", "#56b4e9", "#949494", "#fbafe4", "#ece133"),
]
MARKERS = "osD^vPX<>p"
PAPER_LABEL = "paper (stated)"

# A network has the same colour in every figure; any other series takes what is left, in order.
FIXED_COLOURS = {
    "perceptron": 0,
    "mlp1": 1,
    "mlp2": 2,
    "conv2": 3,
    "conv4": 4,
    "conv6": 6,
    "resnet18": 5,
}

STYLE = {
    **sns.axes_style("ticks"),
    **sns.plotting_context("paper", font_scale=1.15),
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.family": ["DejaVu Sans"],  # it comes with matplotlib: the same glyphs everywhere
    "legend.frameon": False,
    "svg.hashsalt": "massive-label-noise",  # ids in the SVG are random without it
    "svg.fonttype": "path",
    "figure.dpi": 100,
    "savefig.dpi": 160,
}

# Where a symlog axis may have ticks: powers of ten alone are too few between 0 and 100.
SYMLOG_TICKS = [
    *(0, 1, 2, 5, 10, 20, 50, 100, 250, 500),
    *(1000, 2000, 4000, 8000, 15000, 30000, 60000),
]


def series_in_order(points: Sequence[Point]) -> list[str]:
    """Return the names of the series in the order of the legend.

    By their number if they differ in nothing else (``alpha=5, alpha=10, alpha=100``), else as they
    come (``perceptron, mlp1, conv4``).
    """
    names = list(dict.fromkeys(str(point["series"]) for point in points))
    number = re.compile(r"\d+(?:\.\d+)?")
    families = {number.sub("#", name) for name in names}
    if len(families) == 1 and all(len(number.findall(name)) == 1 for name in names):
        names.sort(key=lambda name: float(number.findall(name)[0]))
    return names


def series_colours(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each series.

    Raises:
        ValueError: there are more series than colours that can be told apart.
    """
    if len(names) > len(PALETTE):
        raise ValueError(
            f"a picture can tell {len(PALETTE)} series apart, got {len(names)}: {list(names)}; "
            "split the figure"
        )
    fixed = {name: PALETTE[FIXED_COLOURS[name]] for name in names if name in FIXED_COLOURS}
    free = iter([colour for colour in PALETTE if colour not in fixed.values()])
    return {name: fixed[name] if name in fixed else next(free) for name in names}


def paper_marks(points: Sequence[Point]) -> list[tuple[str, float, float]]:
    """Return (series, x, y) of what the paper states: once each, though every row repeats it."""
    marks = [
        (str(point["series"]), point["paper_x"], point["paper_y"])
        for point in points
        if point.get("paper_x") is not None and point.get("paper_y") is not None
    ]
    return list(dict.fromkeys(marks))


def drawable(points: Sequence[Point], picture: Picture, series: str) -> list[Point]:
    """Return the points of a series that have a value, from left to right."""
    x, y = picture["x"], picture["y"]
    rows = [row for row in points if str(row["series"]) == series and row[y] is not None]
    return sorted(rows, key=lambda row: row[x])


def not_reached(picture: Picture) -> str:
    """Return a note of each series' points without a value; empty if there are none."""
    x, y = picture["x"], picture["y"]
    missing: dict[str, list[str]] = {}
    for point in picture["points"]:
        if point[y] is None:
            missing.setdefault(str(point["series"]), []).append(f"{point[x]:g}")
    if not missing:
        return ""
    symbol = {"alpha": "α", "delta": "δ"}.get(x, x)
    parts = [f"{name} at {symbol} = {', '.join(values)}" for name, values in missing.items()]
    return "Not reached: " + "; ".join(parts)


def _draw_series(
    axes: Axes, picture: Picture, rows: Sequence[Point], label: str, colour: str, marker: str
) -> None:
    """Draw one series: a line with markers, and its band where the rows have one."""
    xs = [row[picture["x"]] for row in rows]
    axes.plot(
        xs,
        [row[picture["y"]] for row in rows],
        color=colour,
        marker=marker,
        markersize=5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        linewidth=1.6,
        label=label,
        zorder=3,
    )
    banded = [row for row in rows if row.get("lo") is not None and row.get("hi") is not None]
    axes.fill_between(
        [row[picture["x"]] for row in banded],
        [row["lo"] for row in banded],
        [row["hi"] for row in banded],
        color=colour,
        alpha=0.15,
        linewidth=0,
    )


def _draw_paper_marks(axes: Axes, picture: Picture, colours: Mapping[str, str]) -> bool:
    """Draw what the paper states as hollow stars; return whether it states anything."""
    marks = paper_marks(picture["points"])
    for series, x, y in marks:
        axes.plot(
            [x],
            [y],
            linestyle="none",
            marker="*",
            markersize=13,
            markerfacecolor="white",
            markeredgecolor=colours[series],
            markeredgewidth=1.4,
            zorder=4,
            clip_on=False,
            gid=f"paper-{series}",
        )
    return bool(marks)


def _set_symlog(axes: Axes, xs: Sequence[float]) -> None:
    """Make the x axis linear up to one and logarithmic beyond, as far as there are values."""
    low, high = min(xs), max(xs)
    axes.set_xscale("symlog", linthresh=1.0, linscale=0.5)
    axes.set_xlim(low - 0.12 if low < 1 else low / 1.12, high * 1.12)
    axes.xaxis.set_major_locator(FixedLocator([t for t in SYMLOG_TICKS if low <= t <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _set_scales(axes: Axes, picture: Picture) -> None:
    """Set both axes' scales; values of thousands get separators.

    Raises:
        ValueError: the figure asks for a scale that is neither linear nor symlog.
    """
    points = picture["points"]
    xs = [float(point[picture["x"]]) for point in points]
    xs += [float(x) for _, x, _ in paper_marks(points)]
    scale = picture["x_scale"]
    if scale == "symlog":
        _set_symlog(axes, xs)
    elif scale != "linear":
        raise ValueError(f"x_scale must be linear or symlog, got {scale!r}")
    if picture["y_scale"] != "linear":
        raise ValueError(f"y_scale must be linear, got {picture['y_scale']!r}")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _set_accuracy_range(axes: Axes) -> None:
    """Never show less than a fifth of the range of an accuracy: noise would look like an effect."""
    low, high = axes.get_ylim()
    high = min(high, 1.005)
    axes.set_ylim(max(0.0, min(low, high - 0.2)), high)


def _add_legend(axes: Axes, picture: Picture, *, stated: bool) -> None:
    """Put the legend beside the axes, where it can hide nothing."""
    handles, _ = axes.get_legend_handles_labels()
    if stated:
        star = Line2D(
            [],
            [],
            linestyle="none",
            marker="*",
            markersize=11,
            markerfacecolor="white",
            markeredgecolor="0.3",
            label=PAPER_LABEL,
        )
        handles.append(star)
    axes.legend(
        handles=handles,
        title=picture["series_title"],
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
        borderaxespad=0.0,
        alignment="left",
    )


def draw_curves(picture: Picture) -> Figure:
    """Draw one line per series with its band, and the paper's stated values as hollow stars."""
    figure = Figure(figsize=(7.2, 4.2))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = series_in_order(picture["points"])
    colours = series_colours(names)
    for name, marker in zip(names, MARKERS, strict=False):
        rows = drawable(picture["points"], picture, name)
        _draw_series(axes, picture, rows, name, colours[name], marker)
    stated = _draw_paper_marks(axes, picture, colours)
    _set_scales(axes, picture)
    if "accuracy" in picture["y"]:
        _set_accuracy_range(axes)
    else:
        axes.set_ylim(bottom=0.0)  # counts
    axes.set_xlabel(picture["x_title"])
    axes.set_ylabel(picture["y_title"])
    _add_legend(axes, picture, stated=stated)
    _add_words(figure, picture, notes=(f"Band: {picture['band']}", not_reached(picture)))
    return figure


def _matrix(points: Sequence[Point], series: str, classes: int) -> list[list[float]]:
    """Return the probabilities of a series: rows are true classes, columns labels."""
    cells = {
        (point["true_class"], point["label"]): float(point["probability"])
        for point in points
        if str(point["series"]) == series
    }
    return [[cells[i, j] for j in range(classes)] for i in range(classes)]


def draw_heatmap(picture: Picture) -> Figure:
    """Draw one small matrix per series, with one colour bar for all."""
    points = picture["points"]
    names = list(dict.fromkeys(str(point["series"]) for point in points))
    classes = 1 + max(point["true_class"] for point in points)
    rows = math.ceil(len(names) / 4)
    columns = math.ceil(len(names) / rows)
    figure = Figure(figsize=(2.3 * columns + 1.2, 2.5 * rows + 0.7))
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    greatest = max(point["probability"] for point in points)
    for axes, name in zip(grid.flat, names, strict=False):
        image = axes.imshow(_matrix(points, name, classes), cmap="Blues", vmin=0.0, vmax=greatest)
        axes.set_title(name, fontsize="medium")
        axes.set_xticks(range(classes))
        axes.set_yticks(range(classes))
        axes.grid(visible=False)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    figure.supxlabel(picture["x_title"], fontsize="medium")
    figure.supylabel(picture["y_title"], fontsize="medium")
    figure.colorbar(image, ax=grid, label="probability", shrink=0.8)
    _add_words(figure, picture, notes=())
    return figure


def _add_words(figure: Figure, picture: Picture, notes: Sequence[str]) -> None:
    """Put title and subtitle above, notes in small type below, with room made for them."""
    width, height = figure.get_size_inches()
    characters = int(width * 15)  # that many of small type fit in a line
    above = _wrapped([picture["subtitle"]], characters)
    paper = f"Paper: {picture['paper']}" if picture.get("paper") else ""
    below = _wrapped([*notes, paper], characters)
    top = (0.40 + 0.16 * len(above)) / height
    bottom = (0.10 + 0.16 * len(below)) / height if below else 0.0
    figure.set_layout_engine("constrained", rect=(0.0, bottom, 1.0, 1.0 - top - bottom))
    edge = 0.12 / width
    figure.text(
        edge, 1 - 0.10 / height, picture["title"], va="top", fontsize="large", fontweight="bold"
    )
    small: dict[str, Any] = {"fontsize": 8, "color": "0.35", "linespacing": 1.25}
    figure.text(edge, 1 - 0.37 / height, "\n".join(above), va="top", **small)
    figure.text(edge, 0.06 / height, "\n".join(below), va="bottom", **small)


def _wrapped(texts: Sequence[str], characters: int) -> list[str]:
    """Return the lines of the texts that are not empty."""
    return [line for text in texts for line in textwrap.wrap(text, characters)]


DRAWINGS: dict[str, Callable[[Picture], Figure]] = {
    "curves": draw_curves,
    "heatmap": draw_heatmap,
}


def draw(picture: Picture) -> Figure:
    """Return the drawing of a figure.

    Raises:
        ValueError: its kind is unknown, or it has no points.
    """
    kind = picture["kind"]
    if kind not in DRAWINGS:
        raise ValueError(f"unknown kind of figure {kind!r}; known: {', '.join(sorted(DRAWINGS))}")
    if not picture["points"]:
        raise ValueError(f"figure {picture['figure']!r} has no points to draw")
    with mpl.rc_context(STYLE):
        return DRAWINGS[kind](picture)


def save(figure: Figure, path: Path) -> None:
    """Write a drawing as the suffix of ``path`` says, without a date, so that bytes repeat.

    Raises:
        ValueError: the suffix is neither ``.svg`` nor ``.png``.
    """
    metadata: dict[str, dict[str, str | None]] = {
        ".svg": {"Date": None, "Creator": None},
        ".png": {"Software": None},
    }
    if path.suffix not in metadata:
        raise ValueError(f"pictures are .svg or .png, got {path.name!r}")
    with mpl.rc_context(STYLE):
        figure.savefig(path, format=path.suffix[1:], metadata=metadata[path.suffix])
