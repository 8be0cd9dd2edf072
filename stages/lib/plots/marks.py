"""What a figure's points ask to be drawn: series, colours, marks of the paper, what is missing."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Point = Mapping[str, Any]
Picture = Mapping[str, Any]
Dashes = str | tuple[int, tuple[int, ...]]

# seaborn's colour-blind-safe palette, its palest two last, as in the templates of .dvc/plots.
PALETTE = [
    *("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc"),
    *("#ca9161", "#56b4e9", "#949494", "#fbafe4", "#ece133"),
]

MARKERS = "osD^vPX<>p"
DASHES: tuple[Dashes, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))

#: Notes of the points that `fates` tells apart, with the fewest and the most labels tried.
NOTES = {
    "above": "△ not reached with {1}",
    "below": "▽ reached already with {0}",
    "some": "× on a point: some diverged, left out",
    "lost": "× at the bottom: all diverged",
}

PAPER_LABEL = "stated by the paper"

# A network has the same colour in every figure, the palette's at its place in this list; any other
# series takes what is left, in order: ImageNet's networks too, which have figures of their own.
NETWORKS = [
    *("perceptron", "mlp1", "mlp2", "conv2", "conv4", "conv6"),
    *("resnet20", "resnet32", "resnet56", "resnet18_small"),
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


class Style(NamedTuple):
    """How a series is drawn: its line's colour and dashes, and the marker of its points."""

    colour: str
    dashes: Dashes
    marker: str


def parts_of(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return what and how of each series, where all are called ``WHAT: HOW``; else no how."""
    parts = {name: (what, how) for name in names for what, _, how in [name.rpartition(": ")]}
    return (
        parts if all(what for what, _ in parts.values()) else {name: (name, "") for name in names}
    )


def series_styles(names: Sequence[str]) -> dict[str, Style]:
    """Return the style of each series.

    Where all are called ``WHAT: HOW``, one colour and marker are what's, and how is told by dashes.

    Raises:
        ValueError: there are more than can be told apart.
    """
    parts = parts_of(names)
    colours = series_colours(list(dict.fromkeys(what for what, _ in parts.values())))
    markers = dict(zip(colours, MARKERS, strict=False))
    ways = list(dict.fromkeys(how for _, how in parts.values()))
    if len(ways) > len(DASHES):
        raise ValueError(f"a picture has {len(DASHES)} kinds of dashes, got {len(ways)}: {ways}")
    dashes = dict(zip(ways, DASHES, strict=False))
    return {
        name: Style(colours[what], dashes[how], markers[what])
        for name, (what, how) in parts.items()
    }


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
    columns: list[Any] = [(str(p["series"]), p.get("paper_x"), p.get("paper_y")) for p in points]
    return [(name, x, y) for name, x, y in dict.fromkeys(columns) if None not in (x, y)]


def beyond_the_grid(picture: Picture) -> list[float]:
    """Return where right of all points the paper states something: values of x, ascending."""
    greatest = max(point[picture["x"]] for point in picture["points"])
    return sorted({x for _, x, _ in paper_marks(picture["points"]) if x > greatest})


def fates(picture: Picture) -> dict[str, list[Point]]:
    """Return the points that need a mark.

    Without a value are those ``above`` and ``below`` all that was tried, and the ``lost``, of which
    every seed diverged; of others ``some`` seeds did.
    """
    found: dict[str, list[Point]] = {"above": [], "below": [], "some": [], "lost": []}
    for point in picture["points"]:
        absent, status = point[picture["y"]] is None, point.get("status", "diverged")
        lost = absent and point.get("diverged") and status == "diverged"
        if absent:
            above = "below" if status == "below the grid" else "above"
            found["lost" if lost else above].append(point)
        if point.get("diverged") and not lost:
            found["some"].append(point)
    return found


def notes(picture: Picture) -> list[str]:
    """Return what is said of the points that need a mark, those of one mark and end together."""
    found: dict[str, list[Point]] = {}
    for kind, points in fates(picture).items():
        for point in points:
            sizes = point.get("sizes")
            ends = [f"{end(sizes):,g} labels" if sizes else "what was tried" for end in (min, max)]
            found.setdefault(NOTES[kind].format(*ends), []).append(point)
    return [f"{note}: {_listed(points, picture, '×' in note)}" for note, points in found.items()]


def _listed(points: Sequence[Point], picture: Picture, lost: bool) -> str:
    """Return the points as ``0.80 at α = 10, 20; 0.90 at α = 5``, with what each lost if asked."""
    x = picture["x"]
    symbol = {"alpha": "α", "delta": "δ", "originals": "n"}.get(x, x)
    places: dict[tuple[str, str], list[str]] = {}
    for point in points:
        name = str(point["series"])
        if picture["series_title"] == "learning rate":
            name = f"lr {name}"  # a bare number would be taken for one of seeds
        remark = _lost(point, name) if lost else ""
        places.setdefault((name, remark), []).append(f"{point[x]:,g}")
    return "; ".join(
        f"{name} at {symbol} = {', '.join(xs)}{remark}" for (name, remark), xs in places.items()
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
    where = [f"n = {', '.join(f'{size:,}' for size in sizes)}"] if sizes else []
    where.append(f"lr {', '.join(f'{rate:g}' for rate in rates)}")
    at = ", ".join(words for words in where if words != name)
    return f" ({point['diverged']} of {seeds} seed{'s' * (seeds > 1)}{' at ' * bool(at)}{at})"
