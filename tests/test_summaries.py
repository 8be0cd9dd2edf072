"""From outcomes to what is reported: selection, mean, spread, thresholds, by hand."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.lib.config.params import Config
from stages.lib.core import files, machine
from stages.lib.execution import runs
from stages.lib.studies import experiment, summaries
from stages.lib.studies.summaries import choose, spread, summarise
from stages.lib.studies.thresholds import critical_size


def outcome(
    val: float | None, test: float, noisy: float | None = None, diverged: bool = False
) -> dict[str, Any]:
    return {
        "val_accuracy": val, "noisy_val_accuracy": val if noisy is None else noisy,
        "test_accuracy": test, "test_top5_accuracy": None, "test_confusion": [[2, 1], [0, 3]],
        "diverged": diverged, "wall_seconds": 1.5, "steps": 2, "operations": 600,
        "curve": [{"examples_seen": 32, "val_accuracy": val, "train_loss": 1.0}],
    }  # fmt: skip


GONE = outcome(0.1, 0.1, diverged=True)  # what a network of NaNs is credited with


@pytest.fixture
def two_by_two(make_config: Any) -> Any:
    """Two seeds at two rates; `runs.expand` lists the rates within each seed."""
    return make_config({"train.learning_rates": [0.1, 0.5], "train.seeds": [0, 7]})


@pytest.fixture
def two_seeds(make_config: Any) -> Any:
    return make_config({"train.seeds": [0, 1]}).train


def band(report: dict[str, Any]) -> tuple[float | None, ...]:
    return report["sd"], report["lo"], report["hi"]


def test_the_spread_divides_by_n_minus_1() -> None:
    assert spread([0.2, 0.4]) == pytest.approx(math.sqrt(0.02), rel=1e-12)
    assert spread([1.0, 2.0, 3.0, 4.0]) == pytest.approx(math.sqrt(5 / 3), rel=1e-12)
    assert spread([0.5]) is None


# --- selection


def test_each_selection_chooses_on_its_own_column(two_by_two: Config) -> None:
    outcomes = [
        outcome(0.80, 0.70, 0.30), outcome(0.60, 0.90, 0.20),  # seed 0: rates 0.1, 0.5
        outcome(0.90, 0.60, 0.10), outcome(0.70, 0.95, 0.40),  # seed 7
    ]  # fmt: skip
    report = summarise(two_by_two.train, outcomes)
    assert [report[f"learning_rate{s}"] for s in summaries.SELECTIONS] == [
        0.1,  # 0.85 against 0.65 on clean validation images
        0.5,  # 0.20 against 0.30 on noisy labels
        0.5,  # 0.65 against 0.925 on the test set
    ]
    accuracies = [report[f"test_accuracy{suffix}"] for suffix in summaries.SELECTIONS]
    assert accuracies == pytest.approx([0.65, 0.925, 0.925])
    assert report["val_accuracy"] == pytest.approx(0.85)
    assert (report["values"], report["seeds"]) == ([0.70, 0.60], [0, 7])
    sd = math.sqrt(0.005)  # of 0.70 and 0.60: 0.05^2 + 0.05^2, over 1
    assert band(report) == pytest.approx((sd, 0.65 - sd, 0.65 + sd))
    assert (report["diverged"], report["diverged_runs"]) == (0, [])
    assert report["seeds_text"] == "2 seeds"
    by_rate = [(rate["learning_rate"], rate["values"]) for rate in report["rates"]]
    assert by_rate == [(0.1, [0.70, 0.60]), (0.5, [0.90, 0.95])]


def test_a_rate_is_reported_over_the_seeds_that_did_not_diverge() -> None:
    rate = summaries.summarise_rate(0.5, [outcome(0.8, 0.6, 0.3), GONE, outcome(0.9, 0.7, 0.5)])
    assert rate == {
        "learning_rate": 0.5, "val_accuracy": pytest.approx(0.85),
        "noisy_val_accuracy": pytest.approx(0.4), "test_accuracy": pytest.approx(0.65),
        "test_accuracy_sd": pytest.approx(0.1 / math.sqrt(2)), "values": [0.6, None, 0.7],
        "diverged": 1,
    }  # fmt: skip


def test_top_5_is_reported_at_the_chosen_rate(two_by_two: Config) -> None:
    """Over the seeds that did not diverge there; where it is too few classes for it, not at all."""
    pairs = [(0.1, 0.7), (0.5, 0.8), (0.1, 0.9), (0.5, 1.0)]
    outcomes = [{**outcome(val, 0.6), "test_top5_accuracy": top} for val, top in pairs]
    report = summarise(two_by_two.train, outcomes)
    assert report["learning_rate"] == 0.5
    assert report["top5_accuracy"] == pytest.approx(0.9)
    assert report["top5_accuracy_sd"] == pytest.approx(0.2 / math.sqrt(2))
    assert [rate["top5_accuracy"] for rate in report["rates"]] == pytest.approx([0.8, 0.9])
    one_left = [outcomes[0], outcomes[1], *({**each, "diverged": True} for each in outcomes[2:])]
    report = summarise(two_by_two.train, one_left)
    assert (report["top5_accuracy"], report["top5_accuracy_sd"]) == (0.8, None)
    nothing = summarise(two_by_two.train, [{**each, "diverged": True} for each in outcomes])
    assert (nothing["top5_accuracy"], nothing["top5_accuracy_sd"]) == (None, None)
    few = summarise(two_by_two.train, [outcome(val, 0.6) for val, _ in pairs])
    assert not [key for key in few if "top5" in key]


def test_where_seeds_diverged_at_every_rate_the_best_of_the_fewest_is_reported(
    make_config: Any,
) -> None:
    config = make_config({"train.learning_rates": [0.1, 0.5, 1], "train.seeds": [3, 4, 5]})
    outcomes = [
        GONE, outcome(0.5, 0.4), outcome(0.9, 0.9),  # seed 3: rates 0.1, 0.5, 1
        outcome(0.4, 0.5), GONE, GONE,  # seed 4
        outcome(0.6, 0.7), outcome(0.7, 0.8), GONE,  # seed 5
    ]  # fmt: skip
    report = summarise(config.train, outcomes)
    assert report["learning_rate"] == 0.5  # 0.6 against 0.5; rate 1 lost two seeds
    assert (report["val_accuracy"], report["test_accuracy"]) == pytest.approx((0.6, 0.6))
    assert report["values"] == [0.4, None, 0.8]
    sd = math.sqrt(0.08)  # of 0.4 and 0.8: 0.2^2 + 0.2^2, over 1
    assert band(report) == pytest.approx((sd, 0.6 - sd, 0.6 + sd))
    assert report["diverged"] == 1
    lost = [(run["learning_rate"], run["seed"]) for run in report["diverged_runs"]]
    assert lost == [(0.1, 3), (0.5, 4), (1, 4), (1, 5)]
    assert report["seeds_text"] == (
        "2 of 3 seeds; 1 diverged at lr 0.5; 1 diverged at lr 0.1, not chosen; "
        "2 diverged at lr 1, not chosen"
    )


def test_one_seed_that_is_left_has_a_mean_and_no_spread_and_a_band_stays_within_fractions(
    two_seeds: Any,
) -> None:
    report = summarise(two_seeds, [GONE, outcome(0.9, 0.7)])
    assert (report["test_accuracy"], *band(report)) == (0.7, None, None, None)
    assert report["seeds_text"] == "1 of 2 seeds; 1 diverged at lr 0.5"
    assert summarise(two_seeds, [outcome(0.9, 1.0), outcome(0.9, 0.9)])["hi"] == 1.0
    assert summarise(two_seeds, [outcome(0.9, 0.0), outcome(0.9, 0.1)])["lo"] == 0.0


def test_where_every_run_diverged_nothing_is_reported_but_that(two_by_two: Config) -> None:
    report = summarise(two_by_two.train, [GONE] * 4)
    assert (report["diverged"], report["seeds"], report["values"]) == (2, [0, 7], [None, None])
    assert len(report["diverged_runs"]) == 4
    assert report["seeds_text"] == "0 of 2 seeds; all diverged at lr 0.1, 0.5"
    empty = {"sd", "lo", "hi", "val_accuracy"}
    for suffix in summaries.SELECTIONS:
        empty |= {"test_accuracy" + suffix, "learning_rate" + suffix}
    assert {key for key, value in report.items() if value is None} == empty
    files.to_json(report)


def test_with_early_stopping_each_seed_tells_where_it_stopped(two_by_two: Any) -> None:
    outcomes = [{**outcome(0.5, 0.5), "stopped_at": 32 * k} for k in (1, 2, 4, 8)]
    report = summarise(two_by_two.train, outcomes)
    assert [rate["stopped_at"] for rate in report["rates"]] == [[32, 128], [64, 256]]
    plain = summarise(two_by_two.train, [outcome(0.5, 0.5)] * 4)
    assert not any("stopped_at" in rate for rate in plain["rates"])


def test_without_validation_images_the_single_rate_is_reported(make_config: Any) -> None:
    config = make_config({"data.validation": 0, "train.seeds": [0, 1]})
    outcomes = [{**outcome(None, test), "noisy_val_accuracy": None} for test in (0.4, 0.6)]
    report = summarise(config.train, outcomes)
    assert report["test_accuracy"] == report["test_accuracy_noisy_selection"] == 0.5
    assert report["val_accuracy"] is None
    assert report["learning_rate"] == 0.5
    files.to_json(report)


def rates(*columns: tuple[float | None, int]) -> list[dict[str, Any]]:
    """Return rates of three seeds by the mean in column ``c``, and how many seeds diverged."""
    return [{"c": mean, "diverged": lost, "values": [0.5] * 3} for mean, lost in columns]


@pytest.mark.parametrize(
    ("given", "best"),
    [
        (rates((0.1, 0), (0.7, 0), (0.3, 0)), 1),
        (rates((0.7, 0), (0.7, 0)), 0),
        (rates((0.9, 1), (0.3, 0), (0.4, 0)), 2),
        (rates((0.9, 2), (0.3, 1), (None, 3)), 1),
        (rates((None, 0)), 0),  # without validation images
        (rates((None, 2)), 0),
    ],
)
def test_of_the_rates_with_the_fewest_diverged_the_largest_mean_is_chosen(
    given: list[dict[str, Any]], best: int
) -> None:
    assert choose(given, "c") is given[best]


def test_operations_are_those_of_all_rates_and_phases_of_a_seed(two_by_two: Config) -> None:
    phases = {**outcome(0.9, 0.6), "method": {"steps_total": 7}}  # at 300 operations a step
    outcomes = [outcome(0.9, 0.6), GONE, phases, outcome(0.5, 0.5)]
    assert summarise(two_by_two.train, outcomes)["operations"] == (600 + 600 + 2100 + 600) // 2


# --- thresholds


@pytest.mark.parametrize(
    ("accuracies", "target", "expected"),
    [
        ([0.5, 0.7, 0.9], 0.8, 10**3.5),
        ([0.5, 0.7, 0.9], 0.55, 10**2.25),
        ([0.5, 0.7, 0.9], 0.7, 1000),  # on the grid
        ([0.5, 0.7, 0.9], 0.9, 10_000),
        ([0.5, None, 0.9], 0.7, 1000),  # half way from 100 to 10,000
        # What is not monotone is pooled: here to 0.7 from the middle on, 0.4 up to it, 0.5.
        ([0.5, 0.8, 0.6], 0.6, 10**2.5),
        ([0.5, 0.3, 0.8], 0.6, 10**3.5),
        ([0.9, 0.5, 0.1], 0.5, "below the grid"),
        ([0.9, 0.5, 0.1], 0.6, "not reached"),
        ([0.5, 0.7, 0.9], 0.91, "not reached"),
        ([0.5, 0.7, 0.9], 0.5, "below the grid"),
        ([0.5], 0.6, "not reached"),  # one size is never between two
        ([0.5], 0.5, "below the grid"),
        ([0.5, 0.7, None], 0.8, "not reached"),
        ([None, 0.7, 0.9], 0.6, "below the grid"),
        *(([0.5, None], target, "diverged") for target in (0.4, 0.7, 0.95)),
        *((lost, 0.7, "diverged") for lost in ([None, 0.9], [None], [None, 0.9, None])),
    ],
)
def test_the_critical_size_is_interpolated_over_log_n_and_never_extrapolated(
    accuracies: list[float | None], target: float, expected: float | str
) -> None:
    found = critical_size([100, 1000, 10_000][: len(accuracies)], accuracies, target)
    if isinstance(expected, str):
        assert found == (None, expected)
    else:
        assert found == (pytest.approx(expected), "reached")
    with pytest.raises(ValueError, match="zip"):
        critical_size([100], [*accuracies, 0.5], target)


# --- tables and reports


def test_a_table_has_a_row_for_each_pair() -> None:
    rows = [tuple(row.values()) for row in summaries.table(np.array([[3, 1], [0, 0]]))]
    assert rows == [(0, 0, 3, 0.75), (0, 1, 1, 0.25), (1, 0, 0, 0.0), (1, 1, 0, 0.0)]


def make_runs(config: Config, folder: Path) -> list[runs.Run]:
    """Return a point's runs and write what their diluted sets say of themselves."""
    for i, seed in enumerate(config.train.seeds):
        facts = {"label_accuracy": 0.4 + 0.2 * i, "originals": 60, "examples": 180}
        files.write_json(folder / f"seed-{seed}" / "noise.json", facts)
    return runs.expand("x", config, folder, folder)


