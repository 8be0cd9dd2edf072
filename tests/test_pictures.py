"""Pictures: what is drawn, what is left out, and that bytes repeat."""

import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_hex

from stages.lib.models import architectures
from stages.lib.plots import marks, pictures


def point(series: str, x: float, y: float | None, **more: Any) -> dict[str, Any]:
    low, high = (None, None) if y is None else (y - 0.01, y + 0.01)
    row = {"series": series, "alpha": x, "test_accuracy": y, "lo": low, "hi": high}
    return row | more


def curves(points: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    picture: dict[str, Any] = {
        "figure": "fig1", "title": "Title", "subtitle": "small print", "kind": "curves",
        "x": "alpha", "x_title": "α", "x_scale": "symlog", "series_title": "network",
        "y": "test_accuracy", "y_title": "accuracy", "y_scale": "linear",
        "band": "mean", "paper": "It holds.", "points": points,
    }  # fmt: skip
    return picture | more


def drawn(points: list[dict[str, Any]], **more: Any) -> Any:
    return pictures.draw(curves(points, **more))


STATED = {"paper_x": 100.0, "paper_y": 0.9}
TWO_SERIES = [
    point("conv4", 0, 0.98, **STATED),
    point("conv4", 20, 0.85, **STATED),
    point("perceptron", 0, 0.9),
    point("perceptron", 20, 0.6),
]


def heatmap() -> dict[str, Any]:
    cells = [
        {
            "series": name,
            "true_class": i,
            "label": j,
            "probability": 0.5 if i == j else 0.25 / (1 + i),
        }
        for name in ("uniform", "random")
        for i in range(3)
        for j in range(3)
    ]
    return curves(cells, kind="heatmap", x="label", y="true_class", x_scale="linear")


def marked(axes: Any, marker: str) -> list[Any]:
    return [line for line in axes.get_lines() if line.get_marker() == marker]


def path_of(figure: Any, name: str) -> list[tuple[float, float | None]]:
    """Return what a series' line passes through; None where it is broken."""
    (line,) = [line for line in figure.axes[0].get_lines() if line.get_label() == name]
    return [(x, None if math.isnan(y) else y) for x, y in line.get_xydata().tolist()]


def bands(figure: Any) -> list[list[tuple[float, float]]]:
    """Return from where to where the pieces of each series' band reach."""
    pieces = [
        [(min(path.vertices[:, 0]), max(path.vertices[:, 0])) for path in band.get_paths()]
        for band in figure.axes[0].collections
    ]
    return [[piece for piece in band if piece[0] < piece[1]] for band in pieces]


def places(figure: Any, marker: str = "x") -> list[tuple[str, float, float]]:
    """Return colour, x and height of marks alone, in fractions of the axes; × is what diverged."""
    axes = figure.axes[0]
    across, up = axes.transData.inverted(), axes.transAxes.inverted()
    return [
        (to_hex(line.get_markeredgecolor()), across.transform(place)[0], up.transform(place)[1])
        for line in marked(axes, marker)
        if line.get_markerfacecolor() == "none" or marker == "x"
        for place in line.get_transform().transform(line.get_xydata())
    ]


def height_of(figure: Any, y: float) -> float:
    """Return how high a value stands, in fractions of the axes."""
    axes = figure.axes[0]
    place = axes.transData.transform((0, y))
    return float(axes.transAxes.inverted().transform(place)[1])


def diverged(
    rates: float | list[float], seeds: list[int], of: int, *, chosen: bool = True
) -> dict[str, Any]:
    """Return what a point says of seeds that diverged, at its chosen rate or at every rate."""
    every = rates if isinstance(rates, list) else [rates]
    return {
        "learning_rate": every[0] if chosen else None,
        "diverged": len(seeds),
        "diverged_runs": [{"learning_rate": r, "seed": s} for s in seeds for r in every],
        "seeds": list(range(of)),
    }


def stars(axes: Any) -> list[tuple[float, float]]:
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in marked(axes, "*")]


def words(figure: Any) -> str:
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ")


def entries(axes: Any) -> list[str]:
    legend = axes.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("suffix", ["svg", "png"])
@pytest.mark.parametrize("picture", [curves(TWO_SERIES), heatmap()], ids=["curves", "heatmap"])
def test_same_bytes_however_often(tmp_path: Path, picture: dict[str, Any], suffix: str) -> None:
    figure = pictures.draw(picture)
    written = []
    for i, each in enumerate((figure, figure, pictures.draw(picture))):
        pictures.save(each, tmp_path / f"{i}.{suffix}")
        written.append((tmp_path / f"{i}.{suffix}").read_bytes())
    assert written == written[:1] * 3


BLUE, ORANGE = marks.PALETTE[:2]
BELOW = {"status": "below the grid", "sizes": [350, 3500]}
ABOVE = {"status": "not reached", "sizes": [350, 3500]}


