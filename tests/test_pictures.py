"""Pictures: what is drawn, what is left out, and that bytes repeat."""

from pathlib import Path
from typing import Any

import pytest

from stages import draw
from stages.lib import architectures, files, paths, pictures


def point(series: str, x: float, y: float | None, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "series": series,
        "alpha": x,
        "test_accuracy": y,
        "lo": None if y is None else y - 0.01,
        "hi": None if y is None else y + 0.01,
        "paper_x": None,
        "paper_y": None,
        "paper_text": None,
    }
    return row | more


def curves(points: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    picture: dict[str, Any] = {
        "figure": "fig1",
        "title": "Title",
        "subtitle": "small print",
        "kind": "curves",
        "x": "alpha",
        "x_title": "α",
        "x_scale": "symlog",
        "y": "test_accuracy",
        "y_title": "accuracy",
        "y_scale": "linear",
        "series_title": "network",
        "band": "mean",
        "paper": "It holds.",
        "points": points,
    }
    return picture | more


STATED = {"paper_x": 100.0, "paper_y": 0.9, "paper_text": "paper: > 0.90 at α = 100"}
TWO_SERIES = [
    point("conv4", 0, 0.98, **STATED),
    point("conv4", 20, 0.85, **STATED),
    point("perceptron", 0, 0.9),
    point("perceptron", 20, 0.6),
]


def heatmap() -> dict[str, Any]:
    cells = [
        {"series": name, "true_class": i, "label": j, "probability": 0.5 if i == j else 0.25}
        for name in ("uniform", "random")
        for i in range(3)
        for j in range(3)
    ]
    return curves(cells, kind="heatmap", x="label", y="true_class", x_scale="linear")


def lines(figure: Any, name: str) -> list[Any]:
    return [line for line in figure.axes[0].get_lines() if line.get_label() == name]


def stars(axes: Any) -> list[tuple[float, float]]:
    lines = [line for line in axes.get_lines() if line.get_marker() == "*"]
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines]


def words(figure: Any) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def entries(axes: Any) -> list[str]:
    legend = axes.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("suffix", ["svg", "png"])
@pytest.mark.parametrize("picture", [curves(TWO_SERIES), heatmap()], ids=["curves", "heatmap"])
def test_same_bytes_twice(tmp_path: Path, picture: dict[str, Any], suffix: str) -> None:
    first, second = tmp_path / f"first.{suffix}", tmp_path / f"second.{suffix}"
    pictures.save(pictures.draw(picture), first)
    pictures.save(pictures.draw(picture), second)
    assert first.read_bytes() == second.read_bytes()


def test_same_bytes_from_one_drawing_saved_twice(tmp_path: Path) -> None:
    figure = pictures.draw(curves(TWO_SERIES))
    for name in ("first.svg", "second.svg"):
        pictures.save(figure, tmp_path / name)
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()


BELOW = {"status": "below the grid", "sizes": [350, 3500]}
ABOVE = {"status": "not reached", "sizes": [350, 3500]}


def test_points_without_a_value_are_marked_at_their_edge_and_noted() -> None:
    points = [
        point("0.80", 2, None, **BELOW),
        point("0.80", 5, 0.5),
        point("0.80", 10, 0.6),
        point("0.90", 5, 0.7),
        point("0.90", 10, None, **ABOVE),
        point("0.90", 20, None, **ABOVE),
    ]
    figure = pictures.draw(curves(points, x_scale="linear"))
    (line,) = lines(figure, "0.80")
    assert list(line.get_xdata()) == [5, 10]
    marks = {
        marker: [
            (m.get_xdata()[0], m.get_ydata()[0])
            for m in figure.axes[0].get_lines()
            if m.get_marker() == marker and m.get_markerfacecolor() == "none"
        ]
        for marker in "^v"
    }
    assert marks == {"^": [(10, 0.965), (20, 0.965)], "v": [(2, 0.035)]}
    assert figure.axes[0].get_xlim()[1] > 20
    assert "△ not reached with 3,500 labels: 0.90 at α = 10, 20" in words(figure)
    assert "▽ reached already with 350 labels: 0.80 at α = 2" in words(figure)


def test_a_point_without_a_value_or_a_reason_counts_as_not_reached() -> None:
    figure = pictures.draw(curves([point("a", 0, 0.5), point("a", 1, None)]))
    assert "△ not reached with what was tried: a at α = 1" in words(figure)
    assert "▽" not in words(figure)


def test_a_series_without_any_value_keeps_its_legend_entry() -> None:
    figure = pictures.draw(curves([point("a", 0, 0.5), point("b", 0, None)]))
    assert entries(figure.axes[0]) == ["a", "b"]


def test_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'pie'; known: curves, heatmap"):
        pictures.draw(curves(TWO_SERIES, kind="pie"))


def test_a_figure_without_points_is_refused() -> None:
    with pytest.raises(ValueError, match="'fig1' has no points"):
        pictures.draw(curves([]))


@pytest.mark.parametrize("axis", ["x_scale", "y_scale"])
def test_unknown_scale_is_refused(axis: str) -> None:
    with pytest.raises(ValueError, match=rf"{axis} must be linear.*'log'"):
        pictures.draw(curves(TWO_SERIES, **{axis: "log"}))


def test_what_the_paper_states_beyond_all_points_is_drawn_once_on_a_strip() -> None:
    axes, strip = pictures.draw(curves(TWO_SERIES)).axes
    assert stars(axes) == []
    assert stars(strip) == [(0, 0.9)]
    assert [tick.get_text() for tick in strip.get_xticklabels()] == ["100"]
    assert axes.get_xlim()[1] < 30
    assert axes.get_ylim() == strip.get_ylim()
    assert entries(strip) == ["conv4", "perceptron", pictures.PAPER_LABEL]


