"""Plans: what a figure would take, before anything runs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import tiny_params, tiny_scale

from stages import train_figure
from stages.lib.core import paths
from stages.lib.core.errors import UserError
from stages.lib.data import datasets
from stages.lib.execution import packing
from stages.lib.studies import estimates, grids

KEY, DRAWN = "fig1_uniform_mnist", "fig4_noise_models"
RATE = 50.0


@pytest.fixture
def write(workspace: Path) -> Callable[..., None]:
    """Return how to write a scale with changes of figure 1, and params that name it."""

    def scale(**changes: Any) -> None:
        content = tiny_scale()
        for section, values in changes.items():
            content[KEY][section] = (
                content[KEY][section] | values if isinstance(values, dict) else values
            )
        (workspace / "scales").mkdir(exist_ok=True)
        (workspace / "scales/tiny.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        params = yaml.safe_dump(tiny_params([KEY]))
        (workspace / "params.yaml").write_text(params, encoding="utf-8")

    scale()
    return scale


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Return the stacks that were measured; each did `RATE` steps per second."""
    found: list[list[Any]] = []

    def rate(stack: list[Any], device: str) -> float:
        found.append(stack)
        return RATE

    monkeypatch.setattr(estimates, "_rate", rate)
    return found


def test_a_plan_counts_what_the_figure_trains(
    write: Callable[..., None], measured: list[list[Any]]
) -> None:
    learning = {"learning_rates": [0.1, 1.0], "seeds": [0, 1, 2], "epochs": 7.0}
    write(train=learning, data={"size": 12})
    plan = estimates.make(KEY, "tiny")
    assert estimates.known(plan.kinds[0].run) == ((12, 12, 1), 10, 1797)
    # Two networks at alpha 0 and 2: 200 and 600 examples, at least 1,600 of them, in batches of 32.
    runs = 2 * 3
    steps = {0: 50, 2: 132}  # ceil(max(7 * examples, 1600) / 32)
    assert (plan.points, plan.runs, plan.largest) == (4, 4 * runs, 600)
    assert sorted(kind.run.config.model.name for kind in plan.kinds) == ["conv2", "perceptron"]
    for kind in plan.kinds:
        assert (kind.runs, kind.steps) == (2 * runs, runs * sum(steps.values()))
        assert kind.seconds == kind.steps / RATE
    assert plan.examples == 2 * 32 * runs * sum(steps.values())
    assert plan.seconds == sum(kind.seconds for kind in plan.kinds)
    assert len(measured) == 2


