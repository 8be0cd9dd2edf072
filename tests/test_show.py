"""The table that ends `make repro`."""

from typing import Any

from stages.show import experiment, table

FIGURE: dict[str, Any] = {
    "title": "Figure 1: a title",
    "kind": "curves",
    "x": "alpha",
    "y": "test_accuracy",
    "paper": "It holds.",
    "points": [],
}


def point(x: float, y: float | None, sd: float | None, seeds: str, **more: Any) -> dict[str, Any]:
    row = {"series": "a", "alpha": x, "test_accuracy": y, "sd": sd, "seeds_text": seeds}
    return row | {"diverged": 0} | more


def shown(*points: dict[str, Any], y: str = "test_accuracy") -> list[str]:
    lines = table(FIGURE | {"points": list(points), "y": y})
    assert lines[:2] == ["", "Figure 1: a title"]
    assert lines[-1] == "  paper: It holds."
    return lines[2:-1]


def test_each_series_shows_its_last_value() -> None:
    (line,) = shown(point(5, 1.0, 0.0, "2 seeds"), point(0, 0.5, 0.25, "2 seeds"))
    assert line.endswith("alpha = 5      1.000 ± 0.000 (2 seeds)")


def test_a_mean_tells_how_many_seeds_it_lacks() -> None:
    said = "2 of 3 seeds; 1 diverged at lr 1"
    line, note = shown(point(0, 0.9, 0.1, "3 seeds"), point(5, 0.744, 0.02, said, diverged=1))
    assert line.endswith("alpha = 5      0.744 ± 0.020 (2 of 3 seeds; 1 diverged at lr 1)")
    assert note == "  seeds diverged at 1 of 2 points, × in plots"


def test_a_diverged_point_before_the_last_is_not_passed_over() -> None:
    points = [point(x, 0.9, 0.1, "2 seeds", diverged=lost) for x, lost in ((0, 2), (1, 1), (5, 0))]
    assert shown(*points)[1] == "  seeds diverged at 2 of 3 points, × in plots"


def test_a_single_value_has_no_spread() -> None:
    (line,) = shown(point(5, 0.744, None, "1 seed"))
    assert line.endswith("alpha = 5      0.744 (1 seed)")


def test_a_point_of_which_every_seed_diverged_says_so() -> None:
    line, _ = shown(point(5, None, None, "0 of 2 seeds; all diverged at lr 1", diverged=2))
    assert line.endswith("alpha = 5      diverged (0 of 2 seeds; all diverged at lr 1)")


def test_a_threshold_without_a_value_shows_why() -> None:
    row = point(5, None, None, "2 seeds", critical_size=None, status="not reached")
    (line,) = shown(row, y="critical_size")
    assert line.endswith("alpha = 5      not reached (2 seeds)")


def test_a_threshold_is_a_number_of_labels() -> None:
    row = point(5, None, 120.4, "2 seeds", critical_size=2345.6, status="reached")
    (line,) = shown(row, y="critical_size")
    assert line.endswith("alpha = 5      2,346 ± 120 (2 seeds)")


REPORT = {
    "test_accuracy": 0.744, "test_accuracy_sd": 0.02, "seeds_text": ["3 seeds"],
    "label_accuracy": 0.1816, "examples": 38_500,
}  # fmt: skip


def test_the_experiment_is_a_line() -> None:
    assert experiment(REPORT) == (
        "experiment: test accuracy 0.744 ± 0.020 (3 seeds) with 18.2% of 38,500 labels true"
    )


def test_an_experiment_without_an_accuracy_says_so() -> None:
    said = "0 of 3 seeds; all diverged at lr 1, 2"
    gone = REPORT | {"test_accuracy": None, "test_accuracy_sd": None, "seeds_text": [said]}
    assert f"test accuracy diverged ({said}) with 18.2%" in experiment(gone)
