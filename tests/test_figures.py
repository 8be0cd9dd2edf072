"""Figures: points from outcomes, label distributions and thresholds, with inputs made by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.lib import datasets, dilution, figures, files, noise, runs, studies, workers
from stages.lib.params import Config
from stages.lib.studies import Grid

CONFUSION = np.random.default_rng(0).integers(0, 50, (10, 10))
KEYS = {
    "figure", "title", "subtitle", "caption", "scale", "kind", "paper", "series_title", "x",
    "x_title",
    "x_scale", "y", "y_title", "y_scale", "band", "hardware", "versions", "points",
}  # fmt: skip


@pytest.fixture
def prepare(
    workspace: Path, make_dataset: Callable[..., Any], make_config: Callable[..., Config]
) -> Callable[..., tuple[Grid, Path, Path]]:
    """Return a function that writes data and labels of a grid, and gives both folders."""
    data, labels = workspace / "data", workspace / "labels"
    files.write_json(workspace / "confusion.json", {"counts": CONFUSION.tolist()})

    def write(
        changes: list[dict[str, Any]], targets: tuple[float, ...] = (), train: int = 400
    ) -> Any:
        datasets.save(make_dataset("digits", train=train), data / "digits")
        grid = Grid(tuple(make_config(change) for change in changes), targets)
        for config in grid.points:
            dilution.materialise(
                config.data, config.noise, config.train.seeds, data_folder=data,
                out=labels / dilution.name_of(config.data, config.noise),
                confusion_file=workspace / "confusion.json",
            )  # fmt: skip
        return grid, data, labels

    return write


def pretend(monkeypatch: pytest.MonkeyPatch, accuracy: Callable[[runs.Run], float]) -> None:
    """Give every run a made-up outcome in place of a training."""

    def complete(todo: list[runs.Run], title: str) -> Any:
        made = [
            {
                "val_accuracy": accuracy(run), "noisy_val_accuracy": accuracy(run),
                "test_accuracy": accuracy(run), "diverged": False, "wall_seconds": 1.0,
            }
            for run in todo
        ]  # fmt: skip
        return made, "cpu"

    monkeypatch.setattr(workers, "complete", complete)


# --- figure 4


def test_transitions_are_the_diluted_distributions(prepare: Any) -> None:
    structured = {"noise.kind": "structured", "noise.alpha": 10, "noise.order": "confusing"}
    grid, data, labels = prepare([
        {"noise.alpha": 10, "data.originals": 200},
        {**structured, "noise.delta": 1.0, "data.originals": 200},
    ])  # fmt: skip
    got = figures.compute("fig4_noise_models", "tiny", grid, data, labels)
    files.to_json(got)
    assert set(got) == KEYS
    assert got["kind"] == "heatmap"
    assert len(got["points"]) == 2 * 100
    uniform, confusing = (
        {(p["true_class"], p["label"]): p for p in got["points"] if p["series"] == series}
        for series in ("uniform", "confusing, δ = 1")
    )
    order = noise.false_class_order(CONFUSION, "confusing", rng=np.random.default_rng(0))
    for (i, j), point in uniform.items():
        expected = (1 + 10 / 10) / 11 if i == j else (10 / 10) / 11
        assert point["probability"] == pytest.approx(expected)
        assert point["transition"] == pytest.approx(0.1)
    for i in range(10):
        row = [confusing[i, j]["probability"] for j in range(10)]
        assert sum(row) == pytest.approx(1)
        assert row[order[i, 0]] == pytest.approx(row[i])  # delta = 1: as likely as the correct one
        assert np.argsort(row)[0] == order[i, -1]
        assert sorted(confusing[i, j]["rank"] for j in range(10)) == list(range(10))
        assert confusing[i, int(order[i, -1])]["rank"] == 9


def test_drawn_frequencies_are_those_of_the_labels(prepare: Any, make_dataset: Any) -> None:
    grid, data, labels = prepare([{"noise.alpha": 10, "data.originals": 200}])
    points = figures.compute("fig4_noise_models", "tiny", grid, data, labels)["points"]
    config = grid.points[0]
    drawn = dilution.load(labels / dilution.name_of(config.data, config.noise) / "seed-0")
    true = make_dataset("digits", train=400).train_labels[np.tile(drawn.images, 11)]
    for point in points[::7]:
        given = drawn.labels[true == point["true_class"]]
        assert point["drawn"] == pytest.approx((given == point["label"]).mean())


def test_a_class_without_originals_draws_nothing(prepare: Any) -> None:
    """Of five originals, five classes have none: no frequency, and no division by zero."""
    grid, data, labels = prepare([{"data.originals": 5, "train.batch_size": 4}])
    got = figures.compute("fig4_noise_models", "tiny", grid, data, labels)
    files.to_json(got)


# --- trained figures


def test_points_are_reported_with_what_decides_them(
    prepare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, lambda run: 0.9 / (1 + run.config.noise.alpha) - 0.1 * run.seed)
    both = {"train.seeds": [0, 1], "train.learning_rates": [0.5, 1.0]}
    grid, data, labels = prepare([{**both, "noise.alpha": alpha} for alpha in (0, 2)])
    got = figures.compute("fig1_uniform_mnist", "tiny", grid, data, labels)
    files.to_json(got)
    assert set(got) == KEYS
    clean, noisy = got["points"]
    assert clean["series"] == noisy["series"] == "perceptron"
    assert (clean["alpha"], noisy["alpha"]) == (0, 2)
    assert clean["test_accuracy"] == pytest.approx(0.85)
    assert noisy["test_accuracy"] == pytest.approx(0.25)
    assert noisy["values"] == pytest.approx([0.3, 0.2])
    assert (clean["examples"], noisy["examples"]) == (60, 180)
    assert clean["label_accuracy"] == 1
    assert noisy["paper_x"] == 100
    assert noisy["paper_y"] == 0.40
    assert noisy["config"]["noise"]["alpha"] == 2
    assert got["hardware"]["device"] == "cpu"


def test_a_series_that_the_paper_says_nothing_of_has_no_value_of_it(
    prepare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, lambda _: 0.5)
    grid, data, labels = prepare([{"model.name": "mlp1"}])
    (point,) = figures.compute("fig1_uniform_mnist", "tiny", grid, data, labels)["points"]
    assert (point["paper_x"], point["paper_y"], point["paper_text"]) == (None, None, None)


# --- figure 9


def thresholds(prepare: Any, targets: tuple[float, ...]) -> dict[tuple[float, float], Any]:
    grid, data, labels = prepare(
        [
            {"noise.alpha": alpha, "data.originals": n, "train.seeds": [0, 1]}
            for alpha in (5, 2)
            for n in (300, 30)  # unsorted on purpose
        ],
        targets,
    )
    got = figures.compute("fig9_critical_size", "tiny", grid, data, labels)
    files.to_json(got)
    assert "own thresholds" in got["band"]
    return {(p["alpha"], p["target"]): p for p in got["points"]}


def test_thresholds_are_interpolated_for_the_mean_and_each_seed(
    prepare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Accuracy 0.2 at 30 originals and 0.8 at 300, a twentieth of that less with alpha; seeds +-0.1
    def accuracy(run: runs.Run) -> float:
        base = 0.2 if run.config.data.originals == 30 else 0.8
        return base - 0.01 * run.config.noise.alpha + (0.1 if run.seed else -0.1)

    pretend(monkeypatch, accuracy)
    points = thresholds(prepare, (0.5, 0.75, 0.05, 0.99))
    middle = points[2, 0.5]

    def by_hand(low: float, high: float, target: float) -> float:
        return 30 * 10 ** ((target - low) / (high - low))

    assert middle["series"] == "0.50"
    assert middle["sizes"] == [30, 300]
    assert middle["status"] == "reached"
    assert middle["critical_size"] == pytest.approx(by_hand(0.18, 0.78, 0.5))
    seeds = [by_hand(0.08, 0.68, 0.5), by_hand(0.28, 0.88, 0.5)]
    assert middle["values"] == pytest.approx(seeds)
    assert (middle["lo"], middle["hi"]) == pytest.approx((min(seeds), max(seeds)))
    assert middle["sd"] == pytest.approx(abs(seeds[0] - seeds[1]) / np.sqrt(2))
    assert points[5, 0.5]["critical_size"] > middle["critical_size"]
    high = points[2, 0.75]  # reached by the mean and by one seed of two: no band
    assert high["critical_size"] == pytest.approx(by_hand(0.18, 0.78, 0.75))
    assert high["values"] == [None, pytest.approx(by_hand(0.28, 0.88, 0.75))]
    assert (high["lo"], high["hi"], high["sd"]) == (None, None, None)
    assert points[2, 0.99]["status"] == "not reached"
    assert points[2, 0.05]["status"] == "below the grid"
    assert points[2, 0.05]["critical_size"] is None


def test_the_papers_value_stands_beside_its_target(
    prepare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, lambda run: run.config.data.originals / 320)
    points = thresholds(prepare, (0.9, 0.8))
    stated = studies.FIGURES["fig9_critical_size"].stated["0.90"]
    marked = [p for p in points.values() if p["paper_y"] is not None]
    assert {p["series"] for p in marked} == {"0.90"}
    assert {(p["paper_x"], p["paper_y"]) for p in marked} == {(v.x, v.y) for v in stated}
    assert (marked[0]["paper_x"], marked[0]["paper_y"]) == (10, 2000)
    assert points[2, 0.8]["paper_y"] is None