def test_what_points_share_is_counted_once(
    write: Callable[..., None], measured: list[list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grids, "_check_places", lambda *_: None)  # counted, not drawn
    write(
        train={"learning_rates": [0.1, 1.0], "seeds": [0, 1, 2]},
        grids=[
            {
                "noise.kind": ["structured"],
                "noise.alpha": [10],
                "noise.order": ["confusing", "random"],
                "noise.delta": [0.0, 0.5, 1.0],  # 0 is uniform in any order
            },
            {"noise.alpha": [0, 2], "noise.images": ["same", "white"]},  # 0 shows none
        ],
    )
    plan = estimates.make(KEY, "tiny")
    assert (plan.points, plan.runs) == (6 + 4, (5 + 3) * 2 * 3)
    assert sum(kind.runs for kind in plan.kinds) == plan.runs


def test_what_trains_at_another_speed_is_measured_apart(
    write: Callable[..., None], measured: list[list[Any]]
) -> None:
    write(
        grids=[
            {"train.batch_size": [8], "noise.alpha": [1]},
            {"train.batch_size": [16], "noise.alpha": [2]},
            {"model.width": [0.5], "noise.alpha": [3]},
            {"train.seeds": [[5]], "noise.alpha": [4]},
        ]
    )
    plan = estimates.make(KEY, "tiny")
    found = {(k.run.config.train.batch_size, k.run.config.model.width) for k in plan.kinds}
    assert found == {(8, 1.0), (16, 1.0), (32, 0.5), (32, 1.0)}


def test_where_nothing_is_trained_nothing_is_measured(
    write: Callable[..., None], measured: list[list[Any]]
) -> None:
    plan = estimates.make(DRAWN, "tiny")
    assert (plan.points, plan.runs, plan.examples, plan.seconds, plan.kinds) == (4, 0, 0, 0, ())
    assert plan.largest == 2200
    assert "nothing is trained" in estimates.show(DRAWN, "tiny", plan)[-1]
    assert measured == []


def test_memory_holds_images_and_grows_with_the_set(
    write: Callable[..., None], measured: list[list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates.machine, "cores", lambda: 1)
    images = 1797 * 64
    plain = estimates.make(KEY, "tiny").memory
    assert plain > images
    write(noise={"images": "mnist5k"}, grids=[{"model.name": ["perceptron", "conv2"]}])
    assert estimates.make(KEY, "tiny").memory == plain + 4000 * 64
    white = {"noise.images": ["white"], "noise.alpha": [2, 9]}
    write(grids=[{"model.name": ["perceptron", "conv2"], **white}])
    more = packing.EXAMPLE_BYTES * 200 * (9 - 2) + 200 * 64  # as many images as originals
    assert estimates.make(KEY, "tiny").memory == plain + more
    write(grids=[{"model.name": ["perceptron", "conv2"], "noise.alpha": [1000]}])
    more = estimates.make(KEY, "tiny").memory - plain
    assert more == packing.EXAMPLE_BYTES * (200 * 1001 - 600)
    monkeypatch.setattr(estimates.machine, "cores", lambda: 2)
    assert estimates.make(KEY, "tiny").memory > 2 * images


def test_a_folder_is_known_once_it_is_fetched(
    write: Callable[..., None], measured: Any, make_dataset: Any
) -> None:
    write(data={"name": "folder", "path": "pictures", "size": 8})
    with pytest.raises(UserError, match="run first: dvc repro fetch_figures"):
        estimates.make(KEY, "tiny")
    datasets.save(make_dataset(num_classes=7), paths.datasets("tiny") / "folder")
    assert estimates.known(estimates.make(KEY, "tiny").kinds[0].run) == ((8, 8, 1), 7, 300)


@pytest.mark.usefixtures("one_thread", "clocked_training")
def test_the_rate_is_of_all_members_and_without_the_start(write: Callable[..., None]) -> None:
    stack = stacks_of(KEY)[0]
    assert estimates.measure(stack, "cpu") == pytest.approx(10 * len(stack))


@pytest.mark.usefixtures("one_thread")
def test_a_real_measurement(write: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "SECONDS", 0.05)
    assert 1 < estimates.measure(stacks_of(KEY)[-1], "cpu") < 1e6


def stacks_of(key: str) -> list[list[Any]]:
    grid = grids.read_grid("tiny", key)
    expanded = estimates.computing.expand(grid, Path("none"), Path("none"))
    return packing.form([r for point in expanded for r in point], "cpu", seen=estimates.known)


def test_durations() -> None:
    found = [estimates._duration(seconds) for seconds in (119, 120, 7200, 172_800)]
    assert found == ["119 seconds", "2.0 minutes", "2.0 hours", "2.0 days"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return how to call the command with arguments behind ``--plan``."""
    for name in ("answer_signals", "end_with_dvc"):
        monkeypatch.setattr(f"stages.lib.core.processes.{name}", lambda: None)

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["train_figure", "--plan", *arguments])
        return train_figure.main()

    return call


@pytest.mark.parametrize("arguments", [[KEY], ["tiny", KEY]])
def test_the_command_prints_and_computes_nothing(
    arguments: list[str], command: Callable[..., int], write: Any, measured: Any, workspace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before = sorted(workspace.rglob("*"))
    assert command(*arguments) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{KEY} at scale tiny, on cpu (")
    for words in ("points                 4\n", "runs                   8,", "12,800\n", "MiB",
                  "600 examples\n", "measured just now:\n    ", "8x8x1 batch 32"):  # fmt: skip
        assert words in said
    assert sorted(workspace.rglob("*")) == before


def test_a_figure_that_is_not_there_is_told(
    command: Callable[..., int], write: Any, capsys: Any
) -> None:
    assert command("fig55") == 1
    told = "error: figures: got 'fig55'; accepted: fig1_uniform_mnist, "
    assert capsys.readouterr().err.startswith(told)


def test_imagenet_is_planned_before_it_is_there(
    measured: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    monkeypatch.setattr(paths, "datasets", lambda group: tmp_path / group)
    plan = estimates.make("fig3_uniform_imagenet", "paper")
    seen = {estimates.known(kind.run) for kind in plan.kinds}
    assert seen == {((64, 64, 3), 1000, 1_331_167)}
    assert plan.memory > 1_331_167 * 64 * 64 * 3
    assert plan.examples > 0
