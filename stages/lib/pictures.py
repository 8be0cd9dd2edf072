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
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Transform, offset_copy

Point = Mapping[str, Any]
Picture = Mapping[str, Any]

# seaborn's colour-blind-safe palette, its palest two last, as in the templates of .dvc/plots.
PALETTE = [
    *("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc"),
    *("#ca9161", "#56b4e9", "#949494", "#fbafe4", "#ece133"),
]
MARKERS = "osD^vPX<>p"
PAPER_LABEL = "stated by the paper"
LABEL_CHARACTERS = 20  # entries of a legend are wrapped to leave room for the curves

# A network has the same colour in every figure, the palette's at its place in this list; any other
# series takes what is left, in order: ImageNet's networks too, which have figures of their own.
NETWORKS = [
    *("perceptron", "mlp1", "mlp2", "conv2", "conv4", "conv6"),
    *("resnet20", "resnet32", "resnet56", "resnet18_small"),
]

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
    *(1000, 2000, 4000, 8000, 15000, 30000, 60000, 125000, 250000, 500000, 1000000),
]


def series_in_order(points: Sequence[Point]) -> list[str]:
    """Return the names of the series in the order of the legend.

    Names that differ in nothing but numbers stand together, by their numbers (``batch 32, batch
    128, batch 256``); the rest is in the order in which it comes.
    """
    number = re.compile(r"\d+(?:\.\d+)?")
    families: dict[str, dict[str, list[float]]] = {}
    for point in points:
        name = str(point["series"])
        numbers = [float(digits) for digits in number.findall(name)]
        families.setdefault(number.sub("#", name), {})[name] = numbers
    return [name for family in families.values() for name in sorted(family, key=family.__getitem__)]


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
    fixed = {name: PALETTE[NETWORKS.index(name)] for name in names if name in NETWORKS}
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


def rows_of(picture: Picture, series: str) -> list[Point]:
    """Return the points of a series from left to right."""
    rows = [row for row in picture["points"] if str(row["series"]) == series]
    return sorted(rows, key=lambda row: row[picture["x"]])


def beyond_the_grid(picture: Picture) -> list[float]:
    """Return where right of all points the paper states something: values of x, ascending."""
    greatest = max(point[picture["x"]] for point in picture["points"])
    return sorted({x for _, x, _ in paper_marks(picture["points"]) if x > greatest})


def diverged(picture: Picture) -> tuple[list[Point], list[Point]]:
    """Return the points of which some seeds diverged, and those that have no value for it."""
    marked = [point for point in picture["points"] if point.get("diverged")]
    lost = [
        point
        for point in marked
        if point[picture["y"]] is None and point.get("status", "diverged") == "diverged"
    ]
    return [point for point in marked if point not in lost], lost


def without_value(picture: Picture) -> tuple[list[Point], list[Point]]:
    """Return the points without a value: those above all that was tried, and those below.

    A point that has none because every seed diverged is neither.
    """
    _, lost = diverged(picture)
    missing = [p for p in picture["points"] if p[picture["y"]] is None and p not in lost]
    below = [point for point in missing if point.get("status") == "below the grid"]
    return [point for point in missing if point not in below], below


def notes_of_missing(picture: Picture) -> list[str]:
    """Return notes of the points above all that was tried, and of those below."""
    above, below = without_value(picture)
    notes: dict[str, list[Point]] = {}
    for point in above:
        notes.setdefault(f"△ not reached with {_tried(point, max)}", []).append(point)
    for point in below:
        notes.setdefault(f"▽ reached already with {_tried(point, min)}", []).append(point)
    return [f"{note}: {_listed(points, picture)}" for note, points in notes.items()]


def notes_of_diverged(picture: Picture) -> list[str]:
    """Return a note of the points of which some seeds diverged, and one of those where all did."""
    some, lost = diverged(picture)
    notes = []
    if some:
        notes.append(f"× on a point: some diverged, left out: {_listed(some, picture, _lost)}")
    if lost:
        notes.append(f"× at the bottom: all diverged: {_listed(lost, picture, _lost)}")
    return notes


