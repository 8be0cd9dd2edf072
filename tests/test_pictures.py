"""Pictures: what is drawn, what is left out, and that bytes repeat."""

from pathlib import Path
from typing import Any

import pytest

from stages import draw
from stages.lib import files, paths, pictures


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


def stars(figure: Any) -> list[Any]:
    return [line for line in figure.axes[0].get_lines() if line.get_marker() == "*"]


@pytest.mark.parametrize("suffix", ["svg", "png"])
@pytest.mark.parametrize("picture", [curves(TWO_SERIES), heatmap()], ids=["curves", "heatmap"])
def test_same_bytes_twice(tmp_path: Path, picture: dict[str, Any], suffix: str) -> None:
    first, second = tmp_path / f"first.{suffix}", tmp_path / f"second.{suffix}"
    pictures.save(pictures.draw(picture), first)
    pictures.save(pictures.draw(picture), second)
    assert first.read_bytes() == second.read_bytes()


def test_a_point_without_a_value_is_left_out_and_noted() -> None:
    points = [point("0.90", 0, 0.5), point("0.90", 10, None), point("0.90", 20, 0.7)]
    figure = pictures.draw(curves(points, x_scale="linear"))
    (line,) = lines(figure, "0.90")
    assert list(line.get_xdata()) == [0, 20]
    words = " ".join(text.get_text() for text in figure.texts)
    assert "Not reached: 0.90 at α = 10" in words


def test_a_series_without_any_value_keeps_its_legend_entry() -> None:
    figure = pictures.draw(curves([point("a", 0, 0.5), point("b", 0, None)]))
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]


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


def test_what_the_paper_states_is_drawn_once_per_series() -> None:
    figure = pictures.draw(curves(TWO_SERIES))
    assert [(list(s.get_xdata()), list(s.get_ydata())) for s in stars(figure)] == [([100.0], [0.9])]
    legend = figure.axes[0].get_legend()
    assert legend is not None
    entries = [text.get_text() for text in legend.get_texts()]
    assert entries == ["conv4", "perceptron", pictures.PAPER_LABEL]


def test_no_entry_for_the_paper_where_it_states_nothing() -> None:
    figure = pictures.draw(curves([point("a", 0, 0.5), point("a", 1, 0.4)]))
    assert stars(figure) == []
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a"]


def test_what_the_paper_states_lies_inside_the_axes() -> None:
    axes = pictures.draw(curves(TWO_SERIES)).axes[0]
    assert axes.get_xlim()[1] > 100
    assert axes.get_ylim()[1] > 0.9


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["alpha=100", "alpha=5", "alpha=10"], ["alpha=5", "alpha=10", "alpha=100"]),
        (["0.95", "0.8", "0.90"], ["0.8", "0.90", "0.95"]),
        (["perceptron", "conv4", "conv2"], ["perceptron", "conv4", "conv2"]),
        (["64", "32", "H_alpha"], ["64", "32", "H_alpha"]),
    ],
)
def test_series_are_in_the_order_of_their_number(names: list[str], expected: list[str]) -> None:
    assert pictures.series_in_order([{"series": name} for name in names]) == expected


def test_a_network_has_one_colour_in_every_figure() -> None:
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


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'a\.pdf'"):
        pictures.save(pictures.draw(curves(TWO_SERIES)), tmp_path / "a.pdf")


def test_stage_writes_both_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files.write_json(paths.figure_metrics("quick", "fig1"), curves(TWO_SERIES))
    draw.main(["quick", "fig1"])
    folder = tmp_path / "plots" / "figures" / "quick"
    assert sorted(path.name for path in folder.iterdir()) == ["fig1.png", "fig1.svg"]


@pytest.mark.parametrize(
    "arguments", [["../up", "fig1"], ["quick", "a;b"], ["quick", ""], ["quick"]]
)
def test_stage_refuses_what_is_no_name(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        draw.main(arguments)
    assert "usage" in capsys.readouterr().err
