"""From outcomes to what is reported: selection, mean, spread, thresholds, by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.lib import files, results, runs
from stages.lib.params import Config
from stages.lib.results import choose, critical_size, spread, summarise


def outcome(
    val: float | None, test: float, noisy: float | None = None, diverged: bool = False
) -> dict[str, Any]:
    return {
        "val_accuracy": val, "noisy_val_accuracy": val if noisy is None else noisy,
        "test_accuracy": test, "diverged": diverged, "wall_seconds": 1.5,
        "test_confusion": [[2, 1], [0, 3]],
        "curve": [{"examples_seen": 32, "val_accuracy": val, "train_loss": 1.0}],
    }  # fmt: skip


@pytest.fixture
def two_by_two(make_config: Any) -> Any:
    """Two seeds at two rates; `runs.expand` lists the rates within each seed."""
    return make_config({"train.learning_rates": [0.1, 0.5], "train.seeds": [0, 7]})


# --- spread


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.5], 0.0), ([0.2, 0.4], math.sqrt(0.02)), ([1.0, 2.0, 3.0, 4.0], math.sqrt(5 / 3))],
)
def test_the_spread_divides_by_n_minus_1(values: list[float], expected: float) -> None:
    assert spread(values) == pytest.approx(expected, rel=1e-12)


# --- selection


def test_each_selection_chooses_on_its_own_column(two_by_two: Config) -> None:
    outcomes = [
        outcome(0.80, 0.70, 0.30), outcome(0.60, 0.90, 0.20),  # seed 0: rates 0.1, 0.5
        outcome(0.90, 0.60, 0.10), outcome(0.70, 0.95, 0.40),  # seed 7
    ]  # fmt: skip
    report = summarise(two_by_two.train, outcomes)
    assert report["learning_rate"] == 0.1  # 0.85 against 0.65 on clean validation images
    assert report["test_accuracy"] == pytest.approx(0.65)
    assert report["val_accuracy"] == pytest.approx(0.85)
    assert report["learning_rate_noisy_selection"] == 0.5  # 0.20 against 0.30
    assert report["test_accuracy_noisy_selection"] == pytest.approx(0.925)
    assert report["learning_rate_paper_selection"] == 0.5  # 0.65 against 0.925 on the test set
    assert report["test_accuracy_paper_selection"] == pytest.approx(0.925)
    assert report["values"] == [0.70, 0.60]
    assert report["seeds"] == [0, 7]
    sd = math.sqrt(0.005)  # of 0.70 and 0.60: 0.05^2 + 0.05^2, over 1
    assert report["sd"] == pytest.approx(sd)
    assert report["lo"] == pytest.approx(0.65 - sd)
    assert report["hi"] == pytest.approx(0.65 + sd)
    assert report["wall_seconds"] == 6.0
    assert report["diverged"] == 0
    by_rate = [(r["learning_rate"], r["test_accuracy"], r["values"]) for r in report["rates"]]
    assert [rate for rate, _, _ in by_rate] == [0.1, 0.5]
    assert by_rate[1][2] == [0.90, 0.95]


def test_the_papers_way_is_never_below_the_headline(two_by_two: Config) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        report = summarise(two_by_two.train, [outcome(*rng.random(3)) for _ in range(4)])
        assert report["test_accuracy_paper_selection"] >= report["test_accuracy"]


def test_of_equal_rates_the_first_is_chosen(two_by_two: Config) -> None:
    outcomes = [outcome(0.8, 0.1), outcome(0.8, 0.9), outcome(0.8, 0.1), outcome(0.8, 0.9)]
    assert summarise(two_by_two.train, outcomes)["learning_rate"] == 0.1


def test_a_rate_at_which_a_seed_diverged_is_not_chosen(two_by_two: Config) -> None:
    outcomes = [
        outcome(0.5, 0.5), outcome(0.9, 0.9), outcome(0.5, 0.5), outcome(0.9, 0.9, diverged=True),
    ]  # fmt: skip
    report = summarise(two_by_two.train, outcomes)
    assert report["learning_rate"] == report["learning_rate_paper_selection"] == 0.1
    assert report["diverged"] == 0
    assert [rate["diverged"] for rate in report["rates"]] == [0, 1]


def test_where_every_rate_diverged_the_best_is_chosen_and_told(two_by_two: Config) -> None:
    outcomes = [outcome(val, val, diverged=True) for val in (0.1, 0.3, 0.1, 0.3)]
    report = summarise(two_by_two.train, outcomes)
    assert report["learning_rate"] == 0.5
    assert report["diverged"] == 2


def test_without_validation_images_the_single_rate_is_reported(make_config: Any) -> None:
    config = make_config({"data.validation": 0, "train.seeds": [0, 1]})
    outcomes = [{**outcome(None, test), "noisy_val_accuracy": None} for test in (0.4, 0.6)]
    report = summarise(config.train, outcomes)
    assert report["test_accuracy"] == report["test_accuracy_noisy_selection"] == 0.5
    assert report["val_accuracy"] is None
    assert report["learning_rate"] == 0.5
    files.to_json(report)


def test_a_band_stays_within_fractions(make_config: Any) -> None:
    train = make_config({"train.seeds": [0, 1]}).train
    high = summarise(train, [outcome(0.9, 1.0), outcome(0.9, 0.9)])
    low = summarise(train, [outcome(0.9, 0.0), outcome(0.9, 0.1)])
    assert high["hi"] == 1.0
    assert low["lo"] == 0.0


def test_one_seed_has_no_spread(make_config: Any) -> None:
    report = summarise(make_config().train, [outcome(0.9, 0.7)])
    assert report["sd"] == 0
    assert report["lo"] == report["hi"] == report["test_accuracy"] == 0.7


def test_choose_takes_the_largest_mean() -> None:
    rates = [{"c": value, "diverged": 0} for value in (0.1, 0.7, 0.3)]
    assert choose(rates, "c") is rates[1]


# --- thresholds


def test_the_critical_size_is_interpolated_over_log_n() -> None:
    size, status = critical_size([100, 1000, 10_000], [0.5, 0.7, 0.9], 0.8)
    assert status == "reached"
    assert size == pytest.approx(10**3.5)
    assert critical_size([100, 1000], [0.5, 0.7], 0.6)[0] == pytest.approx(10**2.5)
    assert critical_size([100, 1000], [0.5, 0.7], 0.55)[0] == pytest.approx(10**2.25)


@pytest.mark.parametrize("target", [0.7, 0.9])
def test_a_target_on_the_grid_is_reached_there(target: float) -> None:
    size, _ = critical_size([100, 1000, 10_000], [0.5, 0.7, 0.9], target)
    assert size == pytest.approx({0.7: 1000, 0.9: 10_000}[target])


@pytest.mark.parametrize(
    ("accuracies", "target", "status"),
    [
        ([0.5, 0.7, 0.9], 0.91, "not reached"),
        ([0.5, 0.7, 0.9], 0.5, "below the grid"),
        ([0.5, 0.7, 0.9], 0.4, "below the grid"),
        ([0.5, 0.5, 0.5], 0.6, "not reached"),
        ([0.5, 0.5, 0.5], 0.5, "below the grid"),
        ([0.9, 0.5, 0.1], 0.5, "below the grid"),  # pooled to 0.5 everywhere
        ([0.9, 0.5, 0.1], 0.6, "not reached"),
    ],
)
def test_nothing_is_extrapolated(accuracies: list[float], target: float, status: str) -> None:
    assert critical_size([100, 1000, 10_000], accuracies, target) == (None, status)


def test_one_size_is_never_between_two() -> None:
    assert critical_size([100], [0.5], 0.6) == (None, "not reached")
    assert critical_size([100], [0.5], 0.5) == (None, "below the grid")


def slow_isotonic(values: list[float]) -> list[float]:
    """Pool adjacent violators: merge neighbouring blocks whose means fall."""
    blocks = [[value] for value in values]
    i = 0
    while i + 1 < len(blocks):
        if sum(blocks[i]) / len(blocks[i]) > sum(blocks[i + 1]) / len(blocks[i + 1]):
            blocks[i : i + 2] = [blocks[i] + blocks[i + 1]]
            i = max(0, i - 1)
        else:
            i += 1
    return [sum(block) / len(block) for block in blocks for _ in block]


@pytest.mark.parametrize("seed", range(8))
def test_what_is_not_monotone_is_pooled_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [10, 30, 100, 300, 1000, 3000]
    accuracies = (np.linspace(0.2, 0.9, 6) + rng.normal(0, 0.15, 6)).tolist()
    monotone = slow_isotonic(accuracies)
    target = (monotone[0] + monotone[-1]) / 2
    expected = None
    for i in range(5):
        if monotone[i] < target <= monotone[i + 1]:
            part = (target - monotone[i]) / (monotone[i + 1] - monotone[i])
            expected = sizes[i] * (sizes[i + 1] / sizes[i]) ** part
    size, status = critical_size(sizes, accuracies, target)
    assert (size, status) == (pytest.approx(expected, rel=1e-9), "reached")


def test_a_dip_between_is_pooled_by_hand() -> None:
    # 0.8 and 0.6 pool to 0.7; from 0.5 at 100 to 0.7 at 1,000, 0.6 lies half way in log n
    size, _ = critical_size([100, 1000, 10_000, 100_000], [0.5, 0.8, 0.6, 0.9], 0.6)
    assert size == pytest.approx(10**2.5)


# --- tables and reports


def test_a_table_has_a_row_for_each_pair() -> None:
    rows = results.table(np.array([[3, 1], [0, 0]]))
    assert rows == [
        {"true_class": 0, "predicted": 0, "count": 3, "fraction": 0.75},
        {"true_class": 0, "predicted": 1, "count": 1, "fraction": 0.25},
        {"true_class": 1, "predicted": 0, "count": 0, "fraction": 0.0},
        {"true_class": 1, "predicted": 1, "count": 0, "fraction": 0.0},
    ]


def make_runs(config: Config, folder: Path) -> list[runs.Run]:
    """Return a point's runs and write what their diluted sets say of themselves."""
    for i, seed in enumerate(config.train.seeds):
        facts = {"label_accuracy": 0.4 + 0.2 * i, "originals": 60, "examples": 180}
        files.write_json(folder / f"seed-{seed}" / "noise.json", facts)
    return runs.expand("x", config, folder, folder)