SHORTER = {"status": "not reached", "sizes": [350, 1100]}


def test_points_without_a_value_are_marked_at_their_edge_and_noted() -> None:
    points = [
        point("0.80", 2, None, **BELOW), point("0.80", 5, 0.5), point("0.80", 10, 0.6),
        point("0.90", 5, 0.7), point("0.90", 10, None, **ABOVE), point("0.90", 20, None, **ABOVE),
    ]  # fmt: skip
    figure = drawn(points, x_scale="linear")
    assert path_of(figure, "0.80") == [(2, None), (5, 0.5), (10, 0.6)]
    assert places(figure) == []
    top = pytest.approx(0.965)
    assert places(figure, "^") == [(ORANGE, pytest.approx(x), top) for x in (10, 20)]
    assert places(figure, "v") == [(BLUE, pytest.approx(2), pytest.approx(0.035))]
    assert figure.axes[0].get_xlim()[1] > 20
    assert "△ not reached with 3,500 labels: 0.90 at α = 10, 20" in words(figure)
    assert "▽ reached already with 350 labels: 0.80 at α = 2" in words(figure)
    # Sweeps that ended elsewhere, or do not tell where, have notes of their own.
    points = [point("0.80", 10, None, **SHORTER), *points[4:], point("0.95", 10, None)]
    said = words(drawn([point("0.80", 5, 0.5), *points]))
    assert "△ not reached with 1,100 labels: 0.80 at α = 10 " in said
    assert "△ not reached with 3,500 labels: 0.90 at α = 10, 20 " in said
    assert "△ not reached with what was tried: 0.95 at α = 10" in said
    assert "▽" not in said


ONE = diverged(0.5, [1], of=3)
EVERY = diverged([0.1, 0.5], [0, 1, 2], of=3, chosen=False)


def test_a_point_of_which_some_seeds_diverged_is_crossed_and_noted() -> None:
    none = {"diverged": 0, "diverged_runs": [], "seeds": [0, 1, 2]}
    points = [point("a", 0, 0.9, **none), point("a", 5, 0.7, **ONE), point("b", 5, 0.6)]
    figure = drawn(points)
    ((colour, x, height),) = places(figure)
    assert (colour, x) == (BLUE, pytest.approx(5))
    assert height == pytest.approx(height_of(figure, 0.7))
    assert path_of(figure, "a") == [(0, 0.9), (5, 0.7)]
    said = words(figure)
    assert "× on a point: some diverged, left out: a at α = 5 (1 of 3 seeds at lr 0.5)" in said
    assert "at the bottom" not in said


def test_a_point_of_which_every_seed_diverged_is_a_cross_at_the_bottom_off_the_line() -> None:
    points = [
        point("a", 0, 0.9), point("a", 5, None, **EVERY), point("a", 20, 0.7), point("a", 50, 0.6),
        point("b", 0, 0.8), point("b", 5, 0.5), point("b", 20, 0.4), point("b", 50, 0.3),
    ]  # fmt: skip
    figure = drawn(points)
    ((colour, x, height),) = places(figure)
    assert (colour, x, height) == (BLUE, pytest.approx(5), pytest.approx(0.035))
    assert path_of(figure, "a") == [(0, 0.9), (5, None), (20, 0.7), (50, 0.6)]
    assert bands(figure) == [[(20, 50)], [(0, 50)]]  # one point alone has none
    assert height_of(figure, 0.29) > 0.06  # nothing else is as low, the band included
    said = words(figure)
    assert "× at the bottom: all diverged: a at α = 5 (3 of 3 seeds at lr 0.1, 0.5)" in said
    assert "on a point" not in said
    assert "△" not in said


@pytest.mark.parametrize("first", [EVERY, BELOW], ids=["cross", "triangle"])
def test_marks_at_the_bottom_stand_side_by_side(first: dict[str, Any]) -> None:
    lost = {"status": "diverged"} | EVERY
    points = [point("a", 2, None, **first), point("b", 2, None, **lost)]
    figure = drawn([point("a", 0, 0.9), *points, point("b", 5, 0.7)], x_scale="linear")
    left, right = sorted(
        figure.axes[0].transData.inverted().transform(place)[0]
        for line in [*marked(figure.axes[0], "v"), *marked(figure.axes[0], "x")]
        for place in line.get_transform().transform(line.get_xydata())
    )
    assert left < 2 < right
    assert places(figure)[-1][0] == ORANGE
    assert places(figure)[-1][1] == pytest.approx(right)