@pytest.mark.parametrize(
    ("changes", "accuracy", "examples", "labels_seen"),
    [
        ({}, 0.5, 180, 320),
        ({"train.loss": "expected_noisy_cross_entropy"}, 1.0, 60, 320),
        ({"train.targets": "aggregated"}, 0.5, 180, 960),  # 320 images of three labels
    ],
)
def test_a_set_is_described_by_the_mean_over_seeds(
    changes: dict[str, Any], accuracy: float, examples: int, labels_seen: int,
    make_config: Any, tmp_path: Path,
) -> None:  # fmt: skip
    """The noisy loss sees true labels only."""
    config = make_config({**changes, "train.seeds": [0, 7]})
    assert experiment.describe_set(make_runs(config, tmp_path)) == {
        "label_accuracy": pytest.approx(accuracy), "examples": examples, "examples_seen": 320,
        "labels_seen": labels_seen,
    }  # fmt: skip


def test_an_experiments_report_has_scalars_and_lists(two_by_two: Config, tmp_path: Path) -> None:
    todo = make_runs(two_by_two, tmp_path)
    outcomes = [outcome(0.9, 0.6), outcome(0.1, 0.1), outcome(0.9, 0.8), outcome(0.1, 0.1)]
    outcomes = [{**each, "test_top5_accuracy": 0.9} for each in outcomes]
    outcomes[2]["test_confusion"] = [[1, 0], [4, 0]]
    outcomes[3]["test_confusion"] = [[9, 9], [9, 9]]
    report = experiment.report(two_by_two, todo, outcomes)
    files.to_json(report)  # and holds no NaN
    assert report["test_accuracy"] == pytest.approx(0.7)
    assert report["test_accuracy_sd"] == pytest.approx(math.sqrt(0.02))
    assert report["values"] == [0.6, 0.8]
    assert report["seeds_text"] == ["2 seeds"]
    assert report["diverged_runs"] == ["[]\n"]
    (config,) = report["config"]
    assert config.count("\n") == 1
    assert json.loads(config)["train"]["seeds"] == [0, 7]
    of_points = {"seeds", "rates", "lo", "hi", "sd", "top5_values"}
    assert not of_points & report.keys()
    confusion = [tuple(row.values()) for row in report["confusion"]]
    assert confusion == [  # both seeds at the chosen rate
        (0, 0, 3, 0.75), (0, 1, 1, 0.25), (1, 0, 4, pytest.approx(4 / 7)), (1, 1, 3, 3 / 7),
    ]  # fmt: skip
    assert [(r["series"], r["seed"], r["val_accuracy"]) for r in report["curves"]] == [
        ("lr 0.1", 0, 0.9), ("lr 0.5", 0, 0.1), ("lr 0.1", 7, 0.9), ("lr 0.5", 7, 0.1),
    ]  # fmt: skip


