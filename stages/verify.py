"""Trains a sample of the recorded runs again and compares."""

import random
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stages.command import argument, stage
from stages.lib.config.reading import parse_config, read_params
from stages.lib.core import files, machine, paths
from stages.lib.core.errors import UserError
from stages.lib.execution import executors
from stages.lib.execution.runs import Run
from stages.lib.execution.store import RunStore
from stages.lib.studies import computing, grids, registry


@dataclass(frozen=True)
class Recorded:
    """A run, and its test accuracy as a figure's JSON has it: None where it diverged."""

    key: str
    run: Run
    accuracy: float | None


def recorded(scale: str, key: str) -> Iterator[Recorded]:
    """Yield the runs of a figure with what is recorded of them.

    Raises:
        UserError: the figure's results are of another grid than the scale describes now.
        DamagedError: they are not what was written.
    """
    file = paths.figure_metrics(scale, key)
    grid, labels = grids.read_grid(scale, key), paths.figure_labels(scale, key)
    expanded = computing.expand(grid, paths.datasets(scale), labels)
    points = files.read_json(file)["points"]
    if grid.study.top5:  # where each stands for top-1, then for top-5
        points = points[::2]
    recorded = [parse_config(point["config"], file) for point in points]
    if recorded != [runs[0].config for runs in expanded]:
        raise UserError(f"{file}: is not of the grid in {paths.scale_file(scale)}; dvc repro first")
    for point, runs in zip(points, expanded, strict=True):
        values = {
            (seed, rate["learning_rate"]): value
            for rate in point["rates"]
            for seed, value in zip(point["seeds"], rate["values"], strict=True)
        }
        for run in runs:
            yield Recorded(key, run, values[run.seed, run.learning_rate])


def differences(each: Recorded, again: dict[str, Any], stored: dict[str, Any] | None) -> list[str]:
    """Return how a second training differs from what is recorded of the first, in words."""
    stored = again if stored is None else stored
    found = [
        f"{name} is not the stored one"
        for name in sorted((again.keys() | stored.keys()) - {"wall_seconds"})
        if again.get(name) != stored.get(name)
    ]
    accuracy = None if again["diverged"] else again["test_accuracy"]
    if accuracy != each.accuracy:
        found.insert(0, f"test accuracy {each.accuracy} recorded, {accuracy} now")
    return found


def recorded_elsewhere(scale: str, key: str, device: str) -> str | None:
    """Return what is other here than where a figure was recorded, None where nothing is."""
    times = files.read_json(paths.figure_times(scale, key))
    (hardware,), (versions,) = times["hardware"], times["versions"]
    here, there = machine.hardware(device) | machine.versions(), hardware | versions
    names = ("processor", "kernels", "accelerator", "device", "torch", "numpy")
    others = [name for name in names if there.get(name) != here.get(name)]
    unlike = [f"{name} {there.get(name)!r} there, {here.get(name)!r} here" for name in others]
    return "; ".join(unlike) or None


@stage(
    argument("runs", metavar="RUNS", type=int, nargs="?", default=10, help="default: %(default)s"),
    argument("seed", metavar="SEED", type=int, nargs="?", help="of the sample; default: random"),
)
def main(runs: int, seed: int | None) -> None:
    """Train a sample of the figures' recorded runs again, and fail where one differs.

    Compared are each run's test accuracy as metrics/figures/ has it and, where .runs/ holds the
    run, all of its outcome. On the machine and with the versions that recorded them, both must be
    equal to the bit. Reads what train_figure reads, and its results; writes nothing.
    """
    seed = secrets.randbelow(10**6) if seed is None else seed
    params = read_params()
    trained = [key for key in params.figures if registry.read_study(key).kind == "trained"]
    every = [each for key in trained for each in recorded(params.scale, key)]
    if not 1 <= runs <= len(every):
        raise UserError(f"got {runs} runs; accepted: 1 to {len(every)}")
    sample = random.Random(seed).sample(every, runs)
    with files.scratch_folder() as folder:
        outcomes, device = executors.train_or_load([e.run for e in sample], "verify", folder)
    store, faults = RunStore(device, accelerator=machine.accelerator(device)), 0
    for each, again in zip(sample, outcomes, strict=True):
        found = differences(each, again, store.get(each.run.identity()))
        elsewhere = recorded_elsewhere(params.scale, each.key, device)
        faults += bool(found) and elsewhere is None
        print(f"{each.key}: {each.run.name}: {'; '.join(found) or 'equal'}")
        if found and elsewhere:
            print(f"  recorded elsewhere: {elsewhere}")
    print(f"{len(sample)} of {len(every)} runs trained again (sample {seed})")
    if faults:
        raise UserError(f"{faults} runs differ from what this machine recorded")


if __name__ == "__main__":
    raise SystemExit(main())
