"""Figure 1 at the paper's size in the minutes that there are, by the best way and precision found.

First alpha = 100: the perceptron, a ConvNet for as many passes as fit, an MLP; then the other
alphas. What is finished is in the run store; of what is not, each evaluation that is the best so
far is told.
"""

import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gpu.runner import Know, Setup
from stages.lib.config.params import Config
from stages.lib.core import files, machine, paths
from stages.lib.core.errors import UserError
from stages.lib.data import datasets, sources
from stages.lib.execution import inputs, packing
from stages.lib.execution.runs import Run
from stages.lib.execution.store import RunStore
from stages.lib.labels import dilution
from stages.lib.studies import computing, estimates, grids, registry
from stages.lib.studies.grids import Grid

KEY, SCALE = "fig1_uniform_mnist", "paper"
RECORDED = Path("benchmarks/results/gpu-check-cuda.json")
MOST_NOISE = 100.0
FIRST = ("perceptron", "conv4", "mlp2")  # at most noise
RESERVE = (
    0.85  # of the time that there is, planned: evaluations, labels and capture need the rest, ...
)
RESERVED = 25.0  # ... and so many seconds at least
#: On a CPU, where the command is only rehearsed: everything as small as it goes.
REHEARSED = (0.0, 50.0, 100.0)
REHEARSAL: dict[str, dict[str, Any]] = {
    "data": {"originals": 100, "validation": 200},
    "model": {"width": 0.125},
    "train": {"epochs": 0.02, "min_samples": 0, "batch_size": 32, "seeds": (0,)},
}


def grid(setup: Setup) -> list[Config]:
    """Return figure 1's points at the paper's size, in the way and precision found best."""
    points = list(grids.read_grid(SCALE, KEY).points)
    chosen = best(setup)
    made = []
    for point in points:
        if setup.device == "cpu":
            if point.noise.alpha not in REHEARSED:
                continue
            for section, changes in REHEARSAL.items():
                own = replace(getattr(point, section), **changes)
                point = replace(point, **{section: own})
        how = chosen.get(point.model.name) or chosen.get(_like(point.model.name), {})
        precision = how.get("precision", point.train.precision)
        stacking = how.get("stacking", "auto")
        train = replace(point.train, precision=precision, stacking=stacking, device=setup.device)
        made.append(replace(point, train=train))
    return made


def _like(name: str) -> str:
    """Return the measured network that another is most like."""
    return {"mlp1": "mlp2", "conv2": "conv4"}.get(name, name)


def best(setup: Setup) -> dict[str, Any]:
    """Return what `benchmarks.gpu.fast.best` chose in the last check, if there was one."""
    for path in (setup.out / "check.json", RECORDED):
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.get("device") == setup.device:
                return dict(content.get("best", {}))
    return {}


def data(setup: Setup, know: Know) -> None:
    """MNIST's images, from what was brought along or the network."""
    mirror = setup.bundle / "mirror"
    needed = grids.needed_datasets(grid(setup))
    for name, wanted in needed.items():
        downloads = mirror if mirror.is_dir() else paths.downloads()
        try:
            dataset = sources.load_source(
                wanted.name, path=None, size=wanted.size, downloads=downloads
            )
        except datasets.DataError:
            raise UserError(
                f"{name}: not in {mirror}, and no source can be reached; bring the folder of make "
                "gpu-bundle along (--bundle)"
            ) from None
        datasets.save(dataset, setup.work / "datasets" / name)
        know(name, len(dataset.train_images), f"{name}: {len(dataset.train_images):,} images")
    know("best", best(setup), f"way and precision: {best(setup) or 'none measured, the defaults'}")


def network(name: str, setup: Setup, know: Know) -> None:
    """A network at alpha = 100, for the paper's passes or as many as the time allows."""
    started = time.monotonic()
    points = [
        point
        for point in grid(setup)
        if point.model.name == name and point.noise.alpha == MOST_NOISE
    ]
    points = [replace(point, train=_fitted(point, setup, know, started)) for point in points]
    train(points, setup, know)


def others(setup: Setup, know: Know) -> None:
    """The rest of figure 1, network by network."""
    points = [
        point
        for point in grid(setup)
        if point.noise.alpha != MOST_NOISE or point.model.name not in FIRST
    ]
    for name in ("perceptron", "mlp2", "mlp1", "conv4", "conv2"):
        train([point for point in points if point.model.name == name], setup, know)


