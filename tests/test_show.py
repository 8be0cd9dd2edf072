"""The table that ends `make repro`."""

from stages.show import table

FIGURE = {
    "title": "Figure 1: a title",
    "kind": "curves",
    "x": "alpha",
    "y": "test_accuracy",
    "paper": "It holds.",
    "points": [
        {"series": "a", "alpha": 5, "test_accuracy": 1.0, "sd": 0.0, "values": [1.0, 1.0]},
        {"series": "a", "alpha": 0, "test_accuracy": 0.5, "sd": 0.25, "values": [0.4, 0.6]},
    ],
}


def test_each_series_shows_its_last_value() -> None:
    text = "\n".join(table(FIGURE))
    assert "alpha = 5      1.000 ± 0.000 (2 seeds)" in text
    assert "0.500" not in text
    assert "paper: It holds." in text


def test_a_threshold_without_a_value_shows_why() -> None:
    point = {"series": "0.90", "alpha": 5, "critical_size": None, "status": "not reached"}
    figure = FIGURE | {"y": "critical_size", "points": [point]}
    assert table(figure)[2].endswith("alpha = 5      not reached")