def curve(*rows: tuple[float, float | None]) -> list[dict[str, Any]]:
    return [
        {"examples_seen": 32 * (i + 1), "val_accuracy": accuracy, "train_loss": loss}
        for i, (accuracy, loss) in enumerate(rows)
    ]


@pytest.fixture
def some_diverged(two_by_two: Config, tmp_path: Path) -> dict[str, Any]:
    """Return the report of an experiment whose seed 7 diverged at rate 0.1, both at rate 0.5."""
    outcomes = [
        {**outcome(0.8, 0.6), "curve": curve((0.4, 2.0), (0.6, 1.5), (0.8, 1.0))},
        {**GONE, "curve": curve((0.4, 2.0), (0.5, 1.5), (0.1, 1.0))},  # only its weights tell
        {**GONE, "curve": curve((0.3, 2.0), (0.1, None), (0.1, None))},
        {**GONE, "curve": curve((0.1, None), (0.1, None), (0.1, None))},
    ]
    return experiment.report(two_by_two, make_runs(two_by_two, tmp_path), outcomes)


def test_an_experiment_names_the_runs_that_diverged_and_ends_their_curves_there(
    some_diverged: dict[str, Any],
) -> None:
    lost = " (diverged)"
    expected: list[tuple[str, int, list[float | None]]] = [
        ("lr 0.1", 0, [0.4, 0.6, 0.8]), ("lr 0.5" + lost, 0, [0.4, 0.5, None]),
        ("lr 0.1" + lost, 7, [0.3, None, None]), ("lr 0.5" + lost, 7, [None, None, None]),
    ]  # fmt: skip
    rows = [(r["series"], r["seed"], r["val_accuracy"]) for r in some_diverged["curves"]]
    assert rows == [(name, seed, value) for name, seed, values in expected for value in values]
    assert all(r["diverged"] == (r["val_accuracy"] is None) for r in some_diverged["curves"])
    assert all(r["series"].startswith(f"lr {r['learning_rate']}") for r in some_diverged["curves"])
    wanted = {
        "learning_rate": 0.1, "test_accuracy": 0.6, "test_accuracy_sd": None,
        "values": [0.6, None], "diverged": 1,
        "seeds_text": ["1 of 2 seeds; 1 diverged at lr 0.1; 2 diverged at lr 0.5, not chosen"],
    }  # fmt: skip
    assert {key: some_diverged[key] for key in wanted} == wanted
    (text,) = some_diverged["diverged_runs"]
    assert text.count("\n") == 1
    runs = [tuple(run.values()) for run in json.loads(text)]
    assert runs == [(0.5, 0), (0.1, 7), (0.5, 7)]
    # Confusion is counted over the seeds that did not.
    assert [row["count"] for row in some_diverged["confusion"]] == [2, 1, 0, 3]


