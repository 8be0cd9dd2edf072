"""Studies: points from outcomes, label distributions and thresholds, with inputs made by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.lib.config.params import Config
from stages.lib.core import files, machine
from stages.lib.core.errors import UserError
from stages.lib.data import datasets
from stages.lib.execution import executors, packing, runs
from stages.lib.labels import dilution
from stages.lib.noise import transitions
from stages.lib.studies import computing, thresholds
from stages.lib.studies.grids import Grid
from stages.lib.studies.registry import read_study

CONFUSION = np.random.default_rng(0).integers(0, 50, (10, 10))
KEYS = {
    "figure", "title", "subtitle", "caption", "scale", "kind", "paper", "series_title", "x",
    "x_title", "x_scale", "y", "y_title", "y_scale", "band", "points",
}  # fmt: skip
TIMES = {"figure", "scale", "hardware", "versions", "wall_seconds", "points"}
UNIFORM, DRAWN, CRITICAL = "fig1_uniform_mnist", "fig4_noise_models", "fig9_critical_size"
TOP5 = "fig3_uniform_imagenet"

Prepared = tuple[Grid, Path, Path]


@pytest.fixture
def prepare(
    workspace: Path, make_dataset: Callable[..., Any], make_config: Callable[..., Config]
) -> Callable[..., Prepared]:
    """Return a function that writes data and labels of a grid, and gives both folders."""
    data, labels = workspace / "data", workspace / "labels"
    confusion = workspace / "confusion.json"
    files.write_json(confusion, {"dataset": "digits", "counts": CONFUSION.tolist()})

    def write(key: str, *changes: dict[str, Any], targets: tuple[float, ...] = ()) -> Prepared:
        datasets.save(make_dataset("digits", train=400), data / "digits")
        points = tuple(make_config(change) for change in changes)
        for config in points:
            dilution.materialise(
                config.data, config.noise, config.train.seeds, data_folder=data,
                out=labels / dilution.name_of(config.data, config.noise), confusion_file=confusion,
            )  # fmt: skip
        return Grid("tiny", key, read_study(key), points, targets), data, labels

    return write


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return how to make up every run's outcome; without an accuracy it diverged."""

    def outcomes(
        accuracy: Callable[[runs.Run], float | None],
        seconds: Callable[[runs.Run], float] = lambda _: 1.0,
        **more: Any,
    ) -> None:
        def made(run: runs.Run) -> dict[str, Any]:
            value = accuracy(run)
            share = 0.1 if value is None else value  # what a network of NaNs is credited with
            return {
                "val_accuracy": share, "noisy_val_accuracy": share, "test_accuracy": share,
                "test_top5_accuracy": None, "diverged": value is None,
                "wall_seconds": seconds(run), "steps": 2, "operations": 500, **more,
            }  # fmt: skip

        monkeypatch.setattr(
            executors, "train_or_load", lambda todo, _: ([made(run) for run in todo], "cpu")
        )

    return outcomes


def compute(prepared: Prepared) -> dict[str, Any]:
    """Return a study's report, its times aside."""
    report, times = computing.compute(*prepared)
    files.to_json([report, times])  # and hold no NaN
    assert set(report) == KEYS
    about = report["series_title"], report["caption"]  # which each row repeats
    assert {(p["series_title"], p["caption"]) for p in report["points"]} == {about}
    assert set(times) == TIMES
    return report


# --- figure 4


def test_transitions_are_the_diluted_distributions(prepare: Any, make_dataset: Any) -> None:
    structured = {"noise.kind": "structured", "noise.order": "confusing", "noise.delta": 1.0}
    shared = {"noise.alpha": 10, "data.originals": 200}
    grid, data, labels = prepare(DRAWN, shared, {**shared, **structured})
    got = compute((grid, data, labels))
    assert (got["kind"], len(got["points"])) == ("heatmap", 2 * 100)
    uniform, confusing = (
        {(p["true_class"], p["label"]): p for p in got["points"] if p["series"] == series}
        for series in ("uniform", "confusing, δ = 1")
    )
    order = transitions.false_class_order(CONFUSION, "confusing", rng=np.random.default_rng(0))
    config = grid.points[0]
    drawn = dilution.load(labels / dilution.name_of(config.data, config.noise) / "seed-0")
    true = make_dataset("digits", train=400).train_labels[np.tile(drawn.images, 11)]
    for (i, j), point in uniform.items():
        assert point["drawn"] == pytest.approx((drawn.labels[true == i] == j).mean())
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