def _tried(point: Point, extreme: Callable[[Sequence[float]], float]) -> str:
    """Return at how many labels a point's sweep ended, as far as it tells."""
    sizes = point.get("sizes")
    return f"{extreme(sizes):,g} labels" if sizes else "what was tried"


def _listed(
    points: Sequence[Point], picture: Picture, remark: Callable[[Point, str], str] = lambda *_: ""
) -> str:
    """Return the points as ``0.80 at α = 10, 20; 0.90 at α = 5``, those with one remark together.

    Args:
        points: some of the figure's.
        picture: the figure.
        remark: of a point and its series' name.
    """
    x = picture["x"]
    symbol = {"alpha": "α", "delta": "δ", "originals": "n"}.get(x, x)
    places: dict[tuple[str, str], list[str]] = {}
    for point in points:
        name = str(point["series"])
        if picture["series_title"] == "learning rate":
            name = f"lr {name}"  # a bare number would be taken for one of seeds
        places.setdefault((name, remark(point, name)), []).append(f"{point[x]:,g}")
    return "; ".join(
        f"{name} at {symbol} = {', '.join(xs)}{said}" for (name, said), xs in places.items()
    )


def _lost(point: Point, name: str) -> str:
    """Return how many of a point's seeds diverged, and at which sizes and learning rates.

    Args:
        point: a point of which some did.
        name: what its series is called; a rate that it says already is left out.
    """
    chosen, seeds = point.get("learning_rate"), len(point["seeds"])
    runs = [run for run in point["diverged_runs"] if chosen in (None, run["learning_rate"])]
    sizes = sorted({run["originals"] for run in runs if "originals" in run})
    rates = sorted({run["learning_rate"] for run in runs})
    where = [
        *([f"n = {', '.join(f'{size:,}' for size in sizes)}"] if sizes else []),
        f"lr {', '.join(f'{rate:g}' for rate in rates)}",
    ]
    at = ", ".join(words for words in where if words != name)
    return f" ({point['diverged']} of {seeds} seed{'s' * (seeds > 1)}{' at ' * bool(at)}{at})"


def _draw_series(
    axes: Axes, picture: Picture, rows: Sequence[Point], label: str, colour: str, marker: str
) -> None:
    """Draw one series: a line with markers, its band, and × where some of the seeds diverged.

    Line and band are broken at rows that have no value for them.
    """
    xs = [row[picture["x"]] for row in rows]
    ys = _values(rows, picture["y"])
    axes.plot(
        xs,
        ys,
        color=colour,
        marker=marker,
        markersize=5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        linewidth=1.6,
        label=label,
        zorder=3,
    )
    axes.fill_between(
        xs, _values(rows, "lo"), _values(rows, "hi"), color=colour, alpha=0.15, linewidth=0
    )
    for x, y, row in zip(xs, ys, rows, strict=True):
        if row.get("diverged") and not math.isnan(y):
            _draw_cross(axes, x, y, colour, axes.transData)


def _values(rows: Sequence[Point], column: str) -> list[float]:
    """Return a column of the rows, NaN where there is no value."""
    return [math.nan if row.get(column) is None else row[column] for row in rows]


def _draw_cross(axes: Axes, x: float, y: float, colour: str, transform: Transform) -> None:
    """Draw the mark of what diverged, edged in white to stand out from what it lies on."""
    axes.plot(
        [x],
        [y],
        transform=transform,
        linestyle="none",
        marker="x",
        markersize=7,
        markeredgecolor=colour,
        markeredgewidth=1.5,
        path_effects=[Stroke(linewidth=3, foreground="white"), Normal()],
        clip_on=False,
        zorder=5,
    )