def _fitted(point: Config, setup: Setup, know: Know, started: float) -> Any:
    """Return a point's training with as many passes as fit, whole ones where one does."""
    todo = _expand([point], setup)[0]
    rate = estimates.measure(todo, setup.device)
    seconds = setup.seconds - (time.monotonic() - started)
    seconds = max(min(RESERVE * seconds, seconds - RESERVED), seconds / 2)
    passes = rate * seconds / len(todo) * point.train.batch_size / todo[0].config.samples
    if passes >= point.train.epochs:
        return point.train
    passes = float(math.floor(passes)) if passes >= 1 else passes
    found = {"steps_per_second": rate, "epochs": passes, "runs": len(todo)}
    know(f"{point.model.name} length", found, f"{rate:,.0f} steps/s: {passes:g} passes fit")
    return replace(point.train, epochs=passes, min_samples=0)


def _expand(points: Sequence[Config], setup: Setup) -> list[list[Run]]:
    folders = setup.work / "datasets", setup.work / "labels"
    return computing.expand(_grid_of(points), *folders)


def _grid_of(points: Sequence[Config]) -> Grid:
    return Grid(SCALE, KEY, registry.read_study(KEY), tuple(points))


def train(points: Sequence[Config], setup: Setup, know: Know) -> None:
    """Train what the run store lacks of points, telling of each best evaluation so far."""
    store = RunStore(setup.device, setup.store, machine.accelerator(setup.device))
    store.prepare()
    expanded = _expand(points, setup)
    for point in points:
        dilution.materialise(
            point.data,
            point.noise,
            point.train.seeds,
            data_folder=setup.work / "datasets",
            out=setup.work / "labels" / dilution.name_of(point.data, point.noise),
        )
    every = {store.path(run.identity()): run for todo in expanded for run in todo}
    missing = []
    for run in every.values():
        if (stored := store.get(run.identity())) is None:
            missing.append(run)
        else:
            know(*_evaluation(run, stored))
    machine.forget_free_memory(setup.device)
    free = machine.free_gpu_memory() if setup.device == "cuda" else 0
    # The shortest first: what is cut off leaves the fewest points half done.
    for stack in _smaller(reversed(packing.form(missing, setup.device, free=free)), setup.smaller):
        inputs.train_stack(
            stack,
            setup.device,
            packing.stacking(stack[0], setup.device),
            on_report=lambda run, outcome: know(*_evaluation(run, outcome)),
            on_done=lambda run, outcome: _keep(run, outcome, store, know),
        )
    know("finished", len(every), f"{len(every)} runs of {len(points)} points are finished")


def _keep(run: Run, outcome: dict[str, Any], store: RunStore, know: Know) -> None:
    store.put(run.identity(), outcome)
    know(*_evaluation(run, outcome))


def _smaller(formed: Iterable[list[Run]], halvings: int) -> Iterator[list[Run]]:
    """Yield stacks, each in two parts as often as memory did not suffice for it."""
    for stack in formed:
        parts = min(len(stack), 2**halvings)
        yield from (stack[part::parts] for part in range(parts))


def _evaluation(run: Run, outcome: dict[str, Any]) -> tuple[str, Any, str]:
    config, row = run.config, outcome["curve"][-1]
    found = {
        "network": config.model.name,
        "alpha": config.noise.alpha,
        "learning_rate": run.learning_rate,
        "seed": run.seed,
        "epochs": config.train.epochs,
        "precision": config.train.precision,
        "steps": run.steps,
        "examples_seen": row["examples_seen"],
        "epochs_seen": row["examples_seen"] / run.config.samples,
        "epochs_reported": outcome["stopped_at"]
        / run.config.samples,  # by the weights of the accuracies
        "val_accuracy": outcome["val_accuracy"],
        "test_accuracy": outcome["test_accuracy"],
        "curve": outcome["curve"],
        "wall_seconds": outcome["wall_seconds"],
    }
    key = f"{config.model.name}, alpha = {config.noise.alpha:g}, rate {run.learning_rate:g}"
    line = f"{key}, seed {run.seed}: {found['test_accuracy']:.3f} after"
    line = f"{line} {found['epochs_reported']:.2f} of {found['epochs_seen']:.2f} passes"
    return f"{key}, seed {run.seed}", found, line


def finished(setup: Setup, know: Know) -> None:
    """The figure of the points that are finished, as a stage would have written it."""
    store = RunStore(setup.device, setup.store, machine.accelerator(setup.device))
    points, outcomes = [], []
    for point in grid(setup):
        (todo,) = _expand([point], setup)
        drawn = all(run.labels.exists() for run in todo)
        found = [store.get(run.identity()) if drawn else None for run in todo]
        if all(outcome is not None for outcome in found):
            points.append(point)
            outcomes += found
    if points:
        expanded = _expand(points, setup)
        done = [outcome for outcome in outcomes if outcome]
        report, times = computing.report(_grid_of(points), expanded, done, setup.device)
        files.write_json(setup.out / f"{KEY}.json", report)
        files.write_json(setup.out / f"{KEY}.times.json", times)
    know("points", len(points), f"{len(points)} points of {KEY} are whole")
