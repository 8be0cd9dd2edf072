"""How time and memory grow: with alpha, with the originals, with examples, with points.

Each series is measured at several sizes; the slope is that of a line through the logarithms of the
medians: 1 is proportional, 0 is constant. Sizes take turns within a round.

- ``dilution``: seconds and bytes to draw a diluted set, by alpha and by number of originals.
- ``training``: seconds of a fixed number of steps (and of shuffling the set once, which they begin
  with), and memory, by number of examples.
- ``points``: seconds and memory (of the stage and its workers) to complete a figure of very short
  trainings, by number of points; and what a
  point costs beyond its training: start of stacks, label files, store, JSON.

Prints JSON. ``python -m benchmarks.growth``
"""

import contextlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import reports
from benchmarks.pipeline import memory_of_tree
from benchmarks.reports import summary
from stages.lib.config.params import Config, DataParams, ModelParams, NoiseParams, TrainParams
from stages.lib.core import machine, paths
from stages.lib.data import datasets, sources
from stages.lib.execution import executors, runs
from stages.lib.labels import dilution
from stages.lib.noise import sampling

ALPHAS = (5, 10, 20, 50, 100)
ORIGINALS = (4_000, 8_000, 16_000, 32_000, 60_000)
EXAMPLES = (16_000_000, 32_000_000, 64_000_000, 128_000_000)
POINTS = (16, 32, 64, 128)
UNIFORM = NoiseParams("uniform", 10.0, 0.0, "confusing", "same")


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of a line through the points' logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def series(
    sizes: Sequence[int], seconds: Sequence[list[float]], memory: Sequence[list[int]]
) -> dict[str, Any]:
    """Return a series of repeated measurements with its slopes."""
    found: dict[str, Any] = {"sizes": list(sizes)}
    for name, each in (("seconds", seconds), ("bytes", memory)):
        summaries = [summary(values) for values in each]
        found[name] = summaries
        found[f"slope_of_{name}"] = slope(sizes, [one["median"] for one in summaries])
    return found


