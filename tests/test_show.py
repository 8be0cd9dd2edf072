"""The table that ends `make repro`."""

from typing import Any

import pytest

from stages.show import experiment, table


def point(x: float, y: float | None, sd: float | None, seeds: str, **more: Any) -> dict[str, Any]:
    row = {"series": "a", "alpha": x, "test_accuracy": y, "sd": sd, "seeds_text": seeds}
    return row | {"diverged": 0} | more


def shown(*points: dict[str, Any], y: str = "test_accuracy", paper: str | None = None) -> list[str]:
    figure = {"title": "Figure 1: a title", "kind": "curves", "x": "alpha", "y": y, "paper": paper}
    lines = table(figure | {"points": list(points)})
    assert lines[:2] == ["", "Figure 1: a title"]
    return lines[2:]


SOME = "2 of 3 seeds; 1 diverged at lr 1"
ALL = "0 of 2 seeds; all diverged at lr 1"


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (point(5, 1.0, 0.0, "2 seeds"), "1.000 ± 0.000 (2 seeds)"),
        (point(5, 0.744, None, "1 seed"), "0.744 (1 seed)"),
        (point(5, 0.744, 0.02, SOME, diverged=1), f"0.744 ± 0.020 ({SOME})"),
        (point(5, None, None, ALL, diverged=2), f"diverged ({ALL})"),
    ],
)
def test_each_series_shows_its_last_value(last: dict[str, Any], said: str) -> None:
    line, *notes = shown(last, point(0, 0.5, 0.25, "2 seeds"))
    assert line == f"  {'a':32} alpha = 5      {said}"
    lost = ["  seeds diverged at 1 of 2 points, × in plots"]
    assert notes == (lost if last["diverged"] else [])


def test_a_diverged_point_before_the_last_is_not_passed_over() -> None:
    points = [point(x, 0.9, 0.1, "2 seeds", diverged=lost) for x, lost in ((0, 2), (1, 1), (5, 0))]
    lines = shown(*points, paper="It holds.")
    assert lines[1:] == ["  seeds diverged at 2 of 3 points, × in plots", "  paper: It holds."]


@pytest.mark.parametrize(
    ("size", "sd", "status", "said"),
    [(None, None, "not reached", "not reached"), (2345.6, 120.4, "reached", "2,346 ± 120")],
)
def test_a_threshold_is_a_number_of_labels_or_why_there_is_none(
    size: float | None, sd: float | None, status: str, said: str
) -> None:
    row = point(5, None, sd, "2 seeds", critical_size=size, status=status)
    (line,) = shown(row, y="critical_size")
    assert line.endswith(f"alpha = 5      {said} (2 seeds)")


def test_the_experiment_is_a_line_and_says_where_it_has_no_accuracy() -> None:
    report = {
        "test_accuracy": 0.744, "test_accuracy_sd": 0.02, "seeds_text": ["3 seeds"],
        "label_accuracy": 0.1816, "examples": 38_500,
    }  # fmt: skip
    assert experiment(report) == (
        "experiment: test accuracy 0.744 ± 0.020 (3 seeds) with 18.2% of 38,500 labels true"
    )
    gone = report | {"test_accuracy": None, "test_accuracy_sd": None, "seeds_text": [ALL]}
    assert f"test accuracy diverged ({ALL}) with 18.2%" in experiment(gone)