def _draw_missing(axes: Axes, picture: Picture, colours: Mapping[str, str]) -> None:
    """Draw the points without a value at an edge: hollow triangles behind which they lie, or ×.

    Those of several series stand side by side, and the y axis gets room for them.
    """
    root = axes.get_figure(root=True)
    above, below = without_value(picture)
    _, lost = diverged(picture)
    low, high = axes.get_ylim()
    room = 0.12 * (high - low)
    if above:
        axes.set_ylim(top=high + room)
    if lost:
        axes.set_ylim(bottom=max(0.0, low - room))
    for points, marker, edge, inward in (
        (above, "^", 0.965, -9),
        ([*below, *lost], "v", 0.035, 9),
    ):
        for point in points:
            x, name = point[picture["x"]], str(point["series"])
            here = {str(other["series"]) for other in points if other[picture["x"]] == x}
            order = [other for other in colours if other in here]
            aside = 9 * (order.index(name) - (len(order) - 1) / 2)  # points
            place = offset_copy(axes.get_xaxis_transform(), root, aside, 0, "points")
            if point in lost:
                _draw_cross(axes, x, edge, colours[name], place)
            else:
                axes.plot(
                    [x],
                    [edge],
                    transform=place,
                    linestyle="none",
                    marker=marker,
                    markersize=7,
                    markerfacecolor="none",
                    markeredgecolor=colours[name],
                    markeredgewidth=1.4,
                    clip_on=False,
                    zorder=2,
                )
                if point.get("diverged"):
                    beside = offset_copy(place, root, 0, inward, "points")
                    _draw_cross(axes, x, edge, colours[name], beside)


