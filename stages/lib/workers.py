"""Completes runs: looks each up in the point store and trains what is missing.

On a CPU, as many worker processes as there are cores train runs side by side with one thread each;
on an accelerator they train one after another. Which of these was used changes no outcome.
"""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tqdm import tqdm

from stages.lib import hosts
from stages.lib.architectures import ARCHITECTURES, ConvNet, Perceptron, ResNet
from stages.lib.errors import UserError
from stages.lib.points import PointStore
from stages.lib.runs import Run, train_run


def complete(runs: list[Run], title: str) -> tuple[list[dict[str, Any]], str]:
    """Return the outcomes of runs, in their order, training those that no store holds yet.

    Args:
        runs: at least one; all for the same device.
        title: what the progress bar says.

    Returns:
        The outcomes, and the device that they were trained on.

    Raises:
        UserError: the device isn't there, or a file is not what it was written as.
    """
    wanted = {run.config.train.device for run in runs}
    if len(wanted) != 1:
        raise UserError(f"train.device: got {sorted(wanted)}; accepted: one device for a figure")
    with _Workers() as workers:
        device = workers.call(_resolve_device, wanted.pop())
        store = PointStore(device)
        found = {run: store.get(run.identity()) for run in dict.fromkeys(runs)}
        missing = [run for run, outcome in found.items() if outcome is None]
        # Runs that share an identity (alpha = 0 under every noise model) are trained once.
        first = {store.path(run.identity()): run for run in reversed(missing)}
        queue = sorted(first.values(), key=lambda run: -_cost(run))
        with tqdm(
            total=sum(run.steps for run in queue), unit="step", desc=title, mininterval=0.5
        ) as bar:
            bar.write(f"{title}: {len(runs)} runs, {len(queue)} to train on {device}")
            if device == "cpu":
                workers.train(queue, device, _Bar(bar))
            else:
                for run in queue:
                    _train_and_store(run, device, _Bar(bar).show)
    return [_stored(store, run) for run in runs], device


def _stored(store: PointStore, run: Run) -> dict[str, Any]:
    outcome = store.get(run.identity())
    if outcome is None:
        raise UserError(f"{store.path(run.identity())}: gone since it was written; run again")
    return outcome


def _cost(run: Run) -> float:
    """Return a rough cost, which only serves to start the longest runs first."""
    relative = {Perceptron: 1.0, ConvNet: 30.0, ResNet: 100.0}
    kind = type(ARCHITECTURES[run.config.model.name])
    return run.steps * run.config.train.batch_size * relative[kind] * run.config.model.width


def _resolve_device(name: str) -> str:
    from stages.lib.training import resolve_device

    return resolve_device(name)


def _train_and_store(run: Run, device: str, show: Callable[[str, int, float | None], None]) -> None:
    """Train one run, telling of steps since it last did, and store its outcome."""
    told = 0

    def report(steps: int, accuracy: float | None) -> None:
        nonlocal told
        show(run.name, steps - told, accuracy)
        told = steps

    PointStore(device).put(run.identity(), train_run(run, device, report))


class _Bar:
    """A progress bar in steps that names a run and its validation accuracy."""

    def __init__(self, bar: tqdm) -> None:
        self.bar = bar

    def show(self, name: str, steps: int, accuracy: float | None) -> None:
        said = "" if accuracy is None else f" val={accuracy:.3f}"
        self.bar.set_postfix_str(name + said, refresh=False)
        self.bar.update(steps)


class _Workers:
    """Processes of one thread each that import torch once and train runs until closed."""

    def __enter__(self) -> "_Workers":
        # A fork of a process that has loaded Apple's frameworks may crash: spawn there.
        method = "forkserver" if sys.platform == "linux" else "spawn"
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(["stages.lib.training"])
        self.events = context.SimpleQueue()
        self.pool = ProcessPoolExecutor(
            hosts.cores(),
            mp_context=context,
            initializer=_start_worker,
            initargs=(self.events,),
        )
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)

    def call(self, function: Callable[[str], str], argument: str) -> str:
        return self.pool.submit(function, argument).result()

    def train(self, queue: list[Run], device: str, bar: _Bar) -> None:
        open_ = {self.pool.submit(_train_in_worker, run, device) for run in queue}
        while open_:
            done, open_ = wait(open_, timeout=0.5, return_when=FIRST_COMPLETED)
            while not self.events.empty():
                bar.show(*self.events.get())
            for future in done:
                try:
                    future.result()
                except BrokenProcessPool:
                    raise UserError(
                        "a training process was killed, perhaps for want of memory; what was "
                        "finished is kept: run again"
                    ) from None


_events: Any = None  # set once in each worker process, never in the parent


def _start_worker(events: Any) -> None:
    global _events  # a pool's initializer has no other way to hand something over
    _events = events
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the stage is gone, however it ended: no orphan goes on computing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _train_in_worker(run: Run, device: str) -> None:
    _train_and_store(run, device, lambda *event: _events.put(event))
