"""`stages.verify`: what it finds equal, and what it calls a difference."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_faults import NAMES

from stages import verify
from stages.lib.core import files, paths
from stages.lib.execution import store
from stages.lib.studies import registry

KEY = "fig1_uniform_mnist"
METRICS, TIMES = paths.figure_metrics("tiny", KEY), paths.figure_times("tiny", KEY)
Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(
    before: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Call:  # fmt: skip
    """Return how to verify, where one figure's results and stored runs are; what comes of it."""
    before(NAMES.index(f"draw tiny {KEY}"))
    scale = verify.read_params().scale
    chosen = SimpleNamespace(scale=scale, figures=(KEY,))
    monkeypatch.setattr(verify, "read_params", lambda: chosen)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["verify", *arguments])
        status, said = verify.main(), capsys.readouterr()
        return status, said.out + said.err

    return run


def change(path: Path, mend: Callable[[dict[str, Any]], None]) -> None:
    content = files.read_json(path)
    mend(content)
    files.write_json(path, content)


def test_what_was_recorded_is_equal(call: Call) -> None:
    folder = store.RunStore("cpu").folder
    stored = {path: path.read_bytes() for path in folder.glob("*.json")}
    status, text = call("4", "0")
    assert status == 0
    assert text.count(": equal\n") == 4
    assert "\n4 of 8 runs trained again (sample 0)\n" in text
    assert stored
    assert {path: path.read_bytes() for path in folder.glob("*.json")} == stored
    for number in ("0", "-1", "9"):
        status, text = call("--", number)
        assert status == 1
        assert f"error: got {number} runs; accepted: 1 to 8" in text


def test_a_figure_with_top_5_has_its_runs_once(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    once = list(verify.recorded("tiny", KEY))
    change(
        METRICS, lambda report: report.update(points=[p for p in report["points"] for _ in "15"])
    )
    study = replace(registry.read_study(KEY), top5=True)
    monkeypatch.setattr(registry, "read_study", lambda _: study)
    assert list(verify.recorded("tiny", KEY)) == once


def shift() -> None:
    def every(report: dict[str, Any]) -> None:
        for rate in (rate for point in report["points"] for rate in point["rates"]):
            rate["values"] = [value + 0.001 for value in rate["values"]]

    change(METRICS, every)


def shift_elsewhere(where: str, fact: str) -> None:
    shift()
    change(TIMES, lambda times: times[where][0].update({fact: "other"}))


def change_stored() -> None:
    for path in store.RunStore("cpu").folder.glob("*.json"):
        change(path, lambda content: content["outcome"]["curve"][0].update(train_loss=9.0))


def change_grid() -> None:
    change(METRICS, lambda report: report["points"][0]["config"]["noise"].update(alpha=1.5))


@pytest.mark.parametrize(
    ("mend", "arguments", "status", "words"),
    [
        (shift, ("2", "0"), 1, ["test accuracy 0."] * 2 + ["error: 2 runs differ from what this"]),
        (change_stored, ("8",), 1, [": curve is not the stored one"] * 8),
        *(
            (partial(shift_elsewhere, *fact), ("3", "0"), 0,
             [f"recorded elsewhere: {fact[1]} 'other' there, "] * 3)
            for fact in (("hardware", "kernels"), ("versions", "torch"))
        ),
        (change_grid, ("1",), 1, ["error: ", "is not of the grid in scales/tiny.yaml; dvc repro"]),
    ],
)  # fmt: skip
def test_a_difference_is_found_where_there_should_be_none(
    mend: Callable[[], None], arguments: tuple[str, ...], status: int, words: list[str], call: Call
) -> None:
    mend()
    got, text = call(*arguments)
    assert got == status
    for word in words:
        assert text.count(word) == words.count(word)


def test_a_run_that_diverged_is_compared_as_such() -> None:
    each = verify.Recorded(KEY, None, None)  # type: ignore[arg-type]
    again = {"diverged": True, "test_accuracy": 0.1}
    assert verify.differences(each, again, None) == []
    assert verify.differences(each, {**again, "diverged": False}, None)
    assert verify.differences(each, again, {**again, "wall_seconds": 3.0}) == []
