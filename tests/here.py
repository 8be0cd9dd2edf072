"""The tiny pipeline's stages in this process, without DVC: here every write can be watched."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from repository import tiny_params, tiny_scale

from stages import (
    check,
    confuse,
    confuse_figures,
    dilute,
    dilute_figure,
    draw,
    fetch,
    fetch_figures,
    scan,
    train,
    train_figure,
)
from stages.lib.core import machine
from stages.lib.execution import checkpoints, executors, inputs
from stages.lib.labels import dilution
from stages.lib.training import batches, loop

FIGURES = ("fig1_uniform_mnist", "fig4_noise_models", "fig5_structured", "fig9_critical_size")
STAGES: list[tuple[ModuleType, tuple[str, ...]]] = [
    *((stage, ()) for stage in (check, scan, fetch, confuse, dilute, train)),
    (fetch_figures, ("tiny",)),
    (confuse_figures, ("tiny",)),
    *((stage, ("tiny", key)) for key in FIGURES for stage in (dilute_figure, train_figure, draw)),
]
NAMES = [" ".join([stage.__name__.partition(".")[2], *arguments]) for stage, arguments in STAGES]


class _InThisProcess:
    """Stands for `executors.Processes`."""

    def __enter__(self) -> "_InThisProcess":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, function: Callable[[str], Any], argument: str) -> Any:
        return function(argument)

    def train(self, queue: list[Any], store: Any, bar: Any) -> None:
        for stack in queue:
            assert executors._train_and_store(stack, store, bar.show) == ""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Callable[[int], int]:
    """Return how to run a stage by its number; signals and the rest of the process stay."""
    monkeypatch.setitem(executors.EXECUTORS, "processes", _InThisProcess)
    monkeypatch.setattr(machine, "cores", lambda: 1)
    for name in ("answer_signals", "end_with_dvc"):
        monkeypatch.setattr(f"stages.lib.core.processes.{name}", lambda: None)
    for name in ("DVC_ROOT", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    # Long trainings have checkpoints, and here all are long.
    monkeypatch.setenv(checkpoints.VARIABLE, "1e-9")
    monkeypatch.setattr(batches, "CHUNK", {"cpu": 16})
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", float("inf"))

    def main(number: int) -> int:
        stage, arguments = STAGES[number]
        for cached in (dilution.digests, inputs._load_dataset, inputs._load_bank):
            cached.cache_clear()  # each stage is a process of its own
        monkeypatch.setattr("sys.argv", [stage.__name__, *arguments])
        status: int = stage.main()
        return status

    return main


def write_params(folder: Path) -> None:
    (folder / "scales").mkdir(parents=True)
    shutil.copytree(Path(__file__).parents[1] / "studies", folder / "studies")
    for name, content in (
        ("scales/tiny.yaml", tiny_scale()),
        ("params.yaml", tiny_params(FIGURES)),
    ):
        text = yaml.safe_dump(json.loads(json.dumps(content)))  # equal parts each in full
        (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture
def before(
    run: Callable[[int], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], Path]:
    """Return how to get a workspace in which the stages before one have run, and to work there."""
    made = tmp_path / "made"
    write_params(made)
    done = 0

    def copy(number: int) -> Path:
        nonlocal done
        monkeypatch.chdir(made)
        for other in range(done, number):
            assert run(other) == 0, NAMES[other]
        done = max(done, number)
        assert done == number, "ask for stages in their order"
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made, folder)
        monkeypatch.chdir(folder)
        return folder

    return copy