def test_a_set_is_described_by_the_mean_over_seeds(two_by_two: Config, tmp_path: Path) -> None:
    described = results.describe_set(make_runs(two_by_two, tmp_path))
    assert described == {
        "label_accuracy": pytest.approx(0.5), "examples": 180, "examples_seen": 320,
    }  # fmt: skip


def test_the_noisy_loss_sees_true_labels_only(make_config: Any, tmp_path: Path) -> None:
    config = make_config({"train.loss": "noisy_loss"})
    described = results.describe_set(make_runs(config, tmp_path))
    assert described == {"label_accuracy": 1.0, "examples": 60, "examples_seen": 320}


def test_an_experiments_report_has_scalars_and_lists(two_by_two: Config, tmp_path: Path) -> None:
    todo = make_runs(two_by_two, tmp_path)
    outcomes = [outcome(0.9, 0.6), outcome(0.1, 0.1), outcome(0.9, 0.8), outcome(0.1, 0.1)]
    report = results.report_experiment(two_by_two, todo, outcomes, "cpu")
    files.to_json(report)  # and holds no NaN
    assert report["test_accuracy"] == pytest.approx(0.7)
    assert report["test_accuracy_sd"] == pytest.approx(spread([0.6, 0.8]))
    assert report["values"] == [0.6, 0.8]
    assert report["examples_per_second"] == pytest.approx(4 * 320 / 6.0)
    assert report["confusion"][0] == {
        "true_class": 0, "predicted": 0, "count": 4, "fraction": pytest.approx(2 / 3),
    }  # both seeds at the chosen rate  # fmt: skip
    assert [(r["series"], r["seed"]) for r in report["curves"]] == [
        ("lr 0.1", 0), ("lr 0.5", 0), ("lr 0.1", 7), ("lr 0.5", 7),
    ]  # fmt: skip
    assert not any(isinstance(value, dict) for value in report.values())  # DVC would flatten these