def test_where_a_rate_is_a_series_its_cross_is_noted_as_one() -> None:
    points = [
        point("0.5", 0, 0.9), point("0.5", 5, 0.8, **diverged(0.5, [0], of=2)),
        point("1", 0, 0.9, **diverged(1.0, [1], of=2)),
        point("1", 5, None, **diverged([1.0], [0, 1], of=2, chosen=False)),
        point("1", 20, None, **diverged([1.0], [0, 1], of=2, chosen=False)),
    ]  # fmt: skip
    said = words(drawn(points, series_title="learning rate"))
    assert "left out: lr 0.5 at α = 5 (1 of 2 seeds); lr 1 at α = 0 (1 of 2 seeds)" in said
    assert "all diverged: lr 1 at α = 5, 20 (2 of 2 seeds)" in said


def test_a_rate_that_was_not_chosen_is_not_noted() -> None:
    runs = [{"learning_rate": rate, "seed": 1} for rate in (0.5, 1.0)]
    figure = drawn([point("a", 0, 0.9), point("a", 5, 0.7, **ONE | {"diverged_runs": runs})])
    assert "a at α = 5 (1 of 3 seeds at lr 0.5)" in words(figure)
    aside = point("a", 5, 0.7, diverged=0, diverged_runs=runs, seeds=[0, 1], learning_rate=0.1)
    assert "×" not in words(drawn([point("a", 0, 0.9), aside]))


def test_a_threshold_names_the_sizes_at_which_seeds_diverged() -> None:
    more = {
        "diverged": 1, "seeds": [0, 1],
        "diverged_runs": [
            {"originals": 1100, "learning_rate": 1.0, "seed": 1},
            {"originals": 350, "learning_rate": 0.5, "seed": 1},
        ],
    }  # fmt: skip
    points = [
        point("0.80", 5, 0.6, **more),
        point("0.90", 5, None, **ABOVE | more),
        point("0.95", 5, None, **BELOW | more),
        point("0.80", 10, 0.7),
    ]
    figure = drawn(points, x_scale="linear")
    said = words(figure)
    where = "(1 of 2 seeds at n = 350, 1,100, lr 0.5, 1)"
    for series in ("0.80", "0.90", "0.95"):
        assert f"{series} at α = 5 {where}" in said
    assert "△ not reached with 3,500 labels: 0.90 at α = 5 " in said
    assert "▽ reached already with 350 labels: 0.95 at α = 5 " in said
    # On the point; under the triangle at the top; over the one at the bottom.
    heights = [height for _, _, height in places(figure)]
    assert heights[0] == pytest.approx(height_of(figure, 0.6))
    assert 0.88 < heights[1] < 0.955
    assert 0.045 < heights[2] < 0.12


def test_points_without_a_spread_have_no_band() -> None:
    alone = point("a", 5, 0.8, lo=None, hi=None)
    figure = drawn([*(point("a", x, 0.9) for x in (0, 1, 20, 50)), alone])
    assert bands(figure) == [[(0, 1), (20, 50)]]
    assert path_of(figure, "a")[2] == (5, 0.8)
    assert "Band: mean" in words(figure)
    assert "Band" not in words(drawn([alone, {**alone, "alpha": 0}]))
    # A picture of nothing but crosses has no scale either.
    figure = drawn([point("a", x, None, **EVERY) for x in (0, 5)])
    assert len(places(figure)) == 2
    assert list(figure.axes[0].get_yticks()) == []
    assert "Band" not in words(figure)
    assert entries(figure.axes[0]) == ["a"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kind": "pie"}, r"'pie'; known: curves, heatmap"),
        ({"points": []}, "'fig1' has no points"),
        ({"x_scale": "sqrt"}, r"x_scale must be linear.*'sqrt'"),
        ({"y_scale": "log"}, r"y_scale must be linear.*'log'"),
        ({"points": [point(str(i), 0, 0.5) for i in range(11)]}, "10 series apart, got 11"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        pictures.draw(curves(TWO_SERIES) | changes)


def test_a_log_scale_has_its_ticks_at_the_points() -> None:
    xs = (0.0625, 0.25, 0.5, 1)
    (axes,) = pictures.draw(curves([point("a", x, 0.5) for x in xs], x_scale="log")).axes
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.0625", "0.25", "0.5", "1"]
    assert 0 < axes.get_xlim()[0] < 0.0625


def test_what_the_paper_states_beyond_all_points_is_drawn_once_on_a_strip() -> None:
    axes, strip = drawn(TWO_SERIES).axes
    assert stars(axes) == []
    assert stars(strip) == [(0, 0.9)]
    assert [tick.get_text() for tick in strip.get_xticklabels()] == ["100"]
    assert axes.get_xlim()[1] < 30
    assert axes.get_ylim() == strip.get_ylim()
    assert entries(strip) == ["conv4", "perceptron", marks.PAPER_LABEL]
    # Each place there has its own tick.
    _, strip = drawn([*TWO_SERIES, point("perceptron", 5, 0.7, paper_x=50.0, paper_y=0.5)]).axes
    assert stars(strip) == [(1, 0.9), (0, 0.5)]
    assert [tick.get_text() for tick in strip.get_xticklabels()] == ["50", "100"]


def test_what_the_paper_states_among_the_points_is_drawn_where_it_stands() -> None:
    (axes,) = drawn([*TWO_SERIES, point("conv4", 100, 0.5, **STATED)]).axes
    assert stars(axes) == [(100, 0.9)]
    assert axes.get_xlim()[1] > 100
    (axes,) = drawn([point("a", 0, 0.97), point("a", 1, 0.96)]).axes  # of which it says nothing
    assert stars(axes) == []
    assert entries(axes) == ["a"]
    low, high = axes.get_ylim()
    assert high - low == pytest.approx(0.2)  # a narrow band of accuracies is not blown up


def test_long_words_are_wrapped() -> None:
    title = "Figure 9: clean labels needed for a target accuracy, 5,000 MNIST images (paper: MNIST)"
    name = "scikit-learn's digits, mislabeled"
    figure = pictures.draw(curves([point(name, 0, 0.5), point(name, 1, 0.4)], title=title))
    assert figure.texts[0].get_text().endswith("images\n(paper:\u00a0MNIST)")
    assert entries(figure.axes[0]) == ["scikit-learn's\ndigits, mislabeled"]


def test_notes_make_the_figure_taller_not_the_axes_smaller() -> None:
    short, long = drawn(TWO_SERIES), drawn(TWO_SERIES, band="mean of everything " * 20)
    heights = [f.get_figheight() * f.axes[0].get_position().height for f in (short, long)]
    assert long.get_figheight() > short.get_figheight()
    assert heights[0] == pytest.approx(heights[1], rel=0.01)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["0.95", "0.8", "0.90"], ["0.8", "0.90", "0.95"]),
        (["α = 10", "α = 2", "α = 5"], ["α = 2", "α = 5", "α = 10"]),
        (["perceptron", "conv4", "conv2"], ["perceptron", "conv2", "conv4"]),
        (["b 32", "H_α", "b 256", "b 128"], ["b 32", "b 128", "b 256", "H_α"]),
        (["digits", "5,000 MNIST images", "white"], ["digits", "5,000 MNIST images", "white"]),
    ],
)
def test_series_are_in_the_order_of_their_number(names: list[str], expected: list[str]) -> None:
    assert marks.series_in_order([{"series": name} for name in names]) == expected