def test_what_trains_nothing_took_no_time_and_many_classes_are_refused(
    prepare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Five classes have none of five originals, and nothing is divided by zero.
    nothing = {"noise.alpha": 10, "data.originals": 5, "train.batch_size": 4}
    _, times = computing.compute(*prepare(DRAWN, nothing))
    assert (times["wall_seconds"], times["points"]) == (0.0, [])
    assert times["hardware"] == [machine.hardware("cpu")]
    prepared = prepare(DRAWN, {"noise.alpha": 2})
    monkeypatch.setattr(dilution, "read_facts", lambda _: {"transition": None})
    with pytest.raises(UserError, match="got more than 100 classes"):
        computing.compute(*prepared)


# --- trained points

BOTH: dict[str, Any] = {"train.seeds": [0, 1], "train.learning_rates": [0.5, 1.0]}


def test_points_are_reported_with_what_decides_them(prepare: Any, pretend: Any) -> None:
    pretend(lambda run: 0.9 / (1 + run.config.noise.alpha) - 0.1 * run.seed)
    got = compute(prepare(UNIFORM, *({**BOTH, "noise.alpha": a} for a in (0, 2))))
    clean, noisy = got["points"]
    for point, alpha, accuracy in (clean, 0, 0.85), (noisy, 2, 0.25):
        assert (point["series"], point["alpha"]) == ("perceptron", alpha)
        assert point["test_accuracy"] == pytest.approx(accuracy)
    assert noisy["values"] == pytest.approx([0.3, 0.2])
    assert (clean["examples"], noisy["examples"]) == (60, 180)
    assert clean["label_accuracy"] == 1
    assert (noisy["paper_x"], noisy["paper_y"]) == (100, 0.40)
    assert noisy["config"]["noise"]["alpha"] == 2
    assert (noisy["seeds_text"], noisy["diverged_runs"]) == ("2 seeds", [])


def test_any_number_of_the_config_is_an_abscissa(prepare: Any, pretend: Any) -> None:
    pretend(lambda run: run.config.model.width)
    mine = [{"model.name": "mlp1", "model.width": width} for width in (0.5, 0.25)]
    grid, *folders = prepare(UNIFORM, *mine)
    grid = replace(grid, study=replace(grid.study, x="model.width"))
    points = compute((grid, *folders))["points"]
    assert [(p["width"], p["test_accuracy"], p["alpha"]) for p in points] == [
        (0.5, 0.5, 2), (0.25, 0.25, 2),
    ]  # fmt: skip
    assert "mlp1, width=0.5 " in computing.expand(grid, *folders)[0][0].name


def test_times_stand_apart_with_what_they_were_taken_on(prepare: Any, pretend: Any) -> None:
    pretend(lambda _: 0.5, lambda run: run.config.noise.alpha + 0.5 * run.seed)
    prepared = prepare(UNIFORM, *({"noise.alpha": a, "train.seeds": [0, 1]} for a in (0, 2)))
    report, times = computing.compute(*prepared)
    place = {"series": "perceptron", "delta": 0.0, "originals": 60, "batch_size": 16}
    assert times == {
        "figure": UNIFORM, "scale": "tiny", "wall_seconds": 5.0,
        "hardware": [machine.hardware("cpu")], "versions": [machine.versions()],
        "points": [{**place, "alpha": a, "wall_seconds": s, "core_seconds": s / 2}
                   for a, s in ((0, 0.5), (2, 4.5))],
    }  # fmt: skip
    pretend(lambda _: 0.5, lambda _: 7.0)
    assert files.to_json(computing.compute(*prepared)[0]) == files.to_json(report)


def test_a_point_of_which_every_run_diverged_stays_with_its_rates(
    prepare: Any, pretend: Any
) -> None:
    pretend(lambda run: None if run.config.noise.alpha else 0.5)
    changes = {**BOTH, "model.name": "mlp1"}  # of which the paper says nothing
    got = compute(prepare(UNIFORM, *({**changes, "noise.alpha": a} for a in (0, 2))))
    clean, noisy = got["points"]
    assert clean.keys() == noisy.keys()  # DVC's plots want rows of equal keys
    assert (clean["test_accuracy"], noisy["test_accuracy"]) == (0.5, None)
    assert (noisy["learning_rate"], noisy["diverged"]) == (None, 2)
    assert [noisy[f"paper_{key}"] for key in ("x", "y", "text")] == [None] * 3


def test_top_5_is_a_series_beside_top_1(
    prepare: Any, pretend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(lambda _: 0.5, test_top5_accuracy=0.75)
    prepared = prepare(TOP5, {"noise.alpha": 2})
    report, times = computing.compute(*prepared)
    found = {p["series"]: p["test_accuracy"] for p in report["points"]}
    assert found == {"perceptron, top-1": 0.5, "perceptron, top-5": 0.75}
    (_, top5) = report["points"]
    assert (top5["values"], top5["top5_accuracy"]) == ([0.75], 0.75)
    for way in ("paper", "noisy"):
        assert top5[f"test_accuracy_{way}_selection"] == 0.75
    assert "rates" not in top5
    assert len(times["points"]) == 1
    # Of five classes it is refused before any compute.
    monkeypatch.setattr(packing, "fetched", lambda _: packing.ImageInfo((8, 8, 1), 5, 300))
    monkeypatch.setattr(executors, "train_or_load", None)
    with pytest.raises(UserError, match="got 5 classes; accepted: more than 5, for top-5"):
        computing.compute(*prepared)


# --- figure 9

NO_BAND = (None, None, None)
THREE = (30, 90, 270)


@pytest.fixture
def critical(prepare: Any) -> Callable[..., dict[tuple[float, float], Any]]:
    """Return what computes thresholds of two alphas: points by alpha and target."""

    def points(
        targets: tuple[float, ...], sizes: tuple[int, ...] = THREE, **train: Any
    ) -> dict[tuple[float, float], Any]:
        trained = {f"train.{key}": value for key, value in ({"seeds": [0, 1]} | train).items()}
        changes = [
            {"noise.alpha": alpha, "data.originals": n, **trained}
            for alpha in (5, 2)  # unsorted on purpose
            for n in reversed(sizes)
        ]
        got = compute(prepare(CRITICAL, *changes, targets=targets))
        assert "own thresholds" in got["band"]
        return {(p["alpha"], p["target"]): p for p in got["points"]}

    return points


def band(point: dict[str, Any]) -> tuple[float | None, ...]:
    return point["lo"], point["hi"], point["sd"]


def test_thresholds_are_interpolated_for_the_mean_and_each_seed(
    critical: Any, pretend: Any
) -> None:
    # Accuracy 0.2 at 30 originals and 0.8 at 300, a twentieth of that less with alpha; seeds +-0.1
    def accuracy(run: runs.Run) -> float:
        base = 0.2 if run.config.data.originals == 30 else 0.8
        return base - 0.01 * run.config.noise.alpha + (0.1 if run.seed else -0.1)

    pretend(accuracy)
    points = critical((0.5, 0.75, 0.05, 0.99), (30, 300))
    middle, high = points[2, 0.5], points[2, 0.75]

    def by_hand(low: float, high: float, target: float) -> float:
        return 30 * 10 ** ((target - low) / (high - low))

    assert (middle["series"], middle["sizes"]) == ("0.50", [30, 300])
    assert (middle["status"], middle["config"]["data"]["originals"]) == ("reached", 300)
    assert middle["critical_size"] == pytest.approx(by_hand(0.18, 0.78, 0.5))
    seeds = [by_hand(0.08, 0.68, 0.5), by_hand(0.28, 0.88, 0.5)]
    assert middle["values"] == pytest.approx(seeds)
    sd = abs(seeds[0] - seeds[1]) / np.sqrt(2)
    assert band(middle) == pytest.approx((min(seeds), max(seeds), sd))
    assert points[5, 0.5]["critical_size"] > middle["critical_size"]
    # Reached by the mean and by one seed of two: no band.
    assert high["critical_size"] == pytest.approx(by_hand(0.18, 0.78, 0.75))
    assert high["values"] == [None, pytest.approx(by_hand(0.28, 0.88, 0.75))]
    assert band(high) == NO_BAND
    assert high["seeds_text"] == "1 of 2 seeds with a threshold of their own"
    assert (middle["seeds_text"], middle["diverged"]) == ("2 seeds", 0)
    assert (middle["diverged_sizes"], middle["diverged_runs"]) == ([], [])
    assert points[2, 0.99]["status"] == "not reached"
    assert points[2, 0.05]["status"] == "below the grid"
    assert points[2, 0.05]["critical_size"] is None


def test_a_threshold_is_of_one_seed_at_every_size() -> None:
    """In whatever order the sizes have their seeds; one that a size has not counts for none."""

    def point(originals: int, values: dict[int, float]) -> dict[str, Any]:
        return {
            "alpha": 0.0, "originals": originals, "test_accuracy": 0.5, "learning_rate": 1.0,
            "seeds": list(values), "values": list(values.values()), "diverged_runs": [],
            "config": None, "series": "a", "operations": 500,
        }  # fmt: skip

    plain = [point(10, {0: 0.1, 1: 0.3}), point(1000, {0: 0.7, 1: 0.9})]
    turned = [point(10, {0: 0.1, 1: 0.3, 2: 0.2}), point(1000, {1: 0.9, 0: 0.7})]
    (one,), (other,) = (thresholds.critical_sizes(p, (0.6,), "alpha") for p in (plain, turned))
    assert (other["seeds"], other["values"]) == ([0, 1], one["values"])
    assert one["operations"] == 1000  # of both sizes
    assert other["values"] == pytest.approx([10 * 100 ** (5 / 6), 10 * 100 ** (3 / 6)])


def by_size(run: runs.Run) -> float:
    """Return an accuracy of 0.2 at 30 originals, 0.5 at 90 and 0.8 at 270; seed 1 has 0.1 more."""
    return {30: 0.2, 90: 0.5, 270: 0.8}[run.config.data.originals] + 0.1 * run.seed


def test_a_size_at_which_every_seed_diverged_is_no_part_of_a_threshold(
    critical: Any, pretend: Any
) -> None:
    def accuracy(run: runs.Run) -> float | None:
        if run.config.data.originals != 90:
            return by_size(run)
        return None if run.config.noise.alpha == 5 else by_size(run) + 0.1

    pretend(accuracy)
    points = critical((0.55,))
    lost, whole = points[5, 0.55], points[2, 0.55]
    assert lost.keys() == whole.keys()
    # From 0.25 at 30 to 0.85 at 270, 0.55 is half way; with 0.65 at 90 it is met before.
    assert lost["critical_size"] == pytest.approx(90)
    assert whole["critical_size"] == pytest.approx(30 * 3 ** (0.30 / 0.40))
    assert lost["status"] == "reached"
    assert lost["values"] == pytest.approx([30 * 9 ** (0.35 / 0.6), 30 * 9 ** (0.25 / 0.6)])
    assert (lost["sizes"], lost["diverged_sizes"]) == ([30, 270], [90])
    assert lost["diverged"] == 2
    assert lost["diverged_runs"] == [
        {"originals": 90, "learning_rate": 0.5, "seed": seed} for seed in (0, 1)
    ]
    assert lost["seeds_text"] == "2 seeds; diverged: all at n = 90 (lr 0.5)"
    assert (whole["diverged"], whole["diverged_sizes"], whole["sizes"]) == (0, [], [*THREE])


def test_a_seed_that_diverged_at_a_size_is_left_out_there_and_named(
    critical: Any, pretend: Any
) -> None:
    """The mean is the other seed's there; its own threshold is of the other sizes."""
    pretend(lambda run: None if (run.config.data.originals, run.seed) == (90, 1) else by_size(run))
    point = critical((0.45,))[5, 0.45]
    assert point["critical_size"] == pytest.approx(30 * 3 ** (0.20 / 0.25))  # 0.25, 0.5, 0.85
    assert point["values"] == pytest.approx([30 * 3 ** (0.25 / 0.3), 30 * 9 ** (0.15 / 0.6)])
    assert (point["sizes"], point["diverged_sizes"], point["diverged"]) == ([*THREE], [], 1)
    assert point["diverged_runs"] == [{"originals": 90, "learning_rate": 0.5, "seed": 1}]
    assert point["seeds_text"] == "2 seeds; diverged: 1 at n = 90 (lr 0.5)"
    assert (point["lo"], point["hi"]) == (min(point["values"]), max(point["values"]))


def test_a_seed_that_diverged_at_two_sizes_is_one_seed(critical: Any, pretend: Any) -> None:
    """A rate that was not chosen is no part of its threshold."""
    pretend(
        lambda run: (
            None
            if run.learning_rate == 1.0 or (run.seed == 1 and run.config.data.originals > 30)
            else by_size(run)
        )
    )
    point = critical((0.45,), learning_rates=[0.5, 1.0])[5, 0.45]
    assert point["diverged"] == 1
    assert [run["originals"] for run in point["diverged_runs"]] == [90, 270]
    assert point["values"][1] is None  # a single size tells nothing
    assert point["seeds_text"] == (
        "1 of 2 seeds with a threshold of their own; "
        "diverged: 1 at n = 90 (lr 0.5), 1 at n = 270 (lr 0.5)"
    )


@pytest.mark.parametrize("kept", [(), (30,), (270,)])
def test_with_fewer_than_two_sizes_left_a_threshold_has_diverged(
    critical: Any, pretend: Any, kept: tuple[int, ...]
) -> None:
    pretend(lambda run: by_size(run) if run.config.data.originals in kept else None)
    for point in critical((0.1, 0.5, 0.95)).values():
        assert (point["critical_size"], point["status"]) == (None, "diverged")
        assert point["values"] == [None, None]
        assert band(point) == NO_BAND
        assert point["sizes"] == list(kept)
        assert point["diverged_sizes"] == [n for n in THREE if n not in kept]


def test_a_single_seed_has_a_threshold_and_no_band(critical: Any, pretend: Any) -> None:
    pretend(by_size)
    point = critical((0.35,), seeds=[0])[5, 0.35]
    assert point["critical_size"] == pytest.approx(30 * 3**0.5)
    assert (band(point), point["seeds_text"]) == (NO_BAND, "1 seed")


def test_the_papers_values_stand_beside_their_target(critical: Any, pretend: Any) -> None:
    pretend(lambda run: run.config.data.originals / 320)
    points = critical((0.9, 0.8))
    stated = [(points[alpha, 0.9]["paper_x"], points[alpha, 0.9]["paper_y"]) for alpha in (2, 5)]
    assert stated == [(10, 2000), (50, 10000)]
    assert points[2, 0.8]["paper_y"] is None


# --- studies of methods


def test_each_training_has_a_threshold_of_its_own_beside_the_baselines(
    prepare: Any, pretend: Any
) -> None:
    """Accuracy rises from 0.2 at 30 originals to 0.8 at 270; from 0.5 where labels are grouped."""

    def accuracy(run: runs.Run) -> float:
        low = 0.5 if run.config.train.targets == "aggregated" else 0.2
        return low if run.config.data.originals == 30 else 0.8

    pretend(accuracy)
    changes = [
        {"train.targets": targets, "data.originals": n, "train.seeds": [0, 1, 2, 3, 4]}
        for n in (30, 270)
        for targets in ("labels", "aggregated")
    ]
    got = compute(prepare("methods_threshold", *changes, targets=(0.7,)))
    plain, grouped = got["points"]
    sizes = [30 * 9 ** (5 / 6), 30 * 9 ** (2 / 3)]  # linear in log n
    assert [p["critical_size"] for p in (plain, grouped)] == pytest.approx(sizes)
    assert [p["series"] for p in (plain, grouped)] == ["labels: 0.70", "aggregated: 0.70"]
    assert (plain["difference"], plain["operations"]) == (None, 2 * 500)
    between = [grouped[key] for key in ("difference", "difference_lo", "difference_hi", "pairs")]
    assert between == pytest.approx([*[sizes[1] - sizes[0]] * 3, 5])


def test_curves_are_of_the_chosen_rate_by_epochs_and_of_seeds_that_did_not_diverge(
    prepare: Any, pretend: Any
) -> None:
    def curve(value: float) -> list[dict[str, Any]]:
        row = {"val_accuracy": 0.5, "train_loss": 1.0, "true_as_given": value}
        row |= {"noisy_as_given": value / 2, "noisy_as_true": None, "test_accuracy": value}
        return [{**row, "examples_seen": seen} for seen in (90, 270)]

    def made(run: runs.Run) -> dict[str, Any]:
        lost, good = run.seed == 2, run.learning_rate == 0.5
        value = (0.8 if good else 0.6) + 0.1 * run.seed
        return {
            "val_accuracy": value, "noisy_val_accuracy": value, "test_accuracy": value,
            "test_top5_accuracy": None, "diverged": lost, "wall_seconds": 1.0, "steps": 1,
            "operations": 7, "curve": curve(value),
        }  # fmt: skip

    prepared = prepare(
        "memorisation",
        {
            "train.learning_rates": [0.1, 0.5], "train.seeds": [0, 1, 2],
            "train.memorisation": True,
        },
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executors, "train_or_load", lambda todo, _: ([*map(made, todo)], "cpu"))
        got = compute(prepared)
    found = {(p["series"], p["epoch"]): p for p in got["points"]}
    name = "α = 2, labels: "
    assert {series.removeprefix(name) for series, _ in found} == {
        "test images", "truly labelled", "mislabelled as given",
    }  # fmt: skip
    assert {epoch for _, epoch in found} == {0.5, 1.5}  # of 180 examples
    point = found[f"{name}mislabelled as given", 1.5]
    assert point["values"] == [pytest.approx(0.4), pytest.approx(0.45), None]
    assert (point["accuracy"], point["diverged"]) == (pytest.approx(0.425), 1)
    assert (point["lo"], point["hi"]) == pytest.approx(
        (0.425 - 0.05 / 2**0.5, 0.425 + 0.05 / 2**0.5)
    )
    assert (point["operations"], point["learning_rate"]) == (14, 0.5)
    before = found[f"{name}mislabelled as given", 0.5]
    assert before["operations"] == round(14 / 3)  # what was spent so far
