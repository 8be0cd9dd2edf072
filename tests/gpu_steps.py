"""Steps for tests of `benchmarks.gpu.runner`, in a module that needs no PyTorch to be imported."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.gpu import runner
from benchmarks.gpu.runner import Know, Report, Setup, Step
from stages.lib.core.errors import UserError


def works(_: Setup, know: Know) -> None:
    know("value", float("inf"), "a line")


def raises(_: Setup, know: Know) -> None:
    know("before", 1, "so far")
    raise ZeroDivisionError("by zero")


def looks(_: Setup, know: Know) -> None:
    know("variable", os.environ.get("A_VARIABLE", "on"), "seen")


def refuses(_: Setup, know: Know) -> None:
    raise UserError("no data")


def crashes(_: Setup, know: Know) -> None:
    know("before", 2, "so far")
    os.kill(os.getpid(), signal.SIGSEGV)


def lacks(setup: Setup, know: Know) -> None:
    know("smaller", setup.smaller, "tried")
    if setup.smaller < 2:
        raise MemoryError


def hangs(_: Setup, know: Know) -> None:
    know("pid", os.getpid(), "here")
    time.sleep(1000)


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def run(todo: list[Step], folder: Path, minutes: float = 1.0) -> tuple[bool, dict[str, Any]]:
    report = Report(folder / "check.json", {})
    setup = Setup("cpu", folder, folder, folder)
    minutes += (time.time() - runner._started()) / 60
    with mock.patch.object(runner, "PRELOADED", "benchmarks.gpu.runner"):  # these need no PyTorch
        whole = runner.run(todo, setup, report, minutes=minutes)
    return whole, read(report.path)["steps"]