def test_a_network_has_one_colour_in_every_figure() -> None:
    known = architectures.ARCHITECTURES.items()
    imagenet = {n for n, kind in known if isinstance(kind, architectures.TorchvisionResNet)}
    assert set(marks.NETWORKS) == set(architectures.ARCHITECTURES) - imagenet
    assert len(marks.NETWORKS) <= len(marks.PALETTE)
    assert len(set(marks.series_colours([*imagenet, "conv4"]).values())) == 5
    alone = marks.series_colours(["conv4"])
    beside = marks.series_colours(["mlp1", "something else", "conv4"])
    assert alone["conv4"] == beside["conv4"]
    assert len(set(beside.values())) == 3


def test_heatmap_has_a_matrix_for_each_series_and_one_colour_bar() -> None:
    figure = pictures.draw(heatmap())
    assert [axes.get_title() for axes in figure.axes] == ["uniform", "random", ""]
    matrix = figure.axes[0].images[0].get_array()
    assert matrix is not None
    assert matrix[:2].tolist() == [[0.5, 0.25, 0.25], [0.125, 0.5, 0.125]]
    figure.draw_without_rendering()
    note = figure.texts[-1].get_window_extent()
    for axes in figure.axes[:2]:
        assert axes.xaxis.label.get_text() == "α"
        assert axes.xaxis.label.get_window_extent().y0 > note.y1  # clear of the notes


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'a\.pdf'"):
        pictures.save(drawn(TWO_SERIES), tmp_path / "a.pdf")


def test_what_and_how_are_told_apart_by_colours_and_dashes() -> None:
    names = [f"{what}: {how}" for what in ("mlp1", "conv4") for how in ("labels", "grouped")]
    figure = pictures.draw(
        curves([point(name, x, 0.5) for name in names for x in (0, 1)], series_title="a: training")
    )
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    looks = [(lines[n].get_color(), lines[n].get_linestyle(), lines[n].get_marker()) for n in names]
    assert len(set(looks)) == 4
    assert looks[0][::2] == looks[1][::2]  # a network's colour and marker
    assert looks[0][0] == marks.series_colours(["mlp1"])["mlp1"]
    assert [look[1] for look in looks] == ["-", "--"] * 2
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["mlp1", "conv4", "training", "labels", "grouped"]
    with pytest.raises(ValueError, match="5 kinds of dashes, got 6"):
        marks.series_styles([f"mlp1: {k}" for k in range(6)])