def times(calls: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Return each call's seconds, after one that warms up."""
    found: list[list[float]] = [[] for _ in calls]
    for i in range(rounds + 1):
        for call, seconds in zip(calls, found, strict=True):
            started = time.perf_counter()
            call()
            if i > 0:
                seconds.append(time.perf_counter() - started)
    return found


def mnist_sized() -> datasets.Dataset:
    """Return a data set of MNIST's size whose images are a pixel: only labels matter here."""
    rng = np.random.default_rng(0)
    labels = np.arange(60_000, dtype=np.uint8) % 10
    pixels = np.zeros((60_000, 1, 1, 1), dtype=np.uint8)
    return replace(
        sources.load_source("mnist5k", path=None, size=None, downloads=Path()),
        train_images=pixels,
        train_labels=rng.permutation(labels),
    )


def dilutions(rounds: int) -> dict[str, Any]:
    """Return the growth of drawing with alpha and with the originals."""
    dataset = mnist_sized()

    def drawing(originals: int, alpha: float) -> Callable[[], dilution.Dilution]:
        data = DataParams("mnist", None, None, originals, 0)
        return lambda: dilution.dilute(dataset, data, replace(UNIFORM, alpha=alpha), seed=0)

    def measured(sizes: Sequence[int], calls: list[Callable[[], dilution.Dilution]]) -> Any:
        kept = [call() for call in calls]
        sizes_in_bytes = [[d.labels.nbytes + d.images.nbytes] for d in kept]
        return series(sizes, times(calls, rounds), sizes_in_bytes)

    tracemalloc.start()
    largest = drawing(60_000, 100.0)()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    output = largest.labels.nbytes + largest.images.nbytes
    return {
        "by_alpha": measured(ALPHAS, [drawing(60_000, float(alpha)) for alpha in ALPHAS]),
        "by_originals": measured(ORIGINALS, [drawing(n, 10.0) for n in ORIGINALS]),
        "bytes_per_example": output / len(largest.labels),
        "peak_bytes_beyond_the_set": peak - output,
    }


def _train(examples: int) -> tuple[float, int]:
    """Return the seconds of 300 steps and the memory that they and the set take."""
    import torch

    from benchmarks import rates, subjects
    from stages.lib.training import loop

    torch.set_num_threads(1)
    bank = subjects.bank(subjects.SHAPES["mlp2"])
    config, process = subjects.train_config("mlp2", width=0.25), psutil.Process()
    loop.train(config, [subjects.member(subjects.data(bank, 0), 0, 3)])
    before, held = process.memory_info().rss, []
    member = subjects.member(subjects.data(bank, 0, examples=examples), 0, 300)

    def note(*_: object) -> None:
        held.append(process.memory_info().rss - before)

    seconds = rates.timed(lambda: loop.train(config, [member], on_evaluation=note), "cpu")
    return seconds, max(held)


def trainings(rounds: int) -> dict[str, Any]:
    """Return the growth of training with the number of examples at a fixed number of steps."""
    context = multiprocessing.get_context("spawn")
    found: dict[int, list[tuple[float, int]]] = {examples: [] for examples in EXAMPLES}
    for _ in range(rounds):
        for examples in EXAMPLES:  # each in a process of its own, whose memory is counted
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                found[examples].append(pool.submit(_train, examples).result())
    seconds = [[each for each, _ in values] for values in found.values()]
    memory = [[each for _, each in values] for values in found.values()]
    middle = [float(np.median(each)) for each in memory]
    per_example = float(np.polyfit(EXAMPLES, middle, 1)[0])
    return {**series(EXAMPLES, seconds, memory), "bytes_per_example": per_example}


class Memory:
    """The largest memory of this process and its children while a block runs, in bytes."""

    def __enter__(self) -> "Memory":
        self.peak, self.done = 0, threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self.done.wait(0.1):
            self.peak = max(self.peak, memory_of_tree(process))


def points(rounds: int) -> dict[str, Any]:
    """Return the growth of completing a figure with its number of points."""
    train = TrainParams(
        loss="cross_entropy", learning_rates=(0.5,), batch_size=32, rho=0.95, epsilon=1e-8,
        init="he", zero_output=True, epochs=0.0, min_samples=320, average=0.0,
        early_stopping=False, weight_decay=0.0, augmentation="none",
        seeds=tuple(range(max(POINTS))), device="cpu", precision="float32", stacking="auto",
    )  # fmt: skip
    data = DataParams("digits", None, None, 1000, 100)
    config = Config(data, UNIFORM, ModelParams("conv2", 0.1, batch_norm=False), train)
    seconds: dict[int, list[float]] = {count: [] for count in POINTS}
    trained: dict[int, list[float]] = {count: [] for count in POINTS}
    held: dict[int, list[int]] = {count: [] for count in POINTS}
    with tempfile.TemporaryDirectory() as scratch:
        folder, labels = Path(scratch), Path(scratch) / "labels"
        digits = sources.load_source("digits", path=None, size=None, downloads=folder)
        datasets.save(digits, folder / "digits")
        dilution.materialise(data, UNIFORM, train.seeds, data_folder=folder, out=labels)
        todo = runs.expand("point", config, folder, labels)
        os.environ["DVC_ROOT"] = scratch  # where the run store is
        for _ in range(rounds):
            for count in POINTS:
                shutil.rmtree(paths.run_store(), ignore_errors=True)
                started = time.perf_counter()
                with contextlib.redirect_stdout(sys.stderr), Memory() as memory:
                    outcomes, _ = executors.train_or_load(todo[:count], f"{count} points")
                seconds[count].append(time.perf_counter() - started)
                held[count].append(memory.peak)
                trained[count].append(sum(outcome["wall_seconds"] for outcome in outcomes))
    most = max(POINTS)
    beyond = [
        (machine.cores() * whole - training) / most
        for whole, training in zip(seconds[most], trained[most], strict=True)
    ]
    return {
        **series(POINTS, list(seconds.values()), list(held.values())),
        "core_seconds_of_a_point_beyond_training": summary(beyond),
        "training_seconds_of_a_point": summary([each / most for each in trained[most]]),
    }


def main() -> None:
    """Measure and print."""
    rounds = reports.options(__doc__, rounds=3).parse_args().rounds
    report = {
        "rounds": rounds,
        "chunk_of_labels": sampling.CHUNK,
        "dilution": dilutions(rounds),
        "training": trainings(rounds),
        "points": points(rounds),
    }
    reports.emit(report)


if __name__ == "__main__":
    main()
