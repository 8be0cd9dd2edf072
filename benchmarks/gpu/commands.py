"""The commands: what each does with its arguments."""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gpu import bundle, runner
from stages.lib.core import machine
from stages.lib.core.errors import UserError
from stages.lib.execution.store import RunStore


def check(arguments: argparse.Namespace) -> None:
    """Compare and measure, and choose the best way and precision of each network."""
    from benchmarks.gpu.fast import best
    from benchmarks.gpu.steps import CHECK

    def choose(report: runner.Report, _: runner.Setup) -> None:
        report.content["best"] = best(report.content["steps"])
        report.write()

    _run("check", CHECK, arguments, choose)


def results(arguments: argparse.Namespace) -> None:
    """Train figure 1 at the paper's size for as long as there is time."""
    from benchmarks.gpu.steps import RESULTS

    def begin(setup: runner.Setup) -> None:
        if (archive := setup.bundle / bundle.STORE).exists():
            try:
                bundle.restore(archive, setup.store)
            except UserError as error:  # no reason to lose the minutes
                print(f"warning: {error}", file=sys.stderr)

    def pack(_: runner.Report, setup: runner.Setup) -> None:
        finished = RunStore(setup.device, setup.store).finished()
        bundle.pack(finished, setup.out / bundle.STORE)

    _run("results", RESULTS, arguments, pack, begin)


def _run(
    name: str,
    steps: tuple[runner.Step, ...],
    arguments: argparse.Namespace,
    after: Callable[[runner.Report, runner.Setup], None],
    before: Callable[[runner.Setup], None] = lambda _: None,
) -> None:
    device = arguments.device
    content: dict[str, Any] = {"command": name, "device": device, "minutes": arguments.minutes}
    content |= {"rehearsal": device == "cpu", "steps": {}}
    content |= {"versions": machine.versions()}
    if device == "cpu":  # which may be slow, and has nothing to lose
        steps = tuple(replace(step, seconds=math.inf, share=1.0) for step in steps)
    report = runner.Report(arguments.out / f"{name}.json", content)
    with tempfile.TemporaryDirectory(prefix="gpu-work-") as work:
        setup = runner.Setup(device, arguments.out, arguments.bundle, Path(work))
        before(setup)
        whole = runner.run(
            steps, setup, report, minutes=arguments.minutes, after=lambda: after(report, setup)
        )
    for path in arguments.out.iterdir():
        if path.is_file() and path.stat().st_size > bundle.MOST_FILE_BYTES:
            most = f"{bundle.MOST_FILE_BYTES:,} bytes"
            print(f"warning: {path} is larger than {most}, the most to come back", file=sys.stderr)
    if not whole:
        failed = [
            f"{step} ({entry.get('why')})"
            for step, entry in report.content["steps"].items()
            if entry["status"] in ("failed", "died", "out of memory")
        ]
        raise UserError(f"{', '.join(failed)}; {report.path} has what is known")


def gather(arguments: argparse.Namespace) -> None:
    """Gather what must travel."""
    bundle.gather(arguments.out)


def take_over(arguments: argparse.Namespace) -> None:
    """Take over what came back."""
    from benchmarks.gpu import incoming  # which draws, and needs what only this machine has

    incoming.take_over(arguments.folder)


COMMANDS = {"check": check, "results": results, "bundle": gather, "import": take_over}