@pytest.fixture
def report(two_by_two: Config, tmp_path: Path) -> Any:
    """Return how to report the experiment with an outcome for all of its four runs."""
    todo = make_runs(two_by_two, tmp_path)
    return lambda each: experiment.report(two_by_two, todo, [each] * 4)


def test_where_no_confusion_was_counted_there_is_no_table(make_config: Any, tmp_path: Path) -> None:
    config = make_config()  # of a single run
    found = experiment.report(
        config, make_runs(config, tmp_path), [{**outcome(0.9, 0.6), "test_confusion": None}]
    )
    assert "confusion" not in found
    assert found["test_accuracy"] == 0.6


def test_where_every_run_diverged_the_confusion_is_a_table_of_zeros(report: Any) -> None:
    found = report(GONE)
    files.to_json(found)
    assert [(row["count"], row["fraction"]) for row in found["confusion"]] == [(0, 0.0)] * 4
    assert (found["diverged"], found["test_accuracy"], found["learning_rate"]) == (2, None, None)


def test_dvc_can_read_every_list_of_an_experiment(
    report: Any, some_diverged: dict[str, Any]
) -> None:
    """It fails on an empty list, skips rows of unequal keys, and would flatten a dictionary."""
    for found in (some_diverged, report(outcome(0.9, 0.6))):
        lists = {key: value for key, value in found.items() if isinstance(value, list)}
        assert all(lists.values())
        tables = {key for key, rows in lists.items() if any(isinstance(r, dict) for r in rows)}
        assert tables == {"curves", "confusion"}
        for key in tables:
            assert len({tuple(sorted(row)) for row in found[key]}) == 1
        assert not any(isinstance(value, dict) for value in found.values())


def test_an_experiments_report_repeats_whatever_time_it_took(report: Any) -> None:
    first, second = (report({**outcome(0.9, 0.6), "wall_seconds": s}) for s in (1.0, 2.5))
    assert files.to_json(first) == files.to_json(second)
    assert not {"wall_seconds", "hardware", "versions"} & first.keys()


def test_times_stand_apart(two_by_two: Config, tmp_path: Path) -> None:
    times = experiment.times(make_runs(two_by_two, tmp_path), [outcome(0.9, 0.6)] * 4, "cpu")
    assert times == {
        "wall_seconds": 6.0, "examples_per_second": pytest.approx(4 * 320 / 6.0),
        "hardware": [machine.hardware("cpu")], "versions": [machine.versions()],
    }  # fmt: skip