def test_each_place_beyond_all_points_has_its_own_tick() -> None:
    other = {"paper_x": 50.0, "paper_y": 0.5, "paper_text": "paper: 0.50 at α = 50"}
    _, strip = pictures.draw(curves([*TWO_SERIES, point("perceptron", 5, 0.7, **other)])).axes
    assert stars(strip) == [(1, 0.9), (0, 0.5)]
    assert [tick.get_text() for tick in strip.get_xticklabels()] == ["50", "100"]


def test_what_the_paper_states_among_the_points_is_drawn_where_it_stands() -> None:
    (axes,) = pictures.draw(curves([*TWO_SERIES, point("conv4", 100, 0.5, **STATED)])).axes
    assert stars(axes) == [(100, 0.9)]
    assert axes.get_xlim()[1] > 100


def test_no_entry_for_the_paper_where_it_states_nothing() -> None:
    (axes,) = pictures.draw(curves([point("a", 0, 0.5), point("a", 1, 0.4)])).axes
    assert stars(axes) == []
    assert entries(axes) == ["a"]


def test_long_words_are_wrapped() -> None:
    title = "Figure 9: clean labels needed for a target accuracy, 5,000 MNIST images (paper: MNIST)"
    name = "scikit-learn's digits, mislabeled"
    figure = pictures.draw(curves([point(name, 0, 0.5), point(name, 1, 0.4)], title=title))
    assert figure.texts[0].get_text().endswith("images\n(paper:\u00a0MNIST)")
    assert entries(figure.axes[0]) == ["scikit-learn's\ndigits, mislabeled"]


def test_notes_make_the_figure_taller_not_the_axes_smaller() -> None:
    short = pictures.draw(curves(TWO_SERIES))
    long = pictures.draw(curves(TWO_SERIES, band="mean of everything " * 20))
    figures = (short, long)
    for figure in figures:
        figure.draw_without_rendering()
    heights = [f.get_figheight() * f.axes[0].get_position().height for f in figures]
    assert long.get_figheight() > short.get_figheight()
    assert heights[0] == pytest.approx(heights[1], rel=0.01)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["alpha=100", "alpha=5", "alpha=10"], ["alpha=5", "alpha=10", "alpha=100"]),
        (["0.95", "0.8", "0.90"], ["0.8", "0.90", "0.95"]),
        (["α = 10", "α = 2", "α = 5"], ["α = 2", "α = 5", "α = 10"]),
        (["perceptron", "conv4", "conv2"], ["perceptron", "conv2", "conv4"]),
        (
            ["batch 32", "H_α", "batch 256", "batch 128"],
            ["batch 32", "batch 128", "batch 256", "H_α"],
        ),
        (["digits", "5,000 MNIST images", "white"], ["digits", "5,000 MNIST images", "white"]),
    ],
)
def test_series_are_in_the_order_of_their_number(names: list[str], expected: list[str]) -> None:
    assert pictures.series_in_order([{"series": name} for name in names]) == expected


def test_a_network_has_one_colour_in_every_figure() -> None:
    assert set(pictures.NETWORKS) == set(architectures.ARCHITECTURES)
    alone = pictures.series_colours(["conv4"])
    beside = pictures.series_colours(["mlp1", "something else", "conv4"])
    assert alone["conv4"] == beside["conv4"]
    assert len(set(beside.values())) == 3


def test_more_series_than_colours_are_refused() -> None:
    with pytest.raises(ValueError, match="10 series apart, got 11"):
        pictures.series_colours([str(number) for number in range(11)])


def test_heatmap_has_a_matrix_for_each_series_and_one_colour_bar() -> None:
    figure = pictures.draw(heatmap())
    assert [axes.get_title() for axes in figure.axes] == ["uniform", "random", ""]
    matrix = figure.axes[0].images[0].get_array()
    assert matrix is not None
    assert matrix[1].tolist() == [0.25, 0.5, 0.25]


def test_a_narrow_band_of_accuracies_is_not_blown_up() -> None:
    low, high = pictures.draw(curves([point("a", 0, 0.97), point("a", 1, 0.96)])).axes[0].get_ylim()
    assert high - low == pytest.approx(0.2)


def test_axis_titles_of_a_heatmap_are_clear_of_the_notes() -> None:
    figure = pictures.draw(heatmap())
    figure.draw_without_rendering()
    note = figure.texts[-1].get_window_extent()
    for axes in figure.axes[:2]:
        assert axes.xaxis.label.get_text() == "α"
        assert axes.xaxis.label.get_window_extent().y0 > note.y1


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'a\.pdf'"):
        pictures.save(pictures.draw(curves(TWO_SERIES)), tmp_path / "a.pdf")


def run_stage(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["draw", *arguments])
    return draw.main()


def test_stage_writes_both_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files.write_json(paths.figure_metrics("quick", "fig1"), curves(TWO_SERIES))
    assert run_stage(monkeypatch, "quick", "fig1") == 0
    folder = tmp_path / "plots" / "figures" / "quick"
    assert sorted(path.name for path in folder.iterdir()) == ["fig1.png", "fig1.svg"]


@pytest.mark.parametrize(
    "arguments", [["../up", "fig1"], ["quick", "a;b"], ["quick", ""], ["quick"]]
)
def test_stage_refuses_what_is_no_name(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_stage(monkeypatch, *arguments)
    assert "usage" in capsys.readouterr().err