def _draw_paper_marks(
    axes: Axes, strip: Axes | None, picture: Picture, colours: Mapping[str, str]
) -> None:
    """Draw what the paper states as hollow stars, right of all points on the strip."""
    beyond = beyond_the_grid(picture)
    for series, x, y in paper_marks(picture["points"]):
        outside = strip is not None and x in beyond
        (strip if strip is not None and outside else axes).plot(
            [beyond.index(x) if outside else x],
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


def _set_strip(strip: Axes, beyond: Sequence[float]) -> None:
    """Make the strip for stars a shaded piece of the x axis, cut off from the rest."""
    strip.set_facecolor("0.955")
    strip.spines["left"].set_visible(False)
    strip.tick_params(axis="y", length=0, labelleft=False)
    strip.grid(visible=False, axis="x")
    strip.set_xlim(-0.5, len(beyond) - 0.5)
    strip.set_xticks(range(len(beyond)), [f"{x:,g}" for x in beyond])
    strip.set_title("paper", fontsize=8, color="0.35", pad=4)


def _set_symlog(axes: Axes, xs: Sequence[float]) -> None:
    """Make the x axis linear up to one and logarithmic beyond, as far as there are values."""
    low, high = min(xs), max(xs)
    axes.set_xscale("symlog", linthresh=1.0, linscale=0.5)
    axes.set_xlim(low - 0.12 if low < 1 else low / 1.12, high * 1.12)
    axes.xaxis.set_major_locator(FixedLocator([t for t in SYMLOG_TICKS if low <= t <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _set_scales(axes: Axes, picture: Picture) -> None:
    """Set both axes' scales; counts get separators of thousands.

    Raises:
        ValueError: the figure asks for a scale that is neither linear nor symlog.
    """
    points = picture["points"]
    xs = [float(point[picture["x"]]) for point in points]
    xs += [float(x) for _, x, _ in paper_marks(points) if x not in beyond_the_grid(picture)]
    scale = picture["x_scale"]
    if scale == "symlog":
        _set_symlog(axes, xs)
    elif scale == "linear":
        margin = 0.05 * (max(xs) - min(xs)) or 0.5
        axes.set_xlim(min(xs) - margin, max(xs) + margin)  # of points without a value, too
    else:
        raise ValueError(f"x_scale must be linear or symlog, got {scale!r}")
    if picture["y_scale"] != "linear":
        raise ValueError(f"y_scale must be linear, got {picture['y_scale']!r}")
    if "accuracy" in picture["y"]:
        _set_accuracy_range(axes)
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.set_ylim(bottom=0.0)
    if not paper_marks(points) and all(point[picture["y"]] is None for point in points):
        axes.set_ylim(0.0, 1.0)
        axes.set_yticks([])  # nothing is measured along this axis


def _set_accuracy_range(axes: Axes) -> None:
    """Never show less than a fifth of the range of an accuracy: noise would look like an effect."""
    low, high = axes.get_ylim()
    high = min(high, 1.005)
    axes.set_ylim(max(0.0, min(low, high - 0.2)), high)


def _add_legend(axes: Axes, beside: Axes, picture: Picture) -> None:
    """Put the legend of ``axes`` right of ``beside``, where it can hide nothing."""
    handles, _ = axes.get_legend_handles_labels()
    if paper_marks(picture["points"]):
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
    beside.legend(
        handles=handles,
        labels=[textwrap.fill(str(handle.get_label()), LABEL_CHARACTERS) for handle in handles],
        title=textwrap.fill(picture["series_title"], LABEL_CHARACTERS + 4),
        loc="upper left",
        bbox_to_anchor=(1.02 if beside is axes else 1.3, 1.0),
        borderaxespad=0.0,
        alignment="left",
    )


def draw_curves(picture: Picture) -> Figure:
    """Draw one line per series with its band, and the paper's stated values as hollow stars.

    Stars right of all points would leave most of the axes empty: they get a strip of their own.
    """
    figure = Figure(figsize=(7.2, 3.3))
    FigureCanvasAgg(figure)
    beyond = beyond_the_grid(picture)
    strip: Axes | None = None
    if beyond:
        axes, strip = figure.subplots(1, 2, sharey=True, width_ratios=[12, len(beyond)])
    else:
        axes = figure.add_subplot()
    names = series_in_order(picture["points"])
    colours = series_colours(names)
    for name, marker in zip(names, MARKERS, strict=False):
        _draw_series(axes, picture, rows_of(picture, name), name, colours[name], marker)
    _draw_paper_marks(axes, strip, picture, colours)
    _set_scales(axes, picture)
    _draw_missing(axes, picture, colours)
    if strip is not None:
        _set_strip(strip, beyond)
    axes.set_xlabel(picture["x_title"])
    axes.set_ylabel(picture["y_title"])
    _add_legend(axes, strip or axes, picture)
    banded = any(point.get("lo") is not None for point in picture["points"])
    band = [f"Band: {picture['band']}"] if banded else []
    _add_words(figure, picture, [*band, *notes_of_missing(picture), *notes_of_diverged(picture)])
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
    figure = Figure(figsize=(2.2 * columns + 1.2, 2.5 * rows))
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    greatest = max(point["probability"] for point in points)
    for i, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        image = axes.imshow(_matrix(points, name, classes), cmap="Blues", vmin=0.0, vmax=greatest)
        axes.set_title(name, fontsize="medium")
        axes.set_xticks(range(classes))
        axes.set_yticks(range(classes))
        axes.grid(visible=False)
        axes.tick_params(labelsize="x-small", length=2)
        if i + columns >= len(names):
            axes.set_xlabel(picture["x_title"])
    for axes in grid[:, 0]:
        axes.set_ylabel(picture["y_title"])
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    figure.colorbar(image, ax=grid, label="probability", shrink=0.8)
    _add_words(figure, picture, notes=())
    return figure


def _add_words(figure: Figure, picture: Picture, notes: Sequence[str]) -> None:
    """Put title and subtitle above, notes in small type below; the figure grows by their height."""
    width, height = figure.get_size_inches()
    characters = int(width * 15)  # that many of small type fit in a line
    title = _wrapped([picture["title"].replace(": ", ":\u00a0")], int(width * 10))
    above = _wrapped([picture["subtitle"]], characters)
    paper = f"Paper: {picture['paper']}" if picture.get("paper") else ""
    below = _wrapped([*notes, paper], characters)
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
        figure = DRAWINGS[kind](picture)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # each drawing would move the axes a little further
    return figure


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
