"""The commands: what each does with its arguments."""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu import bundle, incoming, runner
from stages.lib import hosts, paths
from stages.lib.errors import UserError


def check(arguments: argparse.Namespace) -> None:
    """Compare and measure, and choose the best way and precision of each network."""
    from benchmarks.gpu.steps import CHECK, best

    def choose(report: runner.Report) -> None:
        report.content["best"] = best(report.content["steps"])
        report.write()

    _run("check", CHECK, arguments, choose)


def results(arguments: argparse.Namespace) -> None:
    """Train figure 1 at the paper's size for as long as there is time."""
    from benchmarks.gpu.steps import RESULTS

    store = paths.point_store()
    started, kept = time.time(), list[Path]()
    if (archive := arguments.bundle / bundle.STORE).exists():
        kept = bundle.restore(archive, store)

    def pack(_: runner.Report) -> None:
        new = [path for path in store.glob("*.json") if path.stat().st_mtime >= started]
        bundle.pack({*kept, *new}, arguments.out / bundle.STORE)

    _run("results", RESULTS, arguments, pack)


def _run(
    name: str,
    steps: tuple[runner.Step, ...],
    arguments: argparse.Namespace,
    after: Callable[[runner.Report], None],
) -> None:
    device = arguments.device
    content: dict[str, Any] = {"command": name, "device": device, "minutes": arguments.minutes}
    content |= {"rehearsal": device == "cpu", "steps": {}}
    content |= {"versions": hosts.versions()}
    report = runner.Report(arguments.out / f"{name}.json", content)
    with tempfile.TemporaryDirectory(prefix="gpu-work-") as work:
        told = runner.Told(device, arguments.out, arguments.bundle, Path(work))
        whole = runner.run(
            steps, told, report, minutes=arguments.minutes, after=lambda: after(report)
        )
    if not whole:
        failed = [
            f"{step} ({entry.get('why')})"
            for step, entry in report.content["steps"].items()
            if entry["status"] in ("failed", "died")
        ]
        raise UserError(f"{', '.join(failed)}; {report.path} has what is known")


def gather(arguments: argparse.Namespace) -> None:
    """Gather what must travel."""
    bundle.gather(arguments.out)


def take_over(arguments: argparse.Namespace) -> None:
    """Take over what came back."""
    incoming.take_over(arguments.folder)


COMMANDS = {"check": check, "results": results, "bundle": gather, "import": take_over}
