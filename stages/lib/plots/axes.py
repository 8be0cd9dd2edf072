"""Scales, ticks and legends of a figure with curves."""

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from stages.lib.plots.marks import (
    PAPER_LABEL,
    Picture,
    beyond_the_grid,
    paper_marks,
    parts_of,
    series_in_order,
    series_styles,
)

LABEL_CHARACTERS = 20  # entries of a legend are wrapped to leave room for the curves

# Where a symlog axis may have ticks: powers of ten alone are too few between 0 and 100.
SYMLOG_TICKS: list[float] = [
    *(0, 1, 2, 5, 10, 20, 50, 100, 250, 500),
    *(1000, 2000, 4000, 8000, 15000, 30000, 60000, 125000, 250000, 500000, 1000000),
]


def set_strip(strip: Axes, beyond: Sequence[float]) -> None:
    """Make the strip for stars a shaded piece of the x axis, cut off from the rest."""
    strip.set_facecolor("0.955")
    strip.spines["left"].set_visible(False)
    strip.tick_params(axis="y", length=0, labelleft=False)
    strip.grid(visible=False, axis="x")
    strip.set_xlim(-0.5, len(beyond) - 0.5)
    strip.set_xticks(range(len(beyond)), [f"{x:,g}" for x in beyond])
    strip.set_title("paper", fontsize=8, color="0.35", pad=4)


def _group_thousands(value: float, _: object) -> str:
    return f"{value:,.10g}"


def set_scales(axes: Axes, picture: Picture) -> None:
    """Set both axes' scales; counts get separators of thousands.

    Raises:
        ValueError: the figure asks for a scale that is none of linear, symlog and log.
    """
    points, scale = picture["points"], picture["x_scale"]
    xs = {float(point[picture["x"]]) for point in points}
    xs |= {float(x) for _, x, _ in paper_marks(points) if x not in beyond_the_grid(picture)}
    low, high = min(xs), max(xs)
    if scale == "linear":
        margin = 0.05 * (high - low) or 0.5
        axes.set_xlim(low - margin, high + margin)  # of points without a value, too
    elif scale == "symlog":  # linear up to one and logarithmic beyond
        axes.set_xscale("symlog", linthresh=1.0, linscale=0.5)
        axes.set_xlim(low - 0.12 if low < 1 else low / 1.12, high * 1.12)
        ticks = [tick for tick in SYMLOG_TICKS if low <= tick <= high]
    elif scale == "log":
        margin = (high / low) ** 0.05 * 1.02
        axes.set_xscale("log")
        axes.set_xlim(low / margin, high * margin)
        ticks = sorted(xs)[:: 1 + len(xs) // 12]  # at the values: a sweep has few
    else:
        raise ValueError(f"x_scale must be linear, symlog or log, got {scale!r}")
    if scale != "linear":
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(_group_thousands))
    if picture["y_scale"] != "linear":
        raise ValueError(f"y_scale must be linear, got {picture['y_scale']!r}")
    if "accuracy" in picture["y"]:
        # Never less than a fifth of the range of an accuracy: noise would look like an effect.
        low, high = axes.get_ylim()
        high = min(high, 1.005)
        axes.set_ylim(max(0.0, min(low, high - 0.2)), high)
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(_group_thousands))
        axes.set_ylim(bottom=0.0)
    if not paper_marks(points) and all(point[picture["y"]] is None for point in points):
        axes.set_ylim(0.0, 1.0)
        axes.set_yticks([])  # nothing is measured along this axis


def add_legend(axes: Axes, beside: Axes, picture: Picture) -> None:
    """Put the legend of ``axes`` right of ``beside``, where it can hide nothing.

    Of series that are called ``WHAT: HOW`` it has each what and each how once.
    """
    handles: list[Any] = axes.get_legend_handles_labels()[0]
    title, _, rest = picture["series_title"].partition(": ")
    styles = series_styles(series_in_order(picture["points"]))
    parts = parts_of(list(styles))
    if any(how for _, how in parts.values()):
        whats = {parts[name][0]: style for name, style in reversed(styles.items())}
        hows = {parts[name][1]: style.dashes for name, style in styles.items()}
        handles = [
            Line2D([], [], color=style.colour, marker=style.marker, linewidth=1.6, label=what)
            for what, style in reversed(whats.items())
        ]
        handles.append(Line2D([], [], linestyle="none", label=rest))
        for how, dashes in hows.items():
            line: dict[str, Any] = {"color": "0.3", "linestyle": dashes, "linewidth": 1.6}
            handles.append(Line2D([], [], label=how, **line))
    else:
        title = picture["series_title"]
    if paper_marks(picture["points"]):
        star: dict[str, Any] = {"linestyle": "none", "marker": "*", "label": PAPER_LABEL}
        handles.append(Line2D([], [], markersize=11, mfc="white", mec="0.3", **star))
    beside.legend(
        handles=handles,
        labels=[textwrap.fill(str(handle.get_label()), LABEL_CHARACTERS) for handle in handles],
        title=textwrap.fill(title, LABEL_CHARACTERS + 4),
        loc="upper left",
        bbox_to_anchor=(1.02 if beside is axes else 1.3, 1.0),
        borderaxespad=0.0,
        alignment="left",
    )


def wrapped(texts: Sequence[str], characters: int) -> list[str]:
    """Return the lines of the texts that are not empty."""
    return [line for text in texts for line in textwrap.wrap(text, characters)]
