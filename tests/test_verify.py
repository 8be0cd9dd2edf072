"""`stages.verify`: what it finds equal, and what it calls a difference."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_faults import NAMES

from stages import verify
from stages.lib.core import files, paths
from stages.lib.execution import store
from stages.lib.studies import registry

KEY = "fig1_uniform_mnist"


@pytest.fixture
def recorded(before: Callable[[int], Path]) -> Path:
    """Return a workspace with the results of one figure, and with its stored points."""
    number = NAMES.index(f"draw tiny {KEY}")
    return before(number)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["verify", *arguments])
    status: int = verify.main()
    return status


@pytest.fixture(autouse=True)
def _one_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = verify.read_params

    class Chosen:
        def __init__(self) -> None:
            self.scale, self.figures = whole().scale, (KEY,)

    monkeypatch.setattr(verify, "read_params", Chosen)


def change(path: Path, mend: Callable[[dict[str, Any]], None]) -> None:
    content = files.read_json(path)
    mend(content)
    files.write_json(path, content)


def test_what_was_recorded_is_equal(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert store.RunStore("cpu").folder.resolve() == (recorded / ".runs").resolve()
    stored = {path: path.read_bytes() for path in (recorded / ".runs").glob("*.json")}
    assert call(monkeypatch, "4", "0") == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.endswith(": equal") for line in lines) == 4
    assert lines[-1] == "4 of 8 runs trained again (sample 0)"
    assert {path: path.read_bytes() for path in (recorded / ".runs").glob("*.json")} == stored


def test_a_figure_with_top_5_has_its_runs_once(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = list(verify.recorded("tiny", KEY))
    change(
        paths.figure_metrics("tiny", KEY),
        lambda report: report.update(points=[p for p in report["points"] for _ in (1, 5)]),
    )
    study = replace(registry.read_study(KEY), top5=True)
    monkeypatch.setattr(registry, "read_study", lambda _: study)
    assert list(verify.recorded("tiny", KEY)) == once


def shift(report: dict[str, Any]) -> None:
    for point in report["points"]:
        for rate in point["rates"]:
            rate["values"] = [value + 0.001 for value in rate["values"]]


def test_another_accuracy_is_found(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change(paths.figure_metrics("tiny", KEY), shift)
    assert call(monkeypatch, "2", "0") == 1
    said = capsys.readouterr()
    assert said.out.count("test accuracy 0.") == 2
    assert "error: 2 runs differ from what this machine recorded" in said.err


def test_another_outcome_in_the_store_is_found(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (recorded / ".runs").glob("*.json"):
        change(path, lambda content: content["outcome"]["curve"][0].update(train_loss=9.0))
    assert call(monkeypatch, "8") == 1
    assert capsys.readouterr().out.count(": curve is not the stored one") == 8


@pytest.mark.parametrize(("fact", "where"), [("kernels", "hardware"), ("torch", "versions")])
def test_what_was_recorded_elsewhere_may_differ(
    fact: str, where: str, recorded: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    change(paths.figure_metrics("tiny", KEY), shift)
    change(paths.figure_times("tiny", KEY), lambda times: times[where][0].update({fact: "other"}))
    assert call(monkeypatch, "3", "0") == 0
    assert capsys.readouterr().out.count(f"recorded elsewhere: {fact} 'other' there, ") == 3


def test_another_grid_is_told(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(report: dict[str, Any]) -> None:
        report["points"][0]["config"]["noise"]["alpha"] = 1.5

    change(paths.figure_metrics("tiny", KEY), other)
    assert call(monkeypatch, "1") == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert "is not of the grid in scales/tiny.yaml; dvc repro first" in line


def test_no_sample(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in ("0", "-1", "9"):  # of one workspace
        assert call(monkeypatch, "--", number) == 1
        assert f"error: got {number} runs; accepted: 1 to 8" in capsys.readouterr().err


def test_a_run_that_diverged_is_compared_as_such() -> None:
    each = verify.Recorded(KEY, None, None)  # type: ignore[arg-type]
    again = {"diverged": True, "test_accuracy": 0.1}
    assert verify.differences(each, again, None) == []
    assert verify.differences(each, {**again, "diverged": False}, None)
    assert verify.differences(each, again, {**again, "wall_seconds": 3.0}) == []
