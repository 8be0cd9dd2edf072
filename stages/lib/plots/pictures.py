"""Pictures of the figures, drawn from their points with seaborn and matplotlib.

A figure is the content of ``metrics/figures/SCALE/KEY.json``: titles, the names of the columns for
the two axes, and ``points``, one dictionary per mark. The same figure always gives the same bytes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.transforms import Transform, offset_copy

from stages.lib.plots.axes import add_legend, set_scales, set_strip, wrapped
from stages.lib.plots.marks import (
    Picture,
    Point,
    Style,
    beyond_the_grid,
    fates,
    notes,
    paper_marks,
    series_in_order,
    series_styles,
)

#: Without a date, so that bytes repeat.
METADATA: dict[str, Any] = {".svg": {"Date": None, "Creator": None}, ".png": {"Software": None}}

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


#: Marks of one point each, by what they say; the star is what the paper states.
LINE: dict[str, Any] = {"markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.6}
ALONE: dict[str, Any] = {"linestyle": "none", "markeredgewidth": 1.4, "clip_on": False}
HOLLOW = {**ALONE, "markersize": 7, "markerfacecolor": "none", "zorder": 2}
STAR = {**ALONE, "marker": "*", "markersize": 13, "markerfacecolor": "white", "zorder": 4}
CROSS = {**ALONE, "marker": "x", "markersize": 7, "markeredgewidth": 1.5, "zorder": 5}


def _draw_series(
    axes: Axes, picture: Picture, rows: Sequence[Point], label: str, style: Style
) -> None:
    """Draw one series: a line with markers, its band, and × where some of the seeds diverged.

    Line and band are broken at rows that have no value for them.
    """
    xs, ys = [row[picture["x"]] for row in rows], _values(rows, picture["y"])
    low, high = _values(rows, "lo"), _values(rows, "hi")
    colour, dashes, marker = style
    line: dict[str, Any] = {**LINE, "linestyle": dashes, "marker": marker}
    axes.plot(xs, ys, color=colour, linewidth=1.6, label=label, zorder=3, **line)
    axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
    for x, y, row in zip(xs, ys, rows, strict=True):
        if row.get("diverged") and not math.isnan(y):
            _draw_cross(axes, x, y, colour, axes.transData)


def _values(rows: Sequence[Point], column: str) -> list[float]:
    """Return a column of the rows, NaN where there is no value."""
    return [math.nan if row.get(column) is None else row[column] for row in rows]


def _draw_cross(axes: Axes, x: float, y: float, colour: str, transform: Transform) -> None:
    """Draw the mark of what diverged, edged in white to stand out from what it lies on."""
    edged = [Stroke(linewidth=3, foreground="white"), Normal()]
    axes.plot([x], [y], transform=transform, markeredgecolor=colour, path_effects=edged, **CROSS)


def _draw_missing(axes: Axes, picture: Picture, colours: Mapping[str, str]) -> None:
    """Draw the points without a value at an edge: hollow triangles behind which they lie, or ×.

    Those of several series stand side by side, and the y axis gets room for them.
    """
    root = axes.get_figure(root=True)
    above, below, _, lost = fates(picture).values()
    low, high = axes.get_ylim()
    room = 0.12 * (high - low)
    if above:
        axes.set_ylim(top=high + room)
    if lost:
        axes.set_ylim(bottom=max(0.0, low - room))
    for group, marker, edge, inward in (above, "^", 0.965, -9), ([*below, *lost], "v", 0.035, 9):
        for point in group:
            x, name = point[picture["x"]], str(point["series"])
            here = {str(other["series"]) for other in group if other[picture["x"]] == x}
            order = [other for other in colours if other in here]
            aside = 9 * (order.index(name) - (len(order) - 1) / 2)  # points
            place = offset_copy(axes.get_xaxis_transform(), root, aside, 0, "points")
            if point not in lost:
                hollow = {**HOLLOW, "marker": marker, "markeredgecolor": colours[name]}
                axes.plot([x], [edge], transform=place, **hollow)
                place = offset_copy(place, root, 0, inward, "points")
            if point.get("diverged"):
                _draw_cross(axes, x, edge, colours[name], place)


def draw_curves(picture: Picture) -> Figure:
    """Draw one line per series with its band, and the paper's stated values as hollow stars.

    Stars right of all points would leave most of the axes empty: they get a strip of their own.
    """
    figure = Figure(figsize=(7.2, 3.3))
    points, beyond = picture["points"], beyond_the_grid(picture)
    if beyond:
        axes, strip = figure.subplots(1, 2, sharey=True, width_ratios=[12, len(beyond)])
    else:
        axes = strip = figure.add_subplot()
    names = series_in_order(points)
    styles = series_styles(names)
    colours = {name: style.colour for name, style in styles.items()}
    for name, style in styles.items():
        rows = [row for row in points if str(row["series"]) == name]
        rows.sort(key=lambda row: row[picture["x"]])
        _draw_series(axes, picture, rows, name, style)
    for name, x, y in paper_marks(points):
        here, place = (strip, beyond.index(x)) if x in beyond else (axes, x)
        here.plot([place], [y], markeredgecolor=colours[name], gid=f"paper-{name}", **STAR)
    set_scales(axes, picture)
    _draw_missing(axes, picture, colours)
    if beyond:
        set_strip(strip, beyond)
    axes.set(xlabel=picture["x_title"], ylabel=picture["y_title"])
    add_legend(axes, strip, picture)
    banded = any(point.get("lo") is not None for point in points)
    band = [f"Band: {picture['band']}"] if banded else []
    _add_words(figure, picture, [*band, *notes(picture)])
    return figure


def draw_heatmap(picture: Picture) -> Figure:
    """Draw one small matrix per series, with one colour bar for all."""
    points = picture["points"]
    names = list(dict.fromkeys(str(point["series"]) for point in points))
    classes = 1 + max(point["true_class"] for point in points)
    rows = math.ceil(len(names) / 4)
    columns = math.ceil(len(names) / rows)
    figure = Figure(figsize=(2.2 * columns + 1.2, 2.5 * rows))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    greatest = max(point["probability"] for point in points)
    for i, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        matrix = np.zeros((classes, classes))
        for point in points:
            if str(point["series"]) == name:
                matrix[point["true_class"], point["label"]] = point["probability"]
        image = axes.imshow(matrix, cmap="Blues", vmin=0.0, vmax=greatest)
        axes.set_title(name, fontsize="medium")
        axes.set(xticks=range(classes), yticks=range(classes))
        axes.grid(visible=False)
        axes.tick_params(labelsize="x-small", length=2)
        if i + columns >= len(names):
            axes.set_xlabel(picture["x_title"])
    for axes in grid[:, 0]:
        axes.set_ylabel(picture["y_title"])
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    figure.colorbar(image, ax=grid, label="probability", shrink=0.8)
    _add_words(figure, picture, [])
    return figure


def _add_words(figure: Figure, picture: Picture, remarks: Sequence[str]) -> None:
    """Put title and subtitle above, notes in small type below; the figure grows by their height."""
    width, height = figure.get_size_inches()
    characters = int(width * 15)  # that many of small type fit in a line
    title = wrapped([picture["title"].replace(": ", ":\u00a0")], int(width * 10))
    above = wrapped([picture["subtitle"]], characters)
    paper = f"Paper: {picture['paper']}" if picture.get("paper") else ""
    below = wrapped([*remarks, paper], characters)
    under_title = 0.14 + 0.20 * len(title)
    top = under_title + 0.06 + 0.16 * len(above)
    bottom = 0.10 + 0.16 * len(below) if below else 0.0
    drawn, height = height, top + height + bottom
    figure.set_figheight(height)
    rect = (0.0, bottom / height, 1.0, drawn / height)
    figure.set_layout_engine("constrained", rect=rect, w_pad=0.09, h_pad=0.07)
    edge = 0.12 / width
    bold: dict[str, Any] = {"fontsize": 11.5, "fontweight": "bold", "linespacing": 1.15}
    figure.text(edge, 1 - 0.10 / height, "\n".join(title), va="top", **bold)
    small: dict[str, Any] = {"fontsize": 8, "color": "0.35", "linespacing": 1.25}
    figure.text(edge, 1 - under_title / height, "\n".join(above), va="top", **small)
    figure.text(edge, 0.06 / height, "\n".join(below), va="bottom", **small)


DRAWINGS: dict[str, Callable[[Picture], Figure]] = {"curves": draw_curves, "heatmap": draw_heatmap}


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
        figure = DRAWINGS[kind](picture)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # each drawing would move the axes a little further
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a drawing as the suffix of ``path`` says.

    Raises:
        ValueError: the suffix is neither ``.svg`` nor ``.png``.
    """
    if path.suffix not in METADATA:
        raise ValueError(f"pictures are .svg or .png, got {path.name!r}")
    with mpl.rc_context(STYLE):
        figure.savefig(path, format=path.suffix[1:], metadata=METADATA[path.suffix])
